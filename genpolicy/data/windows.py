"""Windows of episodes: what a policy is trained on.

A window starts at some step ``s`` of an episode and holds ``horizon`` actions and the first
``n_obs_steps`` observations; its current step is ``s + n_obs_steps - 1``. Windows may hang over
the episode's first step by ``pad_before`` and over its last by ``pad_after``; what hangs over
repeats the first or last row and is false in ``mask``. With n_obs_steps 2, horizon 4, pad_before 1,
pad_after 1, an episode of 5 rows gives these windows (lower-case rows are repetitions)::

    window 0    a A B C            observations  a A
    window 1    A B C D            observations  A B
    window 2    B C D E
    window 3    C D E e

An episode of ``L`` rows gives ``L + pad_before + pad_after - horizon + 1`` windows (1), and never
fewer than one: a shorter episode gives the window that starts ``pad_before`` before it. No window
holds rows of two episodes.

Source: the index arithmetic of Diffusion Policy, arXiv 2303.04137, where the count (1) is the same
but episodes too short for it are left out, and repetitions count in the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genpolicy.data.episodes import Array, Episodes
from genpolicy.data.lazy import LazyRows
from genpolicy.errors import UsageError

__all__ = ["WindowBatch", "WindowDataset", "WindowIndex", "check_window_sizes"]


class WindowBatch(TypedDict):
    """A batch of windows in physical units.

    Entries: ``obs`` by key ``(batch, n_obs_steps, *shape)``; ``action`` ``(batch, horizon,
    action)``; ``mask`` ``(batch, horizon)``, true where the action was recorded and is no
    repetition; ``index`` ``(batch,)``, the windows' numbers; where it was asked for ``returns``
    ``(batch,)``, the discounted return from the current step on.
    """

    obs: dict[str, Tensor]
    action: Float[Tensor, "batch horizon action"]
    mask: Bool[Tensor, "batch horizon"]
    index: Int[Tensor, " batch"]
    returns: NotRequired[Float[Tensor, " batch"]]


def check_window_sizes(*, n_obs_steps: int, horizon: int, pad_before: int, pad_after: int) -> None:
    """Check sizes of windows before any data is read.

    Raises:
        UsageError: naming the size that is out of range.
    """
    if n_obs_steps < 1 or horizon < n_obs_steps:
        raise UsageError(
            f"windows: n_obs_steps {n_obs_steps} and horizon {horizon}, expected "
            "1 <= n_obs_steps <= horizon"
        )
    for name, value in (("pad_before", pad_before), ("pad_after", pad_after)):
        if not 0 <= value < horizon:
            raise UsageError(
                f"windows: {name} is {value}, expected 0 to horizon - 1 = {horizon - 1}"
            )


class WindowIndex:
    """Where the windows of episodes lie; holds three integers per window and no data.

    Args:
        episode_ends: ``(n_episodes,)`` cumulative ends, as in ``Episodes``.
        n_obs_steps: observations per window, at least 1.
        horizon: actions per window, at least ``n_obs_steps``.
        pad_before: steps a window may start before its episode; 0 to ``horizon - 1``.
        pad_after: steps a window may end after its episode; 0 to ``horizon - 1``.
        episode_ids: episodes to use, or None for all.

    Raises:
        UsageError: when sizes contradict each other or no episode is chosen.
    """

    def __init__(
        self,
        episode_ends: Array,
        *,
        n_obs_steps: int,
        horizon: int,
        pad_before: int,
        pad_after: int,
        episode_ids: Sequence[int] | Array | None = None,
    ) -> None:
        check_window_sizes(
            n_obs_steps=n_obs_steps, horizon=horizon, pad_before=pad_before, pad_after=pad_after
        )
        self.n_obs_steps, self.horizon = n_obs_steps, horizon
        self.pad_before, self.pad_after = pad_before, pad_after
        ends = np.asarray(episode_ends, dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        ids = np.arange(len(ends)) if episode_ids is None else np.asarray(episode_ids, np.int64)
        if len(ids) == 0:
            raise UsageError("windows: no episode is chosen; lower val_ratio or raise max_episodes")
        starts, ends = starts[ids], ends[ids]
        counts = np.maximum(ends - starts + pad_before + pad_after - horizon + 1, 1)  # (1)
        within: Array = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        self.start = torch.as_tensor(np.repeat(starts, counts) - pad_before + within)
        self.first = torch.as_tensor(np.repeat(starts, counts))
        self.last = torch.as_tensor(np.repeat(ends, counts) - 1)
        self._steps = torch.arange(horizon)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.start)

    def rows(
        self, index: Int[Tensor, " batch"]
    ) -> tuple[Int[Tensor, "batch horizon"], Bool[Tensor, "batch horizon"]]:
        """Return the data rows of windows and which of their entries are no repetitions.

        Args:
            index: numbers of windows, each from 0 to ``len - 1``.
        """
        wanted = self.start[index, None] + self._steps
        first, last = self.first[index, None], self.last[index, None]
        rows = torch.minimum(torch.maximum(wanted, first), last)
        return rows, rows == wanted


class WindowDataset:
    """Windows of episodes; a batch is one gather per key, or for lazy images one read.

    Args:
        episodes: the data; its arrays are shared, not copied.
        n_obs_steps: as in ``WindowIndex``.
        horizon: as in ``WindowIndex``.
        pad_before: as in ``WindowIndex``.
        pad_after: as in ``WindowIndex``.
        episode_ids: as in ``WindowIndex``.
        discount: also return every window's discounted return, in [0, 1]; None does not.

    Raises:
        DataError: when returns are asked for and the data has no rewards.
        UsageError: for sizes or a discount out of range.
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        n_obs_steps: int,
        horizon: int,
        pad_before: int,
        pad_after: int,
        episode_ids: Sequence[int] | Array | None = None,
        discount: float | None = None,
    ) -> None:
        self.index = WindowIndex(
            episodes.episode_ends,
            n_obs_steps=n_obs_steps,
            horizon=horizon,
            pad_before=pad_before,
            pad_after=pad_after,
            episode_ids=episode_ids,
        )
        self._obs = {key: _tensor(value) for key, value in episodes.obs.items()}
        self._actions = torch.as_tensor(episodes.actions)
        self._returns = None
        if discount is not None:
            self._returns = torch.as_tensor(episodes.returns_to_go(discount))

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.index)

    def gather(self, index: Int[Tensor, " batch"]) -> WindowBatch:
        """Return the windows with the given numbers, in that order."""
        rows, mask = self.index.rows(index)
        seen = rows[:, : self.index.n_obs_steps]
        batch = WindowBatch(
            obs={key: _take(value, seen) for key, value in self._obs.items()},
            action=_take(self._actions, rows),
            mask=mask,
            index=index,
        )
        if self._returns is not None:
            batch["returns"] = self._returns[rows[:, self.index.n_obs_steps - 1]]
        return batch

    def actions(
        self, index: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch horizon action"], Bool[Tensor, "batch horizon"]]:
        """Return the actions of windows alone, and which of them are no repetitions."""
        rows, mask = self.index.rows(index)
        return _take(self._actions, rows), mask


def _tensor(value: Any) -> Tensor | LazyRows:
    return value if isinstance(value, LazyRows) else torch.as_tensor(value)


def _take(values: Tensor | LazyRows, rows: Tensor) -> Tensor:
    """Return ``values[rows]``; index_select is several times faster than indexing with 2-D rows."""
    if isinstance(values, LazyRows):
        return torch.as_tensor(values[rows.numpy()])
    flat = values.index_select(0, rows.reshape(-1))
    return flat.view(*rows.shape, *values.shape[1:])
