from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats

from genpolicy.errors import UsageError
from genpolicy.evaluation import (
    TaskScores,
    aggregate,
    crossed_difference,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
    t_interval,
)
from genpolicy.evaluation.run_scores import Resample, draw_counts
from genpolicy.evaluation.run_statistics import RunStatistic


def simulate(
    rng: np.random.Generator,
    *,
    n_runs: int,
    n_episodes: int,
    between: float,
    within: float,
    difficulty: float = 0.0,
    mean: float = 0.0,
) -> TaskScores:
    """Runs with a normal effect of the training seed, of the episode seed, and noise."""
    shared = rng.normal(0.0, difficulty, n_episodes) if difficulty else 0.0
    runs = [
        mean + rng.normal(0.0, between) + shared + rng.normal(0.0, within, n_episodes)
        for _ in range(n_runs)
    ]
    return TaskScores.of([dict(enumerate(run)) for run in runs])


def matrix(rng: np.random.Generator, n_runs: int = 5, n_tasks: int = 4) -> np.ndarray:
    return rng.beta(2, 2, size=(n_runs, n_tasks)) * np.linspace(0.5, 1.4, n_tasks)


def of_matrix(scores: np.ndarray) -> list[TaskScores]:
    """One run of one episode per entry, as rliable sees them."""
    return [TaskScores(tuple(np.array([v]) for v in column)) for column in scores.T]


def coverage(
    resample: Resample, n_trials: int, *, seed: int = 0, n_resamples: int = 499, **kind: Any
) -> float:
    rng = np.random.default_rng(seed)
    hits = 0
    for trial in range(n_trials):
        found = aggregate(
            [simulate(rng, **kind)], resample=resample, seed=trial, n_resamples=n_resamples
        ).interval
        hits += found.low <= 0.0 <= found.high
    return hits / n_trials


@pytest.fixture
def rliable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """rliable, whose arch 7 uses a decorator of pandas that pandas 3 has changed.

    It draws from numpy's global generator, which is put back.
    """
    pytest.importorskip("rliable.metrics")
    decorators = pytest.importorskip("pandas.util._decorators")
    monkeypatch.setattr(decorators, "deprecate_kwarg", lambda *_, **__: lambda f: f, raising=False)
    import rliable.library
    import rliable.metrics

    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    yield rliable
    np.random.set_state(state)  # noqa: NPY002


def test_figures_are_their_formulas() -> None:
    a = TaskScores((np.array([0.0, 2.0]), np.array([4.0]), np.array([5.0, 7.0])))
    b = TaskScores((np.array([0.5]), np.array([0.1])))
    assert a.scores.tolist() == [1.0, 4.0, 6.0]
    assert aggregate([a, b]).value == pytest.approx((11 / 3 + 0.3) / 2)
    assert aggregate([a, b], statistic="median").value == pytest.approx((11 / 3 + 0.3) / 2)
    assert aggregate([a], statistic="median").value == 4.0
    # The middle of 0.1, 0.5, 1, 4, 6: one at each end is cut off.
    assert aggregate([a, b], statistic="iqm").value == pytest.approx((0.5 + 1 + 4) / 3)
    gap = aggregate([a, b], statistic="optimality gap", gamma=2.0).value
    assert gap == pytest.approx(2.0 - (1 + 2 + 2 + 0.5 + 0.1) / 5)
    found = aggregate([a, b])
    assert (found.n_tasks, found.n_runs, found.n_episodes) == (2, 5, 7)
    profile = performance_profile([a, b], [0.0, 0.1, 1.0, 10.0])
    assert profile.values.tolist() == [1.0, 0.8, 0.4, 0.0]
    assert (profile.low <= profile.values).all()
    assert (profile.values <= profile.high).all()
    assert probability_of_improvement([a], [b]).value == 1.0
    tied = TaskScores((np.array([0.1]), np.array([0.5])))
    assert probability_of_improvement([tied], [b]).value == 0.5


def test_draws_are_resamples() -> None:
    counts = draw_counts(np.random.default_rng(0), 2000, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.1)
    assert counts.var() == pytest.approx(6 / 7, abs=0.05)


@pytest.mark.parametrize("is_shared", [True, False])
def test_what_is_resampled_decides_the_width(is_shared: bool) -> None:
    """Variances of the resampled mean, in closed form."""
    rng = np.random.default_rng(3)
    task = simulate(rng, n_runs=6, n_episodes=40, between=1.0, within=3.0, difficulty=2.0)
    values = np.stack(task.runs)
    if not is_shared:
        task = TaskScores(task.runs)
    draws = {
        name: task.resampled(np.random.default_rng(1), 40_000, name).mean(axis=1).var()
        for name in ("episodes", "seeds", "seeds and episodes")
    }
    runs = values.mean(axis=1).var() / 6
    within = values.var(axis=1).mean() / (6 * 40)
    assert draws["episodes"] == pytest.approx(within, rel=0.05)
    assert draws["seeds"] == pytest.approx(runs, rel=0.05)
    if not is_shared:
        assert draws["seeds and episodes"] == pytest.approx(runs + within, rel=0.05)
    else:
        columns = values.mean(axis=0).var() / 40
        rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
        expected = runs + columns + rest.var() / (6 * 40)
        assert draws["seeds and episodes"] == pytest.approx(expected, rel=0.05)


def test_coverage_with_many_runs() -> None:
    kind = {"n_runs": 25, "n_episodes": 30, "between": 1.0, "within": 3.0}
    assert 0.89 < coverage("seeds and episodes", 300, **kind) < 0.985
    assert 0.87 < coverage("seeds", 300, **kind) < 0.97
    # Resampling episodes alone is about these 25 runs, not about training again.
    assert coverage("episodes", 300, **kind) < 0.8


def test_shared_episodes_are_drawn_together() -> None:
    """What is hard for one run is hard for all: independent draws would be far too narrow."""
    kind = {"n_runs": 10, "n_episodes": 30, "between": 0.3, "within": 1.0, "difficulty": 3.0}
    assert 0.88 < coverage("seeds and episodes", 200, **kind) < 0.99
    assert coverage("seeds", 200, **kind) < 0.6


@pytest.mark.parametrize(("n_runs", "expected"), [(3, 0.73), (5, 0.83), (10, 0.90)])
def test_few_runs_give_narrow_intervals_and_t_does_not(n_runs: int, expected: float) -> None:
    """The figures that the module states."""
    kind = {"n_runs": n_runs, "n_episodes": 2, "between": 1.0, "within": 1e-6}
    assert coverage("seeds", 600, **kind) == pytest.approx(expected, abs=0.04)
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        found = t_interval(simulate(rng, **kind))
        hits += found.low <= 0.0 <= found.high
    assert hits / 1000 == pytest.approx(0.95, abs=0.025)


def test_what_cannot_be_known_is_not_shown() -> None:
    one = TaskScores((np.array([1.0, 2.0, 3.0]),))
    assert not aggregate([one], resample="seeds").interval.is_known
    assert not aggregate([one]).interval.is_known
    assert aggregate([one], resample="episodes").interval.is_known
    assert not t_interval(one).is_known
    single = TaskScores((np.array([1.0]), np.array([2.0])))
    assert not aggregate([single], resample="episodes").interval.is_known
    assert aggregate([single], resample="seeds").interval.is_known


def test_intervals_depend_on_their_seed_only() -> None:
    task = simulate(np.random.default_rng(0), n_runs=4, n_episodes=9, between=1.0, within=1.0)
    assert aggregate([task], seed=1) == aggregate([task], seed=1)
    assert aggregate([task], seed=1) != aggregate([task], seed=2)


def test_episode_intervals_agree_with_the_stratified_one() -> None:
    task = simulate(np.random.default_rng(0), n_runs=3, n_episodes=50, between=1.0, within=2.0)
    value, interval = stratified_interval(task.runs)
    found = aggregate([task], resample="episodes")
    assert found.value == pytest.approx(value)
    width = interval.high - interval.low
    assert (found.interval.low, found.interval.high) == pytest.approx(
        (interval.low, interval.high), abs=0.05 * width
    )


def test_crossed_difference_uses_common_episodes() -> None:
    rng = np.random.default_rng(5)
    hard = rng.normal(0.0, 20.0, 60)

    def runs(shift: float, first: int) -> TaskScores:
        return TaskScores.of(
            [
                {first + i: hard[first + i] + shift + rng.normal(0, 0.5) for i in range(50)}
                for _ in range(3)
            ]
        )

    a, b = runs(1.0, 0), runs(0.0, 10)
    found = crossed_difference(a, b)
    assert found.n_episodes == 40
    assert found.n_runs == 6
    assert 0.5 < found.interval.low < 1.0 < found.interval.high < 1.5
    back = crossed_difference(b, a)
    assert back.value == pytest.approx(-found.value)
    with pytest.raises(UsageError, match="no episode seeds in common"):
        crossed_difference(a, TaskScores.of([{99: 1.0}]))
    with pytest.raises(UsageError, match="no episode seeds in common"):
        crossed_difference(a, TaskScores.of([{1: 1.0}, {2: 1.0}]))


def test_crossed_difference_covers() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        hard = rng.normal(0.0, 5.0, 30)
        sides = [
            TaskScores.of(
                [
                    dict(enumerate(hard + rng.normal(0, 1.0) + rng.normal(0, 2.0, 30)))
                    for _ in range(12)
                ]
            )
            for _ in range(2)
        ]
        found = crossed_difference(*sides, seed=trial, n_resamples=499).interval
        hits += found.low <= 0.0 <= found.high
    assert 0.88 < hits / 200 < 0.99


def test_wrong_scores_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one run"):
        TaskScores(())
    with pytest.raises(UsageError, match="finite"):
        TaskScores((np.array([1.0, math.nan]),))
    with pytest.raises(UsageError, match="episode seeds"):
        TaskScores((np.array([1.0, 2.0]),), episode_seeds=(1,))
    with pytest.raises(UsageError, match="no tasks"):
        aggregate([])
    task = TaskScores((np.array([1.0]),))
    with pytest.raises(UsageError, match="median"):
        aggregate([task], statistic="medain")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="same tasks"):
        probability_of_improvement([task], [task, task])


def test_scales_divide() -> None:
    assert TaskScores.of([{1: 50.0}], scale=100.0).scores.tolist() == [0.5]


@pytest.mark.parametrize("statistic", ["mean", "iqm", "median", "optimality gap"])
def test_aggregates_are_those_of_rliable(statistic: RunStatistic, rliable: Any) -> None:
    metrics, library = rliable.metrics, rliable.library
    scores = matrix(np.random.default_rng(0), n_runs=6, n_tasks=5)
    theirs = {
        "mean": metrics.aggregate_mean,
        "iqm": metrics.aggregate_iqm,
        "median": metrics.aggregate_median,
        "optimality gap": metrics.aggregate_optimality_gap,
    }[statistic]
    found = aggregate(of_matrix(scores), statistic=statistic, resample="seeds")
    assert found.value == pytest.approx(theirs(scores), abs=1e-12)
    _, ends = library.get_interval_estimates(
        {"a": scores},
        lambda x: np.array([theirs(x)]),
        reps=2000,
    )
    low, high = ends["a"][:, 0]
    width = high - low
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=0.08 * width)


def test_profiles_are_those_of_rliable(rliable: Any) -> None:
    scores = matrix(np.random.default_rng(1), n_runs=6, n_tasks=5)
    levels = np.linspace(0.0, 1.4, 15)
    theirs, bands = rliable.library.create_performance_profile({"a": scores}, levels, reps=1000)
    found = performance_profile(of_matrix(scores), levels, resample="seeds")
    assert found.values == pytest.approx(theirs["a"], abs=1e-12)
    assert found.low == pytest.approx(bands["a"][0], abs=0.04)
    assert found.high == pytest.approx(bands["a"][1], abs=0.04)


def test_probability_of_improvement_is_that_of_rliable(rliable: Any) -> None:
    rng = np.random.default_rng(2)
    x, y = matrix(rng, 6, 5).round(1), matrix(rng, 4, 5).round(1)  # with ties
    found = probability_of_improvement(of_matrix(x), of_matrix(y), resample="seeds")
    assert found.value == pytest.approx(rliable.metrics.probability_of_improvement(x, y), abs=1e-12)
    u = [stats.mannwhitneyu(x[:, t], y[:, t]).statistic / 24 for t in range(5)]
    assert found.value == pytest.approx(np.mean(u))
    assert found.interval.low < found.value < found.interval.high
