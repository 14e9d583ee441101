"""Steps for offline RL, with the two ways an episode ends kept apart.

A transition starts at a current step ``i`` with the window a policy sees and returns there (see
``windows``), executes ``n`` = ``n_action_steps`` of its actions, and arrives at step ``i + n``::

    reward      sum_{k < n} discount^k r[i + k]                                             (1)
    bootstrap   discount^n, the factor of the value of what is observed at i + n            (2)

With ``n`` = 1 it is the transition of one step. Where an episode ends::

    row                next observation                          bootstrap
    inside             observation of row i + n                  discount^n
    task over at i+k   the final one if known, else its own      0          (never used)
    truncated          the final one if known                    discount^n
    truncated          unknown: the row is left out              -

A time limit is no end of the task: its row still bootstraps, or is left out where the observation
after it was not recorded. A row whose ``n`` actions were not all recorded is left out, unless the
task was over within them. No transition leads into another episode.

Source: D4RL's ``qlearning_dataset`` (Farama-Foundation/D4RL, d4rl/__init__.py), from which this
differs in three ways: a terminal row is kept also when it is the file's last or at the limit, its
next observation is not the next episode's first, and where the file has no ``timeouts`` the limit
counts from the step after a terminal row (D4RL's counter starts at 1 there, not at 0). (1) and (2)
for chunks are those of arXiv 2507.07969.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genpolicy.data.episodes import Array, Episodes
from genpolicy.data.windows import WindowBatch, WindowDataset
from genpolicy.errors import DataError, UsageError

__all__ = ["TransitionBatch", "TransitionDataset"]


class TransitionBatch(WindowBatch):
    """A batch of transitions in physical units: windows, and what their actions led to.

    Entries beside those of ``WindowBatch``: ``reward`` (1) and ``bootstrap`` (2), ``(batch,)``;
    ``next_obs`` by key ``(batch, n_obs_steps, *shape)``; ``next_action`` ``(batch, horizon,
    action)``, the data's chunk there, with ``next_mask``, false where none was recorded;
    ``terminated`` and ``truncated`` ``(batch,)``.
    """

    reward: Float[Tensor, " batch"]
    bootstrap: Float[Tensor, " batch"]
    next_obs: dict[str, Tensor]
    next_action: Float[Tensor, "batch horizon action"]
    next_mask: Bool[Tensor, "batch horizon"]
    terminated: Bool[Tensor, " batch"]
    truncated: Bool[Tensor, " batch"]


class TransitionDataset:
    """The transitions of episodes that lie in memory; a batch is one gather per array.

    Args:
        episodes: data with rewards.
        n_obs_steps: observations of a window, at least 1.
        horizon: actions of a window, at least ``n_obs_steps - 1 + n_action_steps``.
        n_action_steps: n, the actions that are executed, at least 1.
        discount: in [0, 1].
        episode_ids: episodes to use, or None for all.
        end_at_truncation: treat truncated rows as terminated instead: they are kept and do not
            bootstrap. For tasks whose time limit is part of the task.

    Attributes:
        rows: the data row of each transition's current step, ``(n_transitions,)``.

    Raises:
        DataError: when there are no rewards, or no transition is left.
        UsageError: for sizes or a discount out of range.
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        n_obs_steps: int = 1,
        horizon: int = 1,
        n_action_steps: int = 1,
        discount: float = 1.0,
        episode_ids: Sequence[int] | Array | None = None,
        end_at_truncation: bool = False,
    ) -> None:
        if episodes.rewards is None:
            raise DataError(
                f"{episodes.source.name}: there are no rewards, which transitions need; use "
                "windows for behaviour cloning, or a data set with rewards"
            )
        if n_action_steps < 1 or horizon < n_obs_steps - 1 + n_action_steps:
            raise UsageError(
                f"transitions: n_action_steps {n_action_steps}, horizon {horizon} and n_obs_steps "
                f"{n_obs_steps}; expected n_obs_steps - 1 + n_action_steps of 1 to horizon"
            )
        if not 0.0 <= discount <= 1.0:
            raise UsageError(f"transitions: discount is {discount}, expected a value in [0, 1]")
        # One window per row, in the order of the rows: window p has the current step rows[p].
        self._windows = WindowDataset(
            episodes,
            n_obs_steps=n_obs_steps,
            horizon=horizon,
            pad_before=n_obs_steps - 1,
            pad_after=horizon - n_obs_steps,
            episode_ids=episode_ids,
        )
        ids = np.arange(episodes.n_episodes) if episode_ids is None else np.asarray(episode_ids)
        every = episodes.rows_of(ids)
        last = np.repeat(episodes.episode_ends[ids] - 1, episodes.lengths[ids])
        over = episodes.terminated.copy()
        if end_at_truncation:
            over[episodes.episode_ends - 1] = True
        stop = np.minimum(every + n_action_steps - 1, last)  # last executed row
        end = np.minimum(_next_true(over)[every], episodes.n_steps)
        is_over = end <= stop
        stop = np.where(is_over, end, stop)
        reaches = every + n_action_steps - 1 <= last
        known = (stop < last) | (episodes.final_obs is not None)
        kept = np.flatnonzero(is_over | (reaches & known))
        if len(kept) == 0:
            raise DataError(
                f"{episodes.source.name}: every step is the last of a truncated episode, so no "
                "transition has a known next observation"
            )
        steps = stop - every + 1
        reward = np.zeros(len(every))
        for k in range(n_action_steps):
            inside = k < steps
            later = np.minimum(every + k, episodes.n_steps - 1)
            reward += np.where(inside, discount**k * episodes.rewards[later], 0.0)
        # Final observations are stored after the rows; last rows without one point at themselves.
        following = np.where(stop < last, stop + 1, stop)
        if episodes.final_obs is not None:
            finals = episodes.n_steps + np.repeat(ids, episodes.lengths[ids])
            following = np.where(stop < last, stop + 1, finals)
        history = np.stack(
            [
                *(np.minimum(stop + 1 - back, last) for back in range(n_obs_steps - 1, 0, -1)),
                following,
            ],
            axis=1,
        )
        first = np.repeat(episodes.episode_starts[ids], episodes.lengths[ids])
        history = np.maximum(history, first[:, None])
        final = episodes.final_obs
        self._obs = {
            key: torch.as_tensor(value if final is None else np.concatenate([value, final[key]]))
            for key, value in episodes.obs.items()
        }
        has_next = ~is_over & (stop < last)
        position = np.arange(len(every)) + np.where(has_next, steps, 0)
        self.rows = torch.as_tensor(every[kept])
        self._kept = torch.as_tensor(kept)
        self._history = torch.as_tensor(history[kept])
        self._next = torch.as_tensor(position[kept])
        self._has_next = torch.as_tensor(has_next[kept])
        self._reward = torch.as_tensor(reward[kept].astype(np.float32))
        self._bootstrap = torch.as_tensor(
            np.where(is_over, 0.0, discount**n_action_steps)[kept].astype(np.float32)
        )
        self._terminated = torch.as_tensor(is_over[kept])
        self._truncated = torch.as_tensor(episodes.truncated[stop[kept]])

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.rows)

    def gather(self, index: Int[Tensor, " batch"]) -> TransitionBatch:
        """Return the transitions with the given numbers, in that order."""
        now = self._windows.gather(self._kept[index])
        after, mask = self._windows.actions(self._next[index])
        history = self._history[index]
        shape = history.shape
        return TransitionBatch(
            obs=now["obs"],
            action=now["action"],
            mask=now["mask"],
            index=index,
            reward=self._reward[index],
            bootstrap=self._bootstrap[index],
            next_obs={
                key: value.index_select(0, history.reshape(-1)).view(*shape, *value.shape[1:])
                for key, value in self._obs.items()
            },
            next_action=after,
            next_mask=mask & self._has_next[index, None],
            terminated=self._terminated[index],
            truncated=self._truncated[index],
        )


def _next_true(flags: Array) -> Array:
    """Return for each row the first row from it on whose flag is true, or a number past the end."""
    rows = np.where(flags, np.arange(len(flags)), 2 * len(flags))
    return np.minimum.accumulate(rows[::-1])[::-1]
