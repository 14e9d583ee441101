"""Noise levels and curricula against their published values."""

import math

import pytest
import torch
from scipy import stats

from genpolicy.config import build
from genpolicy.errors import UsageError
from genpolicy.losses import (
    ConstantCurriculum,
    DoublingCurriculum,
    SquareRootCurriculum,
    draw_levels,
    level_times,
)
from genpolicy.losses.levels import lognormal_probabilities
from genpolicy.paths import KarrasPath, LinearPath, VPPath


def sigmas(path, n_levels: int, **kwargs) -> torch.Tensor:
    alpha, sigma = path.alpha_sigma(level_times(path, n_levels, spacing="karras", **kwargs))
    return sigma / alpha


def test_karras_levels():
    path = KarrasPath(sigma_min=0.002, sigma_max=80.0)
    found = sigmas(path, 5, t_end=path.t_min)
    expected = [0.002, 0.169753, 2.515219, 17.527832, 80.0]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    found = sigmas(path, 40, t_end=path.t_min)
    expected = [0.003677, 0.006437, 0.184594, 2.818392, 69.450946]
    assert found[[1, 2, 10, 20, 38]].tolist() == pytest.approx(expected, rel=2e-4)


def test_karras_levels_of_consistency_policy():
    path = KarrasPath(sigma_min=0.02, sigma_max=80.0)
    found = sigmas(path, 80, t_end=path.t_min)
    expected = [0.024387, 1.114216, 14.091920]
    assert found[[1, 27, 54]].tolist() == pytest.approx(expected, rel=2e-5)
    expected = [75.206848, 12.014783, 0.885024, 0.024387]
    assert found.flip(0)[[1, 27, 54, 78]].tolist() == pytest.approx(expected, rel=2e-5)


def test_karras_spacing_is_the_same_noise_levels_on_another_path():
    path = VPPath()
    t_end = float(path.t_of_log_snr(torch.tensor(-2 * math.log(0.02), dtype=torch.float64)))
    found = sigmas(path, 12, t_end=t_end)
    roots = found ** (1 / 7)
    assert torch.allclose(roots.diff(), roots.diff().mean(), rtol=1e-5)


def test_uniform_spacing_reaches_pure_noise_and_karras_spacing_says_why_it_cannot():
    times = level_times(LinearPath(), 5, spacing="uniform", t_end=0.0)
    assert times.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    with pytest.raises(UsageError, match="uniform"):
        level_times(LinearPath(), 5, spacing="karras", t_end=0.0)
    with pytest.raises(UsageError, match="at least 2"):
        level_times(LinearPath(), 1, spacing="uniform", t_end=0.0)


def test_square_root_curriculum():
    curriculum = SquareRootCurriculum(total_steps=50_000)
    steps = [0, 1, 100, 1000, 10_000, 25_000, 49_999, 50_000, 90_000]
    assert [curriculum.n_levels(k) for k in steps] == [2, 3, 8, 22, 68, 107, 151, 151, 151]


def test_doubling_curriculum():
    curriculum = DoublingCurriculum(total_steps=80_000)
    steps = [0, 9_999, 10_000, 20_000, 45_000, 69_999, 70_000, 80_000, 10**9]
    assert [curriculum.n_levels(k) for k in steps] == [11, 11, 21, 41, 161, 641, 1281, 1281, 1281]
    uneven = DoublingCurriculum(total_steps=1000, first=10, last=50)
    found = [uneven.n_levels(k) for k in range(1001)]
    assert found == sorted(found)
    assert found[-1] == 51


def test_constant_curriculum_and_configuration():
    assert ConstantCurriculum(levels=7).n_levels(123) == 7
    config = {"_target_": "genpolicy.losses.SquareRootCurriculum", "total_steps": 9}
    assert build(config) == SquareRootCurriculum(total_steps=9)
    for wrong in (
        lambda: ConstantCurriculum(levels=1),
        lambda: SquareRootCurriculum(total_steps=0),
        lambda: DoublingCurriculum(total_steps=5, first=10, last=10),
    ):
        with pytest.raises(UsageError, match="expected"):
            wrong()


def test_lognormal_pairs_follow_the_normal_distribution_function():
    levels = torch.tensor([0.002, 0.1, 1.0, 80.0, math.inf], dtype=torch.float64)
    found = lognormal_probabilities(levels, mean=-1.1, std=2.0)
    cumulative = stats.norm(-1.1, 2.0).cdf(levels.log().numpy())
    expected = (cumulative[1:] - cumulative[:-1]) / (cumulative[-1] - cumulative[0])
    assert found.numpy() == pytest.approx(expected, rel=1e-9)
    drawn = draw_levels(found, 4000, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=4).numpy()
    assert stats.chisquare(counts, expected * 4000).pvalue > 0.01
