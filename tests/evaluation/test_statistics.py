from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from genpolicy.errors import UsageError
from genpolicy.evaluation import (
    bootstrap_interval,
    interquartile_mean,
    paired_difference,
    stratified_interval,
    wilson_interval,
)
from genpolicy.evaluation import statistics as module


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 7), (71, 100)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_formula_1(k: int, n: int, confidence: float) -> None:
    z = stats.norm.ppf(0.5 + confidence / 2)
    p = k / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((p + z * z / (2 * n) + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    found = wilson_interval(k, n, confidence=confidence)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert found.low <= p + 1e-12
    assert p - 1e-12 <= found.high


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses_contradictory_counts(k: int, n: int) -> None:
    with pytest.raises(UsageError, match=f"{k} successes in {n} episodes"):
        wilson_interval(k, n)


def test_wilson_covers_the_rate() -> None:
    """Exact coverage over the binomial distribution, averaged over rates, is close to nominal."""
    n = 40
    ends = [wilson_interval(k, n) for k in range(n + 1)]
    rates = np.linspace(0.05, 0.95, 91)
    covered = [
        sum(stats.binom.pmf(k, n, p) for k, e in enumerate(ends) if e.low <= p <= e.high)
        for p in rates
    ]
    assert 0.945 < np.mean(covered) < 0.96
    assert min(covered) > 0.9


def test_bootstrap_depends_on_its_seed_only() -> None:
    values = np.random.default_rng(0).normal(size=40)
    state = np.random.get_state()[1].tolist()  # noqa: NPY002 - it may not move
    first = bootstrap_interval(values, seed=3)
    assert first == bootstrap_interval(values, seed=3)
    assert first != bootstrap_interval(values, seed=4)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    other = bootstrap_interval(values, seed=4)
    assert abs(first.low - other.low) < 0.06 * (first.high - first.low)


def test_bootstrap_covers_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "N_RESAMPLES", 499)
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(150):
        interval = bootstrap_interval(rng.normal(2.0, 3.0, size=40), seed=trial)
        hits += interval.low <= 2.0 <= interval.high
    assert 0.88 < hits / 150 <= 1.0


def test_bootstrap_is_close_to_the_t_interval_for_normal_values() -> None:
    values = np.random.default_rng(2).normal(size=200)
    found = bootstrap_interval(values)
    expected = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.02)
    assert found.method == "bootstrap BCa"


def test_bootstrap_of_degenerate_samples() -> None:
    one = bootstrap_interval([3.0])
    assert not one.is_known
    assert one.to_json()["low"] is None
    same = bootstrap_interval([2.0] * 5)
    assert (same.low, same.high) == (2.0, 2.0)
    # One outlier among equal values leaves the interquartile mean without an acceleration.
    flat = bootstrap_interval([0.0] * 20 + [1.0], statistic="iqm")
    assert flat.is_known
    assert flat.method == "bootstrap percentile"


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_bootstrap_refuses_what_is_no_sample(values: list[float]) -> None:
    with pytest.raises(UsageError, match="finite number per episode"):
        bootstrap_interval(values)


def test_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    assert interquartile_mean([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -100.0]) == 3.5
    values = np.random.default_rng(0).normal(size=101)
    assert interquartile_mean(values) == stats.trim_mean(values, 0.25)


def test_stratified_interval_resamples_within_groups() -> None:
    """Two groups far apart: the interval sees the spread within each, not between them."""
    rng = np.random.default_rng(0)
    groups = [rng.normal(0.0, 1.0, 100), rng.normal(50.0, 1.0, 50)]
    figure, interval = stratified_interval(groups)
    assert figure == pytest.approx((groups[0].mean() + groups[1].mean()) / 2)
    spread = math.hypot(stats.sem(groups[0]), stats.sem(groups[1])) / 2
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * spread, rel=0.1)
    iqm, around = stratified_interval(groups, statistic="iqm")
    assert iqm == interquartile_mean(np.concatenate(groups))
    assert around.low <= iqm <= around.high
    with pytest.raises(UsageError, match="no groups"):
        stratified_interval([])


def test_paired_difference_uses_common_seeds_only() -> None:
    a = {1: 3.0, 2: 5.0, 3: 4.0, 9: 100.0}
    b = {1: 2.0, 2: 5.0, 3: 5.0, 8: -100.0}
    found = paired_difference(a, b)
    assert (found.mean, found.n, found.n_better, found.n_worse) == (0.0, 3, 1, 1)
    with pytest.raises(UsageError, match="no seed in common"):
        paired_difference({1: 0.0}, {2: 0.0})


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 10, 60)
    a = dict(enumerate(difficulty + 1 + rng.normal(0, 0.1, 60)))
    b = dict(enumerate(difficulty + rng.normal(0, 0.1, 60)))
    found = paired_difference(a, b).interval
    assert 0.9 < found.low < 1.0 < found.high < 1.1


def paired_rates(both: int, only_a: int, only_b: int, neither: int) -> Any:
    a = [1.0] * (both + only_a) + [0.0] * (only_b + neither)
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    return paired_difference(dict(enumerate(a)), dict(enumerate(b)), is_rate=True)


def test_paired_rates_agree_with_the_published_example() -> None:
    """Newcombe 1998, table II, method 10."""
    found = paired_rates(36, 12, 2, 0).interval
    assert (found.low, found.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    mirrored = paired_rates(36, 2, 12, 0).interval
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_paired_rates_that_agree_on_every_seed_are_not_certainly_equal() -> None:
    found = paired_rates(30, 0, 0, 20)
    assert found.mean == 0.0
    assert found.interval.low == pytest.approx(-found.interval.high)
    assert 0.03 < found.interval.high < 0.05


def test_paired_rates_cover_the_difference() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        kinds = rng.choice(4, p=[0.5, 0.2, 0.1, 0.2], size=50)
        a, b = np.isin(kinds, (0, 1)).astype(float), np.isin(kinds, (0, 2)).astype(float)
        found = paired_difference(dict(enumerate(a)), dict(enumerate(b)), is_rate=True).interval
        hits += found.low <= 0.1 <= found.high
    assert 0.91 < hits / 400 < 0.99


def test_paired_rates_need_zeros_and_ones() -> None:
    with pytest.raises(UsageError, match="values 0 and 1"):
        paired_difference({1: 0.5}, {1: 1.0}, is_rate=True)
