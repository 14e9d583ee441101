"""Which methods may be compared over which tasks, and the figures of the comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genpolicy.errors import UsageError
from genpolicy.evaluation import (
    Estimate,
    TaskScores,
    aggregate,
    aggregates,
    crossed_difference,
    probability_of_improvement,
)
from genpolicy.evaluation.page import Table
from genpolicy.evaluation.records import count, format_figure, format_interval
from genpolicy.evaluation.run_statistics import RunStatistic
from genpolicy.published import PublishedScore, published_method, published_scores
from genpolicy.reporting.cells import Cell, metric_scale

__all__ = [
    "Comparison",
    "aggregate_table",
    "compare_methods",
    "improvement_table",
    "order_table",
    "overview_table",
    "paired_table",
    "published_table",
    "with_interval",
]

AGGREGATES: tuple[RunStatistic, ...] = ("iqm", "mean", "median", "optimality gap")


@dataclass(frozen=True)
class Comparison:
    """Methods with a result on every one of some tasks, of one kind of data and simulator each.

    Args:
        checkpoint: ``"last"`` or ``"best"``.
        tasks: names, in order.
        methods: scores by label, task by task, in units where 1 is D4RL's reference or success.
        left_out: what is not in it, and why.
    """

    checkpoint: str
    tasks: tuple[str, ...]
    methods: Mapping[str, Sequence[TaskScores]]
    left_out: tuple[str, ...]


def compare_methods(cells: Sequence[Cell], checkpoint: str) -> Comparison:
    """Return the comparison over all tasks; methods without a result on one are left out.

    Where no method has all tasks, the tasks that all methods have are compared instead.
    """
    chosen, left_out = [], []
    here = [cell for cell in cells if cell.checkpoint == checkpoint]
    for task in dict.fromkeys(cell.task for cell in here):
        on_task = [cell for cell in here if cell.task == task]
        place, _ = Counter(cell.place for cell in on_task).most_common(1)[0]
        for cell in on_task:
            if cell.place == place:
                chosen.append(cell)
            else:
                left_out.append(
                    f"{cell.label} on {task}: its data are {cell.place[0]} and its simulator is "
                    f"{cell.place[1]}, the others' are {place[0]} and {place[1]}"
                )
    by_method: dict[str, dict[str, Cell]] = {}
    for cell in chosen:
        by_method.setdefault(cell.label, {})[cell.task] = cell
    tasks = tuple(dict.fromkeys(cell.task for cell in chosen))
    if by_method and not any(set(found) == set(tasks) for found in by_method.values()):
        common = set.intersection(*(set(found) for found in by_method.values()))
        left_out += [
            f"{task}: not every method has a result on it" for task in tasks if task not in common
        ]
        tasks = tuple(task for task in tasks if task in common)
    methods = {}
    for label, found in by_method.items():
        missing = [task for task in tasks if task not in found]
        if missing or not tasks:
            left_out.append(f"{label}: no result on {', '.join(missing) or 'the common tasks'}")
            continue
        methods[label] = [
            found[task].scores(scale=metric_scale(found[task].primary)) for task in tasks
        ]
    return Comparison(checkpoint, tasks, methods, tuple(left_out))


def with_interval(estimate: Estimate) -> str:
    """Return ``figure (low to high)``, or the figure alone where its interval is unknown."""
    if not estimate.interval.is_known:
        return format_figure(estimate.value)
    return f"{format_figure(estimate.value)} ({format_interval(estimate.interval)})"


def overview_table(cells: Sequence[Cell], checkpoint: str) -> Table:
    """Return methods by tasks: mean, 95% interval over seeds and episodes, and n."""
    here = [cell for cell in cells if cell.checkpoint == checkpoint]
    tasks = list(dict.fromkeys(cell.task for cell in here))
    rows = []
    for label in dict.fromkeys(cell.label for cell in here):
        row = [label]
        for task in tasks:
            found = [c for c in here if (c.label, c.task) == (label, task)]
            text = "-"
            if found:
                text = f"{with_interval(aggregate([found[0].scores()]))}; {found[0].n_text}"
            row.append(text)
        rows.append(row)
    metrics = {cell.task: cell.primary for cell in here}
    columns = [f"{task}: {metrics[task]}" for task in tasks]
    caption = (
        f"Checkpoint {checkpoint}: mean over training seeds (95% bootstrap over seeds and "
        "episodes); training seeds x episodes each. Without an interval there is one seed."
    )
    return Table(["method", *columns], rows, caption)


def aggregate_table(comparison: Comparison) -> Table:
    """Return IQM, mean, median and optimality gap over the tasks of a comparison."""
    rows = []
    for label, tasks in comparison.methods.items():
        found = list(aggregates(tasks, AGGREGATES).values())
        first = found[0]
        n = f"{count(first.n_tasks, 'task')}, {first.n_runs} runs, {first.n_episodes} episodes"
        rows.append([label, *(with_interval(estimate) for estimate in found), n])
    caption = (
        f"Checkpoint {comparison.checkpoint}, over {', '.join(comparison.tasks)}; D4RL scores "
        "divided by 100. 95% bootstrap over seeds and episodes, stratified by task."
    )
    columns = ["method", "IQM", "mean", "median", "optimality gap (lower is better)", "n"]
    return Table(columns, rows, caption)


def improvement_table(comparison: Comparison) -> Table:
    """Return the probability that a run of the row's method beats one of the column's."""
    labels = list(comparison.methods)
    rows = []
    for x in labels:
        row = [x]
        for y in labels:
            if x == y:
                row.append("-")
                continue
            found = probability_of_improvement(comparison.methods[x], comparison.methods[y])
            row.append(with_interval(found))
        rows.append([*row, sum(len(task.runs) for task in comparison.methods[x])])
    caption = (
        f"Checkpoint {comparison.checkpoint}: P(row > column), mean over "
        f"{count(len(comparison.tasks), 'task')}; an interval that holds 0.5 decides nothing."
    )
    return Table(["method", *labels, "runs"], rows, caption)


def paired_table(cells: Sequence[Cell], checkpoint: str, baseline: str | None = None) -> Table:
    """Return differences to a baseline on the episode seeds that both have, task by task.

    Args:
        cells: of all methods and tasks.
        checkpoint: which of them.
        baseline: label of the method to compare with; None for the first one of each task.

    Raises:
        UsageError: for a baseline that has no result.
    """
    here = [cell for cell in cells if cell.checkpoint == checkpoint]
    labels = list(dict.fromkeys(cell.label for cell in here))
    if baseline is not None and here and baseline not in labels:
        raise UsageError(f"baseline={baseline!r} has no result; methods: {', '.join(labels)}")
    rows: list[list[str | float | int]] = []
    for task in dict.fromkeys(cell.task for cell in here):
        on_task = [cell for cell in here if cell.task == task]
        base = next((c for c in on_task if c.label == baseline), None)
        base = on_task[0] if baseline is None else base
        for cell in on_task:
            if base is None or cell is base:
                continue
            row: list[str | float | int] = [f"{cell.label} - {base.label}", task]
            if cell.place != base.place:
                rows.append([*row, "-", "other data or simulator: not compared", "-", "-"])
                continue
            try:
                found = crossed_difference(cell.scores(), base.scores())
            except UsageError:
                rows.append([*row, "-", "no common episode seeds: not compared", "-", "-"])
                continue
            n = f"{len(cell.results)} and {len(base.results)}"
            rows.append([*row, found.value, format_interval(found.interval), n, found.n_episodes])
    columns = ["difference", "task", "mean", "95% interval", "runs", "common episode seeds"]
    caption = (
        f"Checkpoint {checkpoint}: difference of the primary metric on the same episode seeds; "
        "runs of each and the episodes of both are drawn anew together."
    )
    return Table(columns, rows, caption)


def published_table(cells: Sequence[Cell]) -> Table:
    """Return published scores of the methods and tasks of a sweep, each with what it is of."""
    rows: list[list[str | float | int]] = []
    for task in dict.fromkeys(cell.task for cell in cells):
        on_task = [c for c in cells if c.task == task and c.primary.endswith("_score")]
        for row in published_scores(task, [cell.method for cell in on_task]):
            rows.append(_published_row(row, on_task))
    columns = ["method", "task", "published", "selection", "data", "simulator", "read in", "source"]
    columns += ["ours, last", "ours, best", "our data", "our simulator"]
    caption = (
        "Published scores are of other data and another simulator than ours unless the columns "
        "say the same; then they are two benchmarks, and only the order of methods compares."
    )
    return Table(columns, rows, caption)


def _published_row(row: PublishedScore, cells: Sequence[Cell]) -> list[str | float | int]:
    spread = "" if row.spread is None else f" +- {row.spread:g}"
    mine = [cell for cell in cells if published_method(cell.method) == row.method]
    ours = []
    for checkpoint in ("last", "best"):
        found = [cell for cell in mine if cell.checkpoint == checkpoint]
        texts = [f"{with_interval(aggregate([c.scores()]))}; {c.n_text}" for c in found]
        ours.append(" / ".join(texts) or "-")
    places = dict.fromkeys(cell.place for cell in mine)
    return [
        row.method,
        row.task,
        f"{row.score:g}{spread}",
        row.selection or "not stated",
        row.data,
        row.simulator,
        row.evidence,
        row.source,
        *ours,
        " / ".join(place[0] for place in places),
        " / ".join(place[1] for place in places),
    ]


def order_table(cells: Sequence[Cell], checkpoint: str) -> Table:
    """Return, task by task, our order of methods beside the published one, and Kendall's tau.

    Only methods that both have are ordered. Where several published scores of a method are known,
    the first listed one counts.
    """
    from scipy.stats import kendalltau

    rows: list[list[str | float | int]] = []
    here = [cell for cell in cells if cell.checkpoint == checkpoint]
    for task in dict.fromkeys(cell.task for cell in here):
        ours, theirs = {}, {}
        for cell in here:
            known = published_scores(task, [cell.method]) if cell.task == task else ()
            if known and cell.primary.endswith("_score"):
                ours[cell.label] = cell.scores().scores.mean()
                theirs[cell.label] = known[0].score
        if len(ours) < 3:
            continue
        order = [", ".join(sorted(by, key=lambda m: -by[m])) for by in (ours, theirs)]
        labels = list(ours)
        tau: Any = kendalltau([ours[m] for m in labels], [theirs[m] for m in labels])
        rows.append([task, *order, float(tau.statistic), len(labels)])
    caption = (
        f"Checkpoint {checkpoint}: methods from best to worst, and the rank correlation of the two "
        "orders (1: the same, -1: reversed). With few methods it says little."
    )
    return Table(["task", "ours", "published", "Kendall's tau", "methods"], rows, caption)
