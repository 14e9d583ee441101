"""Noise that is a function of a seed and an index: one row never depends on the others.

A generator that is drawn from in turn gives a row other numbers when the batch grows or a step is
skipped. Here the ``index``-th draw of the row with seed ``k`` is a pure function of both: the
counter-based generator Philox4x32-10 with key ``k`` and counter ``(block, index, stream, 0)``,
turned into normals by Box-Muller in float64. The same numbers come out on every device, in every
process, for every batch.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from genpolicy.errors import UsageError
from genpolicy.shapes import Chunk

__all__ = ["NoiseSource", "RowNoise", "philox4x32"]

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], dtype=np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_N_ROUNDS = 10


@runtime_checkable
class NoiseSource(Protocol):
    """Where a sampler gets its noise from."""

    def draw(self, index: int, *, stream: int = 0) -> Chunk:
        """Return standard normal noise.

        Args:
            index: 0 for the initial state, ``i + 1`` for step ``i``.
            stream: 0 for the sampler's own noise; correctors use higher ones at the same index.

        Returns:
            ``(batch, horizon, action)``; the same for the same arguments.
        """
        ...


class RowNoise:
    """Standard normal noise with one integer seed per row.

    Args:
        seeds: one per row, each in [0, 2**64).
        shape: ``(horizon, action)`` of a row.
        device: where the noise is wanted; it is always drawn on the host.
        dtype: floating dtype of the noise.

    Raises:
        UsageError: for a seed outside its range.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: tuple[int, int],
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        bad = [seed for seed in seeds if not 0 <= seed < 2**64]
        if bad:
            raise UsageError(f"RowNoise: got seeds {bad}, expected integers in [0, 2**64)")
        self._shape = shape
        self._device = device
        self._dtype = dtype
        keys = np.array([int(seed) for seed in seeds], dtype=np.uint64).reshape(1, -1, 1)
        halves = np.concatenate([keys & _LOW, keys >> _SHIFT])
        rounds = np.arange(_N_ROUNDS, dtype=np.uint64).reshape(-1, 1, 1, 1)
        self._round_keys = (halves + rounds * _WEYL[:, :, None]) & _LOW

    def draw(self, index: int, *, stream: int = 0) -> Chunk:
        """Return the noise of one index, see ``NoiseSource.draw``."""
        n_values = math.prod(self._shape)
        n_rows = self._round_keys.shape[2]
        n_blocks = -(-n_values // 4)
        even = np.empty((2, n_rows, n_blocks), dtype=np.uint64)
        odd = np.zeros_like(even)
        even[0], even[1] = np.arange(n_blocks, dtype=np.uint64), stream
        odd[0] = index
        even, odd = _rounds(even, odd, self._round_keys)
        # Uniforms at the centres of 2**32 cells: never 0, so the logarithm is finite, and no normal
        # exceeds 6.8 in size.
        radius = np.sqrt(-2.0 * np.log((even + 0.5) * 2.0**-32))
        angle = (odd + 0.5) * (2.0 * math.pi * 2.0**-32)
        values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
        rows = values.transpose(1, 2, 0, 3).reshape(n_rows, 4 * n_blocks)[:, :n_values]
        noise = torch.as_tensor(np.ascontiguousarray(rows)).reshape(n_rows, *self._shape)
        return noise.to(device=self._device, dtype=self._dtype)


def philox4x32(counter: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the output of Philox4x32-10.

    Args:
        counter: ``(n, 4)``.
        key: ``(n, 2)``.

    Returns:
        ``(n, 4)``.
    """
    words, halves = counter.astype(np.uint64).T, key.astype(np.uint64).T
    rounds = np.arange(_N_ROUNDS, dtype=np.uint64).reshape(-1, 1, 1)
    even, odd = _rounds(words[0::2], words[1::2], (halves + rounds * _WEYL) & _LOW)
    return np.stack([even[0], odd[0], even[1], odd[1]], axis=-1).astype(np.uint32)


def _rounds(
    even: NDArray[np.uint64], odd: NDArray[np.uint64], round_keys: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Run the rounds on counter words (0, 2) and (1, 3), stacked on the first axis."""
    multipliers = _MULTIPLIERS.reshape(2, *(1,) * (even.ndim - 1))
    for key in round_keys:
        product = multipliers * even
        even = (product >> _SHIFT)[::-1] ^ odd ^ key
        odd = (product & _LOW)[::-1]
    return even, odd
