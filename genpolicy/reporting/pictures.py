"""Pictures of a report: intervals, profiles, learning curves, weight curves, filmed episodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure

from genpolicy.evaluation import (
    aggregate,
    performance_profile,
    probability_of_improvement,
)
from genpolicy.evaluation.page import Block, Figure, Film, Text
from genpolicy.evaluation.plot_style import Theme
from genpolicy.evaluation.plots import Curve, draw_intervals, draw_learning_curves, draw_profiles
from genpolicy.evaluation.records import count
from genpolicy.evaluation.report import drawn
from genpolicy.evaluation.statistics import Interval
from genpolicy.reporting.cells import Cell
from genpolicy.reporting.comparison import Comparison
from genpolicy.reporting.entries import Entry, Sweep

__all__ = [
    "aggregate_picture",
    "films",
    "improvement_picture",
    "interval_pictures",
    "learning_pictures",
    "profile_picture",
    "weight_curves",
]


def interval_pictures(cells: Sequence[Cell]) -> dict[str, Figure]:
    """Return for every task the means of all methods and checkpoints with their intervals."""
    found = {}
    for task in dict.fromkeys(cell.task for cell in cells):
        rows = []
        for cell in (c for c in cells if c.task == task):
            estimate = aggregate([cell.scores()])
            interval = estimate.interval
            if not interval.is_known:  # one training seed: its episodes
                interval = aggregate([cell.scores()], resample="episodes").interval
            label = f"{_short(cell.label)}, {cell.checkpoint} ({cell.n_text})"
            rows.append((label, estimate.value, interval))
        metric = next(cell.primary for cell in cells if cell.task == task)
        found[task] = drawn(
            _intervals(rows, f"{task}: {metric}", None),
            f"means and intervals on {task}",
            f"{task}: mean {metric}, 95% bootstrap over seeds and episodes; over episodes alone "
            "where there is one training seed.",
        )
    return found


def _intervals(
    rows: Sequence[tuple[str, float, Interval]], xlabel: str, reference: float | None
) -> Callable[[Theme], MatplotlibFigure]:
    return lambda theme: draw_intervals(rows, xlabel=xlabel, reference=reference, theme=theme)


def _short(label: str, n: int = 44) -> str:
    return label if len(label) <= n else label[: n - 3] + "..."


def aggregate_picture(comparison: Comparison) -> Figure:
    """Return the interquartile means over tasks with their intervals."""
    rows = []
    for label, tasks in comparison.methods.items():
        found = aggregate(tasks, statistic="iqm")
        rows.append((f"{_short(label)} ({found.n_runs} runs)", found.value, found.interval))
    return drawn(
        _intervals(rows, "interquartile mean over tasks and runs", None),
        f"interquartile means, {comparison.checkpoint}",
        f"Interquartile mean over {count(len(comparison.tasks), 'task')}, checkpoint "
        f"{comparison.checkpoint}; 95% bootstrap over seeds and episodes.",
    )


def profile_picture(comparison: Comparison) -> Figure:
    """Return the performance profiles of the methods."""
    scores = np.concatenate([t.scores for tasks in comparison.methods.values() for t in tasks])
    low, high = min(0.0, float(scores.min())), max(1.0, float(scores.max()))
    levels = np.linspace(low, low + 1.05 * (high - low), 121)
    profiles = {
        _short(label): performance_profile(tasks, levels)
        for label, tasks in comparison.methods.items()
    }
    return drawn(
        lambda theme: draw_profiles(profiles, xlabel="score of a run", theme=theme),
        f"performance profiles, {comparison.checkpoint}",
        f"Share of runs above a score, over {count(len(comparison.tasks), 'task')}, checkpoint "
        f"{comparison.checkpoint}; pointwise 95% bands over seeds and episodes.",
    )


def improvement_picture(comparison: Comparison, baseline: str | None) -> Figure | None:
    """Return P(method > baseline) with intervals; None where there is nobody to compare with."""
    labels = list(comparison.methods)
    base = baseline if baseline in comparison.methods else (labels[0] if labels else None)
    if base is None or len(labels) < 2:
        return None
    rows = []
    for label in labels:
        if label != base:
            x, y = comparison.methods[label], comparison.methods[base]
            found = probability_of_improvement(x, y)
            rows.append((_short(label), found.value, found.interval))
    return drawn(
        _intervals(rows, f"P(method > {_short(base)})", 0.5),
        f"probability of improvement over {base}, {comparison.checkpoint}",
        f"Probability that a run beats one of {base}, over {count(len(comparison.tasks), 'task')}; "
        "95% bootstrap over seeds and episodes.",
    )


def learning_pictures(entries: Sequence[Entry], metrics: Mapping[str, str]) -> list[Block]:
    """Return a picture per task: the rollouts during training, else the loss on held-out data.

    Args:
        entries: the runs.
        metrics: primary metric by task.
    """
    blocks: list[Block] = []
    for task in dict.fromkeys(entry.task for entry in entries):
        runs = [entry for entry in entries if entry.task == task]
        logs = {id(run): run.metrics() for run in runs}
        keys = ["val/loss", "train/loss"]
        keys = [f"eval/{metrics[task]}", *keys] if task in metrics else keys
        for key in keys:
            curves = _curves(runs, logs, key)
            if curves:
                blocks.append(_learning_picture(task, key, curves))
                break
        else:
            blocks.append(Text(f"{task}: no figures were logged during training."))
    return blocks


def _learning_picture(task: str, key: str, curves: Mapping[str, Curve]) -> Figure:
    caption = f"{task}: {key} over training, mean over training seeds, with a band "
    caption += "from the lowest to the highest of them."
    if "loss" in key:
        caption += " Losses of different methods measure different things: compare a curve with "
        caption += "itself only."
    return drawn(
        lambda theme: draw_learning_curves(curves, ylabel=key, theme=theme),
        f"{key} over training on {task}",
        caption,
    )


def _curves(
    runs: Sequence[Entry], logs: Mapping[int, list[dict[str, Any]]], key: str
) -> dict[str, Curve]:
    """Return the mean over seeds at the steps that all runs of a method have logged."""
    found = {}
    for method in dict.fromkeys(run.method for run in runs):
        series = [
            {line["step"]: line[key] for line in logs[id(run)] if key in line}
            for run in runs
            if run.method == method
        ]
        series = [points for points in series if points]
        if not series:
            continue
        steps = sorted(set.intersection(*(set(points) for points in series)))
        if not steps:
            continue
        values = np.array([[points[step] for step in steps] for points in series])
        low = high = None
        if len(series) > 1:
            low, high = values.min(axis=0).tolist(), values.max(axis=0).tolist()
        n = f"{len(series)} seed" + ("s" if len(series) > 1 else "")
        found[f"{_short(method)} ({n})"] = Curve(steps, values.mean(axis=0).tolist(), low, high)
    return found


def films(cells: Sequence[Cell], *, videos: bool, per_cell: int = 1) -> list[Block]:
    """Return filmstrips of evaluations that were filmed, and the films where ``videos`` is set."""
    blocks: list[Block] = []
    of_last = {(cell.label, cell.task) for cell in cells if cell.checkpoint == "last"}
    for cell in cells:
        if cell.checkpoint != "last" and (cell.label, cell.task) in of_last:
            continue
        strips: list[Path] = []
        for entry in cell.entries:
            for evaluation in entry.evaluations:
                if evaluation.checkpoint == cell.checkpoint:
                    strips += sorted((evaluation.folder / "videos").glob("seed-*.png"))
        for strip in strips[:per_cell]:
            mp4 = strip.with_suffix(".mp4")
            title = f"{cell.label}, {cell.task}, checkpoint {cell.checkpoint}, {strip.stem}"
            movie = mp4.read_bytes() if videos and mp4.is_file() else None
            blocks.append(Film(strip.read_bytes(), title, title, movie))
    return blocks


def weight_curves(sweep: Sweep) -> list[Block]:
    """Return the curve of every weight search that lies in a sweep's folder."""
    from genpolicy.evaluation.weight_curve import draw_weight_curve
    from genpolicy.evaluation.weight_results import WeightSearch

    blocks: list[Block] = []
    for file in sorted(sweep.folder.rglob("result.json")):
        where = file.parent.relative_to(sweep.folder)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            blocks.append(Text(f"{where}/result.json is damaged: {error}"))
            continue
        if not isinstance(content, dict) or not {"candidates", "operator"} <= set(content):
            continue
        search = WeightSearch.from_json(content)
        blocks.append(
            drawn(
                lambda theme, search=search: draw_weight_curve(search, theme=theme),
                f"weight search {where}",
                f"{where}: {search.operator} of {len(search.members)} policies, {search.verdict}.",
            )
        )
    return blocks
