"""How a composed policy combines its members: plain values that a checkpoint can hold.

Each operator builds a denoiser of ``genpolicy.composition`` from the members' denoisers, which come
on one path, in one unit, and bound to their own observations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from genpolicy import composition
from genpolicy.composition import Member, Weights, WeightSchedule
from genpolicy.data.normalizer import Normalizer
from genpolicy.errors import UsageError
from genpolicy.policies.critic import Critic
from genpolicy.shapes import Chunk, Obs

__all__ = [
    "Conjunction",
    "CostGuidance",
    "EndpointMean",
    "Mean",
    "Negation",
    "Operator",
    "Product",
    "RLGuidance",
    "Superposition",
    "ValueGuidance",
    "WeightsOfObs",
]

WeightsOfObs: TypeAlias = Callable[[Obs], Float[Tensor, "batch members"]]
"""Weights that depend on the observation: physical units in, one row of weights per row out."""


@runtime_checkable
class Operator(Protocol):
    """Builds one denoiser of several."""

    def build(self, members: Sequence[Member], *, obs: Obs, normalizer: Normalizer) -> Member:
        """Return the composition.

        Args:
            members: denoisers of the members in use, in order.
            obs: observations of the composition in physical units.
            normalizer: units of the actions.
        """
        ...

    def used(self, n_members: int) -> tuple[int, ...]:
        """Return the numbers of the members that are evaluated."""
        ...


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The convex mixture of scores, see ``composition.mean``.

    Args:
        weights: one per member, or a schedule of them, or a function of the observation.
    """

    weights: Sequence[float] | WeightSchedule | WeightsOfObs

    def used(self, n_members: int) -> tuple[int, ...]:
        """Return the members whose weight is not 0."""
        return _not_zero(self.weights, n_members)

    def build(self, members: Sequence[Member], *, obs: Obs, normalizer: Normalizer) -> Member:
        """Return the mixture of the members in use."""
        return composition.mean(members, _resolved(self.weights, obs))


@dataclass(frozen=True, kw_only=True)
class Product:
    """The product of experts, see ``composition.product``.

    Args:
        weights: one per member; None is 1 for each.
    """

    weights: Sequence[float] | None = None

    def used(self, n_members: int) -> tuple[int, ...]:
        """Return the members whose weight is not 0."""
        return _not_zero(self.weights, n_members)

    def build(self, members: Sequence[Member], *, obs: Obs, normalizer: Normalizer) -> Member:
        """Return the product of the members in use."""
        weights = None if self.weights is None else [w for w in self.weights if w != 0.0]
        return composition.product(members, weights)


@dataclass(frozen=True, kw_only=True)
class RLGuidance:
    """From a base policy (scale 0) through a tuned one (1) and beyond.

    Args:
        scale: at least 0.
    """

    scale: float

    def used(self, n_members: int) -> tuple[int, ...]:
        """Return the members whose weight is not 0."""
        return _not_zero((1.0 - self.scale, self.scale), n_members)

    def build(self, members: Sequence[Member], *, obs: Obs, normalizer: Normalizer) -> Member:
        """Return the guided denoiser; at scale 0 and 1 there is one member."""
        if len(members) == 1:
            return members[0]
        return composition.rl_guidance(members[0], members[1], scale=self.scale)


@dataclass(frozen=True, kw_only=True)
class Negation:
    """What the first member does and the second does not.

    Args:
        strength: at least 0.
    """

    strength: float

    def used(self, n_members: int) -> tuple[int, ...]:
        """Return the members whose weight is not 0."""
        return _not_zero((1.0 + self.strength, -self.strength), n_members)

    def build(self, members: Sequence[Member], *, obs: Obs, normalizer: Normalizer) -> Member:
        """Return the composition; at strength 0 it is the first member."""
        if len(members) == 1:
            return members[0]
        return composition.negation(members[0], members[1], strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class Conjunction:
    """Every condition at once: the first member is the policy without condition.

    Args:
        scale: weight of every condition, or one for all.
    """

    scale: float | Sequence[float] = 1.0

    def used(self, n_members: int) -> tuple[int, ...]:
        """Return all members."""
        return tuple(range(n_members))

    def build(self, members: Sequence[Member], *, obs: Obs, normalizer: Normalizer) -> Member:
        """Return the conjunction."""
        return composition.conjunction(members[0], members[1:], scale=self.scale)


@dataclass(frozen=True, kw_only=True)
class Superposition:
    """SuperDiff: ``"or"`` is the mixture by tracked log-densities, ``"and"`` equal likelihood.

    Args:
        mode: ``"or"`` or ``"and"``.
        temperature: factor of the log-densities, for ``"or"``; 1 is the mixture.
        prior: probability of each member, for ``"or"``; None is the same for all.
        correct_widths: for ``"and"``, see ``composition.superpose_and``.
    """

    mode: Literal["or", "and"] = "or"
    temperature: float = 1.0
    prior: Sequence[float] | None = None
    correct_widths: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("or", "and"):
            raise UsageError(f"Superposition: mode is {self.mode!r}, expected 'or' or 'and'")

    def used(self, n_members: int) -> tuple[int, ...]:
        """Return all members."""
        return tuple(range(n_members))

    def build(self, members: Sequence[Member], *, obs: Obs, normalizer: Normalizer) -> Member:
        """Return the superposition."""
        if self.mode == "and":
            return composition.superpose_and(members, correct_widths=self.correct_widths)
        if self.temperature == 1.0:
            return composition.mixture(members, prior=self.prior)
        if self.prior is not None:
            raise UsageError("Superposition: a prior needs temperature 1")
        return composition.superpose_or(members, temperature=self.temperature)


@dataclass(frozen=True, kw_only=True)
class CostGuidance:
    """A member tilted by a cost: ``p exp(-scale cost)``.

    Args:
        cost: ``cost(actions, obs)`` of actions ``(batch, horizon, action)`` and observations in
            physical units, ``(batch,)`` and differentiable; see ``composition.costs``.
        scale: at least 0.
        options: further settings of ``composition.CostGuided``.
    """

    cost: Callable[[Chunk, Obs], Float[Tensor, " batch"]]
    scale: float
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def used(self, n_members: int) -> tuple[int, ...]:
        """Return the one member."""
        return tuple(range(n_members))

    def build(self, members: Sequence[Member], *, obs: Obs, normalizer: Normalizer) -> Member:
        """Return the guided member."""
        if self.scale == 0.0:
            return members[0]

        return composition.CostGuided(
            inner=members[0],
            cost=composition.bind_cost(self.cost, obs),
            scale=self.scale,
            to_physical=normalizer.denormalize_action,
            **self.options,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueGuidance:
    """A member tilted by a critic: ``p exp(scale Q)``, guidance by the cost -Q.

    Args:
        critic: it need not have been trained with the member, nor on its windows or statistics.
        scale: at least 0, in 1/value.
        options: further settings of ``composition.CostGuided``.
    """

    critic: Critic
    scale: float
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def used(self, n_members: int) -> tuple[int, ...]:
        """Return the one member."""
        return tuple(range(n_members))

    def build(self, members: Sequence[Member], *, obs: Obs, normalizer: Normalizer) -> Member:
        """Return the guided member."""

        def cost(actions: Chunk, seen: Obs) -> Float[Tensor, " batch"]:
            return -self.critic(actions, seen)

        guided = CostGuidance(cost=cost, scale=self.scale, options=self.options)
        return guided.build(members, obs=obs, normalizer=normalizer)


@dataclass(frozen=True, kw_only=True)
class EndpointMean:
    """The mean of what consistency policies jump to: a heuristic, see ``composition``.

    Args:
        weights: one per member, at least 0 with sum 1.
    """

    weights: Sequence[float]

    def used(self, n_members: int) -> tuple[int, ...]:
        """Return the members whose weight is not 0."""
        return _not_zero(self.weights, n_members)

    def build(self, members: Sequence[Member], *, obs: Obs, normalizer: Normalizer) -> Member:
        """Return the mean of the ends."""
        return composition.endpoint_mean(members, [w for w in self.weights if w != 0.0])


def _not_zero(weights: Any, n_members: int) -> tuple[int, ...]:
    """Return where fixed weights are not 0; all members for weights of another kind."""
    if isinstance(weights, Sequence) and len(weights) == n_members:
        return tuple(i for i, w in enumerate(weights) if w != 0.0)
    return tuple(range(n_members))


def _resolved(weights: Any, obs: Obs) -> Weights | Sequence[float]:
    """Return the weights for observations; those that are 0 were left out with their members."""
    if isinstance(weights, (WeightSchedule, Tensor)):
        return weights
    if callable(weights):
        found = weights(obs)
        assert isinstance(found, Tensor)
        return found
    return [w for w in weights if w != 0.0]
