"""Resampling: groups of weighted rows drawn anew from themselves.

Systematic resampling reads the cumulative weights of a group at n equally spaced positions. Here
they are ``(u + k/n) mod 1`` for one uniform u: the usual scheme, rotated by a random number of
rows, so that every entry of the result, the first with it, is a fair draw.

Sums run in the order of the particles, so that a group has the same result, bit for bit, alone and
beside others.

Source: Douc, Cappe and Moulines, arXiv cs/0507025, section 2.4, without the rotation.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genpolicy.errors import NumericsError, UsageError

__all__ = ["by_group", "draw_rows", "effective_size", "gather", "systematic"]


def by_group(
    log_weight: Float[Tensor, " batch"], n_particles: int, t: float
) -> Float[Tensor, "groups particles"]:
    """Return log-weights by group, the largest of each 0.

    Args:
        log_weight: of rows; -inf is weight 0.
        n_particles: rows of a group.
        t: time, named in errors.

    Raises:
        NumericsError: when all weights of a group are 0, or one is infinite or not a number.
    """
    groups = log_weight.reshape(-1, n_particles)
    largest = groups.amax(dim=1, keepdim=True)
    is_bad = ~largest.isfinite().flatten()
    if bool(is_bad.any()):
        bad = [number for number, flag in enumerate(is_bad) if bool(flag)]
        raise NumericsError(
            f"Particles: at time {t:g} all weights of groups {bad[:8]} are 0, or one is not a "
            f"number ({len(bad)} of {len(groups)} groups); lower the scale of the cost, let it be "
            "finite where samples are, or use more particles or steps"
        )
    return groups - largest


def effective_size(
    log_weight: Float[Tensor, "groups particles"],
) -> Float[Tensor, " groups"]:
    """Return the effective number of particles ``(sum w)^2/sum w^2``, in [1, particles]."""
    weight = (log_weight - log_weight.amax(dim=1, keepdim=True)).exp()
    return _total(weight).square() / _total(weight.square())


def systematic(
    log_weight: Float[Tensor, "groups particles"], uniform: Float[Tensor, " groups"]
) -> Int[Tensor, "groups particles"]:
    """Return indices of particles, each as often as its weight says, up to one.

    Args:
        log_weight: one finite number per group at least.
        uniform: in [0, 1), one per group.

    Returns:
        The particle at the positions ``(uniform + k/n) mod 1`` of the cumulative weights. Over the
        uniform, every entry of the result is particle i with probability ``w_i/sum w``.
    """
    weight = (log_weight - log_weight.amax(dim=1, keepdim=True)).exp()
    cumulative = weight.cumsum(dim=1)
    n = weight.shape[1]
    grid = torch.arange(n, device=weight.device, dtype=weight.dtype) / n
    positions = (uniform.to(weight)[:, None] + grid).remainder(1.0) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, positions, right=True).clamp(max=n - 1)


def draw_rows(
    log_weight: Float[Tensor, "groups particles"],
    uniform: Float[Tensor, " groups"],
    is_drawn: Bool[Tensor, " groups"],
) -> Int[Tensor, " batch"]:
    """Return the row that each row becomes a copy of; itself in groups that are not drawn.

    Args:
        log_weight: one finite number per group at least.
        uniform: in [0, 1), one per group.
        is_drawn: groups that are drawn anew.

    Raises:
        UsageError: when there is not one uniform per group.
    """
    if uniform.shape != (len(log_weight),):
        raise UsageError(
            f"Particles: uniform returned shape {tuple(uniform.shape)}, expected one number per "
            f"group, ({len(log_weight)},)"
        )
    n_groups, n = log_weight.shape
    own = torch.arange(n, device=log_weight.device)
    local = torch.where(is_drawn[:, None], systematic(log_weight, uniform), own)
    return (torch.arange(n_groups, device=log_weight.device)[:, None] * n + local).flatten()


def gather(carry: Any, rows: Int[Tensor, " batch"]) -> Any:
    """Return a carry with its rows drawn anew: those of tensors in tuples."""
    if isinstance(carry, Tensor):
        return carry[rows] if carry.ndim > 0 and len(carry) == len(rows) else carry
    if isinstance(carry, tuple):
        return tuple(gather(value, rows) for value in cast("tuple[Any, ...]", carry))
    if carry is None or isinstance(carry, (bool, int, float, str)):
        return carry
    raise UsageError(
        f"Particles: a member remembers a {type(carry).__name__}, whose rows cannot be drawn anew; "
        "a carry consists of tuples, tensors, numbers and None"
    )


def _total(value: Float[Tensor, "groups particles"]) -> Float[Tensor, " groups"]:
    """Return sums over particles in order: those of ``sum`` depend on the number of groups."""
    return value.cumsum(dim=1)[:, -1]
