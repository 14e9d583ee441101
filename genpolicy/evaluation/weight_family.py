"""What a weight search searches: the settings of one operator, as points of a box.

========== ======================= ==================================================
operator   point                   ends
========== ======================= ==================================================
mean       one weight per member   each member alone (weight 1)
rl_guidance the scale              the range's, and the members: scale 0 and scale 1
negation   the strength            the range's, and the first member: strength 0
========== ======================= ==================================================

With u uniform in the unit cube, weights that are uniform on the simplex of k members are, for
i = 1 .. k - 1 and the last the rest::

    (1)  w_i = (1 - w_1 - ... - w_(i-1)) (1 - (1 - u_i)^(1/(k - i)))
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from genpolicy.composition.weights import LevelWeights
from genpolicy.errors import UsageError, nearest
from genpolicy.policies.operators import Mean, Negation, Operator, RLGuidance
from genpolicy.seeding import derive_seed

__all__ = [
    "Family",
    "Point",
    "SearchedOperator",
    "point_from_json",
    "point_text",
    "point_to_json",
    "suggest",
]

SearchedOperator: TypeAlias = Literal["mean", "rl_guidance", "negation"]

Point: TypeAlias = tuple[float, ...] | LevelWeights
"""Weights of the members; or one scale or strength; or a schedule of weights."""

_DEFAULT_BOUNDS = {"rl_guidance": (0.0, 2.0), "negation": (0.0, 1.0)}
_DIGITS = 3


@dataclass(frozen=True, kw_only=True)
class Family:
    """One operator with everything but its weights, scale or strength.

    Args:
        operator: ``"mean"``, ``"rl_guidance"`` or ``"negation"``.
        n_members: policies that it combines, at least 2; exactly 2 but for the mean.
        bounds: range of the scale or strength; None is 0 to 2 or 0 to 1. None for the mean.

    Raises:
        UsageError: for an unknown operator, a wrong number of members, or an empty range.
    """

    operator: SearchedOperator
    n_members: int
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        known = ("mean", *_DEFAULT_BOUNDS)
        if self.operator not in known:
            raise UsageError(
                f"search_weights: unknown operator {self.operator!r}; "
                f"{nearest(self.operator, known)}"
            )
        if self.n_members < 2 or (self.operator != "mean" and self.n_members != 2):
            wanted = "at least 2" if self.operator == "mean" else "2"
            raise UsageError(
                f"search_weights: {self.operator} has {self.n_members} members, expected {wanted}"
            )
        if self.operator == "mean":
            if self.bounds is not None:
                raise UsageError(
                    f"search_weights: bounds are {self.bounds}, but the weights of a mean are "
                    "those of the simplex; leave bounds out"
                )
            return
        low, high = (float(v) for v in (self.bounds or _DEFAULT_BOUNDS[self.operator]))
        if not 0.0 <= low < high < math.inf:
            raise UsageError(
                f"search_weights: bounds are {(low, high)}, expected 0 <= low < high, finite"
            )
        object.__setattr__(self, "bounds", (low, high))

    @property
    def parents(self) -> dict[int, Point]:
        """For each member that the family holds, the point at which it is that member alone."""
        if self.operator == "negation":
            return {0: (0.0,)}
        if self.operator == "rl_guidance":
            return {0: (0.0,), 1: (1.0,)}
        return {
            i: tuple(1.0 if j == i else 0.0 for j in range(self.n_members))
            for i in range(self.n_members)
        }

    @property
    def ends(self) -> list[Point]:
        """Points that are always tried and never stopped."""
        points = list(self.parents.values())
        if self.bounds is not None:
            points += [(self.bounds[0],), (self.bounds[1],)]
        return list(dict.fromkeys(points))

    @property
    def inside(self) -> Point:
        """A point at which all members take part."""
        if self.bounds is not None:
            return (0.5,)
        return tuple(1.0 / self.n_members for _ in range(self.n_members))

    @property
    def n_dims(self) -> int:
        """Number of coordinates of ``coords``."""
        return self.n_members - 1 if self.bounds is None else 1

    def grid(self, n_trials: int) -> list[Point]:
        """Return an even grid: of ``n_trials`` points, or of the finest lattice with as many.

        The ends are on it, whatever the range; for scales and strengths they may add to it.

        Raises:
            UsageError: when ``n_trials`` is too small for a grid that has more than the ends.
        """
        if self.bounds is not None:
            if n_trials < 2:
                raise UsageError(f"search_weights: n_trials is {n_trials}, expected at least 2")
            low, high = self.bounds
            even = [round(low + (high - low) * i / (n_trials - 1), 10) for i in range(n_trials)]
            values = set(even) | {self.values(point)[0] for point in self.ends}
            return [(value,) for value in sorted(values)]
        steps = 0
        while math.comb(steps + self.n_members, self.n_members - 1) <= n_trials:
            steps += 1
        if steps < 2:
            needed = math.comb(self.n_members + 1, self.n_members - 1)
            raise UsageError(
                f"search_weights: n_trials is {n_trials}, and the coarsest grid over the weights "
                f"of {self.n_members} members that has more than the members themselves is "
                f"{needed} points; raise n_trials or use method='bayes'"
            )
        counts = itertools.product(range(steps + 1), repeat=self.n_members - 1)
        inside = [c for c in counts if sum(c) <= steps]
        return [(*(i / steps for i in c), (steps - sum(c)) / steps) for c in inside]

    def coords(self, point: Point) -> tuple[float, ...]:
        """Return a point in the unit cube, by the inverse of (1)."""
        numbers = self.values(point)
        if self.bounds is not None:
            return ((numbers[0] - self.bounds[0]) / (self.bounds[1] - self.bounds[0]),)
        found: list[float] = []
        left = 1.0
        for i, weight in enumerate(numbers[:-1]):
            share = min(max(weight / left, 0.0), 1.0) if left > 1e-9 else 0.5
            found.append(1.0 - (1.0 - share) ** (self.n_members - 1 - i))
            left -= weight
        return tuple(found)

    def at(self, coords: Sequence[float]) -> Point:
        """Return the point (1) at coordinates in the unit cube, rounded to three decimals."""
        if self.bounds is not None:
            low, high = self.bounds
            return (min(max(round(low + (high - low) * coords[0], _DIGITS), low), high),)
        weights: list[float] = []
        left = 1.0
        for i, u in enumerate(coords):
            weight = left * (1.0 - (1.0 - u) ** (1.0 / (self.n_members - 1 - i)))
            weights.append(min(round(weight, _DIGITS), round(left, _DIGITS)))
            left -= weights[-1]
        return (*weights, max(round(left, _DIGITS), 0.0))

    def checked(self, point: Sequence[float] | LevelWeights) -> Point:
        """Return a user's point.

        Raises:
            UsageError: for one that is not of the family.
        """
        if isinstance(point, LevelWeights):
            if self.operator != "mean" or point.n_members != self.n_members:
                raise UsageError(
                    f"search_weights: got a schedule of weights for {point.n_members} members, "
                    f"expected one for {self.n_members}; only the mean takes schedules"
                )
            return point
        values = tuple(float(v) for v in point)
        is_valid = len(values) == (1 if self.bounds else self.n_members) and min(values) >= 0.0
        if is_valid and self.bounds is None:
            is_valid = abs(math.fsum(values) - 1.0) < 1e-6
        if not is_valid:
            wanted = (
                f"{self.n_members} weights of at least 0 with sum 1"
                if self.bounds is None
                else "one number of at least 0"
            )
            raise UsageError(f"search_weights: got the start {values}, expected {wanted}")
        return values

    def operator_at(self, point: Point) -> Operator:
        """Return the operator with the settings of a point."""
        if self.operator == "mean":
            return Mean(weights=point)
        value = self.values(point)[0]
        return (
            RLGuidance(scale=value) if self.operator == "rl_guidance" else Negation(strength=value)
        )

    @staticmethod
    def values(point: Point) -> tuple[float, ...]:
        """Return the numbers of a point.

        Raises:
            UsageError: for a schedule.
        """
        if isinstance(point, LevelWeights):
            raise UsageError(f"{point_text(point)} varies with the level; it has no fixed weights")
        return point


def suggest(family: Family, tried: Sequence[tuple[Point, float]], *, seed: int) -> Point | None:
    """Return the next point to try: the largest expected improvement of a Gaussian process.

    It is a function of its arguments, so that a search can be continued anywhere.

    Args:
        family: what is searched.
        tried: points with their values, larger is better; at least one.
        seed: of the search's random part.

    Returns:
        A point that was not tried, or None when there is none to three decimals.

    Raises:
        UsageError: when Optuna is not installed.
    """
    import warnings

    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "method='bayes' needs Optuna, which is not installed; "
            "pip install 'genpolicy[search]', or use method='grid'"
        ) from error
    known = {point for point, _ in tried}
    placed = [(family.coords(point), value) for point, value in tried]
    inside = [(c, v) for c, v in placed if all(0.0 <= u <= 1.0 for u in c)]
    names = [f"u{i}" for i in range(family.n_dims)]
    distributions = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in names}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = optuna.samplers.GPSampler(seed=seed % 2**32, n_startup_trials=1)
            random = optuna.samplers.RandomSampler(seed=derive_seed(seed, "random") % 2**32)
            for sampler in (model, *[random] * 64):
                study = optuna.create_study(direction="maximize", sampler=sampler)
                for coords, value in inside:
                    study.add_trial(
                        optuna.trial.create_trial(
                            params=dict(zip(names, coords, strict=True)),
                            distributions=dict(distributions),
                            value=value,
                        )
                    )
                drawn = study.ask(dict(distributions)).params
                found = family.at([drawn[name] for name in names])
                if found not in known:
                    return found
    finally:
        optuna.logging.set_verbosity(verbosity)
    return None


def point_text(point: Point) -> str:
    """Return a point as short text, for example ``0.4, 0.6``."""
    if isinstance(point, LevelWeights):
        digest = hashlib.sha256(json.dumps(point_to_json(point)).encode()).hexdigest()[:6]
        return f"schedule {digest}"
    return ", ".join(f"{value:.4g}" for value in point)


def point_to_json(point: Point) -> Any:
    """Return a point in plain containers."""
    if isinstance(point, LevelWeights):
        return {"log_snr": list(point.log_snr), "weights": [list(row) for row in point.weights]}
    return list(point)


def point_from_json(data: Any) -> Point:
    """Return the point of ``point_to_json``."""
    if isinstance(data, dict):
        return LevelWeights(log_snr=data["log_snr"], weights=data["weights"])
    return tuple(float(value) for value in data)
