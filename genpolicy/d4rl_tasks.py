"""Facts of D4RL's tasks that data sets, environments and generators share; imports no simulator.

A task is a simulated robot and the kind of its data: ``d4rl/hopper-medium-expert``. What D4RL
published under a name changed with the version in it, so names with versions mean:

- the current version (v2 of gym-mujoco and antmaze, v1 of adroit and maze2d, v0 of kitchen): the
  task itself, ``hopper-medium-v2`` is ``d4rl/hopper-medium``;
- an older version, ``hopper-medium-v0``: the same task with the older file, and a warning in every
  result, because scores on it are not comparable with those of the current version;
- Minari's names, ``mujoco/hopper/medium-v0`` or ``D4RL/door/human-v2``: the same task with Minari's
  data, which was collected or simulated again; with such a warning too.

The simulators are Gymnasium's and gymnasium-robotics' (``genpolicy.envs.d4rl`` says what differs
from D4RL's). Gymnasium's v4 robots have the models and rewards that D4RL's v2 names ran on MuJoCo 2
(v5 changed Walker2d's feet and the reward of the last step); MuJoCo itself has changed since.

Source: Fu et al. 2020, arXiv 2004.07219; Farama-Foundation/D4RL, d4rl/infos.py and the
registrations in d4rl/*/__init__.py; names of Minari's data sets as of Minari 0.5.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["D4RL_TASKS", "D4RLName", "D4RLTask", "Family", "resolve_d4rl"]

Family = Literal["locomotion", "adroit", "kitchen", "antmaze"]

NOT_COMPARABLE = "NOT comparable with published scores"


@dataclass(frozen=True, kw_only=True)
class D4RLTask:
    """One task of D4RL.

    Args:
        robot: what is simulated: ``"hopper"``, ``"door"``, ``"kitchen"``, ``"antmaze-umaze"``.
        dataset: kind of its data: ``"medium-expert"``, ``"human"``, ``"complete"``, ``"play"``;
            empty where D4RL's name has none (``antmaze-umaze``).
        family: tasks that are simulated, scored and read alike.
        version: of the name whose reference returns and file are meant.
        env_id: Gymnasium's name of the simulator.
        max_steps: D4RL's time limit.
        steps_per_second: control steps in a second of simulated time.
        files: published file of each version, below D4RL's server, by version.
        minari: Minari's name of similar data; None where there is none.
        scored_as: D4RL's name whose reference returns apply where it is not the task's own.
        goals: of the kitchen: what has to be done.
        recipe: policies that data like it is made again with, in order, each for an equal part of
            the steps, by the names of their files (``hopper_tqc``); ``"random"`` draws actions
            uniformly. Empty where it cannot be made again.
        recipe_noise: standard deviation of noise added to the actions of the recipe.
    """

    robot: str
    dataset: str
    family: Family
    version: int
    env_id: str
    max_steps: int
    steps_per_second: float
    files: Mapping[int, str]
    minari: str | None = None
    scored_as: str | None = None
    goals: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()
    recipe_noise: float = 0.0

    @property
    def name(self) -> str:
        """D4RL's name without its version."""
        return f"{self.robot}-{self.dataset}" if self.dataset else self.robot

    @property
    def task(self) -> str:
        """Our name."""
        return f"d4rl/{self.name}"

    @property
    def d4rl_name(self) -> str:
        """D4RL's name under which its reference returns are known."""
        return self.scored_as or f"{self.name}-v{self.version}"

    @property
    def file(self) -> str:
        """Published file of the current version."""
        return self.files[self.version]


_LOCOMOTION = ("random", "medium", "medium-replay", "medium-expert", "expert", "full-replay")
_DT = {"hopper": 0.008, "halfcheetah": 0.05, "walker2d": 0.008}
_ENV_IDS = {"hopper": "Hopper-v4", "halfcheetah": "HalfCheetah-v4", "walker2d": "Walker2d-v4"}
# Stand-ins for D4RL's policies among those of RL Baselines3 Zoo, by their scores in the v4 robots;
# the mix goes from weak to strong. (In Walker2d-v4 the policy "tqc" is no better than "trpo".)
_MEDIUM = {"hopper": "sac", "halfcheetah": "ppo", "walker2d": "ppo"}
_EXPERT = {"hopper": "tqc", "halfcheetah": "tqc", "walker2d": "sac"}
_MIXES = {
    "hopper": ("a2c", "sac", "ppo", "trpo", "ars", "tqc"),
    "halfcheetah": ("trpo", "a2c", "ars", "ppo", "sac", "tqc"),
    "walker2d": ("a2c", "ars", "ppo", "tqc", "trpo", "sac"),
}
_MIX_NOISE = 0.1
_ADROIT_LIMITS = {
    "pen": (100, 200),
    "door": (200, 300),
    "hammer": (200, 600),
    "relocate": (200, 500),
}
_ADROIT_V0 = {
    "human": "{}-v0_demos_clipped",
    "cloned": "{}-demos-v0-bc-combined",
    "expert": "{}-v0_expert_clipped",
}
_KITCHENS = {
    "complete": ("mini_kitchen_microwave_kettle_light_slider-v0", "slide cabinet"),
    "partial": ("kitchen_microwave_kettle_light_slider-v0", "slide cabinet"),
    "mixed": ("kitchen_microwave_kettle_bottomburner_light-v0", "bottom burner"),
}
_ANTMAZES = {
    ("umaze", ""): ("u-maze", False, False),
    ("umaze", "diverse"): ("u-maze", True, True),
    ("medium", "play"): ("big-maze", True, False),
    ("medium", "diverse"): ("big-maze", True, True),
    ("large", "play"): ("hardest-maze", True, False),
    ("large", "diverse"): ("hardest-maze", True, True),
}


def _recipe(robot: str, dataset: str) -> tuple[str, ...]:
    names = {
        "random": (),
        "medium": (_MEDIUM[robot],),
        "expert": (_EXPERT[robot],),
        "medium-expert": (_MEDIUM[robot], _EXPERT[robot]),
        "medium-replay": _MIXES[robot],
        "full-replay": (),
    }[dataset]
    return ("random",) if dataset == "random" else tuple(f"{robot}_{name}" for name in names)


def _locomotion() -> Iterator[D4RLTask]:
    for robot, env_id in _ENV_IDS.items():
        for dataset in _LOCOMOTION:
            stem = f"{robot}_{dataset.replace('-', '_')}"
            files = {n: f"gym_mujoco_v{n}/{stem}-v{n}.hdf5" for n in (1, 2)}
            if dataset != "full-replay":
                oldest = stem.replace("medium_replay", "mixed")
                oldest = "walker_mixed" if oldest == "walker2d_mixed" else oldest
                files[0] = f"gym_mujoco/{oldest}.hdf5"
            yield D4RLTask(
                robot=robot,
                dataset=dataset,
                family="locomotion",
                version=2,
                env_id=env_id,
                max_steps=1000,
                steps_per_second=1 / _DT[robot],
                files=files,
                minari=f"mujoco/{robot}/{dataset}-v0" if dataset in ("medium", "expert") else None,
                recipe=_recipe(robot, dataset),
                recipe_noise=_MIX_NOISE if dataset == "medium-replay" else 0.0,
            )


def _adroit() -> Iterator[D4RLTask]:
    for robot, (limit, long_limit) in _ADROIT_LIMITS.items():
        for dataset in (*_ADROIT_V0, "human-longhorizon"):
            is_long = dataset == "human-longhorizon"
            data = "human" if is_long else dataset
            yield D4RLTask(
                robot=robot,
                dataset=dataset,
                family="adroit",
                version=1,
                env_id=f"AdroitHand{robot.capitalize()}-v1",
                max_steps=long_limit if is_long else limit,
                steps_per_second=100.0,
                files={
                    0: f"hand_dapg/{_ADROIT_V0[data].format(robot)}.hdf5",
                    1: f"hand_dapg_v1/{robot}-{data}-v1.hdf5",
                },
                minari=f"D4RL/{robot}/{data}-v2",
                scored_as=f"{robot}-human-v1" if is_long else None,
                recipe=(robot,) if dataset == "expert" else (),
            )


def _kitchen() -> Iterator[D4RLTask]:
    for dataset, (stem, last) in _KITCHENS.items():
        yield D4RLTask(
            robot="kitchen",
            dataset=dataset,
            family="kitchen",
            version=0,
            env_id="FrankaKitchen-v1",
            max_steps=280,
            steps_per_second=12.5,
            files={0: f"kitchen/{stem}.hdf5"},
            minari=f"D4RL/kitchen/{dataset}-v2",
            goals=("microwave", "kettle", "light switch", last),
        )


def _antmaze() -> Iterator[D4RLTask]:
    for (size, dataset), (maze, starts, goals) in _ANTMAZES.items():
        stem = f"Ant_maze_{maze}_noisy_multistart_{starts}_multigoal_{goals}_sparse"
        name = f"{size}-{dataset}" if dataset else size
        yield D4RLTask(
            robot=f"antmaze-{size}",
            dataset=dataset,
            family="antmaze",
            version=2,
            env_id="Ant-v5",
            max_steps=700 if size == "umaze" else 1000,
            steps_per_second=10.0,
            files={0: f"ant_maze_new/{stem}.hdf5", 2: f"ant_maze_v2/{stem}_fixed.hdf5"},
            minari=f"D4RL/antmaze/{name}-v1",
        )


D4RL_TASKS: Mapping[str, D4RLTask] = MappingProxyType(
    {task.task: task for family in (_locomotion, _adroit, _kitchen, _antmaze) for task in family()}
)
"""Every task but maze2d's (``genpolicy.envs.mazes``) by our name, ``d4rl/<D4RL's name>``."""


@dataclass(frozen=True)
class D4RLName:
    """What a name that a user gave means.

    Args:
        task: our name of the task; the given name where it is none of D4RL's.
        files: files or folders of the data that the name asks for; None for the task's own.
        warning: why scores under this name are not comparable; empty where they are.
    """

    task: str
    files: tuple[str, ...] | None = None
    warning: str = ""


def resolve_d4rl(name: str) -> D4RLName:
    """Return the task that a name of D4RL's, Minari's or ours means; see the module."""
    return _names().get(name, D4RLName(name))


@functools.cache
def _names() -> Mapping[str, D4RLName]:
    return dict(_all_names())


def _all_names() -> Iterator[tuple[str, D4RLName]]:
    for size in ("umaze", "medium", "large"):
        for alias in (f"d4rl/maze2d-{size}", f"d4rl/maze2d-{size}-v1", f"maze2d-{size}-v1"):
            yield alias, D4RLName(f"maze2d-{size}")
    for task in D4RL_TASKS.values():
        yield task.name, D4RLName(task.task)
        for version, file in task.files.items():
            known = D4RLName(task.task)
            if version != task.version:
                known = D4RLName(task.task, (file,), _of_version(task, version))
            for alias in (f"{task.name}-v{version}", f"{task.task}-v{version}"):
                yield alias, known
        if task.minari is not None and task.scored_as is None:
            text = (
                f"{NOT_COMPARABLE} of {task.d4rl_name}: {task.minari} was made again on "
                "Gymnasium's simulators"
            )
            yield task.minari, D4RLName(task.task, (f"{task.minari}/data/main_data.hdf5",), text)


def _of_version(task: D4RLTask, version: int) -> str:
    return (
        f"{NOT_COMPARABLE} of {task.d4rl_name}: {task.name}-v{version} is another version of the "
        f"data, though it has the same reference returns"
    )
