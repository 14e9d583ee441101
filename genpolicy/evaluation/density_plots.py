"""Pictures of densities of actions: exact ones as contours, samples as histograms.

For actions of two entries, or one entry of more. Exact densities need not be normalized: contours
enclose given parts of the mass inside the picture, and curves are scaled to area 1 in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Density", "draw_densities", "draw_marginals", "draw_samples", "mass_levels"]

Density: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Points ``(n, 2)``, or values ``(n,)`` for marginals, to densities ``(n,)``, up to a factor."""

MASSES = (0.95, 0.8, 0.5)
"""Parts of the mass that contours enclose."""

_GRID = 141


def mass_levels(
    density: Float[np.ndarray, "rows columns"], masses: Sequence[float] = MASSES
) -> Float[np.ndarray, " levels"]:
    """Return the values of a density whose contours enclose given parts of its mass.

    Args:
        density: on a regular grid, at least 0, up to a factor.
        masses: parts, in (0, 1).

    Returns:
        Increasing values: the largest part first, without repetitions.

    Raises:
        UsageError: for parts outside (0, 1), or a density without mass or that is not finite.
    """
    if not masses or not all(0.0 < mass < 1.0 for mass in masses):
        raise UsageError(f"mass_levels: masses are {tuple(masses)}, expected values in (0, 1)")
    values = np.sort(np.asarray(density, np.float64).ravel())[::-1]
    if not np.isfinite(values).all() or values[-1] < 0.0 or values.sum() <= 0.0:
        raise UsageError("mass_levels: the density is 0 everywhere, negative or not finite")
    inside = np.cumsum(values) / values.sum()
    index = np.searchsorted(inside, sorted(masses, reverse=True)).clip(max=len(values) - 1)
    return np.unique(values[index])


def draw_samples(
    panels: Mapping[str, Float[np.ndarray, "n 2"]],
    *,
    limits: Float[np.ndarray, "2 2"],
    density: Density | Mapping[str, Density] | None = None,
    marks: Sequence[Sequence[float]] = (),
    names: tuple[str, str] = ("action 1", "action 2"),
    bins: int = 56,
    columns: int = 3,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw samples as histograms, with contours of exact densities over them.

    Args:
        panels: samples ``(n, 2)`` by title; those outside the limits are not seen.
        limits: ``[[left, bottom], [right, top]]``.
        density: for all panels, or by title; contours enclose the parts ``MASSES`` of its mass.
        marks: points ``(2,)`` drawn as crosses, for example modes or goals.
        names: of the two action entries.
        bins: per axis.
        columns: panels per row at most.
        theme: colours.

    Raises:
        UsageError: for nothing to draw, samples of another shape, or limits in the wrong order.
    """
    if not panels or any(p.ndim != 2 or p.shape[1] != 2 for p in map(np.asarray, panels.values())):
        raise UsageError(
            f"draw_samples: got samples of shapes {[np.shape(p) for p in panels.values()]}, "
            "expected at least one panel of (n, 2)"
        )
    box = _box("draw_samples", limits)
    figure, axes = _panels(list(panels), box, names, columns, theme)
    for axis, (title, samples) in zip(axes, panels.items(), strict=False):
        points = np.asarray(samples)
        counts, _, _ = np.histogram2d(*points.T, bins=bins, range=box.T.tolist())
        shown = np.ma.masked_equal(counts.T, 0)
        extent = tuple(box.T.ravel().tolist())
        axis.imshow(
            shown,
            origin="lower",
            extent=extent,
            cmap=theme.density,
            vmin=0,
            vmax=max(float(np.quantile(counts, 0.999)), 1.0),
            aspect="auto",
            interpolation="nearest",
        )
        exact = density.get(title) if isinstance(density, Mapping) else density
        if exact is not None:
            _contours(axis, exact, box, theme.bad)
        for x, y in marks:
            axis.plot(x, y, "x", color=theme.bad, ms=5, mew=1.2)
    return figure


def draw_densities(
    panels: Mapping[str, Density],
    *,
    limits: Float[np.ndarray, "2 2"],
    names: tuple[str, str] = ("action 1", "action 2"),
    columns: int = 3,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw exact densities as filled contours.

    Args:
        panels: densities by title.
        limits: ``[[left, bottom], [right, top]]``.
        names: of the two action entries.
        columns: panels per row at most.
        theme: colours.

    Raises:
        UsageError: for nothing to draw, or limits in the wrong order.
    """
    if not panels:
        raise UsageError("draw_densities: got nothing to draw, expected at least one density")
    box = _box("draw_densities", limits)
    figure, axes = _panels(list(panels), box, names, columns, theme)
    for axis, exact in zip(axes, panels.values(), strict=False):
        x, y, values = _on_grid(exact, box)
        levels = [*mass_levels(values), float(values.max()) * 1.001]
        axis.contourf(x, y, values, levels=levels, cmap=theme.density, vmin=0.0)
        _contours(axis, exact, box, theme.colors[0])
    return figure


def draw_marginals(
    panels: Mapping[str, Float[np.ndarray, " n"]],
    *,
    limits: tuple[float, float],
    density: Density | Mapping[str, Density] | None = None,
    name: str = "action 1",
    bins: int = 80,
    columns: int = 3,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw one entry of samples as histograms of area 1, with curves of exact densities.

    Args:
        panels: values ``(n,)`` by title; those outside the limits are not seen.
        limits: of the horizontal axis.
        density: for all panels, or by title; scaled to area 1 within the limits.
        name: of the entry.
        bins: of the histogram.
        columns: panels per row at most.
        theme: colours.

    Raises:
        UsageError: for nothing to draw, values of another shape, or limits in the wrong order.
    """
    if not panels or any(np.ndim(p) != 1 or len(p) == 0 for p in panels.values()):
        raise UsageError(
            f"draw_marginals: got values of shapes {[np.shape(p) for p in panels.values()]}, "
            "expected at least one panel of (n,)"
        )
    if not limits[0] < limits[1]:
        raise UsageError(f"draw_marginals: limits are {limits}, expected the lower one first")
    n_columns = min(columns, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = new_figure(max(WIDTH * n_columns / 3, 2.6), 1.75 * n_rows + 0.2, theme)
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True).ravel()
    x = np.linspace(*limits, 4 * bins + 1)
    for axis, (title, values) in zip(axes, panels.items(), strict=False):
        style_axis(axis, theme)
        heights, edges = np.histogram(values, bins=bins, range=limits)
        scale = len(values) * (limits[1] - limits[0]) / bins
        axis.stairs(heights / scale, edges, fill=True, color=theme.colors[0], alpha=0.55)
        exact = density.get(title) if isinstance(density, Mapping) else density
        if exact is not None:
            curve = np.asarray(exact(x), np.float64)
            curve = curve / np.trapezoid(curve, x)
            axis.plot(x, curve, color=theme.bad, lw=1.2, label="target")
            add_legend(axis, theme)
        axis.set_xlim(*limits)
        axis.set_yticks([])
        axis.set_xlabel(name)
        add_title(axis, title, theme)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def _box(owner: str, limits: np.ndarray) -> np.ndarray:
    box = np.asarray(limits, dtype=np.float64)
    if box.shape != (2, 2) or not (box[0] < box[1]).all():
        raise UsageError(
            f"{owner}: limits are {box.tolist()}, expected [[left, bottom], [right, top]]"
        )
    return box


def _panels(
    titles: Sequence[str], box: np.ndarray, names: tuple[str, str], columns: int, theme: Theme
) -> tuple[Figure, list[Axes]]:
    """Return a figure with one square panel per title, up to ``columns`` in a row."""
    n_columns = min(columns, len(titles))
    n_rows = -(-len(titles) // n_columns)
    side = WIDTH / 3
    width, height = box[1] - box[0]
    tall = side * float(np.clip(height / width, 0.5, 2.0))
    figure = new_figure(side * n_columns + 0.5, (tall + 0.2) * n_rows + 0.3, theme)
    grid = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True)
    for i, axis in enumerate(grid.ravel()):
        if i >= len(titles):
            axis.set_axis_off()
            continue
        style_axis(axis, theme)
        axis.set_xlim(*box[:, 0])
        axis.set_ylim(*box[:, 1])
        add_title(axis, titles[i], theme)
        if i % n_columns == 0:
            axis.set_ylabel(names[1])
        if i + n_columns >= len(titles):
            axis.set_xlabel(names[0])
            axis.tick_params(labelbottom=True)
    return figure, list(grid.ravel())


def _on_grid(density: Density, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the axes of a grid over the box and the density on it."""
    x, y = (np.linspace(box[0, k], box[1, k], _GRID) for k in range(2))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return x, y, np.asarray(density(points), np.float64).reshape(_GRID, _GRID)


def _contours(axis: Axes, density: Density, box: np.ndarray, color: str) -> None:
    x, y, values = _on_grid(density, box)
    axis.contour(x, y, values, levels=mass_levels(values), colors=color, linewidths=0.8)
