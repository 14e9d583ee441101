"""The loop: rows, state, noise, callbacks, correctors, trackers, refusals."""

import dataclasses

import pytest
import torch

from genpolicy.denoisers import Step, TrackingDenoiser
from genpolicy.errors import UsageError
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, grid
from genpolicy.sampling import (
    RULES,
    RowNoise,
    Sampler,
    ddim,
    ddpm,
    dpmpp_2m,
    heun,
    renoise,
    sample,
)
from tests.oracles import GaussianDenoiser, GaussianFlowMap

PATH = CosinePath()
ORACLE = GaussianDenoiser(PATH)


def start(seeds=range(5), dtype=torch.float64):
    noise = RowNoise(list(seeds), (4, 2), dtype=dtype)
    return noise.draw(0), noise


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_does_not_depend_on_the_rows_beside_it(name, dtype):
    oracle = GaussianFlowMap(PATH) if name == "renoise" else ORACLE

    def run(seeds):
        x, noise = start(seeds, dtype)
        return sample(oracle, x, grid(PATH, 6), None, rule=RULES[name], noise=noise)

    together = run(range(5))
    assert together.dtype == dtype
    assert torch.equal(run([3]), together[3:4])
    assert torch.equal(run([4, 0, 2]), together[[4, 0, 2]])


def test_arguments_are_left_as_they_are_and_runs_repeat():
    x, noise = start()
    before = x.clone()
    first = sample(ORACLE, x, grid(PATH, 6), None, rule=dpmpp_2m)
    sample(ORACLE, x + 1, grid(PATH, 3), None, rule=dpmpp_2m)  # history ends with a run
    again = sample(ORACLE, x, grid(PATH, 6), None, rule=dpmpp_2m)
    assert torch.equal(x, before)
    assert torch.equal(first, again)
    assert torch.equal(
        sample(ORACLE, x, grid(PATH, 6), None, rule=ddpm, noise=noise),
        sample(ORACLE, x, grid(PATH, 6), None, rule=ddpm, noise=noise),
    )


def test_steps_are_reported():
    x, noise = start()
    steps: list[Step] = []
    out = sample(
        ORACLE, x, [0.9, 0.5, 0.2, 0.0], None, rule=ddpm, noise=noise, on_step=steps.append
    )
    assert [(s.index, s.n_steps, s.t, s.s) for s in steps] == [
        (0, 3, 0.9, 0.5),
        (1, 3, 0.5, 0.2),
        (2, 3, 0.2, 0.0),
    ]
    assert torch.equal(steps[0].x_t, x)
    assert torch.equal(steps[1].x_t, steps[0].x_s)
    assert torch.equal(steps[-1].x_s, out)
    assert steps[0].noise is not None
    assert torch.equal(steps[0].noise, noise.draw(1))
    assert steps[-1].noise is None
    t = torch.full((5,), 0.9, dtype=torch.float64)
    assert torch.equal(steps[0].denoised, ORACLE(x, t))


def test_times_and_conditions_reach_the_denoiser():
    seen = []

    class Spy(GaussianDenoiser):
        def __call__(self, x_t, t, cond=None):
            seen.append((t, cond))
            return super().__call__(x_t, t, cond)

    x, _ = start()
    cond = torch.ones(5, 1, 3)
    sample(Spy(PATH), x, [0.9, 0.5, 0.0], cond, rule=heun)
    assert [t.tolist() for t, _ in seen] == [[0.9] * 5, [0.5] * 5, [0.5] * 5]
    assert all(c is cond for _, c in seen)


def test_the_last_time_may_lie_above_the_clean_end():
    x, _ = start()
    half = sample(ORACLE, x, [0.9, 0.6, 0.3], None, rule=ddim)
    whole = sample(ORACLE, half, [0.3, 0.0], None, rule=ddim)
    torch.testing.assert_close(whole, sample(ORACLE, x, [0.9, 0.6, 0.3, 0.0], None, rule=ddim))


def test_empty_batches_pass_through():
    assert sample(ORACLE, torch.zeros(0, 4, 2), grid(PATH, 3), None, rule=ddim).shape == (0, 4, 2)


def test_gradients_flow_through_the_loop():
    x, noise = start()
    x = x.requires_grad_(True)
    sample(ORACLE, x, grid(PATH, 3), None, rule=ddpm, noise=noise).sum().backward()
    assert x.grad is not None
    assert bool((x.grad > 0).all())


# --- correctors -----------------------------------------------------------------------------------


def test_a_corrector_sees_every_state_but_the_last():
    calls = []

    def nudge(x, t, *, denoise, path, noise, index):
        calls.append((t, index))
        torch.testing.assert_close(
            denoise(x, x.new_full((len(x),), t)), ORACLE(x, x.new_full((len(x),), t))
        )
        assert path is PATH
        return x + 0.1 * noise.draw(index, stream=1)

    x, noise = start()
    states = []
    sample(
        ORACLE,
        x,
        [0.9, 0.5, 0.2, 0.0],
        None,
        rule=ddim,
        noise=noise,
        correct=nudge,
        on_step=lambda step: states.append(step.x_s),
    )
    assert calls == [(0.5, 1), (0.2, 2)]
    plain = sample(ORACLE, x, [0.9, 0.5], None, rule=ddim)
    torch.testing.assert_close(states[0], plain + 0.1 * noise.draw(1, stream=1))


def test_a_corrector_that_does_nothing_changes_nothing():
    x, noise = start()
    out = sample(
        ORACLE, x, grid(PATH, 5), None, rule=ddim, noise=noise, correct=lambda x, t, **_: x
    )
    assert torch.equal(out, sample(ORACLE, x, grid(PATH, 5), None, rule=ddim))


# --- trackers -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CountingDenoiser:
    """Carries how often it was asked and told, and adds that to its answer."""

    inner: GaussianDenoiser

    @property
    def path(self):
        return self.inner.path

    @property
    def kind(self):
        return self.inner.kind

    def start(self, x_init, cond):
        return (0, 0)

    def denoise(self, x_t, t, cond, carry):
        asked, told = carry
        return self.inner(x_t, t, cond) + 100.0 * asked + told, (asked + 1, told)

    def shape_noise(self, noise, carry):
        return noise

    def advance(self, carry, step):
        return step.x_s, (carry[0], carry[1] + 1)


def test_a_tracker_carries_its_state_through_the_run():
    tracker = CountingDenoiser(GaussianDenoiser(PATH, mean=0.0, std=1e-6))
    assert isinstance(tracker, TrackingDenoiser)
    x, _ = start()
    steps: list[Step] = []
    for _ in range(2):  # nothing is kept between runs
        steps.clear()
        sample(tracker, x, [0.9, 0.5, 0.2, 0.0], None, rule=ddim, on_step=steps.append)
        denoised = [step.denoised.mean().item() for step in steps]
        assert denoised == pytest.approx([0.0, 101.0, 202.0], abs=1e-6)


def test_a_tracker_works_without_callbacks_and_with_two_stages():
    tracker = CountingDenoiser(GaussianDenoiser(PATH, mean=0.0, std=1e-6))
    x, _ = start()
    out = sample(tracker, x, [0.9, 0.5, 0.0], None, rule=heun)
    # the first step asks twice, so the last one is the third question after one step told
    torch.testing.assert_close(out, torch.full_like(out, 201.0), atol=1e-6, rtol=0)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.9], "got 1 times, expected at least 2"),
        ([], "got 0 times"),
        ([0.5, 0.9, 0.0], "do not decrease strictly"),
        ([0.9, 0.9, 0.0], "do not decrease strictly"),
        ([0.9, float("nan"), 0.0], "do not decrease strictly"),
        ([0.999, 0.5, 0.0], "leave the range"),
        ([0.9, 0.0005, 0.0], "leave the range"),
        ([0.9, -0.1], "the last time is -0.1"),
    ],
)
def test_times_that_leave_the_path_are_refused(times, message):
    x, _ = start()
    with pytest.raises(UsageError, match=message):
        sample(ORACLE, x, times, None, rule=ddim)


def test_missing_noise_is_refused():
    x, _ = start()
    with pytest.raises(UsageError, match=r"noise=RowNoise\(seeds, shape\)"):
        sample(ORACLE, x, grid(PATH, 3), None, rule=ddpm)
    with pytest.raises(UsageError, match="a corrector is used"):
        sample(ORACLE, x, grid(PATH, 3), None, rule=ddim, correct=lambda x, t, **_: x)


def test_rules_of_the_other_kind_are_refused():
    x, noise = start()
    flow_map = GaussianFlowMap(PATH)
    with pytest.raises(UsageError, match="use rule='renoise'"):
        sample(flow_map, x, grid(PATH, 3), None, rule=dpmpp_2m)
    with pytest.raises(UsageError, match="use rule='ddim'"):
        sample(ORACLE, x, grid(PATH, 3), None, rule=renoise, noise=noise)


def test_deterministic_rules_draw_no_noise():
    class Never:
        def draw(self, index, *, stream=0):
            raise AssertionError("drawn")

    x, _ = start()
    silent = sample(ORACLE, x, grid(PATH, 3), None, rule=ddim, noise=Never())
    assert torch.equal(silent, sample(ORACLE, x, grid(PATH, 3), None, rule=ddim))


def test_coefficients_are_planned_once():
    sampler = Sampler(rule="ddim", rule_options={"eta": 0.5}, n_steps=4)
    from genpolicy.sampling import plan

    for path in (LinearPath(), KarrasPath()):
        times = sampler.times_on(path)
        assert plan(sampler.bound_rule, path, times) is plan(sampler.bound_rule, path, times)
