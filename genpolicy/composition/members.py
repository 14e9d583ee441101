"""What every composition does with its members: check them, and run them side by side.

Members may themselves follow their trajectories (``TrackingDenoiser``), so a composition carries
one carry per member and hands each its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from genpolicy.denoisers import Denoiser, Step, TrackingDenoiser, as_tracking
from genpolicy.errors import UsageError
from genpolicy.shapes import Chunk, Cond, Time

__all__ = [
    "Carries",
    "Member",
    "Weighable",
    "advance_members",
    "check_members",
    "coverage_of",
    "denoise_members",
    "start_members",
    "weigh_member",
]

Member: TypeAlias = Denoiser | TrackingDenoiser
Carries: TypeAlias = tuple[Any, ...]


@runtime_checkable
class Weighable(Protocol):
    """A composition that knows by how much its reverse diffusion misses its annealed target.

    Let ``pi_sigma`` be the density whose score the composition follows at level ``sigma`` (in
    variance-exploding coordinates). A sampler that follows that score, with any amount of noise,
    stays on ``pi_sigma`` when its paths carry the weights

        d log w = rate |d ln sigma|,    sigma decreasing.                                       (1)

    With e_i the noise that member i implies and E = sum_i w_i e_i it is |E|^2 - sum_i w_i |e_i|^2
    for a weighted sum of scores, and 0 for a true diffusion. Source: Feynman-Kac correctors, arXiv
    2503.02819.
    """

    def weigh(
        self, x_t: Chunk, t: Time, cond: Cond, carry: Any
    ) -> tuple[Chunk, Float[Tensor, " batch"], Any]:
        """Return what ``denoise`` returns and, between the two, the rate of (1)."""
        ...


def weigh_member(
    member: Member, x_t: Chunk, t: Time, cond: Cond, carry: Any
) -> tuple[Chunk, Float[Tensor, " batch"], Any]:
    """Return a member's denoised actions, its rate (0 where it has none) and its carry."""
    if isinstance(member, Weighable):
        return member.weigh(x_t, t, cond, carry)
    denoised, after = as_tracking(member).denoise(x_t, t, cond, carry)
    return denoised, x_t.new_zeros(len(x_t)), after


def check_members(
    operator: str, members: Sequence[Member], *, at_least: int = 1, whole: bool = False
) -> tuple[Member, ...]:
    """Return the members as a tuple.

    Args:
        operator: named in errors.
        members: what is composed.
        at_least: members needed.
        whole: refuse members that cover a part of the chunk only.

    Raises:
        UsageError: when there are too few, one is a flow map, or their paths differ.
    """
    found = tuple(members)
    if len(found) < at_least:
        raise UsageError(f"{operator}: got {len(found)} members, expected at least {at_least}")
    for number, member in enumerate(found):
        if member.kind == "flow_map":
            raise UsageError(
                f"{operator}: member {number} is a consistency policy (a flow map). Its output is "
                "the end of an ODE trajectory, not E[clean | x_t]: it has no score, and averaging "
                "it in a diffusion sampler samples nothing in particular. Instead: compose its "
                "teachers and distil the composition (algorithm=distill), or average the ends of "
                "consistency policies and re-noise (endpoint_mean, a heuristic), or use it as a "
                "proposal that a score model corrects (proposal)"
            )
        if member.path != found[0].path:
            raise UsageError(
                f"{operator}: members use {found[0].path} and {member.path}; wrap member {number} "
                "with on_path(member, path), which matches their signal-to-noise ratios"
            )
        if whole and coverage_of(member) is not None:
            raise UsageError(
                f"{operator}: member {number} covers a part of the chunk only; its log-density "
                "cannot be compared with that of a whole chunk. Use members of one horizon and "
                "action size"
            )
    return found


def coverage_of(member: Member) -> Tensor | None:
    """Return the entries ``(horizon, action)`` that a member says something about; None for all."""
    return getattr(member, "coverage", None)


def start_members(members: Sequence[Member], x_init: Chunk, cond: Cond) -> Carries:
    """Return the carries of a trajectory that starts at ``x_init``."""
    return tuple(as_tracking(member).start(x_init, cond) for member in members)


def denoise_members(
    members: Sequence[Member], x_t: Chunk, t: Time, cond: Cond, carries: Carries
) -> tuple[list[Chunk], Carries]:
    """Return every member's denoised actions and the carries that ``advance_members`` needs.

    Cost: one evaluation of each member, all on the same batch.
    """
    outputs: list[Chunk] = []
    after: list[Any] = []
    for member, carry in zip(members, carries, strict=True):
        denoised, carried = as_tracking(member).denoise(x_t, t, cond, carry)
        outputs.append(denoised)
        after.append(carried)
    return outputs, tuple(after)


def advance_members(members: Sequence[Member], carries: Carries, step: Step) -> Carries:
    """Return the members' carries after a step.

    Raises:
        UsageError: when a member wants to move the state, which only the outermost may.
    """
    after: list[Any] = []
    for member, carry in zip(members, carries, strict=True):
        x_s, carried = as_tracking(member).advance(carry, step)
        if x_s is not step.x_s:
            raise UsageError(
                f"{type(member).__name__} moves the state between steps and cannot be a member; "
                "make it the outermost one"
            )
        after.append(carried)
    return tuple(after)
