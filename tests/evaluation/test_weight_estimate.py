"""Weights from demonstrations with Gaussian policies, whose best weights are known."""

from __future__ import annotations

import json

import pytest
import torch

from genpolicy import compose
from genpolicy.composition import LevelWeights
from genpolicy.errors import UsageError
from genpolicy.evaluation.weight_estimate import estimate_weights
from genpolicy.paths import CosinePath
from genpolicy.sampling import Sampler
from tests.evaluation.aiming import SPEC, Aimer


def windows(n=600, *, bias=0.0, std=0.2, seed=0):
    """Return demonstrations of a policy that aims ``bias`` beside the target."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(n, SPEC.n_obs_steps, 3, generator=generator)
    noise = torch.randn(n, SPEC.horizon, 2, generator=generator)
    target = torch.tensor([bias, 0.0]) - state[:, -1:, :2]
    return {
        "obs": {"state": state},
        "action": target + std * noise,
        "mask": torch.ones(n, SPEC.horizon, dtype=torch.bool),
    }


@pytest.mark.parametrize(("bias", "weight"), [(0.0, 0.5), (0.3, 0.75), (0.9, 1.0), (-0.7, 0.0)])
def test_the_weights_put_the_mean_where_the_demonstrations_are(bias, weight):
    members = [Aimer(0.6), Aimer(-0.6)]
    levels = [-2.0, 1.0, 4.0, 6.0]
    found = estimate_weights(members, windows(bias=bias), log_snr_levels=levels)
    assert found.weights[0] == pytest.approx(weight, abs=0.02)
    assert found.weights_std[0] < 0.03
    for row, members_errors, best, gain, inside in zip(
        found.level_weights,
        found.member_errors,
        found.level_errors,
        found.gains,
        found.is_interior,
        strict=True,
    ):
        assert row[0] == pytest.approx(weight, abs=0.06)
        assert inside == (0.0 < row[0] < 1.0)
        # A gain if and only if the weights are inside the simplex.
        assert (gain > 1e-9) == inside
        assert min(members_errors) - best == gain
    assert isinstance(found.schedule, LevelWeights)
    assert "weights for all levels, from 600 windows" in str(found)
    json.dumps(found.to_json(), allow_nan=False)


def test_levels_are_those_the_sampler_visits_and_paths_may_differ():
    members = [Aimer(0.6), Aimer(-0.6, path=CosinePath())]
    found = estimate_weights(members, windows(), sampler=Sampler(rule="ddim", n_steps=4))
    assert len(found.log_snr) == 4
    assert found.log_snr == tuple(sorted(found.log_snr))
    assert found.weights[0] == pytest.approx(0.5, abs=0.02)
    whole = compose.mean(members, [0.5, 0.5], sampler=Sampler(rule="ddim", n_steps=4))
    first = whole.sampler.times_on(whole.path)[0]
    alpha, sigma = whole.path.alpha_sigma(torch.tensor(first, dtype=torch.float64))
    level = max(2.0 * (alpha.log() - sigma.log()).item(), -2.0 * torch.tensor(80.0).log().item())
    assert found.log_snr[0] == pytest.approx(level, abs=1e-5)


def test_three_members_get_weights_on_the_simplex():
    members = [Aimer(0.6), Aimer(-0.6), Aimer(0.0, std=0.6)]
    found = estimate_weights(members, windows(bias=0.1), log_snr_levels=[0.0, 3.0])
    assert sum(found.weights) == pytest.approx(1.0, abs=1e-9)
    mean = 0.6 * (found.weights[0] - found.weights[1])
    assert mean == pytest.approx(0.1, abs=0.03)


def test_entries_that_were_not_recorded_do_not_count():
    members = [Aimer(0.6), Aimer(-0.6)]
    data = windows(n=200)
    cut = {**data, "mask": data["mask"].clone(), "action": data["action"].clone()}
    cut["mask"][:, 4:] = False
    cut["action"][:, 4:] = 3.0
    zeroed = {**cut, "action": cut["action"].clone()}
    zeroed["action"][:, 4:] = 0.0
    levels = [0.0, 2.0]
    first = estimate_weights(members, cut, log_snr_levels=levels)
    assert first == estimate_weights(members, zeroed, log_snr_levels=levels)
    assert first.weights[0] == pytest.approx(0.5, abs=0.03)
    nothing = {**data, "mask": torch.zeros_like(data["mask"])}
    with pytest.raises(UsageError, match="no recorded action"):
        estimate_weights(members, nothing)


def test_blocks_change_nothing_and_the_seed_decides_the_noise():
    members, data = [Aimer(0.6), Aimer(-0.4)], windows(n=50)
    whole = estimate_weights(members, data, rows_per_block=50)
    pieces = estimate_weights(members, data, rows_per_block=7)
    assert pieces.weights == pytest.approx(whole.weights, abs=1e-6)
    assert pieces.errors == pytest.approx(whole.errors, rel=1e-6)
    assert estimate_weights(members, data, seed=1).weights != whole.weights


def test_wrong_demonstrations_and_levels_are_refused():
    members, data = [Aimer(0.6), Aimer(-0.6)], windows(n=5)
    with pytest.raises(UsageError, match="expected obs and action"):
        estimate_weights(members, {"obs": data["obs"]})
    with pytest.raises(UsageError, match=r"actions of shape \(5, 3, 2\)"):
        estimate_weights(members, {**data, "action": data["action"][:, :3]})
    with pytest.raises(UsageError, match="log-SNRs that increase"):
        estimate_weights(members, data, log_snr_levels=[1.0, 0.0])
    with pytest.raises(UsageError, match="at least one member"):
        estimate_weights([], data)
