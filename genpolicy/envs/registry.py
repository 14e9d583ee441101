"""Every task by name: how to make it, what it measures and what its score is.

Importing this module loads no simulator; ``make_env`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from genpolicy.d4rl_tasks import D4RL_TASKS, D4RLTask, resolve_d4rl
from genpolicy.envs.mazes import MAZES
from genpolicy.errors import SimulatorError, UsageError, nearest
from genpolicy.references import normalized_score
from genpolicy.robomimic_tasks import ROBOMIMIC_TASKS, RobomimicTask

if TYPE_CHECKING:
    from genpolicy.envs.base import SeededEnv
    from genpolicy.envs.vector import SeededVectorEnv

__all__ = ["ENVS", "EnvEntry", "env_entry", "make_env", "make_vector_env"]


@dataclass(frozen=True)
class EnvEntry:
    """A task that policies are evaluated on.

    Args:
        task: name of the task.
        make: builds one environment; takes the keyword arguments of its class.
        max_steps: steps after which an episode is truncated.
        metrics: keys of ``info["metrics"]``, the same after every reset and step.
        primary: the metric that results are ranked by; higher is better.
        packages: distributions whose versions decide the numbers.
        d4rl_name: environment whose reference returns normalise the return; None without such.
        note: how a number from this task compares with published ones.
        steps_per_second: control steps in a second of simulated time, for videos.
        extra: the extra that installs the simulator.
    """

    task: str
    make: Callable[..., SeededEnv]
    max_steps: int
    metrics: tuple[str, ...]
    primary: str
    packages: tuple[str, ...]
    d4rl_name: str | None
    note: str
    steps_per_second: float
    extra: str = "sim"

    def score(self, episode_return: float) -> float | None:
        """Return the D4RL score of an episode return in points; None where there is none."""
        return None if self.d4rl_name is None else normalized_score(self.d4rl_name, episode_return)

    def versions(self) -> dict[str, str]:
        """Return the versions of the simulators, by package."""
        found = {}
        for package in self.packages:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = "missing"
        return found


def _maze2d(task: str) -> Callable[..., SeededEnv]:
    def make(**settings: Any) -> SeededEnv:
        from genpolicy.envs.maze2d import Maze2DEnv

        return Maze2DEnv(task=task, **settings)

    return make


def _pusht(obs: str) -> Callable[..., SeededEnv]:
    def make(**settings: Any) -> SeededEnv:
        from genpolicy.envs.pusht import PushTEnv

        return PushTEnv(**{"obs": obs, **settings})

    return make


def _robomimic(task: str, obs: str, max_steps: int) -> Callable[..., SeededEnv]:
    def make(**settings: Any) -> SeededEnv:
        from genpolicy.envs.robomimic import RobomimicEnv

        return RobomimicEnv(**{"task": task, "obs": obs, "max_steps": max_steps, **settings})

    return make


def _d4rl(task: str) -> Callable[..., SeededEnv]:
    def make(**settings: Any) -> SeededEnv:
        from genpolicy.envs.d4rl import make_d4rl

        return make_d4rl(task, **settings)

    return make


_SHARED = ("success", "return", "clipped_actions")
_D4RL_METRICS = {
    "locomotion": (),
    "adroit": ("steps_at_goal",),
    "kitchen": ("tasks_completed",),
    "antmaze": ("time_to_goal",),
}
_D4RL_NOTES = {
    "locomotion": "NOT comparable with published scores: Gymnasium's v4 robots on current MuJoCo, "
    "with the reference returns of D4RL's v2 names",
    "adroit": "D4RL's rewards and time limits on gymnasium-robotics' hands and current MuJoCo",
    "kitchen": "tasks completed, on gymnasium-robotics' FrankaKitchen and current MuJoCo",
    "antmaze": "D4RL's ant, mazes and goals (v2) on current MuJoCo",
}


def _d4rl_entry(task: D4RLTask) -> EnvEntry:
    return EnvEntry(
        task=task.task,
        make=_d4rl(task.task),
        max_steps=task.max_steps,
        metrics=(*_SHARED, *_D4RL_METRICS[task.family], "d4rl_score"),
        primary="d4rl_score",
        packages=("gymnasium", "gymnasium-robotics", "mujoco"),
        d4rl_name=task.d4rl_name,
        note=_D4RL_NOTES[task.family],
        steps_per_second=task.steps_per_second,
    )


def _entries() -> Mapping[str, EnvEntry]:
    entries = [
        EnvEntry(
            task=task,
            make=_maze2d(task),
            max_steps=maze.max_steps,
            metrics=(*_SHARED, "steps_at_goal", "time_to_goal", "d4rl_score"),
            primary="d4rl_score",
            packages=("gymnasium", "mujoco"),
            d4rl_name=maze.d4rl_name,
            note="D4RL's task and geometry on current MuJoCo; scores above 100 are ordinary",
            steps_per_second=100.0,
        )
        for task, maze in MAZES.items()
    ]
    entries += [
        EnvEntry(
            task=task,
            make=_pusht(obs),
            max_steps=300,
            metrics=(*_SHARED, "max_reward", "max_coverage", "final_coverage"),
            primary="max_reward",
            packages=("gymnasium", "gym-pusht", "pymunk", "shapely", "pygame"),
            d4rl_name=None,
            note="Diffusion Policy's protocol and start states; its score is max_reward",
            steps_per_second=10.0,
        )
        for task, obs in (
            ("pusht", "keypoints"),
            ("pusht-state", "state"),
            ("pusht-pixels", "pixels"),
            ("pusht-all", "all"),
        )
    ]
    entries += [
        EnvEntry(
            task=f"robomimic/{name}",
            make=_robomimic(task.name, obs, max_steps),
            max_steps=max_steps,
            metrics=(*_SHARED, "time_to_success"),
            primary="success",
            packages=("robosuite", "mujoco"),
            d4rl_name=None,
            note="robomimic's protocol on current robosuite and MuJoCo; published success rates "
            "are of older releases and other data",
            steps_per_second=20.0,
            extra="robosuite",
        )
        for task in ROBOMIMIC_TASKS.values()
        for name, obs, max_steps in _robomimic_variants(task)
    ]
    entries += [_d4rl_entry(task) for task in D4RL_TASKS.values()]
    return MappingProxyType({entry.task: entry for entry in entries})


def _robomimic_variants(task: RobomimicTask) -> list[tuple[str, str, int]]:
    """Return name, kind of observations and step limit of each variant of a robosuite task."""
    published = [(f"{task.name}_{kind}", "low_dim", n) for kind, n in task.published.items()]
    own = [(task.name, "low_dim", task.max_steps), (f"{task.name}-image", "image", task.max_steps)]
    return own + published


ENVS: Mapping[str, EnvEntry] = _entries()
"""Every task by name."""


def env_entry(task: str) -> EnvEntry:
    """Return the entry of a task.

    Args:
        task: a key of ``ENVS``, or another name of such a task (``genpolicy.d4rl_tasks``): a name
            of another version of its data adds a warning to the note of every result.

    Raises:
        UsageError: for an unknown task, naming the nearest ones.
    """
    meant = resolve_d4rl(task)
    if meant.task not in ENVS:
        raise UsageError(f"there is no environment for task {task!r}; {nearest(task, ENVS)}")
    entry = ENVS[meant.task]
    return replace(entry, note=f"{meant.warning}; {entry.note}") if meant.warning else entry


def make_env(task: str, **settings: Any) -> SeededEnv:
    """Build the environment of a task.

    Args:
        task: a key of ``ENVS``.
        settings: keyword arguments of the environment's class.

    Raises:
        UsageError: for an unknown task, or a setting that the environment refuses.
        SimulatorError: when the simulator is not installed, naming the extra to install.
    """
    entry = env_entry(task)
    try:
        return entry.make(**settings)
    except ModuleNotFoundError as error:
        raise SimulatorError(
            f"task {task!r} needs {error.name}, which is not installed; "
            f"install it with: pip install 'genpolicy[{entry.extra}]'"
        ) from error


def make_vector_env(
    task: str, n_envs: int, *, workers: bool = False, **settings: Any
) -> SeededVectorEnv:
    """Build ``n_envs`` environments of a task that are reset and stepped by slot.

    Args:
        task: a key of ``ENVS``.
        n_envs: number of slots, at least 1.
        workers: give every slot a process of its own; worth it when stepping one environment takes
            longer than about 0.2 ms, which pictures do and states do not. A script that uses it
            needs multiprocessing's guard, ``if __name__ == "__main__":``.
        settings: keyword arguments of the environment's class.

    Raises:
        UsageError: for an unknown task or ``n_envs`` below 1.
        SimulatorError: when the simulator is not installed.
    """
    if n_envs < 1:
        raise UsageError(f"n_envs is {n_envs}, expected at least 1")
    env_entry(task)
    try:
        from genpolicy.envs.vector import SeededVectorEnv
    except ModuleNotFoundError as error:
        raise SimulatorError(
            f"task {task!r} needs {error.name}, which is not installed; "
            f"install it with: pip install 'genpolicy[sim]'"
        ) from error
    return SeededVectorEnv(task, n_envs, workers=workers, settings=settings)
