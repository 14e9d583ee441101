"""Readable torch implementations of the operations that sampling is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from genpolicy.shapes import Chunk

__all__ = ["Parts", "affine_step"]


@dataclass(frozen=True, eq=False)
class Parts:
    """Denoised actions as a sum: ``on_x x_t + shift + sum_i factors_i outputs_i``.

    Args:
        outputs: ``(batch, horizon, action)`` each, for example what networks returned.
        factors: one per output.
        on_x: factor of the state that they were evaluated at.
        shift: added to every row, ``(action,)`` or ``(horizon, action)``; None for nothing.
    """

    outputs: tuple[Chunk, ...]
    factors: tuple[float, ...]
    on_x: float = 0.0
    shift: Tensor | None = None

    @staticmethod
    def of(denoised: Chunk) -> Parts:
        """Return the sum of one output."""
        return Parts(outputs=(denoised,), factors=(1.0,))

    @property
    def is_one(self) -> bool:
        """Whether the sum is its only output."""
        return self.on_x == 0.0 and self.shift is None and self.factors == (1.0,)

    def denoised(self, x_t: Chunk) -> Chunk:
        """Return the sum; one output alone as it is."""
        if self.is_one:
            return self.outputs[0]
        total = self.on_x * x_t
        if self.shift is not None:
            total = total + self.shift.to(x_t)
        for factor, output in zip(self.factors, self.outputs, strict=True):
            total = total + factor * output.to(x_t)
        return total


def affine_step(
    x: Chunk,
    denoised: Chunk,
    previous: Chunk | None = None,
    noise: Chunk | None = None,
    *,
    c_x: float,
    c_denoised: float,
    c_previous: float = 0.0,
    c_noise: float = 0.0,
    lo: float | None = None,
    hi: float | None = None,
    pinned: Chunk | None = None,
    mask: Bool[Tensor, "batch horizon action"] | None = None,
) -> Chunk:
    """Take one step of any sampler: a weighted sum of at most four chunks, with limits.

    ``out = c_x x + c_denoised clip(denoised) + c_previous clip(previous) + c_noise noise``, and
    then ``out = pinned`` where ``mask``.

    Args:
        x: state.
        denoised: denoised actions at ``x``.
        previous: denoised actions of an earlier evaluation; None where ``c_previous`` is 0.
        noise: standard normal noise; None where ``c_noise`` is 0.
        c_x: factor of ``x``.
        c_denoised: factor of ``denoised``.
        c_previous: factor of ``previous``.
        c_noise: factor of ``noise``.
        lo: lower limit of both denoised chunks; None does not limit.
        hi: upper limit.
        pinned: values of the entries that are known.
        mask: True where they are; None together with ``pinned``.

    Returns:
        ``(batch, horizon, action)`` in the dtype of ``x``: a new tensor.
    """
    is_clipped = lo is not None or hi is not None
    out = c_x * x + c_denoised * (denoised.clamp(lo, hi) if is_clipped else denoised)
    if previous is not None:
        out = out + c_previous * (previous.clamp(lo, hi) if is_clipped else previous)
    if noise is not None:
        out = out + c_noise * noise
    if pinned is not None and mask is not None:
        out = torch.where(mask, pinned, out)
    return out
