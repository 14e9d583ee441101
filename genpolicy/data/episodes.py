"""Demonstrations in memory: the one form that every reader returns and everything else consumes.

Rows are time steps, episode after episode. Row ``i`` holds the observation, the action taken in it,
the reward of that action and what the action led to: ``terminated`` (the task is over: no value
follows) or ``truncated`` (the recording stops: the value of the next state is merely unknown)::

    row          0    1    2    3    4    5    6
    episode      0    0    0    1    1    1    1        episode_ends = [3, 7]
    terminated   .    .    x    .    .    .    .
    truncated    .    .    .    .    .    .    x

Types are settled on the way in (``Episodes.from_arrays``): low-dimensional observations and rewards
become float32, images stay uint8 ``(height, width, channels)`` and may stay in their file
(``genpolicy.data.lazy``), actions have to be floating point.
Nothing is cast silently into something that means something else: integer actions, float images and
channels-first images are refused.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from genpolicy.data.images import check_image
from genpolicy.data.lazy import blocks_of, rows_from
from genpolicy.errors import DataError, UsageError

__all__ = ["Array", "DataSource", "Episodes", "OnNan", "SourceKind"]

Array: TypeAlias = NDArray[Any]
SourceKind = Literal["official", "generated", "regenerated", "local"]
OnNan = Literal["error", "drop_episode"]


@dataclass(frozen=True)
class DataSource:
    """Where a data set comes from.

    Args:
        name: task or data set name, for example ``"pusht"``.
        kind: ``"official"`` (a published file), ``"regenerated"`` (made again by the published
            recipe), ``"generated"`` (made by this library) or ``"local"`` (a file of the user's).
        path: file or folder it was read from; None where it never was one.
        details: what else is known, as plain containers: generator settings, versions, counts.
        env: keyword arguments of the task's environment that restore the one it was recorded in,
            in JSON types; a policy trained on the data is evaluated there. Empty for the standard.
    """

    name: str
    kind: SourceKind
    path: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    env: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, eq=False)
class Episodes:
    """Recorded episodes; build them with ``from_arrays``, which casts and checks.

    Args:
        obs: for each key ``(n_steps, *shape)``, float32, or uint8 for images of shape
            ``(height, width, channels)``.
        actions: ``(n_steps, action_dim)`` float32, physical units.
        rewards: ``(n_steps,)`` float32, or None where the data has none.
        terminated: ``(n_steps,)`` bool, true where the task ended with the step's action.
        truncated: ``(n_steps,)`` bool, true where the recording ended without the task ending.
        episode_ends: ``(n_episodes,)`` int64, increasing; entry ``e`` is the row after episode
            ``e``'s last.
        source: where it comes from.
        final_obs: for each key ``(n_episodes, *shape)``, the observation after an episode's last
            action; None where the data does not have it (D4RL's files do not).
        names: name of each episode in its file, for messages; None where they have none.
    """

    obs: dict[str, Array]
    actions: Array
    rewards: Array | None
    terminated: Array
    truncated: Array
    episode_ends: Array
    source: DataSource
    final_obs: dict[str, Array] | None = None
    names: tuple[str, ...] | None = None

    @classmethod
    def from_arrays(
        cls,
        *,
        obs: Mapping[str, Array],
        actions: Array,
        episode_ends: Array | Sequence[int],
        source: DataSource,
        rewards: Array | None = None,
        terminated: Array | None = None,
        truncated: Array | None = None,
        final_obs: Mapping[str, Array] | None = None,
        names: Sequence[str] | None = None,
        on_nan: OnNan = "error",
    ) -> Episodes:
        """Cast arrays to the types above, check them and return episodes.

        Args:
            obs: as in the class; float16, float64, bool and integers become float32, uint8 arrays
                of three-dimensional observations are images.
            actions: floating point.
            episode_ends: as in the class.
            source: as in the class.
            rewards: any real type.
            terminated: None means that no step is known to end the task.
            truncated: None means every episode's last step that is not terminated.
            final_obs: as in the class.
            names: as in the class.
            on_nan: ``"error"``, or ``"drop_episode"`` to leave out the episodes with values that
                are not finite, with one warning that counts them.

        Raises:
            DataError: naming the key, and where it applies the episode and step, that is wrong.
        """
        ends = np.asarray(episode_ends, dtype=np.int64)
        n_steps = len(actions)
        if actions.dtype.kind != "f":
            raise DataError(
                f"{source.name}: actions are {actions.dtype}, expected floating point; continuous "
                "control only, so convert discrete or quantised actions to physical units first"
            )
        over = np.zeros(n_steps, bool) if terminated is None else np.asarray(terminated, bool)
        if truncated is None:
            cut = np.zeros(n_steps, bool)
            last = ends[(ends > 0) & (ends <= n_steps)] - 1
            cut[last] = ~over[last]
        else:
            cut = np.asarray(truncated, bool)
        episodes = cls(
            obs={key: _cast_obs(source.name, key, value) for key, value in obs.items()},
            actions=np.ascontiguousarray(actions, dtype=np.float32),
            rewards=None if rewards is None else np.asarray(rewards, dtype=np.float32),
            terminated=over,
            truncated=cut,
            episode_ends=ends,
            source=source,
            final_obs=None
            if final_obs is None
            else {key: _cast_obs(source.name, key, value) for key, value in final_obs.items()},
            names=None if names is None else tuple(names),
        )
        return episodes.validate(on_nan=on_nan)

    @property
    def n_steps(self) -> int:
        """Number of rows."""
        return len(self.actions)

    @property
    def n_episodes(self) -> int:
        """Number of episodes."""
        return len(self.episode_ends)

    @property
    def action_dim(self) -> int:
        """Entries of one action."""
        return int(self.actions.shape[1])

    @property
    def obs_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one observation by key."""
        return {key: tuple(int(n) for n in value.shape[1:]) for key, value in self.obs.items()}

    @property
    def episode_starts(self) -> Array:
        """First row of each episode, ``(n_episodes,)`` int64."""
        return np.concatenate([np.zeros(1, np.int64), self.episode_ends[:-1]])

    @property
    def lengths(self) -> Array:
        """Steps of each episode, ``(n_episodes,)`` int64."""
        return self.episode_ends - self.episode_starts

    @property
    def returns(self) -> Array | None:
        """Undiscounted return of each episode, float64, or None where there are no rewards."""
        if self.rewards is None:
            return None
        return np.add.reduceat(self.rewards.astype(np.float64), self.episode_starts)

    def returns_to_go(self, discount: float = 1.0) -> Array:
        """Return ``sum_k discount^k reward[i + k]`` to the end of each row's episode, float32.

        Args:
            discount: in [0, 1].

        Raises:
            DataError: when the data has no rewards.
            UsageError: for a discount out of range.
        """
        if self.rewards is None:
            raise DataError(
                f"{self.source.name}: the data has no rewards, so there are no returns; use data "
                "that is labelled with rewards, or an algorithm that needs none"
            )
        if not 0.0 <= discount <= 1.0:
            raise UsageError(f"returns: discount is {discount}, expected a value in [0, 1]")
        found = self.rewards.astype(np.float64)
        first = np.zeros(self.n_steps, bool)
        first[self.episode_starts] = True
        for row in range(self.n_steps - 2, -1, -1):
            if not first[row + 1]:
                found[row] += discount * found[row + 1]
        return found.astype(np.float32)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content (not of the file), as 64 hexadecimal digits.

        Equal for the same data read from another place or container; differs when any value, key,
        shape or episode boundary differs.
        """
        digest = hashlib.sha256()
        for name, value in self._named_arrays():
            digest.update(f"{name}|{value.dtype.str}|{value.shape}|".encode())
            for block in blocks_of(value):
                digest.update(np.ascontiguousarray(block).data if block.size else b"")
        return digest.hexdigest()

    def locate(self, row: int) -> tuple[int, int]:
        """Return the episode of a row and the step within it, both counted from 0."""
        episode = int(np.searchsorted(self.episode_ends, row, side="right"))
        return episode, row - int(self.episode_starts[episode])

    def rows_of(self, episode_ids: Sequence[int] | Array) -> Array:
        """Return the rows of the given episodes, one after the other, as int64."""
        starts, ends = self.episode_starts, self.episode_ends
        ranges = [np.arange(starts[e], ends[e], dtype=np.int64) for e in episode_ids]
        return np.concatenate(ranges) if ranges else np.zeros(0, np.int64)

    def select(self, episode_ids: Sequence[int] | Array) -> Episodes:
        """Return a copy with only the given episodes, in the given order.

        Raises:
            UsageError: for an episode that does not exist.
        """
        ids = np.asarray(episode_ids, dtype=np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= self.n_episodes):
            raise UsageError(
                f"{self.source.name}: episodes {ids.min()} to {ids.max()} were asked for, it has "
                f"0 to {self.n_episodes - 1}"
            )
        rows = self.rows_of(ids)
        final = self.final_obs
        return replace(
            self,
            obs={key: rows_from(value, rows) for key, value in self.obs.items()},
            actions=self.actions[rows],
            rewards=None if self.rewards is None else self.rewards[rows],
            terminated=self.terminated[rows],
            truncated=self.truncated[rows],
            episode_ends=np.cumsum(self.lengths[ids], dtype=np.int64),
            final_obs=None if final is None else {key: value[ids] for key, value in final.items()},
            names=None if self.names is None else tuple(self.names[int(e)] for e in ids),
        )

    def validate(self, *, on_nan: OnNan = "error") -> Episodes:
        """Check lengths, episode ends, images and that every value is finite.

        Args:
            on_nan: what to do with values that are not finite: ``"error"`` or ``"drop_episode"``.

        Returns:
            These episodes, or those without the dropped ones.

        Raises:
            DataError: saying what is wrong and where.
            UsageError: for an unknown ``on_nan``.
        """
        if on_nan not in ("error", "drop_episode"):
            raise UsageError(f"on_nan is {on_nan!r}, expected 'error' or 'drop_episode'")
        self._check_structure()
        for key, value in self.obs.items():
            check_image(self.source.name, key, value)
        return self._check_finite(on_nan)

    def _name_of(self, episode: int) -> str:
        named = "" if self.names is None else f" ({self.names[episode]})"
        return f"episode {episode}{named}"

    def _named_arrays(self) -> list[tuple[str, Array]]:
        arrays = [(f"obs/{key}", self.obs[key]) for key in sorted(self.obs)]
        arrays.append(("actions", self.actions))
        if self.rewards is not None:
            arrays.append(("rewards", self.rewards))
        arrays += [("terminated", self.terminated), ("truncated", self.truncated)]
        arrays.append(("episode_ends", self.episode_ends))
        final = self.final_obs or {}
        return arrays + [(f"final_obs/{key}", final[key]) for key in sorted(final)]

    def _check_structure(self) -> None:
        name = self.source.name
        if self.n_steps == 0 or self.n_episodes == 0:
            raise DataError(
                f"{name}: the data set is empty ({self.n_episodes} episodes, {self.n_steps} "
                "steps); check the file and the filters that were applied"
            )
        if not self.obs or "action" in self.obs:
            raise DataError(
                f"{name}: observation keys are {sorted(self.obs)}, expected at least one, and none "
                "called 'action'"
            )
        if self.actions.ndim != 2 or self.actions.shape[1] == 0:
            raise DataError(
                f"{name}: actions have shape {self.actions.shape}, expected (n_steps, action_dim)"
            )
        for key, value in self._named_arrays():
            is_per_episode = key == "episode_ends" or key.startswith("final_obs/")
            expected = self.n_episodes if is_per_episode else self.n_steps
            if len(value) != expected:
                raise DataError(
                    f"{name}: {key} has {len(value)} rows, expected {expected}, one per "
                    f"{'episode' if is_per_episode else 'action'}; the file is inconsistent"
                )
        lengths = self.lengths
        if (lengths < 1).any() or self.episode_ends[-1] != self.n_steps:
            raise DataError(
                f"{name}: episode ends {self.episode_ends[:5].tolist()}... up to "
                f"{int(self.episode_ends[-1])} do not increase to the number of steps "
                f"{self.n_steps}"
            )

    def _check_finite(self, on_nan: OnNan) -> Episodes:
        bad_episodes: set[int] = set()
        found: list[str] = []
        for key, value in self._named_arrays():
            if value.dtype.kind != "f":
                continue
            finite = np.isfinite(value)
            if finite.all():
                continue
            bad_rows = np.flatnonzero(~finite.reshape(len(value), -1).all(axis=1))
            if key.startswith("final_obs/"):
                where = [(int(row), int(self.lengths[row])) for row in bad_rows]
            else:
                where = [self.locate(int(row)) for row in bad_rows]
            bad_episodes.update(episode for episode, _ in where)
            found.append(
                f"{key}: {int((~finite).sum())} values that are nan or inf, the first in "
                f"{self._name_of(where[0][0])} at step {where[0][1]}"
            )
        if not found:
            return self
        text = f"{self.source.name}: {'; '.join(found)}"
        if on_nan == "error":
            raise DataError(
                f"{text}; repair the data, or set on_nan=drop_episode to leave out "
                f"{len(bad_episodes)} of {self.n_episodes} episodes"
            )
        kept = [e for e in range(self.n_episodes) if e not in bad_episodes]
        if not kept:
            raise DataError(f"{text}; every episode is affected, so none is left")
        warnings.warn(
            f"{text}; dropped episodes {sorted(bad_episodes)} ({len(bad_episodes)} of "
            f"{self.n_episodes})",
            stacklevel=4,
        )
        return self.select(kept)


def _cast_obs(name: str, key: str, value: Array) -> Array:
    """Apply the type rules of the module docstring to one observation array."""
    if value.dtype.kind not in "fiub":
        raise DataError(f"{name}: observation {key!r} is {value.dtype}, expected numbers")
    if value.ndim < 2:
        raise DataError(
            f"{name}: observation {key!r} has shape {value.shape}, expected (n_steps, *shape)"
        )
    if value.ndim == 3 and value.dtype == np.uint8:
        raise DataError(
            f"{name}: observation {key!r} is uint8 of shape {value.shape[1:]}; for grey images add "
            "the axis of channels with images[..., None]"
        )
    if value.ndim == 4:
        return value  # an image: converted by its reader or refused by the check
    return np.ascontiguousarray(value, dtype=np.float32)
