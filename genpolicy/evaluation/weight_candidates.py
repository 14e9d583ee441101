"""Candidates of a weight search, and how much better than it is the best of them looks.

The candidate that scored best on the seeds that chose it looks better than it is. With x_cs the
value of candidate c on seed s, m_c its mean and n_s counts of a resample of the n seeds, the size
of that effect among equally good candidates is ::

    (1)  E max_c sum_s (n_s/n) (x_cs - m_c)

which keeps that all candidates met the same seeds. With independent outcomes, 11 candidates and
200 episodes it is 5.6 points at a rate of 0.5.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from genpolicy.errors import UsageError
from genpolicy.evaluation.statistics import Interval, bootstrap_interval, wilson_interval
from genpolicy.evaluation.weight_family import Family, Point, point_from_json, point_to_json
from genpolicy.seeding import derive_seed

__all__ = ["Candidate", "SelectionBias", "expected_optimism", "fields_of"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One setting of the operator, with what it scored on the validation seeds.

    Args:
        number: in the order of the search.
        point: weights of the members, or scale, or strength, or a schedule of weights.
        values: the metric of each episode, in the order of the validation seeds; fewer than those
            where it was stopped.
        is_rate: whether all values are 0 or 1.
        is_stopped: whether it was given up early as hopeless.
        parent: number of the member that it is alone; None for a proper composition.
        is_end: whether it is an end of the searched range, which is never stopped.
        confidence: of ``interval``.
    """

    number: int
    point: Point
    values: tuple[float, ...]
    is_rate: bool
    is_stopped: bool = False
    parent: int | None = None
    is_end: bool = False
    confidence: float = 0.95

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers of ``point``.

        Raises:
            UsageError: for a schedule, which has others at each level.
        """
        return Family.values(self.point)

    @property
    def n(self) -> int:
        """Number of its episodes."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean over its episodes."""
        return math.fsum(self.values) / len(self.values)

    @functools.cached_property
    def interval(self) -> Interval:
        """Interval of the mean, of this candidate alone."""
        if self.is_rate:
            return wilson_interval(
                round(math.fsum(self.values)), self.n, confidence=self.confidence
            )
        return bootstrap_interval(self.values, confidence=self.confidence)

    def to_json(self) -> dict[str, Any]:
        """Return plain containers that ``from_json`` reads back."""
        return {
            **fields_of(self),
            "point": point_to_json(self.point),
            "values": list(self.values),
            "mean": self.mean,
            "interval": self.interval.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """Rebuild a candidate from ``to_json``."""
        fields = {name: data[name] for name in cls.__dataclass_fields__}
        point = point_from_json(data["point"])
        return cls(**{**fields, "point": point, "values": tuple(data["values"])})


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, without what it has computed and kept."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


@dataclass(frozen=True, kw_only=True)
class SelectionBias:
    """By how much the best candidate looks better than it is.

    Args:
        observed: its mean on the validation seeds minus its mean on the report seeds.
        expected: (1): what the best of as many equally good candidates would show.
        n_candidates: candidates it was chosen from.
        n_seeds: validation seeds.
    """

    observed: float
    expected: float
    n_candidates: int
    n_seeds: int


def expected_optimism(
    values: Sequence[Sequence[float]], *, n_seeds: int, n_resamples: int = 4000, seed: int = 0
) -> float:
    """Return (1): how good the best of some equally good candidates looks by luck.

    Args:
        values: for each candidate its values on the same seeds, in the same order. Where some have
            fewer, all are compared on the seeds that all have, and the result is scaled to
            ``n_seeds``: it falls with the root of their number.
        n_seeds: seeds that the best is chosen on.
        n_resamples: of the bootstrap over seeds.
        seed: of the bootstrap.

    Returns:
        At least 0; 0 for one candidate, in the unit of the values.

    Raises:
        UsageError: for no candidates, or one without values.
    """
    n = min((len(row) for row in values), default=0)
    if n < 1 or n_seeds < 1:
        raise UsageError(
            f"expected_optimism: got {len(values)} candidates with at least {n} values and "
            f"{n_seeds} seeds, expected at least one of each"
        )
    table: Float[np.ndarray, "candidates n"] = np.array([list(row[:n]) for row in values])
    table = table - table.mean(1, keepdims=True)
    rng = np.random.default_rng(derive_seed(seed, "optimism"))
    counts = rng.multinomial(n, np.full(n, 1.0 / n), size=n_resamples)
    # Centred at the sample's own mean the spread is too small by (n - 1)/n.
    scale = math.sqrt(n / max(n - 1, 1)) * math.sqrt(n / n_seeds)
    means: Float[np.ndarray, "resamples candidates"] = counts @ table.T / n
    return max(float(means.max(1).mean() - means.mean()) * scale, 0.0)
