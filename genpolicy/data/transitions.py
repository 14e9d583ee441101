"""Single steps for offline RL, with the two ways an episode ends kept apart.

A row gives one transition (observation, action, reward, next observation, bootstrap)::

    row               next observation                          bootstrap
    inside            observation of the next row               1
    terminated        the final one if known, else its own      0      (never used)
    truncated         the final one if known                    1
    truncated         unknown: the row is left out              -

A time limit is no end of the task: its row still bootstraps, or is left out where the observation
after it was not recorded. No transition leads into another episode.

Source: D4RL's ``qlearning_dataset`` (Farama-Foundation/D4RL, d4rl/__init__.py), from which this
differs in three ways: a terminal row is kept also when it is the file's last or at the limit, its
next observation is not the next episode's first, and where the file has no ``timeouts`` the limit
counts from the step after a terminal row (D4RL's counter starts at 1 there, not at 0).
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genpolicy.data.episodes import Episodes
from genpolicy.errors import DataError

__all__ = ["TransitionBatch", "TransitionDataset"]


class TransitionBatch(TypedDict):
    """A batch of transitions in physical units.

    Entries: ``obs`` and ``next_obs`` by key ``(batch, *shape)``; ``action`` ``(batch, action)``;
    ``reward`` and ``bootstrap`` ``(batch,)``, the latter 0 where the task ended and otherwise 1;
    ``terminated`` and ``truncated`` ``(batch,)``; ``index`` ``(batch,)``, the transitions' numbers.
    """

    obs: dict[str, Tensor]
    action: Float[Tensor, "batch action"]
    reward: Float[Tensor, " batch"]
    next_obs: dict[str, Tensor]
    bootstrap: Float[Tensor, " batch"]
    terminated: Bool[Tensor, " batch"]
    truncated: Bool[Tensor, " batch"]
    index: Int[Tensor, " batch"]


class TransitionDataset:
    """The transitions of episodes that lie in memory; a batch is one gather per array.

    Args:
        episodes: data with rewards.
        end_at_truncation: treat truncated rows as terminated instead: they are kept and do not
            bootstrap. For tasks whose time limit is part of the task.

    Raises:
        DataError: when there are no rewards, or no transition is left.
    """

    def __init__(self, episodes: Episodes, *, end_at_truncation: bool = False) -> None:
        if episodes.rewards is None:
            raise DataError(
                f"{episodes.source.name}: there are no rewards, which transitions need; use "
                "windows for behaviour cloning, or a data set with rewards"
            )
        is_last = np.zeros(episodes.n_steps, bool)
        is_last[episodes.episode_ends - 1] = True
        over = episodes.terminated | (is_last & end_at_truncation)
        kept = np.ones(episodes.n_steps, bool)
        if episodes.final_obs is None:
            kept = ~is_last | over
        rows = np.flatnonzero(kept)
        if len(rows) == 0:
            raise DataError(
                f"{episodes.source.name}: every step is the last of a truncated episode, so no "
                "transition has a known next observation"
            )
        # Final observations are stored after the rows; other last rows point at themselves.
        following = np.arange(1, episodes.n_steps + 1)
        following[is_last] = np.flatnonzero(is_last)
        if episodes.final_obs is not None:
            following[is_last] = episodes.n_steps + np.arange(episodes.n_episodes)
        self.rows = torch.as_tensor(rows)
        self._next_rows = torch.as_tensor(following[rows])
        final = episodes.final_obs
        self._obs = {
            key: torch.as_tensor(value if final is None else np.concatenate([value, final[key]]))
            for key, value in episodes.obs.items()
        }
        self._actions = torch.as_tensor(episodes.actions)
        self._rewards = torch.as_tensor(episodes.rewards)
        self._terminated = torch.as_tensor(over)
        self._truncated = torch.as_tensor(episodes.truncated)

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.rows)

    def gather(self, index: Int[Tensor, " batch"]) -> TransitionBatch:
        """Return the transitions with the given numbers, in that order."""
        rows, next_rows = self.rows[index], self._next_rows[index]
        terminated = self._terminated[rows]
        return TransitionBatch(
            obs={key: value.index_select(0, rows) for key, value in self._obs.items()},
            action=self._actions.index_select(0, rows),
            reward=self._rewards[rows],
            next_obs={key: value.index_select(0, next_rows) for key, value in self._obs.items()},
            bootstrap=(~terminated).to(torch.float32),
            terminated=terminated,
            truncated=self._truncated[rows],
            index=index,
        )
