"""Every figure of every cell, computed once: as a table for people and as rows for a csv file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from genpolicy.evaluation import Estimate, Interval, aggregate, aggregates, t_interval
from genpolicy.evaluation.page import Table
from genpolicy.evaluation.records import format_interval
from genpolicy.reporting.cells import Cell
from genpolicy.reporting.comparison import with_interval

__all__ = ["Figures", "details_tables", "figures_of", "figures_table"]


@dataclass(frozen=True)
class Figures:
    """A metric of a cell.

    Args:
        cell: the runs.
        metric: name of the metric.
        mean: over training seeds, with its interval over seeds and episodes.
        over_seeds: interval of the mean over seeds, episodes as they are.
        over_episodes: interval of the mean over episodes, training runs as they are.
        over_t: Student's interval over seeds.
        iqm: interquartile mean of the runs.
        median: median of the runs.
    """

    cell: Cell
    metric: str
    mean: Estimate
    over_seeds: Interval
    over_episodes: Interval
    over_t: Interval
    iqm: Estimate
    median: Estimate


def figures_of(cells: Sequence[Cell]) -> list[Figures]:
    """Return the figures of every metric that all runs of a cell have, the primary one first."""
    found = []
    for cell in cells:
        shared = set.intersection(*(set(result.metric_names) for result in cell.results))
        for metric in (name for name in cell.results[0].metric_names if name in shared):
            tasks = [cell.scores(metric)]
            figures = aggregates(tasks, ("mean", "iqm", "median"))
            found.append(
                Figures(
                    cell,
                    metric,
                    mean=figures["mean"],
                    over_seeds=aggregate(tasks, resample="seeds").interval,
                    over_episodes=aggregate(tasks, resample="episodes", n_resamples=1999).interval,
                    over_t=t_interval(tasks[0]),
                    iqm=figures["iqm"],
                    median=figures["median"],
                )
            )
    return found


def details_tables(figures: Sequence[Figures]) -> list[Table]:
    """Return a table per task with the primary metric and the rates."""
    tables = []
    for task in dict.fromkeys(f.cell.task for f in figures):
        rows: list[list[str | float | int]] = []
        for f in figures:
            shown = (f.cell.primary, *f.cell.results[0].rates)
            if f.cell.task != task or f.metric not in shown:
                continue
            rows.append(
                [
                    f.cell.label,
                    f.cell.checkpoint,
                    f.metric,
                    f.mean.value,
                    format_interval(f.mean.interval),
                    format_interval(f.over_seeds),
                    format_interval(f.over_episodes),
                    format_interval(f.over_t),
                    with_interval(f.iqm),
                    with_interval(f.median),
                    f.cell.n_text,
                    f.cell.facts["data"],
                    f.cell.facts["simulator"],
                ]
            )
        columns = ["method", "checkpoint", "metric", "mean", "95% seeds and episodes", "95% seeds"]
        columns += ["95% episodes", "95% t over seeds", "IQM of runs", "median of runs", "n"]
        tables.append(Table([*columns, "data", "simulator"], rows, task))
    return tables


def figures_table(figures: Sequence[Figures]) -> Table:
    """Return every metric with all digits, one row per metric, for a csv file."""
    rows: list[list[str | float | int]] = []
    for f in figures:
        row: list[str | float | int] = [f.cell.method, f.cell.variant, f.cell.task]
        row += [f.cell.checkpoint, f.metric, int(f.metric == f.cell.primary), f.mean.value]
        for interval in (f.mean.interval, f.over_seeds, f.over_episodes, f.over_t):
            row += [_end(interval.low), _end(interval.high)]
        row += [f.iqm.value, _end(f.iqm.interval.low), _end(f.iqm.interval.high), f.median.value]
        row += [len(f.cell.results), f.cell.n_expected, f.mean.n_episodes]
        rows.append([*row, *f.cell.facts.values(), f.cell.results[0].note])
    columns = ["method", "variant", "task", "checkpoint", "metric", "is_primary", "mean"]
    for name in ("", "_seeds", "_episodes", "_t"):
        columns += [f"low{name}", f"high{name}"]
    columns += ["iqm", "iqm_low", "iqm_high", "median", "n_seeds", "n_seeds_expected", "n_episodes"]
    names = list(figures[0].cell.facts) if figures else []
    columns += [*(name.replace(" ", "_") for name in names), "note"]
    return Table(columns, rows)


def _end(value: float) -> str | float:
    return value if math.isfinite(value) else ""
