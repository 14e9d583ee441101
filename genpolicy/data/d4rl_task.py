"""The data of a D4RL task in whatever form it comes: D4RL's HDF5 of any version, Minari's, ours.

What is particular about some of them:

- **door-human-v0** and the other human files of adroit v0: ``timeouts`` inside the demonstrations,
  which end at terminal rows (``genpolicy.data.d4rl``).
- **kitchen**: D4RL's observations are the positions of robot (9) and objects (21) and a constant
  goal, which is left out. Of gymnasium-robotics' 59 numbers the positions are taken, or all with
  ``obs="full"``; the policy is then evaluated on such observations, too. Where ``timeouts`` are
  absent, episodes end at 280 steps. The last observation of an episode is not in the files.
- **antmaze-v0**: ``timeouts`` out of step with the ends (D4RL issue 77), so that an episode also
  ends where the ant moves by more than 2 m from a row to the next. In all versions rows at the goal
  are terminal even where the ant goes on; every such row ends an episode, as in D4RL's own loader.
- **Minari**: a folder, or its ``main_data.hdf5``. Its antmaze has another ant, another frame and
  other observations than D4RL's and ours, so policies of that data do not fit our environment.

Scores on files of older versions and on Minari's are not comparable with those that are published
for the task; such a file says so in ``DataSource.details["warning"]``, from where it reaches every
result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from genpolicy.d4rl_tasks import D4RLTask, resolve_d4rl
from genpolicy.data.d4rl import Split, read_d4rl
from genpolicy.data.episodes import Episodes, OnNan, SourceKind
from genpolicy.data.minari import read_minari
from genpolicy.data.reading import open_hdf5, require_path
from genpolicy.errors import DataError, UsageError

__all__ = ["d4rl_reader"]

_MINARI_KEYS = {
    "locomotion": {"state": ""},
    "adroit": {"state": ""},
    "kitchen": {"state": "observation"},
}
_MAX_ANT_STEP = 2.0
_FULL, _WITH_GOAL = 59, 60  # columns of the kitchen's observations in gymnasium-robotics and D4RL


def d4rl_reader(task: D4RLTask) -> Callable[..., Episodes]:
    """Return the reader of a task's data: the options of ``read_d4rl``, and ``obs``, see above."""
    is_human = task.family == "adroit" and task.dataset.startswith("human")
    default_split: Split = "demonstrations" if is_human else "flags"
    default_jump = _MAX_ANT_STEP if task.family == "antmaze" else None

    def read(
        path: str | Path,
        *,
        name: str | None = None,
        kind: SourceKind = "local",
        obs_keys: Mapping[str, str] | None = None,
        split: Split = default_split,
        split_on: str | None = None,
        max_jump: float | None = default_jump,
        max_episode_steps: int | None = task.max_steps,
        obs: str = "positions",
        on_nan: OnNan = "error",
    ) -> Episodes:
        if obs not in ("positions", "full") or (obs == "full" and task.family != "kitchen"):
            raise UsageError(f"obs is {obs!r}, expected 'positions', or 'full' for the kitchen")
        file = require_path(path)
        warning = _warning_of(file, task)
        if _is_minari(file):
            keys = _MINARI_KEYS.get(task.family) if obs_keys is None else obs_keys
            episodes = read_minari(file, name=name, kind=kind, obs_keys=keys, on_nan=on_nan)
            warning = resolve_d4rl(task.minari or "").warning
        else:
            episodes = read_d4rl(
                file,
                name=name,
                kind=kind,
                obs_keys=obs_keys,
                split=split,
                split_on=split_on,
                max_jump=max_jump,
                max_episode_steps=max_episode_steps,
                on_nan=on_nan,
            )
        if task.family == "kitchen" and obs_keys is None:
            if episodes.obs["state"].shape[1] == _FULL:
                warning = resolve_d4rl(task.minari or "").warning
            episodes = _kitchen(episodes, obs)
        if not warning:
            return episodes
        details = {**episodes.source.details, "warning": warning}
        return dataclasses.replace(
            episodes, source=dataclasses.replace(episodes.source, details=details)
        )

    return read


def _kitchen(episodes: Episodes, obs: str) -> Episodes:
    """Return episodes with the observations of the kitchen that were asked for."""
    n_columns = episodes.obs["state"].shape[1]
    if n_columns not in (_FULL, _WITH_GOAL):
        raise DataError(
            f"{episodes.source.name}: observations have {n_columns} numbers, expected "
            f"{_WITH_GOAL} (D4RL) or {_FULL} (gymnasium-robotics)"
        )
    if obs == "full":
        if n_columns != _FULL:
            raise DataError(
                f"{episodes.source.name}: obs is 'full', but D4RL's file has no velocities"
            )
        source = dataclasses.replace(episodes.source, env={"obs": "full"})
        return dataclasses.replace(episodes, source=source)
    columns = np.r_[0:30] if n_columns == _WITH_GOAL else np.r_[0:9, 18:39]
    final = episodes.final_obs
    return dataclasses.replace(
        episodes,
        obs={"state": episodes.obs["state"][:, columns]},
        final_obs=None if final is None else {"state": final["state"][:, columns]},
    )


def _is_minari(file: Path) -> bool:
    if file.is_dir():
        return True
    with open_hdf5(file) as handle:
        return "episode_0" in handle


def _warning_of(file: Path, task: D4RLTask) -> str:
    """Return why scores on a file are not those of the task, by the name of the file."""
    for version, published in task.files.items():
        if file.name == Path(published).name and file.name != Path(task.file).name:
            return resolve_d4rl(f"{task.name}-v{version}").warning
    return ""
