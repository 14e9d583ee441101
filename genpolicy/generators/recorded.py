"""Environments of recorded robomimic files, restored in worker processes."""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genpolicy.envs.robomimic import RobomimicEnv
from genpolicy.errors import DataError, UsageError
from genpolicy.robomimic_tasks import ROBOMIMIC_TASKS, RobomimicTask

if TYPE_CHECKING:
    from genpolicy.data.robomimic_file import RobomimicFile

__all__ = ["Recording", "open_recording", "recorded_env", "recorded_in_this_release"]


@dataclass(frozen=True)
class Recording:
    """What is known of a file whose states can be restored.

    Args:
        names: the selected demonstrations; each has states.
        task: the robosuite task.
        env_args: recipe of its environment.
        attributes: what else is stored with the data.
    """

    names: tuple[str, ...]
    task: RobomimicTask
    env_args: Mapping[str, Any]
    attributes: Mapping[str, Any]


def open_recording(
    path: str | Path, *, n_demos: int | None, filter_key: str | None, n_workers: int
) -> Recording:
    """Return what is known of a file, checked for what restoring its states needs.

    Args:
        path: a robomimic file.
        n_demos: the first so many of those selected; None takes all.
        filter_key: mask that selects them; None selects all.
        n_workers: processes, at least 1.

    Raises:
        DataError: when the file is damaged, or lacks states or ``env_args`` of a known task.
        UsageError: for counts out of range.
    """
    from genpolicy.data.robomimic_file import open_robomimic

    if n_workers < 1 or (n_demos is not None and n_demos < 1):
        raise UsageError(
            f"n_workers is {n_workers} and n_demos {n_demos}, expected at least 1 each"
        )
    with open_robomimic(path) as file:
        task, env_args = _task_of(file)
        names = file.selected(filter_key)[:n_demos]
        for name in names:
            if "states" not in file.group(name):
                raise DataError(f"{file.path}: {name} has no states, so it cannot be replayed")
        return Recording(names, task, env_args, file.attributes)


def _task_of(file: RobomimicFile) -> tuple[RobomimicTask, dict[str, Any]]:
    env_args = file.env_args()
    if env_args is None:
        raise DataError(f"{file.path}: there is no env_args, so it cannot be replayed")
    for task in ROBOMIMIC_TASKS.values():
        if task.env_name == env_args["env_name"]:
            return task, env_args
    raise DataError(
        f"{file.path} was recorded in {env_args['env_name']}; expected one of "
        f"{', '.join(task.env_name for task in ROBOMIMIC_TASKS.values())}"
    )


@functools.lru_cache(maxsize=1)
def recorded_env(
    path: str, *, obs_keys: tuple[str, ...] = (), image_size: int | None = None
) -> RobomimicEnv:
    """Return this process's environment of a file, without a step limit that could matter."""
    from genpolicy.data.robomimic_file import open_robomimic

    with open_robomimic(path) as file:
        task, env_args = _task_of(file)
    env = RobomimicEnv(
        task=task.name,
        env_args=env_args,
        max_steps=100_000,
        obs_keys=obs_keys,
        image_size=image_size,
    )
    atexit.register(env.close)  # before the libraries that it draws with are gone
    return env


def recorded_in_this_release(env: RobomimicEnv) -> bool:
    """Return whether the recipe of an environment is of the installed robosuite."""
    return env.env_args.get("env_version") == importlib.metadata.version("robosuite")
