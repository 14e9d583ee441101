"""The result of ``diagnose``: its arrays, and how they are printed, drawn and stored.

Numbers in parentheses are those of ``genpolicy.evaluation.diagnostics``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from genpolicy.evaluation.records import align_columns
from genpolicy.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genpolicy.evaluation.plot_style import Theme

__all__ = ["FAR", "MUCH_CLIPPED", "Diagnostics"]

FAR = 1.5
"""Ratio (5) from which a member counts as asked where it has no data."""

MUCH_CLIPPED = 0.2
"""Fraction of clipped entries of the samples from which it is worth a warning."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Diagnostics:
    """What happened inside a composition; ``str()`` is for reading.

    Args:
        operator: how the members are combined.
        members: numbers of the members in use, the order of the arrays below.
        times: ``(steps,)`` time at which each step asks the members.
        log_snr: ``(steps,)`` its log-SNR; -inf where there is no signal.
        disagreement: ``(steps,)`` (1), in units of the noise; NaN for a single member, and where no
            two members say something about the same entries.
        departure: ``(members, steps)`` (2).
        clipped: ``(steps,)`` (3), in [0, 1]; None where the actions have no bounds.
        clipped_samples: the same of the finished actions.
        levels: ``(levels,)`` log-SNRs of (4), increasing.
        errors: ``(members, levels)`` (4) of the composition's actions, in normalized units.
        own_errors: ``(members, levels)`` (4) of the members' own samples.
        actions: ``(batch, horizon, action)`` the composition's actions, in physical units: those
            that ``policy.sample`` returns.
    """

    operator: str
    members: tuple[int, ...]
    times: Float[np.ndarray, " steps"]
    log_snr: Float[np.ndarray, " steps"]
    disagreement: Float[np.ndarray, " steps"]
    departure: Float[np.ndarray, "members steps"]
    clipped: Float[np.ndarray, " steps"] | None
    clipped_samples: float | None
    levels: Float[np.ndarray, " levels"]
    errors: Float[np.ndarray, "members levels"]
    own_errors: Float[np.ndarray, "members levels"]
    actions: Float[np.ndarray, "batch horizon action"]

    @property
    def ratios(self) -> Float[np.ndarray, "members levels"]:
        """The ratios (5)."""
        return self.errors / self.own_errors

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to look at, one sentence each; empty when nothing stands out."""
        found: list[str] = []
        for number, row in zip(self.members, self.ratios, strict=True):
            worst = int(np.argmax(row))
            if row[worst] >= FAR:
                found.append(
                    f"member {number} denoises the composition's actions {row[worst]:.1f} times as "
                    f"badly as its own (log-SNR {self.levels[worst]:g}): it has little data there"
                )
        if self.clipped_samples is not None and self.clipped_samples >= MUCH_CLIPPED:
            found.append(
                f"{self.clipped_samples:.0%} of the entries are at the bounds of the actions: the "
                "weights or scales may push the actions out of the data"
            )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Return plain containers, without the actions; what is not finite becomes None."""
        values = {name: _plain(value) for name, value in vars(self).items() if name != "actions"}
        return values | {
            "n_samples": len(self.actions),
            "ratios": _plain(self.ratios),
            "warnings": list(self.warnings),
        }

    def draw(self, theme: Theme | None = None) -> Figure:
        """Draw disagreement and departures, clipped entries and ratios, one below the other.

        Args:
            theme: colours; None is ``plot_style.LIGHT``.
        """
        from genpolicy.evaluation import plot_style as style

        colors = style.LIGHT if theme is None else theme
        figure = style.new_figure(style.WIDTH, 4.9, colors)
        noise, clip, ratio = figure.subplots(3, 1, height_ratios=(1.4, 0.8, 1.2))
        steps = np.arange(1, len(self.times) + 1)
        noise.plot(steps, self.disagreement, color=colors.ink, lw=1.6, label="between members")
        for i, number in enumerate(self.members):
            line = {
                "color": colors.colors[i % len(colors.colors)],
                "lw": 1.2,
                "marker": ".",
                "ms": 4,
            }
            noise.plot(steps, self.departure[i], label=f"from member {number}", **line)
            ratio.plot(self.levels, self.ratios[i], label=f"member {number}", **line)
        noise.set_ylabel("difference of noise")
        if self.clipped is not None:
            clip.plot(steps, self.clipped, color=colors.bad, lw=1.4)
        clip.set_ylim(-0.02, 1.02)
        clip.set_ylabel("clipped")
        clip.set_xlabel("step")
        ratio.axhline(1.0, color=colors.ink, lw=0.8, ls=":")
        ratio.set_ylabel("error / own error")
        ratio.set_xlabel("log-SNR of the added noise")
        for axis in (noise, clip, ratio):
            style.style_axis(axis, colors)
        style.add_legend(noise, colors)
        style.add_legend(ratio, colors)
        style.add_title(noise, f"{self.operator}, {len(self.actions)} samples", colors)
        return figure

    def plot(self, path: str | Path) -> None:
        """Write ``draw()`` as a PNG."""
        from genpolicy.evaluation.plot_style import png

        write_bytes(path, png(self.draw()))

    def __str__(self) -> str:
        """Return two tables and the warnings."""
        numbers = [str(n) for n in self.members]
        head = ["step", "time", "log-SNR", "disagreement", *(f"from {n}" for n in numbers)]
        rows = [[*head, "clipped"]]
        for k, (time, level) in enumerate(zip(self.times, self.log_snr, strict=True)):
            clip = "-" if self.clipped is None else f"{self.clipped[k]:.3f}"
            apart = "-" if math.isnan(self.disagreement[k]) else f"{self.disagreement[k]:.4f}"
            away = [f"{value:.4f}" for value in self.departure[:, k]]
            rows.append([str(k + 1), f"{time:.4f}", f"{level:.2f}", apart, *away, clip])
        table = [["member", "log-SNR", "error", "own error", "ratio"]]
        for i, number in enumerate(numbers):
            for k, level in enumerate(self.levels):
                error, own = self.errors[i, k], self.own_errors[i, k]
                ratio = f"{error / own:.2f}"
                table.append([number, f"{level:g}", f"{error:.4f}", f"{own:.4f}", ratio])
        parts = [
            f"{self.operator}: {len(self.actions)} samples, members {', '.join(numbers)}",
            "at the states visited (differences in units of the noise):",
            align_columns(rows, right=tuple(range(len(rows[0])))),
        ]
        if self.clipped_samples is not None:
            parts.append(f"clipped entries of the samples: {self.clipped_samples:.3f}")
        parts += [
            "denoising errors on the samples (normalized units):",
            align_columns(table, right=tuple(range(len(table[0])))),
        ]
        return "\n".join([*parts, *(f"warning: {text}" for text in self.warnings)])


def _plain(value: Any) -> Any:
    """Return arrays as lists, with None for what is not finite."""
    if isinstance(value, np.ndarray):
        return [_plain(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return list(value) if isinstance(value, tuple) else value
