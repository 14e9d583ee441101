"""What an evaluation leaves behind: one record per seed, and figures computed from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genpolicy.errors import UsageError, nearest
from genpolicy.evaluation.identity import CheckpointInfo, PolicyIdentity
from genpolicy.evaluation.statistics import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    interquartile_mean,
    paired_difference,
    wilson_interval,
)

__all__ = [
    "EpisodeRecord",
    "EvalResult",
    "MetricSummary",
    "align_columns",
    "compare_results",
    "count",
    "format_figure",
    "format_interval",
    "format_seeds",
    "results_text",
]

_SCHEMA = 1


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode: a function of the policy, the task and the seed, and of nothing else.

    Args:
        seed: decides the episode and the policy's noise in it.
        n_steps: control steps taken.
        n_chunks: chunks of actions that the policy was asked for.
        n_clipped: steps whose action left the bounds of the environment and was clipped.
        terminated: whether the task ended the episode.
        truncated: whether the step limit ended it.
        metrics: the task's figures at the end, finite; always with ``success`` and ``return``.
        tags: what went wrong, for example ``("non-finite observation: state",)``; such an episode
            counts as a failure.
    """

    seed: int
    n_steps: int
    n_chunks: int
    n_clipped: int
    terminated: bool
    truncated: bool
    metrics: Mapping[str, float]
    tags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain containers that ``from_json`` reads back without loss."""
        return {
            "seed": self.seed,
            "n_steps": self.n_steps,
            "n_chunks": self.n_chunks,
            "n_clipped": self.n_clipped,
            "terminated": self.terminated,
            "truncated": self.truncated,
            "metrics": dict(self.metrics),
            "tags": list(self.tags),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EpisodeRecord:
        """Rebuild a record from ``to_json``."""
        metrics = {str(name): float(value) for name, value in data["metrics"].items()}
        return cls(**{**data, "metrics": metrics, "tags": tuple(data["tags"])})


@dataclass(frozen=True)
class MetricSummary:
    """Mean of one metric over the episodes, with its interval."""

    metric: str
    mean: float
    interval: Interval
    n: int
    is_primary: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain containers."""
        return {"mean": self.mean, "n": self.n, **self.interval.to_json()}


@dataclass(frozen=True)
class EvalResult:
    """A complete evaluation: exactly one record per requested seed, in the order requested.

    Args:
        task: name of the task.
        primary: the metric that results are ranked by.
        rates: metrics that are 0 or 1 in every episode.
        records: one per seed.
        policy: what was evaluated.
        n_action_steps: actions executed per chunk.
        simulators: versions of the simulator's packages.
        versions: versions of the library and what it computes with.
        checkpoint: where the policy came from; None for one that was never saved.
        n_restarts: times that a simulator failed and the episodes it was running were repeated.
        note: how the task compares with published numbers.
        settings: how the environment differs from the task's standard, in plain containers.
    """

    task: str
    primary: str
    rates: tuple[str, ...]
    records: tuple[EpisodeRecord, ...]
    policy: PolicyIdentity
    n_action_steps: int
    simulators: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=dict)
    checkpoint: CheckpointInfo | None = None
    n_restarts: int = 0
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.records:
            raise UsageError("EvalResult: got no records; an evaluation needs at least one seed")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Episode seeds in the order requested."""
        return tuple(record.seed for record in self.records)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of all metrics, the primary one first."""
        names = sorted(set.intersection(*(set(record.metrics) for record in self.records)))
        return (self.primary, *(name for name in names if name != self.primary))

    def values(self, metric: str) -> list[float]:
        """Return a metric of every episode, in the order of ``records``.

        Raises:
            UsageError: for an unknown metric.
        """
        if metric not in self.metric_names:
            raise UsageError(
                f"{self.task} has no metric {metric!r}; {nearest(metric, self.metric_names)}"
            )
        return [record.metrics[metric] for record in self.records]

    def mean(self, metric: str | None = None) -> float:
        """Return the mean over episodes of a metric; None means the primary one."""
        values = self.values(self.primary if metric is None else metric)
        return math.fsum(values) / len(values)

    def iqm(self, metric: str | None = None) -> float:
        """Return the interquartile mean over episodes of a metric; None means the primary one."""
        return interquartile_mean(self.values(self.primary if metric is None else metric))

    def interval(self, metric: str | None = None, *, confidence: float = 0.95) -> Interval:
        """Return the interval of ``mean``: Wilson's for a rate, a bootstrap otherwise.

        It covers the spread over episodes. Training again gives another policy, whose spread only
        several training seeds show.
        """
        name = self.primary if metric is None else metric
        values = self.values(name)
        if name in self.rates:
            if not set(values) <= {0.0, 1.0}:
                raise UsageError(f"{self.task}: {name} is declared a rate, got values {values[:5]}")
            return wilson_interval(round(math.fsum(values)), len(values), confidence=confidence)
        return bootstrap_interval(values, confidence=confidence)

    def summaries(self) -> list[MetricSummary]:
        """Return mean and 95% interval of every metric, the primary one first."""
        return [
            MetricSummary(
                name, self.mean(name), self.interval(name), len(self.records), name == self.primary
            )
            for name in self.metric_names
        ]

    @property
    def caveats(self) -> tuple[str, ...]:
        """What a table has to say beside this result: data or simulator other than published."""
        data = "" if self.checkpoint is None else self.checkpoint.data_caveat
        note = self.note if self.note.startswith("NOT ") else ""
        return tuple(text for text in (data, note) if text)

    @property
    def tags(self) -> dict[str, int]:
        """Number of episodes with each tag."""
        tags = sorted(tag for record in self.records for tag in record.tags)
        return {tag: tags.count(tag) for tag in dict.fromkeys(tags)}

    @property
    def clipped_share(self) -> float:
        """Share of all executed actions that were clipped to the environment's bounds."""
        steps = sum(record.n_steps for record in self.records)
        return sum(record.n_clipped for record in self.records) / max(steps, 1)

    def facts(self) -> dict[str, str]:
        """Return what a number has to be quoted with, as short texts by name."""
        spec = self.policy.spec
        steps = sum(record.n_steps for record in self.records)
        facts = {
            "episodes": f"{len(self.records)}, seeds {format_seeds(self.seeds)}",
            "policy": self.policy.describe(),
            "checkpoint": "none" if self.checkpoint is None else self.checkpoint.describe(),
            "protocol": (
                f"{count(spec.n_obs_steps, 'observation')}, {self.n_action_steps} of "
                f"{count(spec.horizon, 'action')} executed per chunk"
            ),
            "clipped": f"{self.clipped_share:.1%} of {steps} actions",
            "simulator": ", ".join(f"{k} {v}" for k, v in sorted(self.simulators.items())),
            "versions": ", ".join(f"{k} {v}" for k, v in sorted(self.versions.items())),
        }
        if self.settings:
            facts["environment"] = ", ".join(f"{k}={v}" for k, v in self.settings.items())
        if spec.task != self.task:
            facts["trained for"] = spec.task
        if self.checkpoint is not None:
            facts["data"] = self.checkpoint.data_caveat
        before = {} if self.checkpoint is None else self.checkpoint.versions
        changed = {k: v for k, v in self.simulators.items() if before.get(k, v) != v}
        if changed:
            parts = [f"{k} {before[k]} -> {v}" for k, v in sorted(changed.items())]
            facts["changed since training"] = ", ".join(parts)
        if self.tags:
            facts["failed"] = "; ".join(f"{n} with {tag}" for tag, n in self.tags.items())
        if self.n_restarts:
            facts["restarts"] = f"{self.n_restarts}, after failures of the simulator"
        facts["note"] = self.note
        return {name: text for name, text in facts.items() if text}

    def to_json(self) -> dict[str, Any]:
        """Return plain, strict-JSON containers: the figures, and all that ``from_json`` needs."""
        return {
            "schema_version": _SCHEMA,
            "task": self.task,
            "primary": self.primary,
            "rates": list(self.rates),
            "summary": {s.metric: s.to_json() for s in self.summaries()},
            "policy": self.policy.to_json(),
            "n_action_steps": self.n_action_steps,
            "simulators": dict(self.simulators),
            "versions": dict(self.versions),
            "checkpoint": None if self.checkpoint is None else self.checkpoint.to_json(),
            "n_restarts": self.n_restarts,
            "note": self.note,
            "settings": dict(self.settings),
            "records": [record.to_json() for record in self.records],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EvalResult:
        """Rebuild a result from ``to_json``.

        Raises:
            UsageError: for a newer schema.
        """
        if data["schema_version"] > _SCHEMA:
            raise UsageError(
                f"this result has schema {data['schema_version']}, this genpolicy reads {_SCHEMA}; "
                "upgrade genpolicy"
            )
        checkpoint = data["checkpoint"]
        return cls(
            task=data["task"],
            primary=data["primary"],
            rates=tuple(data["rates"]),
            records=tuple(EpisodeRecord.from_json(record) for record in data["records"]),
            policy=PolicyIdentity.from_json(data["policy"]),
            n_action_steps=data["n_action_steps"],
            simulators=data["simulators"],
            versions=data["versions"],
            checkpoint=None if checkpoint is None else CheckpointInfo.from_json(checkpoint),
            n_restarts=data["n_restarts"],
            note=data["note"],
            settings=data["settings"],
        )

    def __str__(self) -> str:
        rows = [["metric", "mean", "95% interval", "by", "n"]]
        for s in self.summaries():
            name = f"{s.metric} *" if s.is_primary else s.metric
            rows.append(
                [
                    name,
                    format_figure(s.mean),
                    format_interval(s.interval),
                    s.interval.method,
                    str(s.n),
                ]
            )
        facts = [[name, text] for name, text in self.facts().items()]
        table = align_columns(rows, right=(1, 4))
        return "\n".join([self.task, table, "", align_columns(facts)])


def compare_results(
    a: EvalResult, b: EvalResult, *, metric: str | None = None, confidence: float = 0.95
) -> PairedDifference:
    """Return the difference ``a - b`` of a metric on the seeds both results have.

    Args:
        a: one result.
        b: another on the same task.
        metric: None for the primary one.
        confidence: nominal coverage of the interval.

    Raises:
        UsageError: when the tasks or simulator versions differ, or no seed is common.
    """
    first_place, second_place = (
        f"{r.task} {dict(sorted(r.settings.items())) or ''} on {dict(sorted(r.simulators.items()))}"
        for r in (a, b)
    )
    if first_place != second_place:
        raise UsageError(
            f"compare_results: {first_place} and {second_place} are not comparable; evaluate both "
            "on one task and one simulator"
        )
    name = a.primary if metric is None else metric
    first, second = (dict(zip(r.seeds, r.values(name), strict=True)) for r in (a, b))
    return paired_difference(
        first, second, is_rate=name in a.rates and name in b.rates, confidence=confidence
    )


def results_text(results: Mapping[str, EvalResult], *, metrics: Sequence[str] = ()) -> str:
    """Return an aligned table with one line per result, for example for ``last`` and ``best``.

    Args:
        results: by label.
        metrics: columns; empty for the primary metric of each result and success.
    """
    rows = [["", "task", "metric", "mean", "95% interval", "n"]]
    for label, result in results.items():
        names = list(metrics) or list(dict.fromkeys([result.primary, *result.rates]))
        for name in names:
            row = [label, result.task, name, format_figure(result.mean(name))]
            rows.append([*row, format_interval(result.interval(name)), str(len(result.records))])
    return align_columns(rows, right=(3, 5))


def count(n: int, noun: str) -> str:
    """Return ``1 action``, ``2 actions``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def format_figure(value: float) -> str:
    """Return a figure with three decimals, fewer for large ones."""
    if not math.isfinite(value):
        return "-"
    size = abs(value)
    return f"{value:.{3 if size < 10 else 2 if size < 100 else 1}f}"


def format_interval(interval: Interval) -> str:
    """Return ``low to high``; ``-`` for an unknown interval."""
    if not interval.is_known:
        return "-"
    return f"{format_figure(interval.low)} to {format_figure(interval.high)}"


def format_seeds(seeds: Sequence[int]) -> str:
    """Return seeds with consecutive ones as ranges: ``100-149, 200``."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return ", ".join(texts if len(texts) <= 8 else [*texts[:6], "...", texts[-1]])


def align_columns(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return rows as text with aligned columns.

    Args:
        rows: equally long rows of texts.
        right: columns that are aligned at the right.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
