"""The data of a D4RL task in whatever form it comes: D4RL's HDF5 of any version, Minari's, ours.

What is particular about some of them:

- **door-human-v0** and the other human files of adroit v0: ``timeouts`` inside the demonstrations,
  which end at terminal rows (``genpolicy.data.d4rl``).
- **kitchen**: D4RL's observations are the positions of robot (9) and objects (21) and a constant
  goal, which is left out; the policy is then evaluated on such observations. Files with 59 numbers
  are of gymnasium-robotics' form. Where ``timeouts`` are absent, episodes end at 280 steps. The
  last observation of an episode is not in the files.
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

from genpolicy.d4rl_tasks import D4RLTask, resolve_d4rl
from genpolicy.data.d4rl import Split, read_d4rl
from genpolicy.data.episodes import Episodes, OnNan, SourceKind
from genpolicy.data.minari import read_minari
from genpolicy.data.reading import open_hdf5, require_path

__all__ = ["d4rl_reader"]

_MINARI_KEYS = {
    "locomotion": {"state": ""},
    "adroit": {"state": ""},
    "kitchen": {"state": "observation"},
}
_MAX_ANT_STEP = 2.0


def d4rl_reader(task: D4RLTask) -> Callable[..., Episodes]:
    """Return the reader of a task's data, with the options of ``read_d4rl``."""
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
        on_nan: OnNan = "error",
    ) -> Episodes:
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
                episodes = _without_goal(episodes)
        if not warning:
            return episodes
        details = {**episodes.source.details, "warning": warning}
        return dataclasses.replace(
            episodes, source=dataclasses.replace(episodes.source, details=details)
        )

    return read


def _without_goal(episodes: Episodes) -> Episodes:
    """Return D4RL's observations of the kitchen without the goal; others unchanged."""
    if episodes.obs["state"].shape[1] != 60:
        return episodes
    return dataclasses.replace(
        episodes,
        obs={"state": episodes.obs["state"][:, :30].copy()},
        source=dataclasses.replace(episodes.source, env={"obs": "positions"}),
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
