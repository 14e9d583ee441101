"""D4RL's HDF5 files, read without D4RL, gym or mujoco-py, and written by our own generators.

A file holds flat arrays of ``n`` rows: ``observations``, ``actions``, ``rewards``, ``terminals``,
mostly ``timeouts``, and further arrays under ``infos/``. Row ``i`` is one step; the observation
after an episode's last action is not in the file.

Where episodes end (``split``):

- ``"flags"``: after every row that is terminal or a timeout. Where ``timeouts`` is absent, after
  ``max_episode_steps`` rows since the last end, with one warning.
- ``"terminals"``: after terminal rows only. For door-human-v0, whose ``timeouts`` are true at step
  200 of every demonstration while the demonstrations run on for 23 to 100 steps: splitting there
  would cut each in two.
- ``"demonstrations"``: after terminal rows only where the file is of that kind (its last row is
  terminal, and every episode has one timeout at most, at the same step), by flags otherwise.
- with ``max_jump``, also wherever the first two numbers of ``observations``, a position, change by
  more than that from one row to the next.
- with ``split_on``, also wherever that observation changes from one row to the next. In maze2d one
  long recording visits goal after goal; a window across a switch would pair a goal with actions
  that lead to another.

Rows after the last end are an episode of their own. Each episode's last row is ``terminated`` when
``terminals`` says so and otherwise ``truncated``; a row may be both.

In the maze2d files ``rewards[i]`` says whether ``observations[i]`` is at the goal, one row earlier
than the simulator would (D4RL issue 194). It is left as it is.

Source: Fu et al. 2020, arXiv 2004.07219; files as in Farama-Foundation/D4RL, d4rl/offline_env.py.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from genpolicy.data.episodes import Array, DataSource, Episodes, OnNan, SourceKind
from genpolicy.data.reading import array_at, hdf5_library, open_hdf5
from genpolicy.errors import DataError, UsageError, nearest
from genpolicy.files import write_bytes

__all__ = ["Split", "read_d4rl", "write_d4rl"]

Split = Literal["flags", "terminals", "demonstrations"]


def read_d4rl(
    path: str | Path,
    *,
    name: str | None = None,
    kind: SourceKind = "local",
    obs_keys: Mapping[str, str] | None = None,
    split: Split = "flags",
    split_on: str | None = None,
    max_jump: float | None = None,
    max_episode_steps: int | None = None,
    on_nan: OnNan = "error",
) -> Episodes:
    """Read a D4RL HDF5 file.

    Args:
        path: the file.
        name: name of the data set; None means the file's own record, or its file name.
        kind: where it comes from, unless the file records it.
        obs_keys: our observation key to array in the file; None means ``{"state":
            "observations"}``.
        split: where episodes end, see the module.
        split_on: one of our observation keys; an episode also ends where it changes.
        max_jump: distance in units of the position, see the module; None looks for no jumps.
        max_episode_steps: the task's time limit, used only where ``timeouts`` is absent.
        on_nan: see ``Episodes.from_arrays``.

    Raises:
        DataError: when the file is missing, damaged, inconsistent, not finite, or when there are
            no ``timeouts`` and neither a limit nor ``split_on`` to end episodes by.
        UsageError: for unknown options.
    """
    keys = {"state": "observations"} if obs_keys is None else dict(obs_keys)
    if split not in get_args(Split):
        raise UsageError(
            f"read_d4rl: split is {split!r}, expected one of {', '.join(get_args(Split))}"
        )
    if split_on is not None and split_on not in keys:
        raise UsageError(f"read_d4rl: split_on {split_on!r} is no key; {nearest(split_on, keys)}")
    if max_episode_steps is not None and max_episode_steps < 1:
        raise UsageError(f"read_d4rl: max_episode_steps is {max_episode_steps}, expected >= 1")
    file = Path(path).expanduser()
    with open_hdf5(file) as handle:
        source = _source_of(handle, file, name, kind)
        obs = {key: array_at(handle, stored) for key, stored in keys.items()}
        actions = array_at(handle, "actions")
        rewards = _column(array_at(handle, "rewards"))
        terminals = _column(array_at(handle, "terminals")).astype(bool)
        timeouts = None
        if split != "terminals" and "timeouts" in handle:
            timeouts = _column(array_at(handle, "timeouts")).astype(bool)
        position = None if max_jump is None else array_at(handle, "observations")[:, :2]
    for key, value in {"rewards": rewards, "terminals": terminals, "timeouts": timeouts}.items():
        if value is not None and value.shape != (len(actions),):
            raise DataError(
                f"{file}: {key} has shape {value.shape}, expected ({len(actions)},), one entry per "
                "action; the file is inconsistent"
            )
    if split == "demonstrations" and timeouts is not None and _lie_inside(timeouts, terminals):
        split, timeouts = "terminals", None
    changed = np.zeros(len(actions), bool)
    if split_on is not None and len(obs[split_on]) == len(actions):
        goal = obs[split_on].reshape(len(actions), -1)
        changed[:-1] = (goal[1:] != goal[:-1]).any(axis=1)
    if position is not None and len(position) == len(actions):
        changed[:-1] |= np.linalg.norm(np.diff(position, axis=0), axis=1) > max_jump
    is_end = terminals | changed
    if timeouts is not None:
        is_end |= timeouts
    elif split != "terminals" and (split_on is None or max_episode_steps is not None):
        is_end = _cut_at_limit(is_end, max_episode_steps, file)
    is_end[-1:] = True
    cut = is_end & ~terminals
    return Episodes.from_arrays(
        obs=obs,
        actions=actions,
        rewards=rewards,
        terminated=terminals,
        truncated=cut if timeouts is None else cut | timeouts,
        episode_ends=np.flatnonzero(is_end) + 1,
        source=source,
        on_nan=on_nan,
    )


def write_d4rl(
    path: str | Path,
    *,
    observations: Array,
    actions: Array,
    rewards: Array,
    terminals: Array,
    timeouts: Array,
    infos: Mapping[str, Array] | None = None,
    source: DataSource,
) -> None:
    """Write a D4RL HDF5 file atomically, with checksums; the same arrays give the same bytes.

    Args:
        path: target; readers never see a partial file.
        observations: ``(n_steps, obs_dim)``.
        actions: ``(n_steps, action_dim)``.
        rewards: ``(n_steps,)``.
        terminals: ``(n_steps,)`` bool.
        timeouts: ``(n_steps,)`` bool.
        infos: further arrays of ``n_steps`` rows, stored as ``infos/<key>``.
        source: its name, kind and details (numbers and strings) become attributes of the file,
            from which ``read_d4rl`` has them back.

    Raises:
        DataError: when the arrays differ in length.
    """
    arrays: dict[str, Array] = {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminals": np.asarray(terminals, dtype=bool),
        "timeouts": np.asarray(timeouts, dtype=bool),
    }
    arrays |= {f"infos/{key}": value for key, value in (infos or {}).items()}
    lengths = {key: len(value) for key, value in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"{source.name}: arrays differ in length: {lengths}; nothing was written")
    attributes = {"kind": source.kind, "task": source.name, **source.details}
    buffer = io.BytesIO()
    with hdf5_library().File(buffer, "w") as handle:
        for key in sorted(attributes):
            handle.attrs[key] = attributes[key]
        for key, value in arrays.items():
            stored = value.astype(np.float32) if value.dtype == np.float64 else value
            handle.create_dataset(
                key, data=stored, chunks=True, compression="gzip", shuffle=True, fletcher32=True
            )
    write_bytes(path, buffer.getvalue())


def _source_of(handle: Any, file: Path, name: str | None, kind: SourceKind) -> DataSource:
    """Return the origin that the file's attributes record, and the caller's word for the rest."""
    details = {str(key): _plain(value) for key, value in sorted(handle.attrs.items())}
    recorded = details.pop("kind", None)
    known: tuple[SourceKind, ...] = get_args(SourceKind)
    for one in known:
        if recorded == one:
            kind = one
    return DataSource(name or str(details.get("task", file.stem)), kind, str(file), details)


def _plain(value: Any) -> Any:
    """Return an HDF5 attribute as a Python value."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray | np.generic):
        return cast("Any", value).tolist()
    return value


def _lie_inside(timeouts: Array, terminals: Array) -> bool:
    """Return whether terminal rows mark every end and timeouts lie within the episodes."""
    if not terminals[-1:].any() or not timeouts.any() or (timeouts & terminals).any():
        return False
    starts = np.concatenate([[0], np.flatnonzero(terminals) + 1])
    rows = np.flatnonzero(timeouts)
    episode = np.searchsorted(starts, rows, side="right") - 1
    steps = rows - starts[episode]
    return len(set(episode.tolist())) == len(rows) and len(set(steps.tolist())) == 1


def _column(value: Array) -> Array:
    """Return ``(n,)`` for arrays stored as ``(n, 1)``."""
    return value[:, 0] if value.ndim == 2 and value.shape[1] == 1 else value


def _cut_at_limit(is_end: Array, limit: int | None, file: Path) -> Array:
    """Add an end after every ``limit`` rows since the last one."""
    if limit is None:
        raise DataError(
            f"{file}: there is no array 'timeouts', so the ends of episodes are unknown; give the "
            "task's time limit as max_episode_steps, or split='terminals' if they mark every end"
        )
    ends = is_end.copy()
    starts = np.concatenate([[0], np.flatnonzero(is_end) + 1])
    stops = np.append(starts[1:], len(is_end))
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        ends[start + limit - 1 : stop : limit] = True
    warnings.warn(
        f"{file}: there is no array 'timeouts'; episodes were ended at terminals and after "
        f"{limit} steps",
        stacklevel=3,
    )
    return ends
