"""Colours and sizes that all pictures share, and their rendering.

Figures are made without pyplot, so that no global state of matplotlib is touched.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "DARK",
    "LIGHT",
    "WIDTH",
    "Theme",
    "add_legend",
    "add_title",
    "light_and_dark",
    "new_figure",
    "png",
    "style_axis",
]

_DPI = 160
WIDTH = 5.4
"""Inches of the usual figure: at 160 dpi legible on a phone and sharp on a desktop."""


@dataclass(frozen=True)
class Theme:
    """Colours of a picture.

    Args:
        background: of the figure.
        ink: of texts and axes.
        faint: of grids and walls.
        good: of successful episodes.
        bad: of failed episodes.
        density: name of the colour map of densities.
        colors: of lines, by order; distinguishable with deficient colour vision.
    """

    background: str
    ink: str
    faint: str
    good: str
    bad: str
    density: str
    colors: tuple[str, ...]


LIGHT = Theme(
    background="#ffffff",
    ink="#1f2328",
    faint="#d5d9de",
    good="#0072b2",
    bad="#d55e00",
    density="Blues",
    colors=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#5b5b5b"),
)
DARK = Theme(
    background="#1a1d21",
    ink="#e3e6ea",
    faint="#3b4149",
    good="#56b4e9",
    bad="#ff8c42",
    density="viridis",
    colors=("#56b4e9", "#ff8c42", "#2fd3a0", "#e49bc4", "#f0d343", "#8fa8ff", "#b5b5b5"),
)


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def light_and_dark(draw: Callable[[Theme], Figure]) -> tuple[bytes, bytes]:
    """Return a picture as PNGs for the light and the dark colour scheme.

    Args:
        draw: makes the figure with a given theme, for example
            ``lambda theme: draw_intervals(rows, theme=theme)``.
    """
    return png(draw(LIGHT)), png(draw(DARK))


def new_figure(width: float, height: float, theme: Theme) -> Figure:
    """Return an empty figure of a size in inches."""
    return Figure(figsize=(width, height), facecolor=theme.background, layout="constrained")


def style_axis(axis: Axes, theme: Theme, *, grid: bool = True) -> None:
    """Give axes the colours of a theme and small texts."""
    axis.set_facecolor(theme.background)
    axis.tick_params(colors=theme.ink, labelsize=8, length=3)
    for spine in axis.spines.values():
        spine.set_color(theme.faint)
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set_color(theme.ink)
        label.set_fontsize(9)
    if grid:
        axis.grid(True, color=theme.faint, linewidth=0.6, alpha=0.7)
        axis.set_axisbelow(True)


def add_title(axis: Axes, text: str, theme: Theme) -> None:
    """Put a small title above axes."""
    axis.set_title(text, color=theme.ink, fontsize=9, pad=4)


def add_legend(axis: Axes, theme: Theme, **settings: Any) -> None:
    """Add a legend without a frame."""
    legend = axis.legend(fontsize=8, frameon=False, **settings)
    for text in legend.get_texts():
        text.set_color(theme.ink)
