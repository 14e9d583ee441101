"""Pictures of what policies sample: distributions of actions, fans of chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from genpolicy.errors import UsageError
from genpolicy.evaluation.plot_style import (
    LIGHT,
    WIDTH,
    Theme,
    add_title,
    new_figure,
    style_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_action_distributions", "draw_chunk_fan", "draw_chunk_paths"]

_MAX_POINTS = 600
"""Distributions of more points are drawn as hexagons of their density."""


def _draw_cloud(axis: Axes, points: np.ndarray, extent: np.ndarray, theme: Theme) -> None:
    if len(points) > _MAX_POINTS:
        axis.hexbin(
            points[:, 0],
            points[:, 1],
            gridsize=28,
            extent=tuple(extent.T.ravel().tolist()),
            cmap=theme.density,
            mincnt=1,
            linewidths=0.1,
        )
    else:
        alpha = float(np.clip(60.0 / max(len(points), 1), 0.15, 0.8))
        axis.scatter(points[:, 0], points[:, 1], s=7, color=theme.colors[0], alpha=alpha, lw=0)


def draw_action_distributions(
    panels: Mapping[str, Mapping[str, Float[np.ndarray, "n 2"]]],
    *,
    names: tuple[str, str] = ("action 1", "action 2"),
    limits: Float[np.ndarray, "2 2"] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw the first executed actions at chosen observations: one row each, one column per source.

    Args:
        panels: for each observation, by title, the actions ``(n, 2)`` of each source, for example
            ``{"data": ..., "diffusion": ..., "flow": ...}``. A source may be absent from a row.
        names: of the two action entries.
        limits: ``[[low, low], [high, high]]`` of the axes; None fits all actions of the figure.
        theme: colours.

    Raises:
        UsageError: for nothing to draw, or actions of another shape.
    """
    sources = list(dict.fromkeys(source for row in panels.values() for source in row))
    clouds = [cloud for row in panels.values() for cloud in row.values()]
    if not clouds or any(c.ndim != 2 or c.shape[1] != 2 or len(c) == 0 for c in clouds):
        raise UsageError(
            f"draw_action_distributions: got actions of shapes {[c.shape for c in clouds]}, "
            "expected (n, 2) with n of at least 1"
        )
    extent = np.stack(
        [np.min([c.min(0) for c in clouds], 0), np.max([c.max(0) for c in clouds], 0)]
    )
    extent = extent + np.array([[-0.05], [0.05]]) * np.maximum(np.ptp(extent, axis=0), 1e-6)
    extent = extent if limits is None else np.asarray(limits, dtype=np.float64)
    side = min(1.75, WIDTH / len(sources))
    figure = new_figure(max(side * len(sources) + 0.6, 2.4), side * len(panels) + 0.45, theme)
    axes = figure.subplots(len(panels), len(sources), squeeze=False, sharex=True, sharey=True)
    for i, (title, row) in enumerate(panels.items()):
        for j, source in enumerate(sources):
            axis = axes[i, j]
            style_axis(axis, theme)
            if source in row:
                _draw_cloud(axis, np.asarray(row[source]), extent, theme)
            axis.set_xlim(*extent[:, 0])
            axis.set_ylim(*extent[:, 1])
            if i == 0:
                add_title(axis, source, theme)
            if i == len(panels) - 1:
                axis.set_xlabel(names[0])
            if j == 0:
                axis.set_ylabel(f"{title}\n{names[1]}")
    return figure


def draw_chunk_fan(
    chunks: Mapping[str, Float[np.ndarray, "n horizon action"]],
    *,
    executed: slice,
    names: Sequence[str] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw sampled chunks over time: one row per action entry, one column per source.

    Args:
        chunks: by source, chunks ``(n, horizon, action)`` sampled at one observation.
        executed: the part of a chunk that is executed, ``TaskSpec.executed``.
        names: of the action entries; None numbers them.
        theme: colours.

    Raises:
        UsageError: for nothing to draw, or chunks of different shapes.
    """
    shapes = {chunk.shape[1:] for chunk in chunks.values()}
    if len(shapes) != 1:
        raise UsageError(f"draw_chunk_fan: got chunks of shapes {shapes}, expected one shape")
    horizon, n_entries = next(iter(shapes))
    titles = [f"action {i + 1}" for i in range(n_entries)] if names is None else list(names)
    columns = len(chunks)
    figure = new_figure(WIDTH, 1.25 * n_entries + 0.75, theme)
    axes = figure.subplots(n_entries, columns, squeeze=False, sharex=True, sharey="row")
    steps = np.arange(horizon)
    for j, (source, sampled) in enumerate(chunks.items()):
        alpha = float(np.clip(16.0 / max(len(sampled), 1), 0.08, 0.8))
        for entry, axis in enumerate(axes[:, j]):
            style_axis(axis, theme)
            shade = {"color": theme.faint, "alpha": 0.45, "lw": 0}
            axis.axvspan(executed.start - 0.5, executed.stop - 0.5, **shade)
            values = np.asarray(sampled)[:, :, entry].T
            axis.plot(steps, values, color=theme.colors[0], alpha=alpha, lw=0.9)
            axis.margins(x=0.01)
            if j == 0:
                axis.set_ylabel(titles[entry])
        add_title(axes[0, j], f"{source} ({len(sampled)})", theme)
    figure.supxlabel("index in the chunk (shaded: executed)", color=theme.ink, fontsize=9)
    return figure


def draw_chunk_paths(
    chunks: Mapping[str, Float[np.ndarray, "n horizon 2"]],
    *,
    position: Float[np.ndarray, " 2"],
    limits: Float[np.ndarray, "2 2"],
    background: np.ndarray | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw sampled chunks as paths in the plane, for tasks whose actions are positions.

    Args:
        chunks: by source, chunks ``(n, horizon, 2)`` of horizontal and downward coordinates.
        position: where the agent is.
        limits: ``[[left, top], [right, bottom]]`` of the plane.
        background: picture of the plane ``(height, width, 3)`` uint8; None for none.
        theme: colours.

    Raises:
        UsageError: for nothing to draw, or chunks that are no paths in a plane.
    """
    if not chunks or any(c.ndim != 3 or c.shape[2] != 2 for c in chunks.values()):
        raise UsageError(
            f"draw_chunk_paths: got chunks of shapes {[c.shape for c in chunks.values()]}, "
            "expected (n, horizon, 2)"
        )
    (left, top), (right, bottom) = np.asarray(limits, dtype=np.float64)
    columns = min(3, len(chunks))
    rows = -(-len(chunks) // columns)
    width = WIDTH if columns > 1 else 0.6 * WIDTH
    height = width / columns * (bottom - top) / (right - left)
    figure = new_figure(width, rows * (height + 0.3), theme)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(chunks) :]:
        axis.set_axis_off()
    for axis, (source, sampled) in zip(axes, chunks.items(), strict=False):
        style_axis(axis, theme, grid=False)
        if background is not None:
            axis.imshow(background, extent=(left, right, bottom, top), alpha=0.6)
        alpha = float(np.clip(8.0 / max(len(sampled), 1), 0.08, 0.8))
        for path in np.asarray(sampled):
            axis.plot(path[:, 0], path[:, 1], color=theme.colors[0], alpha=alpha, lw=1.0)
        axis.plot(*position, "o", color=theme.bad, ms=5)
        axis.set_xlim(left, right)
        axis.set_ylim(bottom, top)
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([])
        add_title(axis, f"{source} ({len(sampled)})", theme)
    return figure
