"""Where samples lie: near which mode, between modes, or elsewhere."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.errors import UsageError

__all__ = ["ModeMass", "mass_between"]


@dataclass(frozen=True, kw_only=True)
class ModeMass:
    """Where samples lie with respect to some modes; the fractions sum to 1.

    Args:
        near: for each mode the fraction of samples within the radius of it and of no nearer mode.
        between: fraction that is near no mode but within the radius of a straight line between two.
        elsewhere: the rest.
    """

    near: tuple[float, ...]
    between: float
    elsewhere: float


def mass_between(
    samples: Float[Tensor, "batch ..."], centers: Float[Tensor, "modes ..."], radius: float
) -> ModeMass:
    """Return the fractions of samples near each mode, between modes and elsewhere.

    Args:
        samples: actions or chunks, in any one unit.
        centers: the modes, in that unit, at least one; entries are flattened.
        radius: Euclidean distance that is near, positive.

    Raises:
        UsageError: for shapes that do not fit, nothing to count, or a radius that is not positive.
    """
    points, modes = samples.double().flatten(1), centers.double().flatten(1)
    if points.shape[1] != modes.shape[1] or len(points) == 0 or len(modes) == 0:
        raise UsageError(
            f"mass_between: got samples of shape {tuple(samples.shape)} and centers of shape "
            f"{tuple(centers.shape)}, expected at least one of each with the same entries"
        )
    if not 0.0 < radius < math.inf:
        raise UsageError(f"mass_between: radius is {radius}, expected a positive number")
    distance, nearest = (points[:, None] - modes).norm(dim=-1).min(1)
    is_near = distance <= radius
    is_between = torch.zeros_like(is_near)
    for first, second in itertools.combinations(modes, 2):
        line = second - first
        along = ((points - first) @ line / line.square().sum().clamp(min=1e-300)).clamp(0.0, 1.0)
        is_between |= (points - first - along[:, None] * line).norm(dim=-1) <= radius
    is_between &= ~is_near
    near = [float((is_near & (nearest == k)).double().mean()) for k in range(len(modes))]
    return ModeMass(
        near=tuple(near),
        between=float(is_between.double().mean()),
        elsewhere=float((~is_near & ~is_between).double().mean()),
    )
