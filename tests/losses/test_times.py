"""Samplers of training times: support, distribution, determinism, configuration."""

import math

import pytest
import torch
from scipy import stats

from genpolicy.config import build
from genpolicy.errors import UsageError
from genpolicy.losses import (
    KarrasTimes,
    LevelTimes,
    LogitNormalTimes,
    LogNormalSigmaTimes,
    MixedTimes,
    UniformTimes,
)
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, TabulatedPath, VPPath, log_snr

SAMPLERS = [
    UniformTimes(),
    LogitNormalTimes(),
    LogNormalSigmaTimes(),
    KarrasTimes(),
    MixedTimes(first=KarrasTimes(high=0.7), second=LogNormalSigmaTimes()),
]
PATHS = [LinearPath(), CosinePath(), VPPath(), KarrasPath(), TabulatedPath()]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_times_lie_inside_the_path_and_repeat_for_a_generator(sampler, path):
    t = sampler.sample(500, path, generator(), dtype=torch.float64)
    assert t.shape == (500,)
    assert t.dtype == torch.float64
    assert path.t_min <= t.min()
    assert t.max() <= path.t_max
    assert t.unique().numel() > 100
    assert torch.equal(t, sampler.sample(500, path, generator(), dtype=torch.float64))
    assert not torch.equal(t, sampler.sample(500, path, generator(1), dtype=torch.float64))


def p_value(values: torch.Tensor, distribution) -> float:
    return stats.kstest(values.double().numpy(), distribution.cdf).pvalue


def test_uniform_and_logit_normal_distributions():
    path = LinearPath()
    t = UniformTimes(low=0.2, high=0.6).sample(4000, path, generator())
    assert p_value(t, stats.uniform(0.2, 0.4)) > 0.01
    t = LogitNormalTimes(mean=0.5, std=1.5).sample(4000, path, generator())
    assert p_value(torch.logit(t.double()), stats.norm(0.5, 1.5)) > 0.01


@pytest.mark.parametrize("path", [KarrasPath(), LinearPath()], ids=lambda p: type(p).__name__)
def test_log_normal_sigma_is_the_same_noise_level_on_every_path(path):
    t = LogNormalSigmaTimes(mean=-1.2, std=1.2).sample(4000, path, generator(), dtype=torch.float64)
    assert p_value(-0.5 * log_snr(path, t), stats.norm(-1.2, 1.2)) > 0.01


def test_draws_outside_the_path_move_to_its_end():
    path = KarrasPath(sigma_min=0.02)
    t = LogNormalSigmaTimes(mean=-8.0, std=1.0).sample(50, path, generator(), dtype=torch.float64)
    assert torch.allclose(t, torch.full_like(t, path.t_min))


def test_karras_times_are_uniform_times_of_the_karras_path():
    path = KarrasPath(sigma_min=0.02)
    t = KarrasTimes(sigma_min=0.02, high=0.7).sample(4000, path, generator(), dtype=torch.float64)
    low = 1.0 - 0.7 * (1.0 - path.t_min)
    assert p_value(t, stats.uniform(low, 1.0 - low)) > 0.01


def test_levels_are_equally_likely_and_refuse_a_continuous_path():
    path = TabulatedPath(n_levels=20)
    t = LevelTimes().sample(8000, path, generator(), dtype=torch.float64)
    counts = torch.bincount((t * 20).round().long(), minlength=21)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:].numpy()).pvalue > 0.01
    assert torch.allclose(t * 20, (t * 20).round(), atol=1e-12)
    with pytest.raises(UsageError, match="TabulatedPath"):
        LevelTimes().sample(2, LinearPath(), generator())
    given = LevelTimes(n_levels=5).sample(1000, LinearPath(), generator())
    assert sorted(set((given * 5).round().int().tolist())) == [1, 2, 3, 4, 5]
    with pytest.raises(UsageError, match="n_levels is 0"):
        LevelTimes(n_levels=0)


def test_mixture_splits_the_batch_in_order():
    mixed = MixedTimes(first=UniformTimes(low=0.9), second=UniformTimes(high=0.1), fraction=0.25)
    t = mixed.sample(8, LinearPath(), generator())
    assert (t[:2] >= 0.9).all()
    assert (t[2:] <= 0.1).all()


def test_samplers_are_built_from_plain_containers():
    config = {
        "_target_": "genpolicy.losses.MixedTimes",
        "first": {"_target_": "genpolicy.losses.KarrasTimes", "sigma_min": 0.02, "high": 0.7},
        "second": {"_target_": "genpolicy.losses.LogNormalSigmaTimes"},
    }
    expected = MixedTimes(first=KarrasTimes(sigma_min=0.02, high=0.7), second=LogNormalSigmaTimes())
    assert build(config) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: LogitNormalTimes(std=0.0),
        lambda: LogNormalSigmaTimes(std=-1.0),
        lambda: KarrasTimes(sigma_min=2.0, sigma_max=1.0),
        lambda: KarrasTimes(sigma_max=math.inf),
        lambda: KarrasTimes(low=0.8, high=0.7),
        lambda: MixedTimes(first=UniformTimes(), second=UniformTimes(), fraction=1.5),
        lambda: UniformTimes(low=0.5, high=2.0).sample(2, LinearPath(), generator()),
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError, match="expected"):
        wrong()
