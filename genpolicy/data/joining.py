"""Several recordings as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from genpolicy.data.episodes import Episodes
from genpolicy.errors import DataError

__all__ = ["join_episodes"]


def join_episodes(parts: Sequence[Episodes]) -> Episodes:
    """Return the episodes of all parts, one after the other, under the first one's source.

    Args:
        parts: at least one, all with the same observations, actions of one size, and either all or
            none with rewards and with final observations.

    Raises:
        DataError: when they differ in that.
    """
    first = parts[0]
    for part in parts[1:]:
        if _kinds(part) != _kinds(first):
            raise DataError(
                f"{first.source.name}: episodes of {_kinds(part)} cannot be joined to episodes of "
                f"{_kinds(first)}; record both with the same keys, rewards and final observations"
            )
    if len(parts) == 1:
        return first
    twice = np.concatenate
    offsets = np.cumsum([0] + [part.n_steps for part in parts[:-1]])
    rewards = [part.rewards for part in parts if part.rewards is not None]
    finals = [part.final_obs for part in parts if part.final_obs is not None]
    names = [part.names for part in parts if part.names is not None]
    return replace(
        first,
        obs={key: twice([part.obs[key] for part in parts]) for key in first.obs},
        actions=twice([part.actions for part in parts]),
        rewards=twice(rewards) if rewards else None,
        terminated=twice([part.terminated for part in parts]),
        truncated=twice([part.truncated for part in parts]),
        episode_ends=twice(
            [part.episode_ends + offset for part, offset in zip(parts, offsets, strict=True)]
        ),
        final_obs={key: twice([final[key] for final in finals]) for key in finals[0]}
        if finals
        else None,
        names=sum(names, ()) if len(names) == len(parts) else None,
    )


def _kinds(episodes: Episodes) -> tuple[object, ...]:
    """Return what has to be the same in all parts."""
    return (
        episodes.obs_shapes,
        episodes.action_dim,
        "with rewards" if episodes.rewards is not None else "without rewards",
        "with final observations" if episodes.final_obs is not None else "without final ones",
    )
