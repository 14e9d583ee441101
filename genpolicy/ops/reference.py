"""Readable torch implementations of the operations that sampling is made of."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from genpolicy.shapes import Chunk

__all__ = ["affine_step"]


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
