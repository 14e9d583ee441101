"""Batches in an order that is a function of the seed: batch ``k`` is known without the ones before.

The stream is one endless sequence of positions. Position ``p`` belongs to epoch ``p // n`` and is
entry ``p % n`` of that epoch's permutation of the ``n`` examples, which is drawn from
``derive_seed(seed, "order", epoch)``. Global batch ``k`` takes positions ``k * global_size`` to
``(k + 1) * global_size``, and rank ``r`` of ``world_size`` its ``r``-th block of ``batch_size``::

    position    0 1 2 3 | 4 5 6 7 | 8 9 ...         world_size 2, batch_size 2, n = 6
    batch       0         1         2
    rank        0 0 1 1 | 0 0 1 1 | 0 0 ...
    epoch       0 0 0 0   0 0 1 1   1 1 ...         every example once per epoch

All batches are full: one may hold the end of an epoch and the start of the next. Resuming at step
``k`` therefore costs nothing and gives exactly what an uninterrupted run would have got.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from genpolicy.errors import UsageError
from genpolicy.seeding import generator_from

__all__ = ["BatchStream", "Gatherable", "OrderedBatches", "join_batches", "rows_of_batch"]

BatchT = TypeVar("BatchT", covariant=True)


class Gatherable(Protocol[BatchT]):
    """Examples in memory that are read by number, many at once."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def gather(self, index: Int[Tensor, " batch"]) -> BatchT:
        """Return the examples with the given numbers as one batch."""
        ...


class BatchStream(Generic[BatchT]):
    """An endless stream of shuffled batches; iterating starts at ``first_step``.

    Args:
        data: the examples; at least one.
        batch_size: examples per batch and process, at least 1.
        seed: names the order.
        rank: this process, 0 to ``world_size - 1``.
        world_size: processes that share the data.
        first_step: batch that iteration starts with, at least 0.

    Raises:
        UsageError: when a number is out of range.
    """

    def __init__(
        self,
        data: Gatherable[BatchT],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        first_step: int = 0,
    ) -> None:
        if batch_size < 1 or first_step < 0 or len(data) < 1:
            raise UsageError(
                f"BatchStream: batch_size {batch_size}, first_step {first_step}, {len(data)} "
                "examples; expected at least 1, 0 and 1"
            )
        if not 0 <= rank < world_size:
            raise UsageError(
                f"BatchStream: rank {rank} of world_size {world_size}, expected 0 <= rank < "
                "world_size"
            )
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.rank, self.world_size, self.first_step = rank, world_size, first_step
        self._orders: dict[int, Tensor] = {}

    @property
    def steps_per_epoch(self) -> float:
        """Batches in which every example is seen once, in general not a whole number."""
        return len(self.data) / (self.batch_size * self.world_size)

    def index(self, step: int) -> Int[Tensor, " batch"]:
        """Return the numbers of the examples in batch ``step`` of this rank."""
        n = len(self.data)
        begin = (step * self.world_size + self.rank) * self.batch_size
        parts: list[Tensor] = []
        position, left = begin, self.batch_size
        while left:
            epoch, offset = divmod(position, n)
            part = self._order(epoch)[offset : offset + left]
            parts.append(part)
            position, left = position + len(part), left - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def batch(self, step: int) -> BatchT:
        """Return batch ``step`` of this rank, whatever was read before.

        Raises:
            UsageError: for a negative step.
        """
        if step < 0:
            raise UsageError(f"BatchStream: step is {step}, expected at least 0")
        return self.data.gather(self.index(step))

    def __iter__(self) -> Iterator[BatchT]:
        """Yield batches ``first_step``, ``first_step + 1``, ... without end."""
        return self.iterate(self.first_step)

    def iterate(self, first_step: int) -> Iterator[BatchT]:
        """Yield batches ``first_step``, ``first_step + 1``, ... without end."""
        return map(self.batch, itertools.count(first_step))

    def _order(self, epoch: int) -> Tensor:
        """Return the permutation of an epoch; the newest two are kept."""
        if epoch not in self._orders:
            generator = generator_from(self.seed, "order", epoch)
            if len(self._orders) >= 2:
                self._orders.pop(next(iter(self._orders)))
            self._orders[epoch] = torch.randperm(len(self.data), generator=generator)
        return self._orders[epoch]


class OrderedBatches(Generic[BatchT]):
    """Every example once, in its own order; the last batch may be smaller.

    Args:
        data: the examples.
        batch_size: examples per batch, at least 1.
        rank: this process; it gets the examples whose number is ``rank`` modulo ``world_size``.
        world_size: processes that share the data.
    """

    def __init__(
        self, data: Gatherable[BatchT], *, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise UsageError(
                f"OrderedBatches: batch_size {batch_size}, rank {rank} of {world_size}; expected "
                "batch_size >= 1 and 0 <= rank < world_size"
            )
        self.data, self.batch_size = data, batch_size
        self._index = torch.arange(rank, len(data), world_size)

    def __len__(self) -> int:
        """Number of batches."""
        return math.ceil(len(self._index) / self.batch_size)

    def __iter__(self) -> Iterator[BatchT]:
        """Yield the batches."""
        for begin in range(0, len(self._index), self.batch_size):
            yield self.data.gather(self._index[begin : begin + self.batch_size])


def join_batches(parts: Sequence[Any]) -> Any:
    """Return batches with the same entries, nested in mappings, as one, row after row."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return {key: join_batches([part[key] for part in parts]) for key in parts[0]}


def rows_of_batch(batch: Any, index: Int[Tensor, " rows"]) -> Any:
    """Return the given rows of a batch, whose entries may be nested in mappings."""
    if isinstance(batch, Tensor):
        return batch[index]
    return {key: rows_of_batch(value, index) for key, value in batch.items()}
