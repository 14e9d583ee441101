"""Consistency policies side by side: the mean of their ends, which is a heuristic.

A consistency policy maps a noisy chunk to the end of its own ODE trajectory. The mean of the ends
of several policies, re-noised and mapped again, is used in practice with few steps; it is not a
sample of any density that the policies define. Where that matters, compose their teachers and
distil the composition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genpolicy.composition.members import Member, denoise_members, start_members
from genpolicy.composition.weights import fixed_weights
from genpolicy.denoisers import Kind, Target
from genpolicy.errors import UsageError
from genpolicy.paths import Path
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["EndpointAverage", "endpoint_mean"]


@dataclass(frozen=True, kw_only=True, eq=False)
class EndpointAverage:
    """The weighted mean of flow maps at the same state; build it with ``endpoint_mean``.

    Args:
        members: flow maps on one path.
        weights: one per member.
    """

    members: tuple[Member, ...]
    weights: tuple[float, ...]

    @property
    def path(self) -> Path:
        """Path of the inputs."""
        return self.members[0].path

    @property
    def kind(self) -> Kind:
        """A flow map, so that it is sampled by re-noising."""
        return "flow_map"

    @property
    def target(self) -> Target:
        """No density: a heuristic."""
        return Target(
            operator="endpoint_mean",
            density="none: a heuristic",
            total_weight=1.0,
            unbiased=(),
            note="the mean of consistency maps is no consistency map; compose the teachers instead",
        )

    def __call__(self, x_t: Chunk, t: Time, cond: Cond = None) -> Chunk:
        """Return the mean of the members' ends.

        Cost: one evaluation of each member.
        """
        carries = start_members(self.members, x_t, cond)
        ends, _ = denoise_members(self.members, x_t, t, cond, carries)
        combined = self.weights[0] * ends[0]
        for weight, end in zip(self.weights[1:], ends[1:], strict=True):
            combined = combined + weight * end
        return combined


def endpoint_mean(members: Sequence[Member], weights: Sequence[float]) -> Member:
    """Return the mean of consistency policies' ends; one member of weight 1 is returned as it is.

    Args:
        members: flow maps on one path.
        weights: at least 0, with sum 1.

    Raises:
        UsageError: for members that are no flow maps, on different paths, or other weights.
    """
    found = tuple(members)
    given = fixed_weights("endpoint_mean", weights, len(found))
    if not found or min(given) < 0.0 or abs(sum(given) - 1.0) > 1e-6:
        raise UsageError(f"endpoint_mean: got weights {given}, expected at least 0 with sum 1")
    for number, member in enumerate(found):
        if member.kind != "flow_map":
            raise UsageError(
                f"endpoint_mean: member {number} is no consistency policy; use mean, which is "
                "exact for policies that predict a posterior mean"
            )
        if member.path != found[0].path:
            raise UsageError(
                f"endpoint_mean: members use {found[0].path} and {member.path}; use on_path"
            )
    if len(found) == 1:
        return found[0]
    return EndpointAverage(members=found, weights=given)
