"""Transitions for training that go on being collected while it runs.

A batch is drawn from two sources: the transitions of the data set, and those of the episodes that
were added. Batch ``k`` is a function of the seed, ``k`` and the episodes that were added before,
so that a resumed run with the same episodes draws what an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from genpolicy.data.batches import BatchStream, Gatherable, join_batches
from genpolicy.data.episodes import Episodes
from genpolicy.data.joining import join_episodes
from genpolicy.errors import UsageError
from genpolicy.seeding import generator_from

__all__ = ["ReplayBuffer"]


class ReplayBuffer:
    """A data set's transitions and those of episodes that are added, as batches.

    Args:
        offline: transitions of the data set.
        transitions_of: makes transitions of added episodes, as those of the data set were made.
        batch_size: transitions of a batch, at least 1.
        seed: names the draws.
        offline_fraction: part of a batch that is of the data set, in [0, 1], in the data set's
            shuffled order; the rest is drawn uniformly, with repetition, from what was added. None
            draws uniformly from both together, as from one buffer to which episodes are appended.

    Attributes:
        added: the episodes that were added; None before the first.

    Raises:
        UsageError: for numbers out of range.

    Source: arXiv 2302.02948 (RLPD, half of each batch from either source).
    """

    def __init__(
        self,
        offline: Gatherable[Any],
        transitions_of: Callable[[Episodes], Gatherable[Any]],
        *,
        batch_size: int,
        seed: int,
        offline_fraction: float | None = 0.5,
    ) -> None:
        if batch_size < 1 or not (offline_fraction is None or 0.0 <= offline_fraction <= 1.0):
            raise UsageError(
                f"replay: batch_size is {batch_size} and offline_fraction {offline_fraction}, "
                "expected at least 1, and 0 to 1 or null"
            )
        self.offline, self._transitions_of = offline, transitions_of
        self.batch_size, self.seed, self.offline_fraction = batch_size, seed, offline_fraction
        self.added: Episodes | None = None
        self._online: Gatherable[Any] | None = None
        n = 0 if offline_fraction is None else round(offline_fraction * batch_size)
        self._stream = BatchStream(offline, batch_size=n, seed=seed) if n else None

    def add(self, episodes: Episodes) -> None:
        """Append episodes with rewards and final observations, in the units of the data set."""
        self.added = episodes if self.added is None else join_episodes([self.added, episodes])
        self._online = self._transitions_of(self.added)

    def batch(self, step: int) -> Any:
        """Return batch ``step``.

        Raises:
            UsageError: before episodes were added.
        """
        if self._online is None:
            raise UsageError("replay: no episode was added yet; add one before the first batch")
        generator = generator_from(self.seed, "replay", step)
        n_offline, n_online = len(self.offline), len(self._online)
        if self.offline_fraction is None:
            drawn = torch.randint(n_offline + n_online, (self.batch_size,), generator=generator)
            old, new = drawn[drawn < n_offline], drawn[drawn >= n_offline] - n_offline
        else:
            old = torch.zeros(0, dtype=torch.long)
            if self._stream is not None:
                old = self._stream.index(step)
            new = torch.randint(n_online, (self.batch_size - len(old),), generator=generator)
        parts = [
            source.gather(index)
            for source, index in ((self.offline, old), (self._online, new))
            if len(index)
        ]
        return parts[0] if len(parts) == 1 else join_batches(parts)
