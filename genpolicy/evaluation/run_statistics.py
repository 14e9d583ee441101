"""Figures over several training runs and tasks, with intervals that say what they resample.

A run's score is the mean over its episodes. With s[t, r] the score of run r on task t:

    mean            = mean over t of mean over r of s[t, r]                                      (1)
    median          = median over t of mean over r of s[t, r]; of one task, median over r        (2)
    iqm             = mean of the middle half of all s[t, r]                                     (3)
    optimality gap  = gamma - mean of min(s[t, r], gamma)                                        (4)
    profile(tau)    = share of all s[t, r] above tau                                             (5)
    P(X > Y)        = mean over t of the share of pairs of runs with x > y, ties counting 1/2    (6)

Every interval is a percentile bootstrap, stratified by task; ``run_scores`` says what is drawn
anew, and how far such an interval can be trusted with few runs.

Source: arXiv 2108.13264, sections 4.1 to 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from genpolicy.errors import UsageError, nearest
from genpolicy.evaluation.run_scores import Resample, TaskScores, draw_counts
from genpolicy.evaluation.statistics import N_RESAMPLES, Interval, Values
from genpolicy.seeding import derive_seed

__all__ = [
    "Estimate",
    "Profile",
    "RunStatistic",
    "aggregate",
    "aggregates",
    "crossed_difference",
    "performance_profile",
    "probability_of_improvement",
]

RunStatistic = Literal["mean", "iqm", "median", "optimality gap"]
_Scores = list[Float[np.ndarray, "resamples runs"]]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval and what it was made from.

    Args:
        value: the figure.
        interval: its interval; unknown where the data cannot give one.
        n_tasks: number of tasks.
        n_runs: number of training runs over all tasks.
        n_episodes: number of episodes over all runs.
    """

    value: float
    interval: Interval
    n_tasks: int
    n_runs: int
    n_episodes: int


@dataclass(frozen=True)
class Profile:
    """The share of runs whose score is above each of several thresholds.

    Args:
        thresholds: increasing scores.
        values: share of runs above each, in [0, 1].
        low: lower ends of pointwise intervals.
        high: upper ends.
        n_tasks: number of tasks.
        n_runs: number of training runs over all tasks.
    """

    thresholds: Float[np.ndarray, " thresholds"]
    values: Float[np.ndarray, " thresholds"]
    low: Float[np.ndarray, " thresholds"]
    high: Float[np.ndarray, " thresholds"]
    n_tasks: int
    n_runs: int


def aggregate(
    tasks: Sequence[TaskScores],
    *,
    statistic: RunStatistic = "mean",
    resample: Resample = "seeds and episodes",
    gamma: float = 1.0,
    confidence: float = 0.95,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Return a figure (1) to (4) over the runs of one task or several, with its interval.

    Args:
        tasks: scores in one unit for all tasks, where they are several.
        statistic: which figure.
        resample: what the interval is about; unknown where only one of it is there (one run for
            ``"seeds"``, and one run or one episode otherwise).
        gamma: in (4), the score from which on more does not count.
        confidence: nominal coverage in (0, 1).
        seed: of the resampling; the same seed gives the same interval.
        n_resamples: resamples of the bootstrap.

    Raises:
        UsageError: for no tasks, or an unknown statistic or way to resample.
    """
    found = aggregates(
        tasks,
        (statistic,),
        resample=resample,
        gamma=gamma,
        confidence=confidence,
        seed=seed,
        n_resamples=n_resamples,
    )
    return found[statistic]


def aggregates(
    tasks: Sequence[TaskScores],
    statistics: Sequence[RunStatistic],
    *,
    resample: Resample = "seeds and episodes",
    gamma: float = 1.0,
    confidence: float = 0.95,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> dict[RunStatistic, Estimate]:
    """Return several figures as ``aggregate`` does one, from the same resamples."""
    _check(tasks, resample, confidence, who="aggregate")
    rng = np.random.default_rng(derive_seed(seed, "aggregate", resample))
    drawn = [task.resampled(rng, n_resamples, resample) for task in tasks]
    scores = [task.scores[None] for task in tasks]
    found: dict[RunStatistic, Estimate] = {}
    for name in statistics:
        reduce = _reduction(name, gamma)
        interval = _interval(reduce(drawn), tasks, resample, confidence)
        found[name] = Estimate(float(reduce(scores)[0]), interval, *_counts(tasks))
    return found


def performance_profile(
    tasks: Sequence[TaskScores],
    thresholds: Values,
    *,
    resample: Resample = "seeds and episodes",
    confidence: float = 0.95,
    seed: int = 0,
    n_resamples: int = 1999,
) -> Profile:
    """Return profile (5) with pointwise bands; the arguments are those of ``aggregate``.

    Args:
        tasks: scores in one unit for all tasks.
        thresholds: increasing scores.
        resample: as in ``aggregate``.
        confidence: as in ``aggregate``.
        seed: as in ``aggregate``.
        n_resamples: as in ``aggregate``.

    Raises:
        UsageError: for no tasks.
    """
    _check(tasks, resample, confidence, who="performance_profile")
    levels = np.asarray(thresholds, dtype=np.float64)
    rng = np.random.default_rng(derive_seed(seed, "profile", resample))
    values = _share_above(np.concatenate([t.scores for t in tasks])[None], levels)[0]
    drawn = [task.resampled(rng, n_resamples, resample) for task in tasks]
    shares = _share_above(np.concatenate(drawn, axis=1), levels)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(shares, [tail, 100.0 - tail], axis=0)
    n_tasks, n_runs, _ = _counts(tasks)
    return Profile(levels, values, low, high, n_tasks, n_runs)


def probability_of_improvement(
    x: Sequence[TaskScores],
    y: Sequence[TaskScores],
    *,
    resample: Resample = "seeds and episodes",
    confidence: float = 0.95,
    seed: int = 0,
    n_resamples: int = 1999,
) -> Estimate:
    """Return P(X > Y), (6): how probably a run of X beats one of Y on a task chosen at random.

    Args:
        x: of one method, task by task.
        y: of another, on the same tasks in the same order.
        resample: as in ``aggregate``; runs and episodes of the two are drawn independently.
        confidence: as in ``aggregate``.
        seed: as in ``aggregate``.
        n_resamples: as in ``aggregate``.

    Raises:
        UsageError: for no tasks, or different numbers of tasks.
    """
    _check(x, resample, confidence, who="probability_of_improvement")
    _check(y, resample, confidence, who="probability_of_improvement")
    if len(x) != len(y):
        raise UsageError(
            f"probability_of_improvement: got {len(x)} and {len(y)} tasks, expected the same tasks"
        )
    rng = np.random.default_rng(derive_seed(seed, "improvement", resample))
    pairs = list(zip(x, y, strict=True))
    value = np.mean([_wins(a.scores[None], b.scores[None])[0] for a, b in pairs])
    drawn = np.mean(
        [
            _wins(a.resampled(rng, n_resamples, resample), b.resampled(rng, n_resamples, resample))
            for a, b in pairs
        ],
        axis=0,
    )
    both = [*x, *y]
    interval = _interval(drawn, both, resample, confidence)
    _, n_runs, n_episodes = _counts(both)
    return Estimate(float(value), interval, len(x), n_runs, n_episodes)


def crossed_difference(
    a: TaskScores,
    b: TaskScores,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """Return the mean of ``a`` minus that of ``b`` on the episode seeds that all their runs have.

    The runs of each are drawn anew, and one set of episodes for both, so that what is hard for
    both cancels. With one run on a side its spread over training seeds is not in the interval.

    Args:
        a: one method.
        b: another on the same task.
        confidence: nominal coverage in (0, 1).
        seed: of the resampling.
        n_resamples: resamples of the bootstrap.

    Returns:
        The difference; its ``n_episodes`` is the number of common episode seeds, ``n_runs`` that of
        the runs of both.

    Raises:
        UsageError: where the runs of one side differ in their episode seeds, or no seed is common.
    """
    common = sorted(set(a.episode_seeds or ()) & set(b.episode_seeds or ()))
    if not common:
        raise UsageError(
            "crossed_difference: the runs have no episode seeds in common; evaluate all of them "
            "on the same seeds"
        )
    sides = []
    for task in (a, b):
        assert task.episode_seeds is not None
        columns = [task.episode_seeds.index(s) for s in common]
        sides.append(np.stack(task.runs)[:, columns])
    value = float(sides[0].mean() - sides[1].mean())
    rng = np.random.default_rng(derive_seed(seed, "crossed"))
    episodes = draw_counts(rng, n_resamples, len(common))
    drawn = np.zeros(n_resamples)
    for sign, side in zip((1.0, -1.0), sides, strict=True):
        runs = draw_counts(rng, n_resamples, len(side))
        drawn += sign * ((runs @ side) * episodes).sum(axis=1) / side.size
    n_runs = len(a.runs) + len(b.runs)
    interval = _percentiles(drawn, confidence, is_known=len(common) > 1, name="seeds and episodes")
    return Estimate(value, interval, 1, n_runs, len(common))


def _reduction(statistic: RunStatistic, gamma: float) -> Callable[[_Scores], np.ndarray]:
    """Return a statistic as a function from scores per task to one figure per resample."""
    if statistic == "mean":
        return lambda tasks: np.mean([t.mean(axis=1) for t in tasks], axis=0)
    if statistic == "median":
        return lambda tasks: (
            np.median(tasks[0], axis=1)
            if len(tasks) == 1
            else np.median([t.mean(axis=1) for t in tasks], axis=0)
        )
    if statistic == "iqm":
        from scipy.stats import trim_mean

        return lambda tasks: trim_mean(np.concatenate(tasks, axis=1), 0.25, axis=1)
    if statistic == "optimality gap":
        return lambda tasks: gamma - np.minimum(np.concatenate(tasks, axis=1), gamma).mean(axis=1)
    raise UsageError(
        f"unknown statistic {statistic!r}; {nearest(statistic, get_args(RunStatistic))}"
    )


def _check(tasks: Sequence[TaskScores], resample: Resample, confidence: float, *, who: str) -> None:
    if not tasks:
        raise UsageError(f"{who}: got no tasks, expected at least one")
    if resample not in get_args(Resample):
        raise UsageError(f"{who}: unknown resample; {nearest(resample, get_args(Resample))}")
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"{who}: confidence is {confidence}, expected a number between 0 and 1")


def _counts(tasks: Sequence[TaskScores]) -> tuple[int, int, int]:
    return len(tasks), sum(len(t.runs) for t in tasks), sum(t.n_episodes for t in tasks)


def _interval(
    drawn: np.ndarray, tasks: Sequence[TaskScores], resample: Resample, confidence: float
) -> Interval:
    """Return the percentile interval; unknown where a task has nothing to resample."""
    has_runs = all(len(task.runs) > 1 for task in tasks)
    has_episodes = any(len(run) > 1 for task in tasks for run in task.runs)
    is_known = has_episodes if resample == "episodes" else has_runs
    return _percentiles(drawn, confidence, is_known=is_known, name=resample)


def _percentiles(drawn: np.ndarray, confidence: float, *, is_known: bool, name: str) -> Interval:
    method = f"bootstrap over {name}"
    if not is_known:
        return Interval(math.nan, math.nan, confidence, method)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(drawn, [tail, 100.0 - tail])
    return Interval(float(low), float(high), confidence, method)


def _share_above(scores: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return for every row of scores the share above each level."""
    found = np.empty((len(scores), len(levels)))
    for i, level in enumerate(levels):
        found[:, i] = (scores > level).mean(axis=1)
    return found


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return for every row the share of pairs with x > y, ties counting 1/2."""
    difference = x[:, :, None] - y[:, None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(1, 2))
