"""D4RL's gym-mujoco, adroit, kitchen and antmaze tasks on the simulators of Gymnasium.

One adapter for all (``D4RLEnv``), and what each family needs besides. Observations are one vector,
``state``, as in D4RL's files. How the simulators differ from D4RL's:

- **locomotion**: Gymnasium's v4 robots, whose models and rewards are those of the v2 names that
  D4RL used, on current MuJoCo instead of MuJoCo 2.0. Scores are not comparable with published
  ones.
- **adroit**: gymnasium-robotics' hands have D4RL's models, observations and start states. Two
  things are put right: the v1 hands of door, hammer and relocate reward the distance between palm
  and object where D4RL punishes it (``+0.1`` instead of ``-0.1``), and an episode of pen ends when
  the pen is dropped.
- **kitchen**: ``FrankaKitchen-v1``. The reward of a step is the number of tasks that it completes,
  so the return is the number of completed tasks; ``rewards`` of D4RL's files count all that are
  complete so far. D4RL's observations are the positions of robot and objects and the constant goal
  (60 numbers), those of gymnasium-robotics positions and velocities (59). Ours are the 30 positions
  unless ``obs`` asks for all.
- **antmaze**: see ``genpolicy.envs.antmaze``.

Source: Fu et al. 2020, arXiv 2004.07219; Farama-Foundation/D4RL, d4rl/hand_manipulation_suite
and d4rl/kitchen; Rajeswaran et al. 2018, arXiv 1709.10087 (success on adroit).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, get_args

import gymnasium
import numpy as np

from genpolicy.d4rl_tasks import D4RL_TASKS, D4RLTask
from genpolicy.envs.base import SeededEnv, check_options, import_simulator
from genpolicy.envs.rendering import CameraRenderer
from genpolicy.errors import UsageError, nearest
from genpolicy.references import normalized_score

__all__ = ["AdroitEnv", "D4RLEnv", "KitchenEnv", "LocomotionEnv", "make_d4rl"]

KitchenObs = Literal["positions", "full"]


class D4RLEnv(SeededEnv):
    """A simulator of Gymnasium as a D4RL task; subclasses say what their family adds.

    ``reset`` takes the options ``qpos`` and ``qvel`` (both or none), a state of MuJoCo to start in.

    Metrics, besides those of all tasks: ``d4rl_score`` of the return so far.

    Args:
        task: which task of the family, a key of ``D4RL_TASKS``.
        max_steps: episode limit; None for D4RL's.
        render_mode: ``"rgb_array"`` or None; ``render`` works with both.
        render_size: height and width of ``render`` in pixels.

    Raises:
        UsageError: for an unknown task.
        SimulatorError: when the simulator is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - gymnasium's

    def __init__(
        self,
        *,
        task: str,
        max_steps: int | None = None,
        render_mode: str | None = None,
        render_size: int = 256,
    ) -> None:
        if task not in D4RL_TASKS:
            raise UsageError(f"{task!r} is no D4RL task; {nearest(task, D4RL_TASKS)}")
        self.task: D4RLTask = D4RL_TASKS[task]
        super().__init__(max_steps=self.task.max_steps if max_steps is None else max_steps)
        self.render_mode = render_mode
        self._render_size = render_size
        self._renderer: CameraRenderer | None = None
        import_simulator("mujoco", task=task)
        self._sim: Any = self._build()
        self._body: Any = self._mujoco_env()
        space: Any = self._sim.action_space
        low, high = (np.asarray(bound, np.float32) for bound in (space.low, space.high))
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self._raw: Any = self._sim.reset(seed=0)[0]
        shape = self._observe()["state"].shape
        self.observation_space = gymnasium.spaces.Dict(
            {"state": gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)}
        )

    def _build(self) -> Any:
        """Return the simulator without Gymnasium's wrappers: limits and checks are ours."""
        module = "gymnasium" if self.task.family == "locomotion" else "gymnasium_robotics"
        import_simulator(module, task=self.task.task)
        return _unwrapped(self.task.env_id)

    def _mujoco_env(self) -> Any:
        """Return the part of the simulator that has ``data`` and ``set_state``."""
        return self._sim

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The state of MuJoCo, ``qpos`` and ``qvel``, as ``reset`` takes it."""
        data = self._body.data
        return {"qpos": data.qpos.copy(), "qvel": data.qvel.copy()}

    def _start(self, seed: int, options: dict[str, Any]) -> None:
        given = check_options(options, {key: value.shape for key, value in self.state.items()})
        if given and len(given) != len(self.state):
            raise UsageError(f"reset options {sorted(given)}, expected all of {list(self.state)}")
        self._raw = self._sim.reset(seed=seed)[0]
        if given:
            self._raw = self._restore(given)

    def _restore(self, state: dict[str, np.ndarray]) -> Any:
        """Put the simulator into a state and return the observation in it."""
        self._body.set_state(state["qpos"], state["qvel"])
        return self._body._get_obs()

    def _advance(self, action: np.ndarray) -> tuple[float, bool]:
        self._raw, reward, terminated, _, info = self._sim.step(action)
        return self._outcome(float(reward), bool(terminated), info)

    @abstractmethod
    def _outcome(self, reward: float, terminated: bool, info: dict[str, Any]) -> tuple[float, bool]:
        """Return D4RL's reward of the step that was made and whether the episode is over."""

    def _observe(self) -> dict[str, np.ndarray]:
        return {"state": np.asarray(self._raw, dtype=np.float32)}

    def _metrics(self) -> dict[str, float]:
        return {"d4rl_score": normalized_score(self.task.d4rl_name, self._return)}

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the scene from the simulator's own camera, ``(render_size, render_size, 3)``."""
        body = self._body
        if self._renderer is None:
            self._renderer = CameraRenderer(body.model, size=self._render_size, all_groups=True)
        view = body.mujoco_renderer.default_cam_config or {}
        return self._renderer.picture(body.data, view)

    def close(self) -> None:
        """Free the simulator; calling it again does nothing."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self._sim.close()


class LocomotionEnv(D4RLEnv):
    """Hopper, HalfCheetah and Walker2d: run forward. ``success`` means not to have fallen yet."""

    _fallen = False

    def _start(self, seed: int, options: dict[str, Any]) -> None:
        super()._start(seed, options)
        self._fallen = False

    def _outcome(self, reward: float, terminated: bool, info: dict[str, Any]) -> tuple[float, bool]:
        self._fallen = terminated
        return reward, terminated

    def _metrics(self) -> dict[str, float]:
        return {"success": float(not self._fallen), **super()._metrics()}


class AdroitEnv(D4RLEnv):
    """Pen, door, hammer and relocate with a hand of 24 joints.

    ``reset`` takes what ``set_env_state`` of gymnasium-robotics takes, by key, as options.

    Metrics: ``steps_at_goal`` (steps at which the goal holds) and ``success``, which is that of the
    data's authors: the goal holds for more than 25 steps, for pen for more than 20.
    """

    # Where the observation has the vector from object to palm; see the module.
    _REACH = {  # noqa: RUF012 - a constant
        "door": lambda obs: obs[35:38],
        "hammer": lambda obs: obs[33:36] - obs[36:39],
        "relocate": lambda obs: obs[30:33],
    }
    _n_at_goal = 0

    @property
    def state(self) -> dict[str, np.ndarray]:
        """What ``set_env_state`` of the simulator takes."""
        known = self._sim.get_env_state()
        return {key: np.asarray(known[key]) for key in self._sim._state_space.spaces}

    def _restore(self, state: dict[str, np.ndarray]) -> Any:
        self._sim.set_env_state(state)
        return self._sim._get_obs()

    def _start(self, seed: int, options: dict[str, Any]) -> None:
        super()._start(seed, options)
        self._n_at_goal = 0

    def _outcome(self, reward: float, terminated: bool, info: dict[str, Any]) -> tuple[float, bool]:
        self._n_at_goal += bool(info["success"])
        if self.task.robot == "pen":
            height = self._sim.data.xpos[self._sim.obj_body_id][2]
            return reward, bool(height < 0.075)
        reach = self._REACH[self.task.robot](self._raw)
        return reward - 0.2 * float(np.linalg.norm(reach)), False

    def _metrics(self) -> dict[str, float]:
        needed = 20 if self.task.robot == "pen" else 25
        return {
            "success": float(self._n_at_goal > needed),
            "steps_at_goal": float(self._n_at_goal),
            **super()._metrics(),
        }


class KitchenEnv(D4RLEnv):
    """Franka Kitchen: four things to do, in any order, each once.

    Metrics: ``tasks_completed`` and ``success``, all of them.

    Args:
        task: ``"d4rl/kitchen-complete"``, ``"d4rl/kitchen-partial"`` or ``"d4rl/kitchen-mixed"``;
            the first two ask for the same.
        obs: ``"positions"``, those of robot (9) and objects (21), as in D4RL's files; ``"full"``,
            59 numbers: positions (9) and velocities (9) of the robot, positions (21) and velocities
            (20) of the objects.
        max_steps: as in ``D4RLEnv``.
        render_mode: as in ``D4RLEnv``.
        render_size: as in ``D4RLEnv``.

    Raises:
        UsageError: for an unknown task or kind of observations.
        SimulatorError: when the simulator is not installed.
    """

    def __init__(
        self,
        *,
        task: str,
        obs: KitchenObs = "positions",
        max_steps: int | None = None,
        render_mode: str | None = None,
        render_size: int = 256,
    ) -> None:
        if obs not in get_args(KitchenObs):
            raise UsageError(f"obs is {obs!r}, expected 'positions' or 'full'")
        self._obs = obs
        super().__init__(
            task=task, max_steps=max_steps, render_mode=render_mode, render_size=render_size
        )

    def _build(self) -> Any:
        import_simulator("gymnasium_robotics", task=self.task.task)
        return _unwrapped(self.task.env_id, tasks_to_complete=list(self.task.goals))

    def _mujoco_env(self) -> Any:
        return self._sim.robot_env

    def _restore(self, state: dict[str, np.ndarray]) -> Any:
        return self._sim._get_obs(super()._restore(state))

    def _outcome(self, reward: float, terminated: bool, info: dict[str, Any]) -> tuple[float, bool]:
        return reward, terminated

    def _observe(self) -> dict[str, np.ndarray]:
        state = np.asarray(self._raw["observation"], dtype=np.float32)
        if self._obs == "positions":
            state = np.concatenate([state[:9], state[18:39]])
        return {"state": state}

    def _metrics(self) -> dict[str, float]:
        return {
            "success": float(self._return >= len(self.task.goals)),
            "tasks_completed": self._return,
            **super()._metrics(),
        }


_FAMILIES: dict[str, type[D4RLEnv]] = {
    "locomotion": LocomotionEnv,
    "adroit": AdroitEnv,
    "kitchen": KitchenEnv,
}


def make_d4rl(task: str, **settings: Any) -> D4RLEnv:
    """Build the environment of a D4RL task; settings are those of its family's class.

    Raises:
        UsageError: for an unknown task.
        SimulatorError: when the simulator is not installed.
    """
    if task not in D4RL_TASKS:
        raise UsageError(f"{task!r} is no D4RL task; {nearest(task, D4RL_TASKS)}")
    family = D4RL_TASKS[task].family
    if family == "antmaze":
        from genpolicy.envs.antmaze import AntMazeEnv

        return AntMazeEnv(task=task, **settings)
    return _FAMILIES[family](task=task, **settings)


def _unwrapped(env_id: str, **kwargs: Any) -> Any:
    """Build a registered environment without wrappers, and without advice to use another."""
    from gymnasium.envs.registration import load_env_creator

    spec = gymnasium.spec(env_id)
    creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else None
    if creator is None:
        raise UsageError(f"Gymnasium's {env_id} has no entry point by name")
    return creator(**{**spec.kwargs, **kwargs})
