"""Diagnostics of compositions against closed forms of Gaussian members."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import genpolicy as gp
from genpolicy.data.normalizer import FieldStats, Normalizer
from genpolicy.errors import UsageError
from genpolicy.evaluation.density_plots import (
    draw_densities,
    draw_marginals,
    draw_samples,
    mass_levels,
)
from genpolicy.evaluation.diagnostics import DEFAULT_LEVELS, diagnose, mass_between
from genpolicy.evaluation.plot_style import png
from genpolicy.paths import CosinePath, KarrasPath, LinearPath
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.sampling import Sampler
from genpolicy.shapes import TaskSpec
from tests.oracles import GaussianDenoiser, GaussianFlowMap, MixtureDenoiser

VE = KarrasPath(sigma_max=20.0)
ODE = Sampler(rule="ddim", n_steps=12, grid="log_snr")
HORIZON = 3


class ExactPolicy(DenoisingPolicy):
    """A policy whose denoiser is exact."""

    def __init__(self, denoiser, *, horizon=HORIZON, low=None, sampler=ODE, rows=8):
        super().__init__()
        self.denoiser, self.sampler, self.rows_per_block = denoiser, sampler, rows
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.spec = TaskSpec(
            task="exact",
            obs_shapes={"state": (1,)},
            action_dim=2,
            n_obs_steps=1,
            horizon=horizon,
            n_action_steps=1,
        )
        mode, reach = ("identity", 1.0) if low is None else ("min_max", -low)
        ends = np.full(2, -reach, np.float32), np.full(2, reach, np.float32)
        stats = FieldStats(mode, *ends, np.zeros(2, np.float32), np.ones(2, np.float32))
        one = np.zeros(1, np.float32)
        self.normalizer = Normalizer(
            action=stats, obs={"state": FieldStats("identity", one, one + 1, one, one + 1)}
        )

    path = property(lambda self: self.denoiser.path)
    kind = property(lambda self: self.denoiser.kind)

    def bind(self, obs):
        return self.denoiser

    def with_sampler(self, **changes):
        raise NotImplementedError


def gauss(mean, std, path=VE, **options):
    return ExactPolicy(GaussianDenoiser(path, mean, std), **options)


def rows(n):
    return {"state": torch.zeros(n, 1, 1)}


def sigma_of(level):
    return math.exp(-level / 2)


def test_disagreement_of_gaussians_of_one_width_is_exact_at_every_state():
    # e_1 - e_2 = sigma (m_2 - m_1)/(s^2 + sigma^2), wherever the state is.
    policy = gp.compose.mean([gauss(-1.0, 0.5), gauss(1.0, 0.5)], [0.25, 0.75])
    found = diagnose(policy, rows(11), seeds=range(11))
    sigma = np.exp(-found.log_snr / 2)
    expected = 2.0 * sigma / (0.25 + sigma**2)
    np.testing.assert_allclose(found.disagreement, expected, atol=1e-4)  # float32 near the end
    # The mean lies a quarter and three quarters of the way.
    np.testing.assert_allclose(found.departure[0], 0.75 * expected, atol=1e-4)
    np.testing.assert_allclose(found.departure[1], 0.25 * expected, atol=1e-4)
    assert found.times[0] == 1.0
    assert found.log_snr[0] == pytest.approx(-2 * math.log(20.0))
    assert found.clipped is None
    assert found.clipped_samples is None


def test_it_follows_the_members_onto_other_paths():
    there = gauss(1.0, 0.5, CosinePath())
    policy = gp.compose.mean([gauss(-1.0, 0.5), there], [0.5, 0.5])
    found = diagnose(policy, rows(4), seeds=range(4))
    sigma = np.exp(-found.log_snr / 2)
    np.testing.assert_allclose(found.disagreement, 2.0 * sigma / (0.25 + sigma**2), atol=1e-3)


@pytest.mark.parametrize("level", [-1.0, 1.0, 3.0])
def test_denoising_errors_have_their_closed_form(level):
    # Equal widths: the composition is N(0, s^2) and misses the members' means by 1.
    s, n = 0.2, 4000
    accurate = Sampler(rule="dpmpp_2m", n_steps=60, grid="log_snr")
    members = [gauss(-1.0, s, rows=n), gauss(1.0, s, rows=n)]
    policy = gp.compose.mean(members, [0.5, 0.5], sampler=accurate)
    found = diagnose(policy, rows(n), seeds=range(n), levels=[level])
    r2 = sigma_of(level) ** 2
    c = s**2 / (s**2 + r2)
    at = np.sqrt((1 - c) ** 2 * (1 + s**2) + c**2 * r2)
    own = np.sqrt(c * r2)
    # 24000 entries: the standard error of a root mean square is below 0.5 %; steps add their own.
    np.testing.assert_allclose(found.errors[:, 0], at, rtol=0.03)
    np.testing.assert_allclose(found.own_errors[:, 0], own, rtol=0.03)
    np.testing.assert_allclose(found.ratios, found.errors / found.own_errors)
    assert len(found.warnings) == (2 if at / own > 1.5 else 0)


def test_equal_members_have_nothing_to_report():
    policy = gp.compose.mean([gauss(0.3, 0.2), gauss(0.3, 0.2)], [0.3, 0.7])
    found = diagnose(policy, rows(9), seeds=range(9))
    np.testing.assert_allclose(found.disagreement, 0.0, atol=1e-6)
    np.testing.assert_allclose(found.departure, 0.0, atol=1e-5)
    np.testing.assert_allclose(found.ratios, 1.0, atol=1e-4)
    assert found.warnings == ()
    assert tuple(found.levels) == DEFAULT_LEVELS


def test_the_actions_are_those_of_sample_bit_for_bit():
    for make in (
        lambda a, b: gp.compose.mean([a, b], [0.5, 0.5]),
        lambda a, b: gp.compose.mixture([a, b], sampler=Sampler(rule="ddpm", n_steps=6)),
        lambda a, b: gp.compose.product(
            [a, b], sampler=Sampler(rule="ddpm", n_steps=6), n_particles=3
        ),
        lambda a, b: gp.compose.with_cost(a, cost=gp.compose.costs.Smoothness(), scale=1.0),
    ):
        policy = make(gauss(-1.0, 0.5, rows=4), gauss(1.0, 0.5, rows=4))
        policy.train()
        found = diagnose(policy, rows(6), seeds=range(3, 9))
        assert policy.training
        wanted = policy.sample(rows(6), seeds=range(3, 9))
        assert torch.equal(torch.as_tensor(found.actions), wanted)
        assert np.isfinite(found.departure).all()


def test_rows_are_counted_once_however_they_are_padded():
    policies = [
        gp.compose.mean([gauss(-1.0, 0.4, rows=r), gauss(0.5, 0.2, rows=r)], [0.5, 0.5])
        for r in (1, 4, 8)
    ]
    found = [diagnose(policy, rows(5), seeds=range(5)) for policy in policies]
    for name in ("disagreement", "departure", "errors", "own_errors"):
        for other in found[1:]:
            np.testing.assert_allclose(getattr(other, name), getattr(found[0], name), rtol=1e-5)


def test_members_that_follow_their_trajectory_are_followed():
    sampler = Sampler(rule="ddpm", n_steps=20, grid="log_snr")
    either = gp.compose.mixture([gauss(-1.0, 0.2), gauss(1.0, 0.2)], sampler=sampler)
    policy = gp.compose.mean([either, gauss(0.0, 1.0)], [1.0, 0.0], sampler=sampler)
    found = diagnose(policy, rows(16), seeds=range(16))
    # One member of weight 1 is the composition: it departs from it at no step if it is followed.
    np.testing.assert_allclose(found.departure, 0.0, atol=1e-6)
    assert np.isnan(found.disagreement).all()


def test_particles_are_all_counted():
    sampler = Sampler(rule="ddpm", n_steps=8, grid="log_snr")
    members = [gauss(-1.0, 0.5), gauss(1.0, 0.5)]
    policy = gp.compose.product(members, sampler=sampler, n_particles=5)
    found = diagnose(policy, rows(3), seeds=range(3))
    sigma = np.exp(-found.log_snr / 2)
    np.testing.assert_allclose(found.disagreement, 2.0 * sigma / (0.25 + sigma**2), atol=1e-4)


def test_parts_count_where_they_say_something():
    short = gauss(1.0, 0.5, horizon=1)
    policy = gp.compose.mean([gauss(-1.0, 0.5), short], [0.5, 0.5])
    found = diagnose(policy, rows(5), seeds=range(5), levels=[0.0])
    sigma = np.exp(-found.log_snr / 2)
    apart = 2.0 * sigma / (0.25 + sigma**2)
    np.testing.assert_allclose(found.disagreement, apart, atol=1e-4)
    # The long member has 3 steps, of which it is left alone in 2.
    np.testing.assert_allclose(found.departure[0], 0.5 * apart / np.sqrt(3), atol=1e-4)
    np.testing.assert_allclose(found.departure[1], 0.5 * apart, atol=1e-4)


def test_clipped_entries_are_counted_per_step_and_at_the_end():
    # In units of +-2 the members mean 1 and 1.5 times the bound, exactly, with no width.
    beyond = gauss(1.5, 1e-3, low=-2.0)
    inside = gauss(-0.5, 1e-3, low=-2.0)
    one = gp.compose.rl_guidance(base=inside, tuned=beyond, scale=1.0 - 1e-3)
    found = diagnose(one, rows(4), seeds=range(4))
    np.testing.assert_allclose(found.clipped, 1.0)
    assert found.clipped_samples == 1.0
    assert any("bounds" in text for text in found.warnings)
    half = gp.compose.mean([inside, beyond], [0.5, 0.5])
    found = diagnose(half, rows(4), seeds=range(4))
    assert found.clipped[-1] == 0.0
    assert found.clipped_samples == 0.0


def test_consistency_members_are_diagnosed_as_well():
    maps = [ExactPolicy(GaussianFlowMap(LinearPath(), m, 0.2)) for m in (-0.5, 0.5)]
    sampler = Sampler(rule="renoise", n_steps=2)
    policy = gp.compose.endpoint_mean(maps, [0.5, 0.5], sampler=sampler)
    found = diagnose(policy, rows(6), seeds=range(6), levels=[0.0])
    # At t = 1 nothing is known; at t = 1/2 alpha/sigma = 1 and it is the distance of the ends.
    std = math.sqrt(0.25 * 0.04 + 0.25)
    ends_apart = 1.0 - 0.5 * 0.2 / std
    assert found.disagreement[0] == 0.0
    assert found.disagreement[1] == pytest.approx(ends_apart, rel=1e-5)


def test_it_reads_prints_draws_and_stores(tmp_path):
    policy = gp.compose.mean([gauss(-1.0, 0.2), gauss(1.0, 0.2)], [0.5, 0.5])
    found = gp.compose.diagnose(policy, rows(8), seeds=range(8))
    text = str(found)
    for part in ("Mean: 8 samples, members 0, 1", "disagreement", "ratio", "warning: member 1"):
        assert part in text
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["n_samples"] == 8
    assert len(data["ratios"]) == 2
    assert "actions" not in data
    found.plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    single = diagnose(gp.compose.mean([policy, policy], [1.0, 0.0]), rows(2), seeds=range(2))
    assert single.to_json()["disagreement"] == [None] * 12
    assert " - " in str(single)


def test_what_cannot_be_diagnosed_is_refused():
    member = gauss(0.0, 0.5)
    with pytest.raises(UsageError, match="composition"):
        diagnose(member, rows(2), seeds=range(2))
    policy = gp.compose.mean([member, member], [0.5, 0.5])
    with pytest.raises(UsageError, match="at least one row"):
        diagnose(policy, rows(0), seeds=[])
    with pytest.raises(UsageError, match="seeds"):
        diagnose(policy, rows(2), seeds=[1])
    for levels in ([], [2.0, 1.0], [-50.0], [math.nan]):
        with pytest.raises(UsageError, match="levels"):
            diagnose(policy, rows(1), seeds=[0], levels=levels)


def test_mass_between_modes_counts_the_line_between_them():
    samples = torch.tensor([[-1.0, 0], [-0.9, 0.1], [0.0, 0.2], [0.0, 2.0], [1.0, 0.0], [3.0, 0.0]])
    found = mass_between(samples, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.5)
    assert found.near == pytest.approx((2 / 6, 1 / 6))
    assert found.between == pytest.approx(1 / 6)
    assert found.elsewhere == pytest.approx(2 / 6)
    # Chunks count as one point; a sample near two modes is the nearer one's.
    close = mass_between(torch.tensor([[[0.1]], [[0.9]]]), torch.tensor([[[0.0]], [[1.0]]]), 2.0)
    assert close.near == (0.5, 0.5)


def test_mass_between_refuses_what_it_cannot_count():
    for samples, centers, radius in (
        (torch.zeros(3, 2), torch.zeros(2, 3), 1.0),
        (torch.zeros(0, 2), torch.zeros(2, 2), 1.0),
        (torch.zeros(3, 2), torch.zeros(2, 2), 0.0),
    ):
        with pytest.raises(UsageError, match="mass_between"):
            mass_between(samples, centers, radius)


def test_the_mean_of_two_modes_and_one_leaves_mass_between_them():
    # T9: 50/50 N(+-1, .1^2) with N(1, .1^2) by the ODE: .00/.171/.829 near -1, between, near +1.
    n = 4000
    sampler = Sampler(rule="ddim", n_steps=150, grid="log_snr")
    first = MixtureDenoiser(VE, (-1.0, 1.0), (0.1, 0.1), (0.5, 0.5))
    pair = [
        ExactPolicy(denoiser, horizon=1, rows=n, sampler=sampler)
        for denoiser in (first, GaussianDenoiser(VE, 1.0, 0.1))
    ]
    chunks = gp.compose.mean(pair, [0.5, 0.5]).sample(rows(n), seeds=range(n))
    found = mass_between(chunks, torch.tensor([-1.0, 1.0])[:, None, None].expand(2, 1, 2), 0.7)
    assert found.between > 0.05
    assert found.near[0] < 0.01


def test_contours_enclose_the_stated_mass():
    # A standard normal: the density at radius^2 = -2 ln(1 - mass) is exp(-radius^2/2)/(2 pi).
    x = np.linspace(-6, 6, 401)
    density = np.exp(-(x[:, None] ** 2 + x**2) / 2) / (2 * np.pi)
    levels = mass_levels(density, (0.9, 0.5))
    np.testing.assert_allclose(levels, np.array([0.1, 0.5]) / (2 * np.pi), rtol=0.02)
    with pytest.raises(UsageError, match="masses"):
        mass_levels(density, (1.5,))
    with pytest.raises(UsageError, match="density"):
        mass_levels(np.zeros((4, 4)), (0.5,))


def test_densities_are_drawn():
    limits = np.array([[-3.0, -3.0], [3.0, 3.0]])

    def density(points):
        return np.exp(-0.5 * (points**2).sum(1))

    points = np.random.default_rng(0).normal(size=(500, 2))
    figures = [
        draw_samples({"a": points, "b": points}, limits=limits, density=density),
        draw_samples({"a": points}, limits=limits, density={"a": density}, marks=[[0.0, 0.0]]),
        draw_densities({"a": density, "b": density, "c": density, "d": density}, limits=limits),
        draw_marginals({"a": points[:, 0]}, limits=(-3.0, 3.0), density={"a": lambda x: x * 0 + 1}),
    ]
    assert png(figures[0])[:4] == b"\x89PNG"
    assert [len(figure.axes[0].collections) for figure in figures] == [1, 1, 2, 0]  # contours
    assert len(figures[3].axes[0].lines) == 1
    assert len(figures[1].axes[0].lines) == 1  # the mark
    assert len(figures[2].axes) == 6  # 3 columns, 2 rows


def test_what_cannot_be_drawn_is_refused():
    limits = np.array([[-1.0, -1.0], [1.0, 1.0]])
    with pytest.raises(UsageError, match="draw_samples"):
        draw_samples({"a": np.zeros((3, 3))}, limits=limits)
    with pytest.raises(UsageError, match="draw_samples"):
        draw_samples({}, limits=limits)
    with pytest.raises(UsageError, match="limits"):
        draw_samples({"a": np.zeros((3, 2))}, limits=limits[::-1])
    with pytest.raises(UsageError, match="draw_densities"):
        draw_densities({}, limits=limits)
    with pytest.raises(UsageError, match="draw_marginals"):
        draw_marginals({"a": np.zeros((3, 2))}, limits=(-1.0, 1.0))
