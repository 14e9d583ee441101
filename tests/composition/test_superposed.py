"""Mixtures and superpositions: analytic laws on every path, tracked log-densities."""

import math

import pytest
import torch

from genpolicy.composition.superposed import (
    SuperposedCarry,
    mixture,
    superpose_and,
    superpose_or,
)
from genpolicy.paths import CosinePath, LinearPath
from genpolicy.paths.base import scalar_alpha_sigma
from tests.composition.superposed_cases import (
    F64,
    VE,
    BatchNoise,
    Recorder,
    at,
    every_path,
    pair,
    run,
    shares,
)
from tests.oracles import GaussianDenoiser, MixtureDenoiser


@every_path
def test_mixture_oracle_obeys_tweedie(path):
    oracle = MixtureDenoiser(path, (-1.0, at(1.0, 0.3)), (0.1, 0.4), (1.0, 3.0))
    x = torch.linspace(-2, 2, 10, dtype=F64).reshape(5, 1, 2).requires_grad_()
    t = torch.full((5,), 0.4, dtype=F64)
    (score,) = torch.autograd.grad(oracle.log_prob(x, t).sum(), x)
    alpha, sigma = scalar_alpha_sigma(path, 0.4)
    assert torch.allclose(oracle(x, t), (x + sigma**2 * score) / alpha, atol=1e-10)
    alone = MixtureDenoiser(path, (0.3,), (0.2,), (2.0,))
    assert torch.allclose(alone(x, t), GaussianDenoiser(path, 0.3, 0.2)(x, t), atol=1e-12)


# --- laws -----------------------------------------------------------------------------------------


def test_two_modes_and_one_mode():
    both = MixtureDenoiser(VE, (-1.0, 1.0), (0.1, 0.1), (1.0, 1.0))
    one = GaussianDenoiser(VE, 1.0, 0.1)
    either = run(mixture([both, one]), 120, (3000, 1, 1))
    assert shares(either, -1.0, 0.0, 1.0) == pytest.approx([0.25, 0.0, 0.75], abs=0.025)
    assert sum(shares(either, -1.0, 1.0)) == 1.0
    agreed = run(superpose_and([both, one]), 120, (1000, 1, 1))
    assert shares(agreed, -1.0, 0.0, 1.0) == [0.0, 0.0, 1.0]
    assert agreed.mean().item() == pytest.approx(1.0, abs=0.01)
    assert agreed.std().item() == pytest.approx(0.1, abs=0.01)


@every_path
def test_or_samples_the_mixture_and_tracks_its_members(path):
    recorder = Recorder(mixture(pair(path)))
    x = run(recorder, 120, (2000, 1, 2))
    assert x[..., 0].std().item() == pytest.approx(1.581, abs=0.05)
    assert x[..., 1].std().item() == pytest.approx(0.5, abs=0.04)
    assert shares(x[..., 0], 0.0)[0] == pytest.approx(0.0227, abs=0.012)
    found = torch.stack([recorder.tracked(), recorder.true()])
    assert torch.corrcoef(found)[0, 1].item() > 0.999
    slope = (found[0].std() / found[1].std()).item()
    assert slope == pytest.approx(1.0, abs=0.15)


def test_each_log_density_follows_the_truth():
    recorder = Recorder(mixture(pair(VE)))
    run(recorder, 200, (800, 1, 2))
    start = -0.5 * BatchNoise((800, 1, 2)).draw(0).square().flatten(1).sum(1)
    t = torch.full((800,), recorder.t, dtype=F64)
    for number, member in enumerate(recorder.inner.members):
        found = torch.stack(
            [recorder.carry.log_q[:, number] + start, member.log_prob(recorder.x, t)]
        )
        assert torch.corrcoef(found)[0, 1].item() > 0.99


@every_path
def test_and_stays_where_both_are_equally_likely(path):
    recorder = Recorder(superpose_and(pair(path)))
    x = run(recorder, 120, (1000, 1, 2))
    # The surface is x_1 = 0; the width across it is what the start at a finite level leaves.
    assert x[..., 0].std().item() < 0.014
    assert abs(x[..., 0].mean().item()) < 0.002
    assert x[..., 1].std().item() == pytest.approx(0.5, abs=0.04)
    if path is VE:
        assert x[..., 0].std().item() == pytest.approx(0.0124, abs=0.001)


@pytest.mark.parametrize("n_steps", [5, 50])
def test_and_keeps_tracked_differences_in_steps_of_any_size(n_steps):
    recorder = Recorder(superpose_and(pair(VE, 0.25, 1.0)))
    run(recorder, n_steps, (50, 1, 2))
    assert recorder.tracked().abs().max().item() < 1e-11
    assert recorder.true().abs().max().item() > 0.1


@pytest.mark.parametrize(
    ("path", "std"), [(VE, 0.5), (LinearPath(), 0.5), (LinearPath(), 0.25), (CosinePath(), 0.25)]
)
@pytest.mark.parametrize("correct_widths", [False, True])
def test_unequal_widths(path, std, correct_widths):
    """The true log-ratio ends at ln(std_2/std_1), and at 0 with the correction."""
    members = [GaussianDenoiser(path, 1.5, std), GaussianDenoiser(path, -1.5, 1.0)]
    ends = []
    for n_steps in (40, 80):
        recorder = Recorder(superpose_and(members, correct_widths=correct_widths))
        run(recorder, n_steps, (100, 1, 1))
        ends.append(recorder.true().mean().item())
    # The error is of order 1/n_steps, so this is the limit of many steps.
    limit = 2.0 * ends[1] - ends[0]
    expected = 0.0 if correct_widths else math.log(1.0 / std)
    assert limit == pytest.approx(expected, abs=0.03)
    assert abs(ends[1] - expected) < 0.6 * abs(ends[0] - expected)


def test_three_members_meet_at_the_point_of_equal_likelihood():
    path = LinearPath()
    corners = [at(-1.0, 0.0), at(1.0, 0.0), at(0.0, 2.0)]
    x = run(superpose_and([GaussianDenoiser(path, m, 0.3) for m in corners]), 150, (200, 1, 2))
    # The circle through the corners is around (0, 0.75).
    assert x.mean(0).flatten().tolist() == pytest.approx([0.0, 0.75], abs=0.005)
    assert x.std(0).max().item() < 0.005


def test_members_in_a_line_leave_one_direction():
    path = LinearPath()
    line = [GaussianDenoiser(path, at(0.6 * m, 0.8 * m), 0.3) for m in (-1.0, 1.0, 3.0)]
    # Without the tolerance only rounding keeps the members from lying on one line.
    x = run(superpose_and(line, tolerance=0.0), 60, (200, 1, 2))
    along, across = x @ at(0.6, 0.8).T, x @ at(-0.8, 0.6).T
    assert along.abs().max().item() < 0.05
    assert across.mean().item() == pytest.approx(0.0, abs=0.07)
    assert across.std().item() == pytest.approx(0.3, abs=0.05)


@every_path
@pytest.mark.parametrize("build", [mixture, superpose_or, superpose_and])
def test_equal_members_give_the_member(path, build):
    member = MixtureDenoiser(path, (-1.0, 0.5), (0.2, 0.3), (1.0, 2.0))
    expected = run(member, 20, (30, 1, 2))
    assert torch.allclose(run(build([member, member]), 20, (30, 1, 2)), expected, atol=1e-12)


def test_one_member_is_itself():
    member = GaussianDenoiser(VE, 0.3, 0.2)
    assert torch.equal(run(mixture([member]), 10, (5, 1, 2)), run(member, 10, (5, 1, 2)))


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [[0.2, 0.8], [0.5, 0.2, 0.3]])
def test_shares_follow_the_prior(prior):
    path = LinearPath()
    centres = [-2.0, 0.0, 2.0][: len(prior)]
    members = [GaussianDenoiser(path, c, 0.1 + 0.1 * i) for i, c in enumerate(centres)]
    recorder = Recorder(mixture(members, prior=prior))
    x = run(recorder, 100, (3000, 1, 1))
    assert shares(x, *centres) == pytest.approx(prior, abs=0.03)
    assert torch.allclose(recorder.weights[0], torch.tensor(prior, dtype=F64), atol=1e-12)
    assert recorder.weights[-1].max(1).values.mean().item() > 0.999
    assert torch.allclose(recorder.weights[-1].sum(1), torch.ones(3000, dtype=F64))


def test_a_mixture_of_mixtures():
    path = CosinePath()
    a, b, c = (GaussianDenoiser(path, m, 0.2) for m in (-2.0, 0.0, 2.0))
    x = run(mixture([mixture([a, b]), c]), 100, (2000, 1, 1))
    assert shares(x, -2.0, 0.0, 2.0) == pytest.approx([0.25, 0.25, 0.5], abs=0.035)


def test_or_with_offsets_is_the_mixture_of_their_softmax():
    members = pair(VE)
    scored = superpose_or(members, log_prior=[math.log(2.0), math.log(6.0)])
    shared = mixture(members, prior=[0.25, 0.75])
    assert torch.allclose(run(scored, 20, (20, 1, 2)), run(shared, 20, (20, 1, 2)), atol=1e-12)
    assert shared.target.unbiased == ("sde",)


def test_temperature_multiplies_the_log_densities():
    members = pair(VE)
    carry = SuperposedCarry(members=(None, None), log_q=torch.tensor([[0.0, 0.7]], dtype=F64))
    hot = superpose_or(members, temperature=3.0, log_prior=[0.2, 0.0])
    odds = hot.weights(carry)
    assert (odds[0, 1] / odds[0, 0]).log().item() == pytest.approx(3.0 * 0.7 - 0.2, abs=1e-12)
    assert hot.target.unbiased == ()
    assert hot.target.density.startswith("none")
    # The likelier member is followed from early on.
    early = []
    for temperature in (1.0, 100.0):
        recorder = Recorder(superpose_or(members, temperature=temperature))
        run(recorder, 40, (200, 1, 2))
        early.append(recorder.weights[10].max(1).values.mean().item())
    assert early[0] < 0.8 < 0.95 < early[1]


def test_plain_call_is_at_equal_log_densities():
    members = pair(VE, 0.5, 0.2)
    x, t = torch.randn(4, 1, 2, dtype=F64), torch.full((4,), 0.5, dtype=F64)
    one, two = (m(x, t) for m in members)
    assert torch.allclose(mixture(members, prior=[0.3, 0.7])(x, t), 0.3 * one + 0.7 * two)
    assert torch.allclose(superpose_and(members)(x, t), 0.5 * (one + two))


# --- the identities of a step ---------------------------------------------------------------------
