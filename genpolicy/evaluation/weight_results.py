"""What a weight search leaves behind: every candidate's episodes, the report, and its reading.

No figure is corrected: the candidate that won looks better than it is on the seeds that chose it
(``weight_candidates``), so the figures to quote are those on seeds that had no part in the choice.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genpolicy.config import build, config_of
from genpolicy.errors import UsageError
from genpolicy.evaluation.records import (
    EvalResult,
    align_columns,
    compare_results,
    format_figure,
    format_interval,
    format_seeds,
)
from genpolicy.evaluation.statistics import PairedDifference
from genpolicy.evaluation.weight_candidates import (
    Candidate,
    SelectionBias,
    expected_optimism,
    fields_of,
)
from genpolicy.evaluation.weight_family import point_text, point_to_json
from genpolicy.sampling import Sampler

__all__ = ["WeightSearch"]

_SCHEMA = 1
_WEAK = 1.0 / 3.0


@dataclass(frozen=True, kw_only=True)
class WeightSearch:
    """A finished weight search; ``str()`` is for reading.

    Args:
        task: name of the task.
        metric: what was maximised.
        is_rate: whether it is 0 or 1 in every episode.
        operator: ``"mean"``, ``"rl_guidance"`` or ``"negation"``.
        method: ``"grid"`` or ``"bayes"``.
        members: one line about each.
        seeds: validation seeds, in order.
        candidates: all that were tried, in their order.
        best_number: the candidate with the highest mean of those that were not stopped.
        validation: of the best, on the validation seeds.
        report: on fresh seeds, by candidate number: of the best and of every parent.
        sampler: what every candidate ran with; None is the reference's own. Compose the best with
            it to get the policy that was evaluated.
        confidence: of all intervals.
    """

    task: str
    metric: str
    is_rate: bool
    operator: str
    method: str
    members: tuple[str, ...]
    seeds: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    best_number: int
    validation: EvalResult
    report: Mapping[int, EvalResult]
    sampler: Sampler | None = None
    confidence: float = 0.95

    @property
    def best(self) -> Candidate:
        """The candidate that the search chose."""
        return self.candidates[self.best_number]

    @property
    def parents(self) -> tuple[Candidate, ...]:
        """The candidates that are one member alone, under the sampler of the composition."""
        return tuple(c for c in self.candidates if c.parent is not None)

    @property
    def better_parent(self) -> Candidate:
        """The parent with the higher mean on the report seeds: the harder one to beat."""
        return max(self.parents, key=lambda c: self.report[c.number].mean(self.metric))

    @property
    def report_seeds(self) -> tuple[int, ...]:
        """The fresh seeds."""
        return self.report[self.best_number].seeds

    @functools.cached_property
    def differences(self) -> Mapping[int, PairedDifference]:
        """The best minus each parent on the report seeds, by the parent's candidate number."""
        return {
            parent.number: compare_results(
                self.report[self.best_number],
                self.report[parent.number],
                metric=self.metric,
                confidence=self.confidence,
            )
            for parent in self.parents
            if parent.number != self.best_number
        }

    @property
    def difference(self) -> PairedDifference | None:
        """The best minus the better parent on the report seeds; None where they are the same."""
        return self.differences.get(self.better_parent.number)

    @functools.cached_property
    def selection_bias(self) -> SelectionBias:
        """By how much the best looks better on the seeds that chose it."""
        fresh = self.report[self.best_number].mean(self.metric)
        return SelectionBias(
            observed=self.best.mean - fresh,
            expected=expected_optimism(
                [c.values for c in self.candidates], n_seeds=len(self.seeds)
            ),
            n_candidates=len(self.candidates),
            n_seeds=len(self.seeds),
        )

    @property
    def verdict(self) -> str:
        """Whether the composition beats the better parent, by the interval on the report seeds."""
        parent = self.better_parent
        name = f"member {parent.parent}"
        found = self.difference
        if found is None:
            return f"the best is the better parent, {name}, alone: composing does not help here"
        low, high = found.interval.low, found.interval.high
        size = f"{found.mean:+.3f}, {found.interval.confidence:.0%} interval "
        size += format_interval(found.interval)
        if low > 0.0:
            return f"beats the better parent, {name} ({size})"
        if high < 0.0:
            return f"does worse than the better parent, {name} ({size})"
        return f"does not beat the better parent, {name} ({size})"

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about this search."""
        found: list[str] = []
        means = [c.mean for c in self.parents]
        if len(means) > 1 and min(means) >= 0.0 and min(means) < _WEAK * max(means):
            weak = min(self.parents, key=lambda c: c.mean)
            found.append(
                f"member {weak.parent} scores less than a third of the better one; such a partner "
                "rarely helps, and large weights on it hurt"
            )
        if self.best.is_end and self.best.parent is None:
            found.append("the best is at the end of the range; widen it with bounds")
        return tuple(found)

    def plot(self, path: str | Path) -> Path:
        """Write the curve of the search as a PNG, with intervals, parents and report.

        Returns:
            The file.
        """
        from genpolicy.evaluation.plot_style import png
        from genpolicy.evaluation.weight_curve import draw_weight_curve
        from genpolicy.files import write_bytes

        target = Path(path)
        write_bytes(target, png(draw_weight_curve(self)))
        return target

    def to_json(self) -> dict[str, Any]:
        """Return plain, strict-JSON containers: the figures, and all that ``from_json`` needs."""
        bias, difference = self.selection_bias, self.difference
        return {
            "schema_version": _SCHEMA,
            **fields_of(self),
            "members": list(self.members),
            "seeds": list(self.seeds),
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "validation": self.validation.to_json(),
            "sampler": config_of(self.sampler),
            "report": {str(number): r.to_json() for number, r in self.report.items()},
            "summary": {
                "best": point_to_json(self.best.point),
                "verdict": self.verdict,
                "difference": None
                if difference is None
                else {**vars(difference), "interval": difference.interval.to_json()},
                "selection_bias": vars(bias),
                "notes": list(self.notes),
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WeightSearch:
        """Rebuild a search from ``to_json``.

        Raises:
            UsageError: for a newer schema.
        """
        if data["schema_version"] > _SCHEMA:
            raise UsageError(
                f"this search has schema {data['schema_version']}, this genpolicy reads {_SCHEMA}; "
                "upgrade genpolicy"
            )
        fields = {name: data[name] for name in cls.__dataclass_fields__}
        fields["members"], fields["seeds"] = tuple(data["members"]), tuple(data["seeds"])
        fields["candidates"] = tuple(Candidate.from_json(c) for c in data["candidates"])
        fields["validation"] = EvalResult.from_json(data["validation"])
        fields["report"] = {int(n): EvalResult.from_json(r) for n, r in data["report"].items()}
        fields["sampler"] = build(data["sampler"])
        return cls(**fields)

    def __str__(self) -> str:
        bias = self.selection_bias
        percent = f"{self.confidence:.0%}"
        order = dict.fromkeys([self.best_number, *(c.number for c in self.parents)])
        lines = [
            f"{self.task}: {self.method} search of {self.operator} by {self.metric}, "
            f"{len(self.candidates)} candidates, seeds {format_seeds(self.seeds)}",
            *(f"  member {i}: {text}" for i, text in enumerate(self.members)),
            "",
            align_columns(
                [
                    ["", "setting", "n", "mean", f"{percent} interval", ""],
                    *(self._row(candidate) for candidate in self.candidates),
                ],
                right=(2, 3),
            ),
            "",
            f"on fresh seeds {format_seeds(self.report_seeds)}:",
            align_columns(
                [
                    [
                        "",
                        "setting",
                        "n",
                        "mean",
                        f"{percent} interval",
                        f"best minus it ({percent})",
                    ],
                    *(self._report_row(number) for number in order),
                ],
                right=(2, 3),
            ),
            "",
            f"verdict: the composition {point_text(self.best.point)} {self.verdict}"
            if self.difference is not None
            else f"verdict: {self.verdict}",
            f"selection: the best showed {format_figure(self.best.mean)} on the seeds that chose "
            f"it, {bias.observed:+.3f} against fresh ones; the best of {bias.n_candidates} equally "
            f"good candidates on {bias.n_seeds} seeds would show {bias.expected:+.3f} by luck. "
            "Quote the figures on fresh seeds.",
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def _row(self, candidate: Candidate) -> list[str]:
        marks = ["best"] if candidate.number == self.best_number else []
        if candidate.parent is not None:
            marks.append(f"member {candidate.parent} alone")
        if candidate.is_stopped:
            marks.append(f"stopped after {candidate.n} episodes")
        return [
            str(candidate.number),
            point_text(candidate.point),
            str(candidate.n),
            format_figure(candidate.mean),
            format_interval(candidate.interval),
            ", ".join(marks),
        ]

    def _report_row(self, number: int) -> list[str]:
        candidate, result = self.candidates[number], self.report[number]
        difference = self.differences.get(number)
        gap = ""
        if difference is not None:
            gap = f"{difference.mean:+.3f} ({format_interval(difference.interval)})"
        return [
            "best" if number == self.best_number else f"member {candidate.parent}",
            point_text(candidate.point),
            str(len(result.records)),
            format_figure(result.mean(self.metric)),
            format_interval(result.interval(self.metric, confidence=self.confidence)),
            gap,
        ]
