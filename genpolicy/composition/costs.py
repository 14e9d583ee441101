"""Costs of action chunks: smooth, in physical units, each with a measure of its violation.

Every cost is half a sum of squared hinges, so that it is 0 exactly where its constraint holds, has
a gradient everywhere, and where the hinge is open ``scale`` in exp(-scale C) is a precision::

    C = 1/2 sum_k max(0, d_k + margin)^2,     d_k: depth of the violation at step k          (1)

Costs take actions ``(batch, horizon, action)`` and observations ``{key: (batch, n_obs_steps,
...)}``, both in physical units, and return ``(batch,)``. Index 0 of a chunk belongs to the oldest
observation: the first ``n_obs_steps - 1`` entries are past and do not count. Without observations
(an empty mapping) every entry counts.

Where the agent is at each step is the business of ``genpolicy.composition.positions``. Costs are
frozen values of plain numbers; ``genpolicy.config.config_of`` makes JSON of them for ``build``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.composition.positions import (
    ActionIsPosition,
    PointMass,
    Positions,
    check_at_least_0,
    check_positive,
    coming_of,
    entries_of,
    length_of,
    n_past_of,
    vector_of,
)
from genpolicy.errors import UsageError
from genpolicy.shapes import Chunk, Obs

__all__ = [
    "ActionIsPosition",
    "BoundCost",
    "Cost",
    "CostFunction",
    "CostSum",
    "InBox",
    "KeepOut",
    "PointMass",
    "Positions",
    "Smoothness",
    "SpeedLimit",
    "Waypoint",
    "bind_cost",
]

_ACTION = ActionIsPosition()


@runtime_checkable
class Cost(Protocol):
    """A differentiable cost of a chunk, and how far the chunk is from being without."""

    def __call__(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the cost of each row, at least 0."""
        ...

    def violation(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the depth of each row's worst violation, 0 where the constraint holds."""
        ...


CostFunction: TypeAlias = Callable[[Chunk, Obs], Float[Tensor, " batch"]]
"""What guidance needs of a cost."""


@dataclass(frozen=True, kw_only=True)
class KeepOut:
    """Stay outside a disc (in more dimensions a ball).

    The cost is (1) with d the depth inside the disc; ``violation`` is the largest depth. At the
    very centre, where no direction leads out first, the gradient is 0.

    Args:
        center: its centre.
        radius: its radius, positive.
        margin: distance from it at which the cost begins, at least 0.
        positions: where the position of each step comes from.

    Raises:
        UsageError: for values outside these ranges.
    """

    center: Sequence[float]
    radius: float
    margin: float = 0.0
    positions: Positions = _ACTION

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", tuple(float(c) for c in self.center))
        check_positive("KeepOut", {"radius": self.radius})
        check_at_least_0("KeepOut", {"margin": self.margin})

    def _depth(self, actions: Chunk, obs: Obs) -> Float[Tensor, "batch horizon"]:
        found = coming_of(self.positions(actions, obs), obs)
        offset = found - vector_of(self.center, found, "KeepOut: center")
        return self.radius - length_of(offset)

    def __call__(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the cost in squared units of length."""
        return _half_square(self._depth(actions, obs) + self.margin)

    def violation(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the largest depth inside the disc."""
        return _worst(self._depth(actions, obs))


@dataclass(frozen=True, kw_only=True)
class InBox:
    """Stay inside a box.

    The cost is (1) with d the excess over each face; ``violation`` is the largest excess.

    Args:
        low: lowest coordinates.
        high: highest coordinates, each above ``low``.
        margin: distance inside the faces at which the cost begins, at least 0.
        positions: where the position of each step comes from.

    Raises:
        UsageError: for values outside these ranges.
    """

    low: Sequence[float]
    high: Sequence[float]
    margin: float = 0.0
    positions: Positions = _ACTION

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", tuple(float(c) for c in self.low))
        object.__setattr__(self, "high", tuple(float(c) for c in self.high))
        pairs = zip(self.low, self.high, strict=False)
        if len(self.low) != len(self.high) or not all(a < b for a, b in pairs):
            raise UsageError(
                f"InBox: low is {self.low} and high is {self.high}, expected as many coordinates, "
                "each low below its high"
            )
        check_at_least_0("InBox", {"margin": self.margin})

    def _excess(self, actions: Chunk, obs: Obs) -> Float[Tensor, "batch horizon faces"]:
        found = coming_of(self.positions(actions, obs), obs)
        below = vector_of(self.low, found, "InBox: low") - found
        above = found - vector_of(self.high, found, "InBox: high")
        return torch.cat([below, above], dim=-1)

    def __call__(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the cost in squared units of length."""
        return _half_square(self._excess(actions, obs) + self.margin)

    def violation(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the largest excess."""
        return _worst(self._excess(actions, obs))


@dataclass(frozen=True, kw_only=True)
class SpeedLimit:
    """Move no faster than a limit, measured between the positions of consecutive steps.

    The cost is (1) with d the excess speed; ``violation`` is the largest excess.

    Args:
        limit: largest speed in units of length per s, at least 0.
        dt: duration of a step in s, positive.
        margin: excess speed is counted from ``limit - margin`` on, at least 0.
        positions: where the position of each step comes from.

    Raises:
        UsageError: for values outside these ranges.
    """

    limit: float
    dt: float
    margin: float = 0.0
    positions: Positions = _ACTION

    def __post_init__(self) -> None:
        check_positive("SpeedLimit", {"dt": self.dt})
        check_at_least_0("SpeedLimit", {"limit": self.limit, "margin": self.margin})

    def _excess(self, actions: Chunk, obs: Obs) -> Float[Tensor, "batch pairs"]:
        found = self.positions(actions, obs)
        # The last past position, where there is one, is where the first step starts.
        recent = found[:, max(n_past_of(obs) - 1, 0) :]
        return length_of(recent.diff(dim=1)) / self.dt - self.limit

    def __call__(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the cost in squared units of speed."""
        return _half_square(self._excess(actions, obs) + self.margin)

    def violation(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the largest excess speed; 0 for a single position."""
        return _worst(self._excess(actions, obs))


@dataclass(frozen=True, kw_only=True)
class Smoothness:
    """Keep the finite differences of the actions small; past actions count as neighbours.

    The cost is (1) with d the absolute difference of ``order`` above ``limit``, entry by entry.

    Args:
        order: 1 for changes of the action, 2 for changes of the change, at least 1. The chunk has
            to be longer.
        limit: differences up to it cost nothing, at least 0, in units of the action.
        dims: entries of the action that count; None for all.

    Raises:
        UsageError: for values outside these ranges.
    """

    order: int = 2
    limit: float = 0.0
    dims: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.order < 1:
            raise UsageError(f"Smoothness: order is {self.order}, expected at least 1")
        check_at_least_0("Smoothness", {"limit": self.limit})
        if self.dims is not None:
            object.__setattr__(self, "dims", tuple(int(i) for i in self.dims))

    def _excess(self, actions: Chunk, obs: Obs) -> Float[Tensor, "batch differences dims"]:
        # Every difference takes part in which at least one coming action does.
        recent = actions[:, max(n_past_of(obs) - self.order, 0) :]
        if recent.shape[1] <= self.order:
            raise UsageError(
                f"Smoothness: differences of order {self.order} need more than {self.order} "
                f"actions, got a chunk of {actions.shape[1]}; lower order"
            )
        chosen = recent if self.dims is None else entries_of(recent, self.dims, "action")
        return chosen.diff(n=self.order, dim=1).abs() - self.limit

    def __call__(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the cost in squared units of the action."""
        return _half_square(self._excess(actions, obs))

    def violation(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the largest difference above the limit."""
        return _worst(self._excess(actions, obs))


@dataclass(frozen=True, kw_only=True)
class Waypoint:
    """Be near a point at one step.

    The cost is (1) with d the distance beyond ``tolerance``, which is also ``violation``.

    Args:
        point: its coordinates.
        step: index in the chunk; negative ones count from its end. Not a past one.
        tolerance: distance that is near enough, at least 0.
        positions: where the position of each step comes from.

    Raises:
        UsageError: for values outside these ranges.
    """

    point: Sequence[float]
    step: int = -1
    tolerance: float = 0.0
    positions: Positions = _ACTION

    def __post_init__(self) -> None:
        object.__setattr__(self, "point", tuple(float(c) for c in self.point))
        check_at_least_0("Waypoint", {"tolerance": self.tolerance})

    def _excess(self, actions: Chunk, obs: Obs) -> Float[Tensor, "batch one"]:
        found = self.positions(actions, obs)
        horizon, n_past = found.shape[1], n_past_of(obs)
        step = self.step + horizon if self.step < 0 else self.step
        if not n_past <= step < horizon:
            raise UsageError(
                f"Waypoint: step is {self.step}, expected an index from {n_past} (the current "
                f"step) to {horizon - 1} of a chunk of {horizon}"
            )
        offset = found[:, step] - vector_of(self.point, found, "Waypoint: point")
        return (length_of(offset) - self.tolerance)[:, None]

    def __call__(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the cost in squared units of length."""
        return _half_square(self._excess(actions, obs))

    def violation(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the distance beyond the tolerance."""
        return _worst(self._excess(actions, obs))


@dataclass(frozen=True, kw_only=True)
class CostSum:
    """A weighted sum of costs.

    Args:
        terms: pairs of a cost and its weight, positive and finite; at least one.

    Raises:
        UsageError: for values outside these ranges.
    """

    terms: Sequence[tuple[Cost, float]]

    def __post_init__(self) -> None:
        terms = tuple((cost, float(weight)) for cost, weight in self.terms)
        if not terms:
            raise UsageError("CostSum: got no terms, expected at least one (cost, weight)")
        for number, (_, weight) in enumerate(terms):
            if not 0.0 < weight < math.inf:
                raise UsageError(
                    f"CostSum: weight of term {number} is {weight}, expected positive and finite"
                )
        object.__setattr__(self, "terms", terms)

    def __call__(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the weighted sum."""
        return torch.stack([weight * cost(actions, obs) for cost, weight in self.terms]).sum(0)

    def violation(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the largest violation of a term, whatever its units: above 0 where any has one."""
        return torch.stack([cost.violation(actions, obs) for cost, _ in self.terms]).amax(0)


@dataclass(frozen=True, eq=False)
class BoundCost:
    """A cost with its observations, as a function of the actions alone; see ``bind_cost``."""

    cost: CostFunction
    obs: Obs

    def __call__(self, actions: Chunk) -> Float[Tensor, " batch"]:
        """Return the cost of each row."""
        return self.cost(actions, self.obs)

    def violation(self, actions: Chunk) -> Float[Tensor, " batch"]:
        """Return the depth of each row's worst violation.

        Raises:
            UsageError: for a plain function, which has none.
        """
        if not isinstance(self.cost, Cost):
            raise UsageError(
                "violation: the cost is a plain function; give it a violation(actions, obs) as well"
            )
        return self.cost.violation(actions, self.obs)


def bind_cost(cost: CostFunction, obs: Obs, *, repeats: int = 1) -> BoundCost:
    """Return a cost of actions alone, as ``CostGuided`` takes it.

    Args:
        cost: the cost, or a function of actions and observations.
        obs: observations by key ``(batch, n_obs_steps, ...)``, physical units. Copies are kept, so
            that observations of inference mode can take part in a gradient.
        repeats: consecutive rows of actions per row of observations, at least 1, for groups of
            candidates or particles.

    Raises:
        UsageError: for ``repeats`` below 1.
    """
    if repeats < 1:
        raise UsageError(f"bind_cost: repeats is {repeats}, expected at least 1")
    with torch.inference_mode(False):
        kept = {key: value.clone().repeat_interleave(repeats, 0) for key, value in obs.items()}
    return BoundCost(cost, kept)


def _half_square(excess: Tensor) -> Tensor:
    return 0.5 * excess.clamp(min=0.0).square().flatten(1).sum(1)


def _worst(excess: Tensor) -> Tensor:
    flat = excess.flatten(1)
    return flat.amax(1).clamp(min=0.0) if flat.shape[1] else flat.new_zeros(len(flat))
