"""What members of a composition have to agree on: units, windows and observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from genpolicy.data.normalizer import Normalizer
from genpolicy.errors import UsageError
from genpolicy.shapes import Chunk, TaskSpec

if TYPE_CHECKING:
    from genpolicy.policies.composed import MemberOf

__all__ = ["Units", "joint_spec", "units_between"]

_SAME = 1e-5
"""Relative difference of statistics that is rounding."""


@dataclass(frozen=True, eq=False)
class Units:
    """A member's normalized actions in terms of the reference's: ``x_i = x/ratio + offset``.

    Args:
        ratio: one factor for all entries.
        offset: one value per entry of the member's action; None is 0.
    """

    ratio: float = 1.0
    offset: Tensor | None = None

    def chunk_to_reference(self, chunk: Chunk) -> Chunk:
        """Return normalized actions of the member in the reference's units."""
        if self.offset is not None:
            chunk = chunk - self.offset.to(chunk)
        return chunk * self.ratio

    def to_reference(self, bounds: tuple[float, float]) -> list[tuple[float, float]]:
        """Return a range of the member's actions in the reference's units, for each entry."""
        if self.offset is None:
            return [(bounds[0] * self.ratio, bounds[1] * self.ratio)]
        return [
            ((bounds[0] - d) * self.ratio, (bounds[1] - d) * self.ratio)
            for d in self.offset.tolist()
        ]


def units_between(reference: Normalizer, member: MemberOf, *, number: int) -> Units:
    """Return how a member's units relate to those of the reference.

    Args:
        reference: units of the composition.
        member: the member.
        number: named in errors.

    Raises:
        UsageError: when they differ by more than offsets and one common factor.
    """
    center, _, span = (np.asarray(v, np.float64) for v in reference.stats["action"].affine())
    own_center, _, own_span = (
        np.asarray(v, np.float64) for v in member.policy.normalizer.stats["action"].affine()
    )
    if member.dims is not None:
        center, span = center[list(member.dims)], span[list(member.dims)]
    fixed, own_fixed = span == 0.0, own_span == 0.0
    scale = max(1.0, float(np.abs(center).max()), float(span.max()))
    both = fixed & own_fixed
    if (fixed != own_fixed).any() or (np.abs(center - own_center)[both] > _SAME * scale).any():
        raise UsageError(
            f"compose: member {number} has constant action entries "
            f"{np.flatnonzero(own_fixed).tolist()}, the reference "
            f"{np.flatnonzero(fixed).tolist()}, or other values there; train both on data "
            "in which the same entries vary"
        )
    if both.all():
        return Units()
    ratios = own_span[~both] / span[~both]
    if ratios.max() / ratios.min() - 1.0 > 1e-3:
        raise UsageError(
            f"compose: member {number} scales its actions by factors {ratios.round(4).tolist()} of "
            "those of the reference, one per entry; only one common factor can be matched exactly. "
            "Fit one normalizer to both data sets and fine-tune, or use the composition as the "
            "teacher of a new policy only where the factors agree"
        )
    ratio = float(np.exp(np.log(ratios).mean()))
    offset = np.where(both, 0.0, (center - own_center) / np.where(both, 1.0, own_span))
    same = np.abs(offset).max() < _SAME
    return Units(
        ratio=1.0 if abs(ratio - 1.0) < _SAME else ratio,
        offset=None if same else torch.as_tensor(offset, dtype=torch.float32),
    )


def joint_spec(members: Sequence[MemberOf], reference: int) -> tuple[TaskSpec, list[int]]:
    """Return what a composition sees and returns, and the first action of each member's chunk.

    Observations are those of all members, as far back as any of them looks. Chunks are laid so that
    the current step of every member is the same; the longest decides the end.

    Raises:
        UsageError: when one key has two shapes, or action sizes differ without ``dims``.
    """
    specs = [member.policy.spec for member in members]
    base = specs[reference]
    n_obs_steps = max(spec.n_obs_steps for spec in specs)
    firsts = [n_obs_steps - spec.n_obs_steps for spec in specs]
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (member, spec) in enumerate(zip(members, specs, strict=True)):
        for key, shape in spec.obs_shapes.items():
            if member.fixed_obs is not None and key in member.fixed_obs and key not in shapes:
                continue
            if shapes.setdefault(key, shape) != shape:
                raise UsageError(
                    f"compose: member {number} expects observation {key!r} of shape {shape}, "
                    f"another one {shapes[key]}; rename one of them"
                )
        size = spec.action_dim if member.dims is None else len(member.dims)
        fits = size == spec.action_dim and (
            member.dims is not None or spec.action_dim == base.action_dim
        )
        if not fits:
            raise UsageError(
                f"compose: member {number} has {spec.action_dim} action entries, the reference "
                f"{base.action_dim}, and dims is {member.dims}; say which of the reference's "
                "entries are the member's with compose.part(policy, dims=(...))"
            )
    if members[reference].dims is not None:
        raise UsageError("compose: the reference has to own every action entry; choose another one")
    horizon = max(first + spec.horizon for first, spec in zip(firsts, specs, strict=True))
    return (
        TaskSpec(
            task=base.task,
            obs_shapes=shapes,
            action_dim=base.action_dim,
            n_obs_steps=n_obs_steps,
            horizon=horizon,
            n_action_steps=base.n_action_steps,
        ),
        firsts,
    )
