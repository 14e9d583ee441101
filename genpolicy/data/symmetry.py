"""Symmetries: maps of observations and actions that map a task to itself.

The image of a demonstration under a symmetry is a demonstration of the same task, so that adding it
enlarges the data without recording any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from genpolicy.data.episodes import Array, Episodes
from genpolicy.data.joining import join_episodes
from genpolicy.errors import UsageError

__all__ = ["ArrayMap", "Symmetry"]

ArrayMap: TypeAlias = Callable[[Array], Array]


@dataclass(frozen=True)
class Symmetry:
    """A symmetry of a task; rewards and the ends of episodes do not change under it.

    Args:
        obs: for each key a map of arrays ``(n, *shape)`` to arrays of the same shape.
        action: the map of actions ``(n, action_dim)``.
        check: raises a ``UsageError`` for episodes that it is no symmetry of, such as data with
            another goal; None takes all.
    """

    obs: Mapping[str, ArrayMap]
    action: ArrayMap
    check: Callable[[Episodes], None] | None = None

    def image(self, episodes: Episodes) -> Episodes:
        """Return the images of episodes, in the same order.

        Raises:
            UsageError: when an observation has no map.
        """
        final = episodes.final_obs
        return replace(
            episodes,
            obs=self._observations(episodes.obs),
            actions=_same_type(self.action, episodes.actions),
            final_obs=None if final is None else self._observations(final),
        )

    def enlarge(self, episodes: Episodes) -> Episodes:
        """Return episodes followed by their images: episode ``n + i`` is the image of ``i``.

        Raises:
            UsageError: when an observation has no map, or ``check`` refuses.
        """
        if self.check is not None:
            self.check(episodes)
        return join_episodes([episodes, self.image(episodes)])

    def _observations(self, obs: Mapping[str, Array]) -> dict[str, Array]:
        unknown = sorted(set(obs) - set(self.obs))
        if unknown:
            raise UsageError(
                f"symmetry: no map for the observations {unknown}; it has {sorted(self.obs)}"
            )
        return {key: _same_type(self.obs[key], value) for key, value in obs.items()}


def _same_type(function: ArrayMap, value: Array) -> Array:
    return np.ascontiguousarray(function(value), dtype=value.dtype)
