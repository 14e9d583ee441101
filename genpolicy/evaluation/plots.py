"""Pictures of evaluations: learning curves, intervals, paths through a maze.

Every function returns a ``matplotlib.figure.Figure`` of its own; ``plot_style.light_and_dark``
renders it for a report. Pictures of actions are in ``action_plots``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from genpolicy.errors import UsageError
from genpolicy.evaluation.plot_style import (
    LIGHT,
    WIDTH,
    Theme,
    add_legend,
    add_title,
    new_figure,
    style_axis,
)
from genpolicy.evaluation.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from genpolicy.envs.mazes import MazeLayout
    from genpolicy.evaluation.run_statistics import Profile

__all__ = ["Curve", "draw_intervals", "draw_learning_curves", "draw_profiles", "draw_trajectories"]


@dataclass(frozen=True)
class Curve:
    """A figure over training.

    Args:
        steps: optimizer steps, increasing.
        values: one per step.
        low: lower ends of intervals; None for none.
        high: upper ends of intervals; None for none.
    """

    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def draw_learning_curves(
    curves: Mapping[str, Curve],
    *,
    ylabel: str,
    xlabel: str = "optimizer steps",
    log_y: bool = False,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw figures over training, with bands where curves have intervals.

    Args:
        curves: by label, at least one.
        ylabel: what the figures are, with unit.
        xlabel: what the steps are.
        log_y: logarithmic vertical axis.
        theme: colours.

    Raises:
        UsageError: for no curves, or one whose lengths differ.
    """
    if not curves:
        raise UsageError("draw_learning_curves: got no curves, expected at least one")
    figure = new_figure(WIDTH, 3.1, theme)
    axis = figure.subplots()
    style_axis(axis, theme)
    for i, (label, curve) in enumerate(curves.items()):
        columns = (curve.steps, curve.values, curve.low, curve.high)
        lengths = {len(c) for c in columns if c is not None}
        if len(lengths) != 1:
            raise UsageError(f"draw_learning_curves: {label!r} has columns of lengths {lengths}")
        color = theme.colors[i % len(theme.colors)]
        dashes = "-" if i < len(theme.colors) else "--"
        marker = "o" if len(curve.steps) <= 25 else None
        style = {"color": color, "ls": dashes, "marker": marker, "ms": 3, "lw": 1.6}
        axis.plot(curve.steps, curve.values, label=label, **style)
        if curve.low is not None and curve.high is not None:
            axis.fill_between(curve.steps, curve.low, curve.high, color=color, alpha=0.18, lw=0)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    if log_y:
        axis.set_yscale("log")
    else:
        axis.margins(y=0.08)
    if len(curves) > 1:
        add_legend(axis, theme)
    return figure


def draw_intervals(
    rows: Sequence[tuple[str, float, Interval]],
    *,
    xlabel: str,
    reference: float | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw means as dots and their intervals as lines, one row below the other.

    Args:
        rows: label, mean and interval, from top to bottom, at least one.
        xlabel: what the means are of, with unit.
        reference: where a vertical line is drawn, for example 0 for differences; None for none.
        theme: colours.

    Raises:
        UsageError: for no rows.
    """
    if not rows:
        raise UsageError("draw_intervals: got no rows, expected at least one")
    figure = new_figure(WIDTH, 0.7 + 0.34 * len(rows), theme)
    axis = figure.subplots()
    style_axis(axis, theme)
    if reference is not None:
        axis.axvline(reference, color=theme.ink, lw=0.8, ls=(0, (4, 3)))
    for y, (_, mean, interval) in enumerate(rows):
        color = theme.colors[0]
        if interval.is_known:
            axis.plot([interval.low, interval.high], [y, y], color=color, lw=2.4, alpha=0.55)
        axis.plot([mean], [y], "o", color=color, ms=6)
    axis.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(False, axis="y")
    axis.set_xlabel(xlabel)
    return figure


def draw_profiles(profiles: Mapping[str, Profile], *, xlabel: str, theme: Theme = LIGHT) -> Figure:
    """Draw performance profiles: the share of runs above each score, with pointwise bands.

    Args:
        profiles: by label, at least one.
        xlabel: what the scores are, with unit.
        theme: colours.

    Raises:
        UsageError: for no profiles.

    Source: arXiv 2108.13264, section 4.2.
    """
    if not profiles:
        raise UsageError("draw_profiles: got no profiles, expected at least one")
    figure = new_figure(WIDTH, 3.1, theme)
    axis = figure.subplots()
    style_axis(axis, theme)
    for i, (label, profile) in enumerate(profiles.items()):
        color = theme.colors[i % len(theme.colors)]
        dashes = "-" if i < len(theme.colors) else "--"
        x = profile.thresholds
        axis.plot(x, profile.values, color=color, label=label, lw=1.6, ls=dashes)
        axis.fill_between(x, profile.low, profile.high, color=color, alpha=0.15, lw=0)
    axis.set_ylim(-0.03, 1.03)
    axis.set_xlabel(xlabel)
    axis.set_ylabel("share of runs above")
    add_legend(axis, theme)
    return figure


def _visible(layout: MazeLayout) -> np.ndarray:
    """Return the bounds without most of the outer walls."""
    thickness = np.ptp(np.asarray(layout.walls)[0, :2])
    return np.asarray(layout.bounds) + 0.65 * thickness * np.array([1, -1, 1, -1])


def _draw_maze(axis: Axes, layout: MazeLayout, theme: Theme) -> None:
    """Draw walls and target, the first coordinate downwards and the second to the right."""
    for low_1, high_1, low_2, high_2 in np.asarray(layout.walls):
        corner, size = (low_2, low_1), (high_2 - low_2, high_1 - low_1)
        axis.add_patch(Rectangle(corner, *size, color=theme.faint, lw=0, zorder=1.5))
    target = (float(layout.target[1]), float(layout.target[0]))
    goal = Circle(target, layout.goal_radius, color="#2da44e", alpha=0.25, lw=0, zorder=1)
    axis.add_patch(goal)
    axis.plot(*target, marker="*", color="#2da44e", ms=8, zorder=3, lw=0)
    low_1, high_1, low_2, high_2 = _visible(layout)
    axis.set_xlim(low_2, high_2)
    axis.set_ylim(high_1, low_1)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])


def draw_trajectories(
    layout: MazeLayout,
    panels: Mapping[str, Sequence[tuple[Float[np.ndarray, "steps 2"], bool]]],
    *,
    disc: tuple[Sequence[float], float] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw the paths of episodes over a maze, one panel per policy.

    Args:
        layout: walls and target, from ``genpolicy.envs.mazes.maze_layout``.
        panels: for each title the positions ``(n_steps, 2)`` of its episodes, and whether they
            succeeded.
        disc: centre and radius of a region to mark; None marks none.
        theme: colours; successful and failed episodes differ, a dot marks where they start, and
            the title counts the successful ones.

    Raises:
        UsageError: for no panels, or paths of another shape.
    """
    if not panels:
        raise UsageError("draw_trajectories: got no panels, expected at least one")
    low_1, high_1, low_2, high_2 = _visible(layout)
    columns = min(2, len(panels)) if high_2 - low_2 > high_1 - low_1 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    width = WIDTH if columns > 1 else 0.55 * WIDTH
    height = (width / columns) * (high_1 - low_1) / (high_2 - low_2)
    figure = new_figure(width, rows * (height + 0.42), theme)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, episodes) in zip(axes, panels.items(), strict=False):
        style_axis(axis, theme, grid=False)
        _draw_maze(axis, layout, theme)
        if disc is not None:
            (row, column), radius = disc
            axis.add_patch(
                Circle((column, row), radius, facecolor=theme.bad, edgecolor="none", alpha=0.35)
            )
        alpha = float(np.clip(4.0 / max(len(episodes), 1), 0.25, 0.9))
        for path, has_succeeded in episodes:
            if path.ndim != 2 or path.shape[1] != 2:
                raise UsageError(
                    f"draw_trajectories: {title!r} has a path of shape {path.shape}, expected "
                    "(n_steps, 2)"
                )
            color = theme.good if has_succeeded else theme.bad
            axis.plot(path[:, 1], path[:, 0], color=color, lw=1.1, alpha=alpha)
            axis.plot(path[0, 1], path[0, 0], "o", color=color, ms=3, alpha=alpha)
        n_good = sum(has_succeeded for _, has_succeeded in episodes)
        add_title(axis, f"{title}\n{n_good} of {len(episodes)}", theme)
    return figure
