"""The picture of a weight search: score over weight, with intervals, parents and fresh seeds."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genpolicy.composition.weights import LevelWeights
from genpolicy.evaluation.plot_style import (
    LIGHT,
    WIDTH,
    Theme,
    add_legend,
    new_figure,
    style_axis,
)
from genpolicy.evaluation.plots import draw_intervals
from genpolicy.evaluation.statistics import Interval
from genpolicy.evaluation.weight_candidates import Candidate
from genpolicy.evaluation.weight_family import point_text
from genpolicy.evaluation.weight_results import WeightSearch

__all__ = ["draw_weight_curve"]


def draw_weight_curve(search: WeightSearch, *, theme: Theme = LIGHT) -> Figure:
    """Draw the candidates of a search with their intervals, and the report beside them.

    Two members, or one scale, give a curve: dots are candidates, hollow ones were stopped early,
    squares are members alone; diamonds are the scores on fresh seeds, and a dashed line is that of
    the better parent. With more members the candidates are listed below each other.

    Args:
        search: a finished search.
        theme: colours.
    """
    is_line = search.operator != "mean" or len(search.members) == 2
    if not is_line:
        return _as_list(search, theme)
    figure = new_figure(WIDTH, 3.1, theme)
    axis = figure.subplots()
    style_axis(axis, theme)
    plain = [c for c in search.candidates if not isinstance(c.point, LevelWeights)]
    full = sorted((c for c in plain if not c.is_stopped), key=_place)
    color, fresh, faint = theme.colors[0], theme.colors[1], theme.ink
    axis.plot([_place(c) for c in full], [c.mean for c in full], color=color, lw=1.0, alpha=0.5)
    for c in plain:
        _bar(axis, _place(c), c.interval, color)
        axis.plot(
            [_place(c)],
            [c.mean],
            "s" if c.parent is not None else "o",
            color=color,
            markerfacecolor=theme.background if c.is_stopped else color,
            ms=5,
            zorder=3,
        )
    axis.plot([], [], "o-", color=color, ms=4, lw=1.0, label="validation seeds")
    if any(c.is_stopped for c in plain):
        axis.plot(
            [], [], "o", color=color, markerfacecolor=theme.background, ms=4, label="stopped early"
        )
    for i, c in enumerate(c for c in search.candidates if isinstance(c.point, LevelWeights)):
        axis.axhline(c.mean, color=theme.colors[2 + i % 4], lw=1.2, label=point_text(c.point))
    span = max((_place(c) for c in plain), default=1.0) - min(
        (_place(c) for c in plain), default=0.0
    )
    for number, result in search.report.items():
        candidate = search.candidates[number]
        if isinstance(candidate.point, LevelWeights):
            axis.axhline(result.mean(search.metric), color=fresh, lw=1.2)
            continue
        place = _place(candidate) + 0.012 * span
        interval = result.interval(search.metric, confidence=search.confidence)
        _bar(axis, place, interval, fresh)
        axis.plot([place], [result.mean(search.metric)], "D", color=fresh, ms=5, zorder=4)
    axis.plot([], [], "D", color=fresh, ms=4, lw=0, label="fresh seeds")
    parent = search.report[search.better_parent.number].mean(search.metric)
    axis.axhline(
        parent, color=faint, lw=0.8, ls=(0, (4, 3)), label="better parent, fresh seeds", zorder=1
    )
    names = {"rl_guidance": "scale", "negation": "strength"}
    axis.set_xlabel(names.get(search.operator, "weight of member 0 (member 1 has the rest)"))
    axis.set_ylabel(f"{search.task}: {search.metric}")
    axis.margins(y=0.1)
    add_legend(axis, theme)
    return figure


def _place(candidate: Candidate) -> float:
    """Return the weight of the first member, or the scale."""
    return candidate.numbers[0]


def _bar(axis: Axes, place: float, interval: Interval, color: str) -> None:
    if interval.is_known:
        axis.plot([place, place], [interval.low, interval.high], color=color, lw=2.0, alpha=0.45)


def _as_list(search: WeightSearch, theme: Theme) -> Figure:
    rows: list[tuple[str, float, Interval]] = []
    for c in search.candidates:
        label = point_text(c.point) + (f" (stopped, n={c.n})" if c.is_stopped else "")
        rows.append((label, c.mean, c.interval))
    for number, result in search.report.items():
        label = f"fresh seeds: {point_text(search.candidates[number].point)}"
        interval = result.interval(search.metric, confidence=search.confidence)
        rows.append((label, result.mean(search.metric), interval))
    reference = search.report[search.better_parent.number].mean(search.metric)
    return draw_intervals(
        rows, xlabel=f"{search.task}: {search.metric}", reference=reference, theme=theme
    )
