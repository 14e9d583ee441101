"""Scores of training runs on a task, and how they are drawn anew for an interval.

What is drawn decides what an interval is about (``Resample``):

- ``"episodes"``: the episodes within each run. How well *these* runs are known.
- ``"seeds"``: the runs, each with its score. What other training seeds would give on these
  episodes; rliable's.
- ``"seeds and episodes"``: the runs, and the episodes within the runs drawn (a hierarchical
  bootstrap). Where all runs were evaluated on the same episode seeds, one set of episodes is drawn
  for all runs, because what is hard in one run is hard in the others.

A bootstrap over few runs is too narrow: with 3 normal runs, resampled alone, a nominal 95% covers
about 73%, with 5 about 83%, with 10 about 90% (``tests/evaluation/test_run_statistics.py``).
``t_interval`` covers its 95% for normal scores at any number of runs from 2 on, and is wide. It is
about training seeds: where all runs share their episodes, what those add is not in it.

Source: arXiv 2108.13264, section 4.1; bootstrap of crossed effects: Owen 2007, Annals of Applied
Statistics 1:386.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from genpolicy.errors import UsageError
from genpolicy.evaluation.statistics import N_RESAMPLES, Interval, Values, interquartile_mean
from genpolicy.seeding import derive_seed

__all__ = ["Resample", "TaskScores", "draw_counts", "stratified_interval", "t_interval"]

Resample = Literal["episodes", "seeds", "seeds and episodes"]


@dataclass(frozen=True)
class TaskScores:
    """What one method reached on one task.

    Args:
        runs: for every training run its finite values, one per episode.
        episode_seeds: the seed of every episode, where all runs have the same ones in the same
            order; None where they differ.
    """

    runs: tuple[Float[np.ndarray, " episodes"], ...]
    episode_seeds: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        n = {len(run) for run in self.runs}
        if not self.runs or 0 in n or not all(np.isfinite(run).all() for run in self.runs):
            raise UsageError(
                f"TaskScores: got {len(self.runs)} runs of {sorted(n)} episodes, expected at "
                "least one run, each with at least one finite value"
            )
        if self.episode_seeds is not None and n != {len(self.episode_seeds)}:
            raise UsageError(
                f"TaskScores: {len(self.episode_seeds)} episode seeds for runs of {sorted(n)} "
                "episodes"
            )

    @classmethod
    def of(cls, runs: Sequence[Mapping[int, float]], *, scale: float = 1.0) -> TaskScores:
        """Build it from values by episode seed.

        Args:
            runs: one mapping per training run.
            scale: that every value is divided by, for example 100 for D4RL scores.
        """
        is_shared = all(set(run) == set(runs[0]) for run in runs[1:])
        orders = [sorted(run) for run in runs]
        arrays = tuple(
            np.array([run[seed] for seed in order], dtype=np.float64) / scale
            for run, order in zip(runs, orders, strict=True)
        )
        return cls(arrays, tuple(orders[0]) if is_shared and orders else None)

    @property
    def scores(self) -> Float[np.ndarray, " runs"]:
        """The score of every run."""
        return np.array([run.mean() for run in self.runs])

    @property
    def n_episodes(self) -> int:
        """Episodes of all runs together."""
        return sum(len(run) for run in self.runs)

    def resampled(
        self, rng: np.random.Generator, n: int, resample: Resample
    ) -> Float[np.ndarray, "resamples runs"]:
        """Return ``n`` new sets of run scores, drawn as the module says."""
        n_runs = len(self.runs)
        if resample == "episodes":
            chosen = np.broadcast_to(np.arange(n_runs), (n, n_runs))
        else:
            chosen = rng.integers(n_runs, size=(n, n_runs))
        if resample == "seeds":
            return self.scores[chosen]
        if resample == "seeds and episodes" and self.episode_seeds is not None:
            drawn = draw_counts(rng, n, len(self.episode_seeds)) @ np.stack(self.runs).T
            return np.take_along_axis(drawn / len(self.episode_seeds), chosen, axis=1)
        found = np.empty((n, n_runs))
        for r, run in enumerate(self.runs):
            rows, slots = np.nonzero(chosen == r)
            found[rows, slots] = draw_counts(rng, len(rows), len(run)) @ run / len(run)
        return found


def draw_counts(rng: np.random.Generator, n: int, size: int) -> Float[np.ndarray, "n size"]:
    """Return how often each of ``size`` items is drawn in ``n`` resamples of that size."""
    drawn = rng.integers(size, size=(n, size)) + size * np.arange(n)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=n * size)
    return counts.reshape(n, size).astype(np.float64)


def t_interval(task: TaskScores, *, confidence: float = 0.95) -> Interval:
    """Return Student's interval of the mean score over training seeds; unknown for a single run.

    It is exact for normal scores, however few the runs are. Runs that were evaluated on the same
    episode seeds share those: the interval is then about training again, on these episodes.
    """
    from scipy.stats import t

    scores = task.scores
    if len(scores) < 2:
        return Interval(math.nan, math.nan, confidence, "t over seeds")
    half = t.ppf(0.5 + confidence / 2, len(scores) - 1) * scores.std(ddof=1) / len(scores) ** 0.5
    return Interval(
        float(scores.mean() - half), float(scores.mean() + half), confidence, "t over seeds"
    )


def stratified_interval(
    groups: Sequence[Values],
    *,
    statistic: Literal["mean", "iqm"] = "mean",
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, Interval]:
    """Return a figure over groups of episodes, for example training seeds, and its interval.

    Args:
        groups: the values of each group; episodes are resampled within their group.
        statistic: ``"mean"``: mean of the group means; ``"iqm"``: interquartile mean of all values.
        confidence: nominal coverage in (0, 1).
        seed: of the resampling.

    Returns:
        The figure and its percentile interval. The groups themselves are not resampled: the
        interval says how well these training runs are known, not what another one would give
        (``aggregate`` with ``resample="seeds and episodes"`` does).

    Raises:
        UsageError: for no groups or an empty one.

    Source: arXiv 2108.13264, section 4.1.
    """
    if not groups:
        raise UsageError("stratified_interval: got no groups, expected at least one")
    task = TaskScores(tuple(np.asarray(group, dtype=np.float64) for group in groups))
    if not 0.0 < confidence < 1.0:
        raise UsageError(
            f"stratified_interval: confidence is {confidence}, expected a number between 0 and 1"
        )
    rng = np.random.default_rng(derive_seed(seed, "stratified"))
    drawn = [a[rng.integers(a.size, size=(N_RESAMPLES, a.size))] for a in task.runs]
    if statistic == "iqm":
        from scipy.stats import trim_mean

        figure = interquartile_mean(np.concatenate(task.runs))
        resampled = trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1)
    else:
        figure = float(task.scores.mean())
        resampled = np.mean([d.mean(axis=1) for d in drawn], axis=0)
    if task.n_episodes < 2:
        return figure, Interval(math.nan, math.nan, confidence, "bootstrap percentile")
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(resampled, [tail, 100.0 - tail])
    return figure, Interval(float(low), float(high), confidence, "bootstrap percentile")
