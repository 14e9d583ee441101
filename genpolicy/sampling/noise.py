"""Noise that is a function of a seed and an index: one row never depends on the others.

A generator that is drawn from in turn gives a row other numbers when the batch grows or a step is
skipped. Here the ``index``-th draw of the row with seed ``k`` is a pure function of both, see
``genpolicy.ops.noise``. The same numbers come out on every device, in every process, for every
batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from genpolicy.errors import UsageError
from genpolicy.ops import Draw, normals, round_keys
from genpolicy.shapes import Chunk

__all__ = ["DeviceNoise", "DrawnNoise", "NoiseSource", "RowNoise", "SeededNoise"]

_row_noise = torch.ops.genpolicy.row_noise.default


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


class SeededNoise(ABC):
    """Noise with a seed for each row, which steps can draw themselves."""

    @abstractmethod
    def draw(self, index: int, *, stream: int = 0) -> Chunk:
        """Return the noise of one index, see ``NoiseSource.draw``."""

    @abstractmethod
    def undrawn(self, index: int) -> Draw:
        """Return which noise that of one index is, for steps that draw it themselves."""


class RowNoise(SeededNoise):
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
        self._numbers = np.array([int(seed) for seed in seeds], dtype=np.uint64)
        self._keys = round_keys(self._numbers)

    def draw(self, index: int, *, stream: int = 0) -> Chunk:
        """Return the noise of one index, see ``NoiseSource.draw``."""
        rows = normals(self._keys, math.prod(self._shape), index=index, stream=stream)
        noise = torch.as_tensor(rows).reshape(len(rows), *self._shape)
        return noise.to(device=self._device, dtype=self._dtype)

    def undrawn(self, index: int) -> Draw:
        """Return which noise that of one index is, for steps that draw it themselves."""
        return Draw(self._seeds, index)

    @cached_property
    def _seeds(self) -> Int64[Tensor, " batch"]:
        return torch.as_tensor(self._numbers.view(np.int64), device=self._device)


class DeviceNoise(SeededNoise):
    """The noise of ``RowNoise`` with seeds that lie on a device and are not known to the host.

    Args:
        seeds: the bits of one unsigned 64-bit seed per row.
        shape: ``(horizon, action)`` of a row.
    """

    def __init__(self, seeds: Int64[Tensor, " batch"], shape: tuple[int, int]) -> None:
        self._seeds, self._shape = seeds, shape

    def draw(self, index: int, *, stream: int = 0) -> Chunk:
        """Return the noise of one index, float32, drawn on the device."""
        rows = _row_noise(self._seeds, math.prod(self._shape), index, stream)
        return rows.reshape(-1, *self._shape)

    def undrawn(self, index: int) -> Draw:
        """Return which noise that of one index is, for steps that draw it themselves."""
        return Draw(self._seeds, index)


class DrawnNoise:
    """Standard normal noise drawn in turn from a generator: for samples within a training step.

    The order of the draws decides the numbers, so an index gives the same only where everything
    before it was drawn alike.

    Args:
        generator: where numbers come from, on its own device.
        shape: ``(batch, horizon, action)``.
        device: where the noise is wanted.
        dtype: floating dtype of the noise.
    """

    def __init__(
        self,
        generator: torch.Generator,
        shape: tuple[int, int, int],
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._generator, self._shape = generator, shape
        self._device, self._dtype = device, dtype

    def draw(self, index: int, *, stream: int = 0) -> Chunk:
        """Return the next noise of the generator."""
        noise = torch.randn(
            self._shape,
            generator=self._generator,
            device=self._generator.device,
            dtype=self._dtype,
        )
        return noise.to(self._device)
