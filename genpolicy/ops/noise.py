"""Standard normal numbers as a function of a seed and an index: the definition for every backend.

The counter-based generator Philox4x32-10 with key ``seed`` and counter ``(block, index, stream,
0)`` gives four words a block, and Box-Muller in float64 turns two words into two normals.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section 4.3.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["normals", "philox4x32", "round_keys"]

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], dtype=np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_N_ROUNDS = 10


def round_keys(seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the keys of all rounds for one seed per row, ``(rounds, 2, rows, 1)``."""
    keys = seeds.reshape(1, -1, 1)
    halves = np.concatenate([keys & _LOW, keys >> _SHIFT])
    rounds = np.arange(_N_ROUNDS, dtype=np.uint64).reshape(-1, 1, 1, 1)
    return (halves + rounds * _WEYL[:, :, None]) & _LOW


def normals(
    keys: NDArray[np.uint64], n_values: int, *, index: int, stream: int = 0
) -> NDArray[np.float64]:
    """Return standard normal numbers.

    Args:
        keys: of ``round_keys``.
        n_values: numbers per row.
        index: which draw, in [0, 2**32).
        stream: independent draws of one index, in [0, 2**32).

    Returns:
        ``(rows, n_values)``.
    """
    n_rows = keys.shape[2]
    n_blocks = -(-n_values // 4)
    even = np.empty((2, n_rows, n_blocks), dtype=np.uint64)
    odd = np.zeros_like(even)
    even[0], even[1] = np.arange(n_blocks, dtype=np.uint64), stream
    odd[0] = index
    even, odd = _rounds(even, odd, keys)
    # Uniforms at the centres of 2**32 cells: never 0, so the logarithm is finite, and no normal
    # exceeds 6.8 in size.
    radius = np.sqrt(-2.0 * np.log((even + 0.5) * 2.0**-32))
    angle = (odd + 0.5) * (2.0 * math.pi * 2.0**-32)
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    rows = values.transpose(1, 2, 0, 3).reshape(n_rows, 4 * n_blocks)[:, :n_values]
    return np.ascontiguousarray(rows)


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
    even: NDArray[np.uint64], odd: NDArray[np.uint64], keys: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Run the rounds on counter words (0, 2) and (1, 3), stacked on the first axis."""
    multipliers = _MULTIPLIERS.reshape(2, *(1,) * (even.ndim - 1))
    for key in keys:
        product = multipliers * even
        even = (product >> _SHIFT)[::-1] ^ odd ^ key
        odd = (product & _LOW)[::-1]
    return even, odd
