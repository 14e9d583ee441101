"""One step of a superposition, what it is composed with, and refusals."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genpolicy.composition.on_path import on_path
from genpolicy.composition.sums import mean, product
from genpolicy.composition.superposed import (
    mixture,
    superpose_and,
    superpose_or,
)
from genpolicy.denoisers import Denoiser, TrackingDenoiser
from genpolicy.errors import UsageError
from genpolicy.paths import CosinePath, LinearPath
from genpolicy.paths.base import scalar_alpha_sigma
from genpolicy.sampling import Sampler, ddim, ddpm, dpmpp_2m, heun, sample, sde
from tests.composition.superposed_cases import (
    F64,
    PATHS,
    VE,
    BatchNoise,
    at,
    every_path,
    pair,
    run,
)
from tests.oracles import GaussianDenoiser, GaussianFlowMap


def one_step(path, members, x, noise, t, s):
    """One ``ddpm`` step of AND: the state, and the noise that was used."""
    seen = []
    denoiser = superpose_and(members, tolerance=0.0)
    source = BatchNoise((1, 1, 1))
    object.__setattr__(source, "draw", lambda index, stream=0: noise)
    x_s = sample(denoiser, x, [t, s], None, rule=ddpm, noise=source, on_step=seen.append)
    return x_s, seen[0]


numbers = st.floats(-2.0, 2.0, allow_nan=False)
widths = st.floats(0.1, 2.0)


@settings(max_examples=40, deadline=None)
@given(
    path=st.sampled_from(list(PATHS.values())),
    seed=st.integers(0, 10_000),
    widths=st.lists(widths, min_size=2, max_size=4),
    t=st.floats(0.45, 0.9),
    size=st.floats(0.01, 0.5),
)
def test_and_solves_the_linear_system(path, seed, widths, t, size):
    """The weights that make all d log q_i equal for the noise that was drawn, by linear algebra."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=F64)

    n = len(widths)
    members = [GaussianDenoiser(path, draw(3, 2), width) for width in widths]
    s = t * (1.0 - size)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (scalar_alpha_sigma(path, v) for v in (t, s))
    x = alpha_t * draw(1, 3, 2) + sigma_t * draw(1, 3, 2)
    noise = draw(1, 3, 2)
    x_s, step = one_step(path, members, x, noise, t, s)

    # log of member i's own step to sum_j k_j D_j: -|c (sum_j k_j D_j - D_i) + n z|^2/(2 n^2)
    # = common + (c/n^2) <c sum_j k_j D_j + n z, D_i> - c^2 |D_i|^2/(2 n^2); equal, and sum k = 1.
    outputs = torch.stack([m(x, torch.tensor([t], dtype=F64)).flatten() for m in members])
    c, amount = step.c_denoised, step.c_noise
    differences = outputs[1:] - outputs[0]
    squares = outputs.square().sum(1)
    rows = torch.cat([c * differences @ outputs.T, torch.ones(1, n, dtype=F64)])
    right = 0.5 * c * (squares[1:] - squares[0]) - amount * differences @ noise.flatten()
    kappa = torch.linalg.solve(rows, torch.cat([right, torch.ones(1, dtype=F64)]))
    kept = (alpha_s - c) / alpha_t
    expected = kept * x.flatten() + c * kappa @ outputs + amount * noise.flatten()
    scale = 1e-9 * torch.linalg.cond(rows).clamp(1.0, 1e4).item()
    assert (x_s.flatten() - expected).abs().max().item() < scale

    if n == 2:
        # (5) with e_1 - e_2 = -(D_1 - D_2)/r, and the noise in variance-exploding coordinates.
        level_t, level_s = sigma_t / alpha_t, sigma_s / alpha_s
        delta = (outputs[1] - outputs[0]) / level_t
        shrink = (1.0 - (level_s / level_t) ** 2) * level_t
        drawn = amount / alpha_s * (noise.flatten() @ delta)
        by_projection = 0.5 + drawn / (shrink * delta.square().sum())
        error = (kappa[0] - by_projection).abs().item()
        assert error < 1e-9 * max(1.0, by_projection.abs().item())


@settings(max_examples=30, deadline=None)
@given(
    path=st.sampled_from(list(PATHS.values())),
    centres=st.lists(numbers, min_size=2, max_size=4),
    width=widths,
    t=st.floats(0.4, 0.95),
    size=st.floats(0.01, 0.9),
)
def test_tracking_is_bayes_rule(path, centres, width, t, size):
    """A step multiplies q_i by the member's reverse step over the forward one."""
    members = [GaussianDenoiser(path, c, width) for c in centres]
    s = t * (1.0 - size)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (scalar_alpha_sigma(path, v) for v in (t, s))
    x = torch.linspace(-1.5, 1.5, 6, dtype=F64).reshape(3, 1, 2)
    denoiser, seen = mixture(members), []
    x_s = sample(
        denoiser,
        x,
        [t, s],
        None,
        rule=ddpm,
        noise=BatchNoise((3, 1, 2)),
        on_step=seen.append,
    )
    times = torch.full((3,), t, dtype=F64)
    _, carry = denoiser.denoise(x, times, None, denoiser.start(x, None))
    _, carry = denoiser.advance(carry, seen[0])

    def log_normal(value, centre, std):
        each = -0.5 * ((value - centre) / std) ** 2 - math.log(std)
        return each.flatten(1).sum(1)

    kept = (alpha_s - seen[0].c_denoised) / alpha_t
    back_std = math.sqrt(sigma_t**2 - (alpha_t * sigma_s / alpha_s) ** 2)
    forward = log_normal(x, alpha_t / alpha_s * x_s, back_std)
    for number, member in enumerate(members):
        centre = kept * x + seen[0].c_denoised * member(x, times)
        expected = log_normal(x_s, centre, seen[0].c_noise) - forward
        assert torch.allclose(carry.log_q[:, number], expected, rtol=1e-9, atol=1e-9)


def test_small_steps_are_the_ito_estimator():
    members = pair(VE, 0.5, 0.2)
    t = 0.5
    s = t * (1.0 - 1e-5)
    x = torch.randn(4, 1, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    denoiser, seen = mixture(members), []
    x_s = sample(
        denoiser, x, [t, s], None, rule=ddpm, noise=BatchNoise((4, 1, 2)), on_step=seen.append
    )
    _, carry = denoiser.denoise(x, torch.full((4,), t, dtype=F64), None, denoiser.start(x, None))
    _, carry = denoiser.advance(carry, seen[0])
    r, less = (scalar_alpha_sigma(VE, v)[1] for v in (t, s))
    noises = [(x - m(x, torch.full((4,), t, dtype=F64))) / r for m in members]
    gains = [(-(x_s - x) * e / r - (r - less) / r * e.square()).flatten(1).sum(1) for e in noises]
    found = carry.log_q[:, 0] - carry.log_q[:, 1]
    assert found.abs().max().item() > 1e-4
    assert torch.allclose(found, gains[0] - gains[1], rtol=1e-2, atol=1e-6)


def test_shaped_noise_has_no_part_along_the_differences():
    members = [GaussianDenoiser(VE, m, 0.3) for m in (at(1.0, 0.0), at(0.0, 1.0))]
    denoiser = superpose_and(members)
    x, t = torch.randn(5, 1, 2, dtype=F64), torch.full((5,), 0.5, dtype=F64)
    _, carry = denoiser.denoise(x, t, None, denoiser.start(x, None))
    noise = denoiser.shape_noise(torch.randn(5, 1, 2, dtype=F64), carry)
    assert (noise[..., 0] - noise[..., 1]).abs().max().item() < 1e-12
    _, agreed = superpose_and(members, tolerance=1e9).denoise(x, t, None, denoiser.start(x, None))
    assert torch.equal(denoiser.shape_noise(noise, agreed), noise)


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [mixture, superpose_and, functools.partial(superpose_and, correct_widths=True)],
    ids=["or", "and", "and-corrected"],
)
def test_a_row_depends_on_its_own_seed(build):
    path = LinearPath()
    denoiser = build(
        [GaussianDenoiser(path, 0.5, 0.3), GaussianDenoiser(path, torch.linspace(-1, 1, 7), 0.2)]
    )
    sampler = Sampler(rule="ddpm", n_steps=10)
    draw = functools.partial(sampler.run, denoiser, None, horizon=16, action_dim=7)
    alone, many = draw(seeds=[3]), draw(seeds=[9, 3, *range(10, 40)])
    assert alone.dtype == torch.float32
    assert torch.isfinite(many).all()
    assert torch.equal(alone[0], many[1])
    assert not torch.equal(many[0], many[1])


def test_members_on_other_paths():
    path, own = CosinePath(), LinearPath(t_min=1e-4, t_max=0.9999)
    native = mixture([GaussianDenoiser(path, 1.0, 0.3), GaussianDenoiser(path, -1.0, 0.3)])
    moved = mixture([native.members[0], on_path(GaussianDenoiser(own, -1.0, 0.3), path)])
    expected = run(native, 30, (20, 1, 2))
    assert torch.allclose(run(moved, 30, (20, 1, 2)), expected, atol=1e-8)


def test_a_superposition_seen_from_another_path():
    own, path = LinearPath(t_min=1e-4, t_max=0.9999), CosinePath()
    inner = mixture([GaussianDenoiser(own, 1.0, 0.3), GaussianDenoiser(own, -1.0, 0.3)])
    native = mixture([GaussianDenoiser(path, 1.0, 0.3), GaussianDenoiser(path, -1.0, 0.3)])
    found = run(on_path(inner, path), 30, (20, 1, 2))
    assert torch.allclose(found, run(native, 30, (20, 1, 2)), atol=1e-6)
    with pytest.raises(UsageError, match="deterministic sampler"):
        run(on_path(inner, path), 30, (20, 1, 2), rule=ddim)


def test_a_carry_may_come_back_as_plain_tuples():
    denoiser = mixture(pair(VE))
    x, t = torch.randn(4, 1, 2, dtype=F64), torch.full((4,), 0.5, dtype=F64)
    carry = denoiser.start(x, None)._replace(log_q=torch.randn(4, 2, dtype=F64))
    expected, _ = denoiser.denoise(x, t, None, carry)
    found, _ = denoiser.denoise(x[[2, 0]], t[:2], None, (carry[0], carry[1][[2, 0]], None, None))
    assert torch.allclose(found, expected[[2, 0]], atol=1e-12)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [mixture, superpose_or, superpose_and])
@pytest.mark.parametrize("rule", [ddim, heun, dpmpp_2m])
def test_deterministic_samplers_are_refused(build, rule):
    denoiser = build(pair(VE))
    assert "ode" in denoiser.target.refused
    with pytest.raises(UsageError, match=r"deterministic sampler.*rule='ddpm'"):
        run(denoiser, 10, (2, 1, 2), rule=rule)


def test_correctors_are_refused():
    def stay(x, t, *, denoise, path, noise, index):
        return x

    with pytest.raises(UsageError, match="without a corrector"):
        run(mixture(pair(VE)), 10, (2, 1, 2), correct=stay)


@pytest.mark.parametrize(
    "rule", [functools.partial(sde, churn=2.0), functools.partial(ddim, eta=0.5)]
)
@every_path
def test_other_amounts_of_noise_are_refused(path, rule):
    with pytest.raises(UsageError, match=r"expected that of the forward process.*churn 1"):
        run(mixture(pair(path)), 10, (2, 1, 2), rule=rule)


def test_churn_1_is_ddpm():
    denoiser = superpose_and(pair(VE))
    one = run(denoiser, 20, (5, 1, 2))
    other = run(denoiser, 20, (5, 1, 2), rule=functools.partial(sde, churn=1.0))
    assert torch.allclose(one, other, atol=1e-12)


def test_and_has_to_be_the_outermost():
    members = pair(LinearPath())
    both = superpose_and(members)
    for build in (mixture, superpose_or, superpose_and):
        with pytest.raises(UsageError, match="member 1 is superpose_and"):
            build([members[0], both])
    with pytest.raises(UsageError, match="was not shaped"):
        run(mean([both, members[0]], [0.5, 0.5]), 10, (2, 1, 2))


def test_targets():
    either, both = mixture(pair(VE)), superpose_and(pair(VE))
    assert isinstance(either, TrackingDenoiser)
    assert isinstance(either, Denoiser)
    assert (either.target.operator, either.target.density) == ("mixture", "sum_i prior_i p_i")
    assert either.target.unbiased == ("sde",)
    assert both.target.unbiased == ()
    assert both.target.density.startswith("none")
    assert "other amounts of it" in both.target.note
    assert mixture([either, VE_GAUSSIAN]).target.unbiased == ("sde",)
    assert mixture([product(pair(VE)), VE_GAUSSIAN]).target.unbiased == ()


VE_GAUSSIAN = GaussianDenoiser(VE, 0.0, 0.5)


@pytest.mark.parametrize(
    ("build", "options", "match"),
    [
        (mixture, {"prior": [0.5, 0.6]}, "sum 1"),
        (mixture, {"prior": [1.0, 0.0]}, "leave a member"),
        (mixture, {"prior": [1.0]}, "2 members"),
        (mixture, {"prior": [math.nan, 1.0]}, "positive"),
        (superpose_or, {"temperature": 0.0}, "above 0"),
        (superpose_or, {"log_prior": [0.0]}, "expected 2 numbers"),
        (superpose_or, {"log_prior": [0.0, -math.inf]}, "expected 2 numbers"),
        (superpose_and, {"tolerance": -1.0}, "at least 0"),
    ],
)
def test_settings_are_checked(build, options, match):
    with pytest.raises(UsageError, match=match):
        build(pair(VE), **options)


def test_members_are_checked():
    with pytest.raises(UsageError, match="at least 2"):
        superpose_and([VE_GAUSSIAN])
    with pytest.raises(UsageError, match="flow map"):
        mixture([VE_GAUSSIAN, GaussianFlowMap(VE)])
    with pytest.raises(UsageError, match="on_path"):
        mixture([VE_GAUSSIAN, GaussianDenoiser(LinearPath())])
    with pytest.raises(UsageError, match="expected 2; leave it out"):
        superpose_and([VE_GAUSSIAN] * 3, correct_widths=True)
