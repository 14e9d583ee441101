"""From errors per entry to one number: padding, distances and means.

A chunk that reaches past the end of its episode is padded; ``mask`` is True on its real entries.
The rule for every loss of this package: padded entries change neither the loss nor a gradient.
Two things are needed for that. Their errors are left out and the sum is divided by the number of
valid entries (``mean_over_valid``), and the network never sees what was written there, because it
mixes entries: ``fill_padding`` overwrites them with the nearest valid action of their own row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genpolicy.errors import UsageError
from genpolicy.shapes import Chunk, Time

__all__ = [
    "Distance",
    "Mask",
    "PseudoHuber",
    "Squared",
    "draw_noise",
    "fill_padding",
    "mean_over_valid",
]

Mask: TypeAlias = Bool[Tensor, "batch horizon"] | None


def draw_noise(like: Chunk, generator: torch.Generator) -> Chunk:
    """Draw standard normal noise of the shape, dtype and device of ``like``.

    Numbers are drawn on the generator's own device, so a CPU generator gives the same noise for
    data on any device.
    """
    noise = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return noise.to(like.device)


def check_mask(clean: Chunk, mask: Mask) -> None:
    """Raise ``UsageError`` unless ``mask`` is None or a boolean ``(batch, horizon)``."""
    if mask is None:
        return
    if mask.dtype != torch.bool or mask.shape != clean.shape[:2]:
        raise UsageError(
            f"loss: got a mask of {mask.dtype} and shape {tuple(mask.shape)}, expected torch.bool "
            f"and shape {tuple(clean.shape[:2])}; pass the window batch's mask of valid entries"
        )


def fill_padding(clean: Chunk, mask: Mask) -> Chunk:
    """Overwrite padded entries with the nearest valid action of their row.

    That is the last valid action before them, or the first valid one where there is none before:
    the robot holds its last command, which is also what windows usually pad with. What was written
    in padded entries, not-a-number included, has no influence.

    Args:
        clean: actions.
        mask: True on valid entries, or None when all are.

    Returns:
        ``(batch, horizon, action)``. Rows without a valid entry are zeros.
    """
    check_mask(clean, mask)
    if mask is None:
        return clean
    index = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    before = torch.where(mask, index, -1).cummax(dim=1).values
    first = mask.to(torch.int8).argmax(dim=1, keepdim=True)
    source = torch.where(before >= 0, before, first)
    clean = torch.where(mask.unsqueeze(-1), clean, torch.zeros_like(clean))
    return clean.gather(1, source.unsqueeze(-1).expand_as(clean))


@runtime_checkable
class Distance(Protocol):
    """A distance between two chunks, per row: a mean over the row's valid entries."""

    def __call__(self, error: Chunk, mask: Mask) -> Time:
        """Return one non-negative number per row for the difference ``error`` of two chunks."""
        ...


@dataclass(frozen=True, kw_only=True)
class Squared:
    """Mean squared error of the row's valid entries."""

    def __call__(self, error: Chunk, mask: Mask) -> Time:
        """Return ``mean(error^2)`` per row, 0 for rows without a valid entry."""
        return _row_mean_square(error, mask)


@dataclass(frozen=True, kw_only=True)
class PseudoHuber:
    """``sqrt(r^2 + delta^2) - delta`` with r the root mean square error of the row.

    Quadratic below ``delta`` and linear above, so rows with a large error, for example near the
    boundary between two modes, do not dominate the gradient.

    Args:
        delta: where the two regimes meet, in normalized action units; positive.

    Source: arXiv 2310.14189, section 3.3: ``sqrt(|e|^2 + c^2) - c`` with c = 0.00054 sqrt(d) for d
        entries. That expression is this one, with delta = 0.00054, times sqrt(d): dividing by it
        keeps the value independent of the length of the chunk and of padding.
    """

    delta: float = 0.00054

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise UsageError(f"PseudoHuber: delta is {self.delta}, expected a positive number")

    def __call__(self, error: Chunk, mask: Mask) -> Time:
        """Return the distance per row, 0 for rows without a valid entry."""
        return (_row_mean_square(error, mask) + self.delta**2).sqrt() - self.delta


def mean_over_valid(per_row: Time, mask: Mask) -> Float[Tensor, ""]:
    """Average rows, each counted as often as it has valid entries.

    With ``Squared`` distances this is the sum of squared errors of valid entries divided by their
    number. A batch without any valid entry gives 0.
    """
    if mask is None:
        return per_row.mean()
    n_valid = mask.sum(dim=1).to(per_row.dtype)
    return (per_row * n_valid).sum() / n_valid.sum().clamp(min=1)


def _row_mean_square(error: Chunk, mask: Mask) -> Time:
    if mask is None:
        return error.square().mean(dim=(1, 2))
    error = torch.where(mask.unsqueeze(-1), error, torch.zeros_like(error))
    n_entries = mask.sum(dim=1).clamp(min=1).to(error.dtype) * error.shape[2]
    return error.square().sum(dim=(1, 2)) / n_entries
