"""Sums of scores against closed forms: cards T2 to T4, T6, T7, T16, and their identities."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genpolicy.composition import (
    LevelWeights,
    common_path,
    conjunction,
    mean,
    negation,
    on_path,
    product,
    rl_guidance,
)
from genpolicy.denoisers import Target, target_of
from genpolicy.errors import UsageError
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, VPPath, grid
from genpolicy.sampling import make_rule, sample
from tests.oracles import GaussianDenoiser, GaussianFlowMap

VE = KarrasPath(sigma_max=80.0)
SMALL = 1e-3


def gaussians(*laws, path=VE):
    return [GaussianDenoiser(path, mean=m, std=s) for m, s in laws]


def moments(denoiser, *, churn, n_steps=4000):
    """Return mean and variance of the samples of an affine denoiser; churn 0 is the ODE.

    Every level is a row of one batch: its slope and intercept come from two evaluations, and the
    moments from the recursion of the step.
    """
    path = denoiser.path
    times = grid(path, n_steps, "log_snr")
    t = times[:-1]
    zero = torch.zeros(n_steps, 1, 1, dtype=torch.float64)
    intercept = denoiser(zero, t, None).flatten()
    slope = denoiser(zero + 1.0, t, None).flatten() - intercept
    mu, variance = 0.0, path.alpha_sigma(times[0])[1].item() ** 2
    rule = make_rule("sde", {"churn": churn})
    for i, (now, after) in enumerate(itertools.pairwise(times.tolist())):
        step = rule(path, now, after, None)
        gain = step.c_x + step.c_denoised * slope[i].item()
        mu = gain * mu + step.c_denoised * intercept[i].item()
        variance = gain**2 * variance + step.c_noise**2
    return mu, variance


@pytest.mark.parametrize("churn", [0.0, 1.0, 10.0])
def test_t2_the_mean_of_equal_widths_is_exact_with_any_sampler(churn):
    both = mean(gaussians((-1, 0.5), (1, 0.5)), [0.5, 0.5])
    mu, variance = moments(both, churn=churn)
    assert mu == pytest.approx(0.0, abs=1e-3)
    assert variance == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize(
    ("churn", "expected"), [(0.0, (0.425, 0.250)), (1.0, (0.600, 0.185)), (10.0, (0.838, 0.127))]
)
def test_t2b_the_mean_of_unequal_widths_depends_on_the_sampler(churn, expected):
    both = mean(gaussians((-1, 1.0), (1, 0.25)), [0.5, 0.5])
    mu, variance = moments(both, churn=churn)
    assert mu == pytest.approx(expected[0], rel=0.02)
    assert variance == pytest.approx(expected[1], rel=0.02)


@pytest.mark.parametrize(("churn", "variance"), [(0.0, 0.0), (1.0, 0.0833), (10.0, 0.1190)])
def test_t3_a_product_is_too_narrow_without_corrections(churn, variance):
    both = product(gaussians((-1, 0.5), (1, 0.5)))
    # The ODE is refused by the loop; what it would do is seen without the product's target.
    plain = both if churn else _without_target(both)
    mu, found = moments(plain, churn=churn)
    assert mu == pytest.approx(0.0, abs=1e-3)
    assert found == pytest.approx(variance, rel=0.02, abs=2e-3)


@given(
    width=st.floats(0.1, 1.5),
    total=st.floats(1.0, 3.0),
    churn=st.floats(1.0, 10.0),
    centre=st.floats(-1.0, 1.0),
)
@settings(max_examples=10, deadline=None)
def test_variance_of_weighted_products_of_equal_widths(width, total, churn, centre):
    members = gaussians((centre - 0.5, width), (centre + 0.5, width))
    both = product(members, [0.3 * total, 0.7 * total])
    mu, variance = moments(both, churn=churn, n_steps=1500)
    # card B.2: s^2 c/((1 + c) W - 1)
    assert variance == pytest.approx(width**2 * churn / ((1 + churn) * total - 1), rel=0.05)
    assert mu == pytest.approx(centre + 0.2, abs=0.05)


def test_a_product_with_an_ode_is_refused_with_the_remedy():
    both = product(gaussians((-1, 0.5), (1, 0.5)))
    times = grid(VE, 10, "log_snr")
    with pytest.raises(UsageError, match=r"deterministic sampler.*corrector"):
        sample(both, torch.zeros(2, 1, 1), times, None, rule=make_rule("ddim"))
    nested = mean([both, *gaussians((0, 1))], [0.5, 0.5])
    with pytest.raises(UsageError, match="deterministic"):
        sample(nested, torch.zeros(2, 1, 1), times, None, rule=make_rule("ddim"))


@pytest.mark.parametrize("path", [VE, LinearPath(t_min=0.001, t_max=0.999), CosinePath(), VPPath()])
@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_t16_equal_members_are_the_member(path, churn):
    member = GaussianDenoiser(path, mean=0.3, std=0.4)
    x = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(path.t_min + SMALL, path.t_max, 5, dtype=torch.float64)
    built = {
        "mean": mean([member, member], [0.3, 0.7]),
        "rl_guidance": rl_guidance(member, member, scale=1.7),
        "negation": negation(member, member, strength=0.3),
        "conjunction": conjunction(member, [member, member], scale=[0.5, 1.5]),
        "product": product([member, member], [0.25, 0.75]),
    }
    for name, composed in built.items():
        torch.testing.assert_close(composed(x, t), member(x, t), msg=name)
    expected = moments(member, churn=churn, n_steps=50)
    assert moments(built["mean"], churn=churn, n_steps=50) == pytest.approx(expected, rel=1e-9)


def test_t16_two_equal_members_in_a_product_with_an_ode_fail():
    member = GaussianDenoiser(VE, mean=0.0, std=0.5)
    twice = _without_target(product([member, member]))
    assert moments(twice, churn=0.0)[1] < 0.01  # not 0.125: the reason for the refusal


@pytest.mark.parametrize("weights", [[1.0, 0.0], [0.0, 1.0]])
def test_weights_of_one_and_zero_are_the_member_bit_for_bit(weights):
    members = gaussians((-1, 0.3), (1, 0.7))
    chosen = members[weights.index(1.0)]
    composed = mean(members, weights)
    x = torch.randn(7, 4, 2, generator=torch.Generator().manual_seed(1))
    t = torch.full((7,), 0.4)
    assert torch.equal(composed(x, t), chosen(x, t))
    assert torch.equal(rl_guidance(*members, scale=weights[1])(x, t), chosen(x, t))


def test_t4_a_conjunction_has_the_precision_of_the_card():
    base = GaussianDenoiser(VE, mean=0.0, std=1.0)
    tight = gaussians((0.5, 0.6), (-0.2, 0.6))
    weights = (0.7, 1.2)
    composed = conjunction(base, tight, scale=weights)
    t = VE.t_of_log_snr(torch.tensor([12.0], dtype=torch.float64))  # sigma = 0.0025
    sigma = VE.alpha_sigma(t)[1]
    x = torch.tensor([[[0.37]]], dtype=torch.float64)
    score = (composed(x, t) - x) / sigma**2
    precision = 1 + sum(w * (1 / 0.36 - 1) for w in weights)
    centre = (0.7 * 0.5 - 1.2 * 0.2) / 0.36 / precision
    assert score.item() == pytest.approx(-precision * (0.37 - centre), rel=1e-3)


def test_t6_guidance_with_a_linear_reward_is_exact():
    slope, beta, scale = 1.0, 1.0, 2.0
    base, tuned = gaussians((0.0, 1.0), (slope / beta, 1.0))
    guided = rl_guidance(base, tuned, scale=scale)
    mu, variance = moments(guided, churn=1.0)
    assert mu == pytest.approx(scale * slope / beta, rel=5e-3)
    assert variance == pytest.approx(1.0, rel=0.01)
    # The ODE is short by the mismatch of the prior: 1.975 of 2 at sigma_max = 80.
    assert moments(guided, churn=0.0)[0] == pytest.approx(1.975, abs=2e-3)


@pytest.mark.parametrize(
    ("churn", "expected"), [(0.0, (1.374, 0.0625)), (1.0, (1.250, 0.1094)), (10.0, (1.157, 0.138))]
)
def test_t7_guidance_with_a_quadratic_reward_misses_its_target(churn, expected):
    base, tuned = gaussians((0.0, 1.0), (1.0, 0.5))
    mu, variance = moments(rl_guidance(base, tuned, scale=2.0), churn=churn)
    assert mu == pytest.approx(expected[0], rel=0.02)
    assert variance == pytest.approx(expected[1], rel=0.02)


@given(
    first=st.tuples(st.floats(-1, 1), st.floats(0.2, 1.5)),
    second=st.tuples(st.floats(-1, 1), st.floats(0.2, 1.5)),
    weight=st.floats(0.05, 0.95),
)
@settings(max_examples=8, deadline=None)
def test_members_on_other_paths_compose_to_the_same_law(first, second, weight):
    def composed(a, b, path):
        members = [GaussianDenoiser(a, *first), GaussianDenoiser(b, *second)]
        shared = common_path(path, [(m.path, 1.0) for m in members])
        return mean([on_path(m, shared) for m in members], [weight, 1 - weight])

    flow, diffusion = LinearPath(), CosinePath()
    mixed = moments(composed(flow, diffusion, flow), churn=1.0, n_steps=800)
    alone = moments(composed(diffusion, diffusion, diffusion), churn=1.0, n_steps=800)
    assert mixed == pytest.approx(alone, rel=0.02, abs=0.01)


def test_a_schedule_of_weights_is_interpolated_by_level():
    members = gaussians((-1, 0.5), (1, 0.5))
    schedule = LevelWeights(log_snr=[-4.0, 4.0], weights=[[1.0, 0.0], [0.0, 1.0]])
    composed = mean(members, schedule)
    t = VE.t_of_log_snr(torch.tensor([-9.0, -4.0, 0.0, 2.0, 4.0, 8.0], dtype=torch.float64))
    x = torch.zeros(6, 1, 1, dtype=torch.float64)
    first, second = (m(x, t).flatten() for m in members)
    share = torch.tensor([0.0, 0.0, 0.5, 0.75, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(composed(x, t).flatten(), (1 - share) * first + share * second)


def test_weights_per_sample_act_on_their_own_row():
    members = gaussians((-1, 0.5), (1, 0.5))
    rows = torch.tensor([[1.0, 0.0], [0.25, 0.75]], dtype=torch.float64)
    composed = mean(members, rows)
    x, t = torch.ones(2, 3, 1, dtype=torch.float64), torch.full((2,), 0.5, dtype=torch.float64)
    first, second = (m(x, t) for m in members)
    torch.testing.assert_close(composed(x, t)[0], first[0])
    torch.testing.assert_close(composed(x, t)[1], 0.25 * first[1] + 0.75 * second[1])
    with pytest.raises(UsageError, match="2 rows, the state has 3"):
        composed(torch.ones(3, 3, 1), torch.full((3,), 0.5), None)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: mean(m, [0.5, 0.6]), "sum 1.1"),
        (lambda m: mean(m, [1.5, -0.5]), "at least 0"),
        (lambda m: mean(m, [1.0]), "1 weights for 2 members"),
        (lambda m: mean(m, [math.nan, 1.0]), "finite"),
        (lambda m: product(m, [1.0, -1.0]), "negation"),
        (lambda m: rl_guidance(*m, scale=-0.1), "at least 0"),
        (lambda m: negation(*m, strength=math.inf), "at least 0"),
        (lambda m: conjunction(m[0], m[1:], scale=-1.0), "at least 0"),
        (lambda m: mean([], []), "expected at least 1"),
    ],
)
def test_weights_that_are_none_are_refused(build, message):
    with pytest.raises(UsageError, match=message):
        build(gaussians((-1, 0.5), (1, 0.5)))


def test_consistency_policies_are_refused_with_the_legal_forms():
    with pytest.raises(UsageError, match=r"distil.*endpoint_mean.*proposal"):
        mean([GaussianFlowMap(VE), *gaussians((0, 1))], [0.5, 0.5])


def test_members_on_different_paths_are_refused_with_the_remedy():
    members = [GaussianDenoiser(VE), GaussianDenoiser(LinearPath())]
    with pytest.raises(UsageError, match="on_path"):
        mean(members, [0.5, 0.5])


def test_a_product_needs_signal_at_its_first_level():
    members = gaussians((-1, 0.5), (1, 0.5), path=LinearPath())
    with pytest.raises(UsageError, match="common_path"):
        product(members)
    shared = common_path(LinearPath(), [], largest_sigma=80.0)
    alpha, sigma = shared.alpha_sigma(torch.tensor(shared.t_max, dtype=torch.float64))
    assert (sigma / alpha).item() == pytest.approx(80.0)
    product([on_path(m, shared) for m in members])


def _without_target(composed):
    """Return a composition that says nothing about samplers."""
    import dataclasses

    silent = dataclasses.replace(composed, target=dataclasses.replace(composed.target, refused=()))
    found = target_of(silent)
    assert isinstance(found, Target)
    return silent
