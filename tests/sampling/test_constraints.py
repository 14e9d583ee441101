"""Bounds and known entries, alone and inside the loop."""

import pytest
import torch

from genpolicy.errors import UsageError
from genpolicy.paths import CosinePath, LinearPath, grid
from genpolicy.sampling import (
    RULES,
    Constraint,
    Pinned,
    RowNoise,
    chain,
    clip_to,
    ddim,
    ddpm,
    midpoint,
    pin,
    renoise,
    sample,
)
from tests.oracles import GaussianDenoiser, GaussianFlowMap, sample_moments
from tests.unchecked import unchecked

PATH = CosinePath()


def start(n=6, seed=0):
    noise = RowNoise(range(seed, seed + n), (4, 2), dtype=torch.float64)
    return noise.draw(0), noise


@pytest.mark.parametrize("name", RULES)
def test_samples_stay_within_the_bounds(name):
    oracle = GaussianFlowMap if name == "renoise" else GaussianDenoiser
    x, noise = start()
    out = sample(
        oracle(PATH, mean=0.9, std=0.5),
        x,
        grid(PATH, 4),
        None,
        rule=RULES[name],
        noise=noise,
        constrain=clip_to((-1.0, 1.0)),
    )
    assert out.abs().max() <= 1.0
    assert (out == 1.0).any()


def test_two_stage_rules_are_clipped_at_the_end_too():
    """Their last step extrapolates, so that clipping each denoised action is not enough."""
    path = LinearPath()
    oracle = GaussianDenoiser(path, mean=0.0, std=1.5)
    x = torch.full((1, 4, 2), 2.5, dtype=torch.float64)
    options = {"rule": midpoint, "constrain": clip_to((-1.0, 1.0))}
    assert sample(oracle, x, [1.0, 0.5, 0.0], None, **options).max() <= 1.0


def test_the_sample_alone_can_be_clipped():
    oracle = GaussianDenoiser(PATH, mean=0.9, std=1.5)
    x, noise = start()

    def run(constrain=None):
        options = {"rule": ddpm, "noise": noise, "constrain": constrain}
        return sample(oracle, x, grid(PATH, 4), None, **options)

    late = run(clip_to((-1.0, 1.0), every_step=False))
    torch.testing.assert_close(late, run().clamp(-1, 1))
    assert not torch.allclose(run(clip_to((-1.0, 1.0))), late)


def test_clipping_does_not_move_data_that_stays_inside():
    """Data at 0.95 with std 0.01: clipping to 1 changes neither mean nor spread."""
    oracle = GaussianDenoiser(PATH, mean=0.95, std=0.01)
    free = sample_moments(oracle, grid(PATH, 40), ddim)
    clipped = sample_moments(oracle, grid(PATH, 40), ddim, constrain=clip_to((-1.0, 1.0)))
    assert clipped == pytest.approx(free, abs=2e-3)


@pytest.mark.parametrize("mode", ["noised", "clean"])
@pytest.mark.parametrize("rule", [ddim, ddpm, midpoint])
def test_known_entries_come_out_as_given(mode, rule):
    x, noise = start()
    values = torch.full_like(x, 0.25)
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, :2] = True
    states = []
    out = sample(
        GaussianDenoiser(PATH),
        x,
        grid(PATH, 5),
        None,
        rule=rule,
        noise=noise,
        constrain=pin(values, mask, mode=mode, noise=x),
        on_step=lambda step: states.append((step.s, step.x_s)),
    )
    assert torch.equal(out[mask], values[mask])
    free = sample(GaussianDenoiser(PATH), x, grid(PATH, 5), None, rule=rule, noise=noise)
    assert torch.equal(out[~mask], free[~mask])  # the oracle is elementwise
    for s, state in states:
        alpha, sigma = PATH.alpha_sigma(torch.tensor(s, dtype=torch.float64))
        expected = values if mode == "clean" else alpha * values + sigma * x
        torch.testing.assert_close(state[mask], expected[mask])


def test_the_first_evaluation_already_sees_the_known_entries():
    x, _ = start()
    mask = torch.ones_like(x, dtype=torch.bool)
    seen = []

    class Spy(GaussianDenoiser):
        def __call__(self, x_t, t, cond=None):
            seen.append(x_t)
            return super().__call__(x_t, t, cond)

    constrain = pin(torch.ones_like(x), mask, mode="clean")
    sample(Spy(PATH), x, grid(PATH, 3), None, rule=ddim, constrain=constrain)
    assert all(torch.equal(state, torch.ones_like(x)) for state in seen)


def test_a_neighbour_can_use_the_known_entries():
    """Two perfectly correlated entries: pinning one moves the other."""

    class Tied(GaussianDenoiser):
        def __call__(self, x_t, t, cond=None):
            return super().__call__(x_t, t, cond).mean(-1, keepdim=True).expand_as(x_t)

    path = CosinePath()
    x = torch.randn(1, 1, 2, dtype=torch.float64)
    mask = torch.tensor([[[True, False]]])
    constrain = pin(torch.full_like(x, 0.9), mask, noise=x)
    tied = Tied(path, mean=0.0, std=1.0)
    free = sample(tied, x, grid(path, 50), None, rule=ddim)
    out = sample(tied, x, grid(path, 50), None, rule=ddim, constrain=constrain)
    assert out[0, 0, 0].item() == 0.9
    assert abs(out[0, 0, 1].item() - 0.9) < abs(free[0, 0, 1].item() - 0.9)


def test_constraints_chain():
    x, _ = start()
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[0] = True
    both = chain(clip_to((-0.5, 0.5)), pin(torch.full_like(x, 2.0), mask, noise=x))
    out = sample(GaussianDenoiser(PATH), x, grid(PATH, 3), None, rule=ddim, constrain=both)
    assert torch.equal(out[0], torch.full_like(out[0], 2.0))  # what is known is not clipped
    assert out[1:].max() <= 0.5
    assert chain() == Constraint()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x, m: clip_to((1.0, -1.0)), "expected the first below the second"),
        (lambda x, m: clip_to((1.0, float("nan"))), "expected the first below the second"),
        (lambda x, m: chain(clip_to((0.0, 1.0)), clip_to((0.0, 2.0))), "expected at most one"),
        (lambda x, m: chain(pin(x, m, noise=x), pin(x, m, noise=x)), "2 constraints that pin"),
        (lambda x, m: pin(x, m), "needs noise"),
        (lambda x, m: unchecked(Pinned)(values=x, mask=m, mode="noisy"), "did you mean 'noised'"),
    ],
)
def test_constraints_that_make_no_sense_are_refused(make, message):
    x, _ = start()
    with pytest.raises(UsageError, match=message):
        make(x, torch.ones_like(x, dtype=torch.bool))


def test_shapes_of_known_entries_have_to_agree():
    x, _ = start()
    with pytest.raises(UsageError, match="expected the same"):
        unchecked(Pinned)(values=x, mask=torch.ones(1, 4, 2, dtype=torch.bool), noise=x)


def test_flow_maps_are_clipped_before_noise_is_added():
    oracle = GaussianFlowMap(PATH, mean=3.0, std=0.1)
    x, noise = start()
    states = []
    sample(
        oracle,
        x,
        grid(PATH, 2),
        None,
        rule=renoise,
        noise=noise,
        constrain=clip_to((-1.0, 1.0)),
        on_step=lambda step: states.append(step.denoised),
    )
    assert all(state.max() <= 1.0 for state in states)
