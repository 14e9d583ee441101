"""robosuite's manipulation tasks under robomimic's protocol, restored from a file's ``env_args``.

A Panda arm, or two, moves by pose deltas at 20 Hz: an action is 3 position deltas (1 is 5 cm), 3
axis-angle deltas (1 is 0.5 rad), both in the world's frame, and the gripper (-1 opens, 1 closes),
seven entries for each arm. With ``actions="absolute_6d"`` it is a pose to go to instead: position
(m), rotation as six numbers, gripper, ten entries for each arm.

An episode is a success when robosuite's own check holds after any step; the reward of a step is 1
where it holds, and it ends the episode there. Step limits are those of
``genpolicy.robomimic_tasks``.

robosuite draws start states from numpy's global generator. It is seeded by the episode's seed for
the time of the reset and put back afterwards, so that an episode depends on its seed alone. Images
are rendered upright and match robomimic's.

Source: Mandlekar et al. 2021, arXiv 2108.03298, section 5; Chi et al. 2023, arXiv 2303.04137.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import gymnasium
import numpy as np

from genpolicy.envs.base import SeededEnv, import_simulator
from genpolicy.envs.rendering import CameraRenderer
from genpolicy.envs.robosuite_args import absolute_env_args, modern_env_args
from genpolicy.errors import SimulatorError, UsageError, nearest
from genpolicy.robomimic_tasks import robomimic_task
from genpolicy.rotations import axis_angle_of_matrix, pose_from_six, with_six

__all__ = ["ActionKind", "RobomimicEnv"]

ActionKind = Literal["recorded", "absolute_6d"]
QuaternionKind = Literal["recorded", "rotation_6d"]
ObsKind = Literal["low_dim", "image"]

_IMAGE = "_image"
_REACH_M = 2.0
"""Bound of positions in absolute actions, beyond any arm's reach."""


class RobomimicEnv(SeededEnv):
    """One robosuite task.

    Observations, float32 unless said: ``object`` (poses of the objects and relative to the hand),
    ``robot0_eef_pos`` (3,) in m, ``robot0_eef_quat`` (4,) x y z w, ``robot0_gripper_qpos`` (2,),
    the same of ``robot1`` where there are two arms; for each camera ``CAMERA_image``
    ``(size, size, 3)`` uint8; any other observation of robosuite's by name.

    ``reset`` takes the options ``state``, a recorded simulator state, and ``model``, the XML text
    of the scene that it was recorded in (``model_file``); the episode starts there. The controllers
    pull the joints that the hand leaves free towards where they are in that state, as they do in
    the first state of an episode, or with ``free_joints=False`` towards where the reset left them,
    as robomimic does.

    Metrics: ``success`` (1 once the check held), ``time_to_success`` (steps; the limit without
    one), ``return``, ``clipped_actions``.

    Args:
        task: a key of ``ROBOMIMIC_TASKS``.
        obs: ``"low_dim"`` or ``"image"``: the task's standard keys of either kind.
        obs_keys: these keys instead.
        env_args: recipe of the environment from a data set, of any robosuite release; None means
            the standard one.
        actions: ``"recorded"`` (those that the recipe's controller takes) or ``"absolute_6d"``.
        quaternions: ``"rotation_6d"`` returns those in observations as six numbers, which do not
            jump where a quaternion changes its sign.
        max_steps: episode limit; None means the task's.
        end_on_success: terminate at success, as robomimic's rollouts do.
        image_size: height and width of image observations; None means the task's.
        render_camera: camera of ``render``; None means the task's first.
        render_size: height and width of ``render`` in pixels.
        render_mode: ``"rgb_array"`` or None; ``render`` works with both.

    Raises:
        UsageError: for unknown settings.
        SimulatorError: when robosuite is not installed, or refuses the recipe.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - gymnasium's

    def __init__(
        self,
        *,
        task: str,
        obs: ObsKind = "low_dim",
        obs_keys: Sequence[str] | None = None,
        env_args: Mapping[str, Any] | None = None,
        actions: ActionKind = "recorded",
        quaternions: QuaternionKind = "recorded",
        max_steps: int | None = None,
        end_on_success: bool = True,
        image_size: int | None = None,
        render_camera: str | None = None,
        render_size: int = 256,
        render_mode: str | None = None,
    ) -> None:
        self.task = robomimic_task(task)
        super().__init__(max_steps=self.task.max_steps if max_steps is None else max_steps)
        for name, value, known in (
            ("obs", obs, ObsKind),
            ("actions", actions, ActionKind),
            ("quaternions", quaternions, QuaternionKind),
        ):
            if value not in get_args(known):
                raise UsageError(
                    f"RobomimicEnv: {name} is {value!r}; {nearest(value, get_args(known))}"
                )
        recipe = self.task.env_args() if env_args is None else dict(env_args)
        if recipe.get("env_name") != self.task.env_name:
            raise UsageError(
                f"RobomimicEnv: env_args are of {recipe.get('env_name')!r}, the task {task!r} is "
                f"{self.task.env_name!r}"
            )
        convert = modern_env_args if actions == "recorded" else absolute_env_args
        self.env_args = convert(recipe)
        self.actions: ActionKind = actions
        self.quaternions: QuaternionKind = quaternions
        self.render_mode = render_mode
        self._end_on_success = end_on_success
        self._image_size = self.task.image_size if image_size is None else image_size
        self._render_size = render_size
        self._render_camera = render_camera or self.task.cameras[0]
        self._renderers: dict[int, CameraRenderer] = {}
        self._sim: Any = self._make()
        keys = self.task.image_keys if obs == "image" else self.task.low_dim_keys
        self._keys = tuple(keys if obs_keys is None else obs_keys)
        first = self._read()
        self.observation_space = gymnasium.spaces.Dict(
            {key: _space_of(value) for key, value in first.items()}
        )
        self.action_space = self._action_space()
        self._is_success = False
        self._first_success: int | None = None

    @property
    def simulator(self) -> Any:
        """The robosuite environment, for scripted experts."""
        return self._sim

    @property
    def simulator_state(self) -> np.ndarray:
        """The flattened state of the simulator, float64, that ``reset`` restores."""
        return np.array(self._sim.sim.get_state().flatten())

    @property
    def model_xml(self) -> str:
        """The scene of this episode as XML, with asset paths from the folder of robosuite."""
        return str(self._sim.sim.model.get_xml())

    def look(self, state: np.ndarray) -> dict[str, np.ndarray]:
        """Return the observations in a recorded state of this episode's scene; no step is taken.

        Args:
            state: flattened simulator state.

        Raises:
            UsageError: for a state of another size, or one that is not finite.
        """
        self._restore(np.asarray(state, np.float64), free_joints=True)
        return self._read()

    def goal_pose(self) -> np.ndarray:
        """Return the pose that the last action aims at, ``(7 * n_arms,)``.

        Position (m), axis-angle (rad) and gripper of each arm, which the same controller with
        absolute input would take. Only for controllers in the world's frame.

        Raises:
            SimulatorError: for another controller.
        """
        parts = []
        for robot in self._sim.robots:
            for arm in robot.arms:
                controller = robot.part_controllers[arm]
                if getattr(controller, "input_ref_frame", None) != "world":
                    raise SimulatorError(
                        f"the controller of {self.task.name} has no goal in the world's frame; "
                        "set input_ref_frame to world"
                    )
                gripper = np.atleast_1d(robot.gripper[arm].current_action).mean()
                turn = axis_angle_of_matrix(np.asarray(controller.goal_ori))
                parts.append([*np.asarray(controller.goal_pos), *turn, float(gripper)])
        return np.concatenate(parts)

    def _make(self) -> Any:
        robosuite = _import_robosuite(self.task.name)
        kwargs = {**self.env_args["env_kwargs"]}
        # Images are rendered here; robosuite's own renderer would be made anew at every reset.
        kwargs |= {"has_renderer": False, "has_offscreen_renderer": False, "use_camera_obs": False}
        kwargs |= {"ignore_done": True, "renderer": "mujoco"}
        for key in list(kwargs):
            if key.startswith("camera_") or key == "render_gpu_device_id":
                del kwargs[key]
        try:
            with _legacy_random(0):
                return robosuite.make(self.env_args["env_name"], **kwargs)
        except (TypeError, ValueError, KeyError, AssertionError) as error:
            raise SimulatorError(
                f"robosuite {robosuite.__version__} cannot make {self.env_args['env_name']} from "
                f"these env_args ({error!r}); they are of robosuite "
                f"{self.env_args.get('env_version', 'unknown')}"
            ) from error

    def _action_space(self) -> gymnasium.spaces.Box:
        if self.actions == "absolute_6d":
            n_arms = self.task.n_arms
            high = np.tile(np.array([_REACH_M] * 3 + [1.0] * 7, np.float32), n_arms)
            return gymnasium.spaces.Box(-high, high, dtype=np.float32)
        low, high = (np.asarray(bound, np.float32) for bound in self._sim.action_spec)
        return gymnasium.spaces.Box(low, high, dtype=np.float32)

    def _start(self, seed: int, options: dict[str, Any]) -> None:
        unknown = sorted(set(options) - {"state", "model", "free_joints"})
        if unknown:
            raise UsageError(
                f"unknown reset option {unknown[0]!r}; valid: free_joints, model, state"
            )
        self._close_renderers()
        with _legacy_random(seed):
            self._sim.reset()
            if options.get("model") is not None:
                self._load_model(str(options["model"]))
        if options.get("state") is not None:
            state = np.asarray(options["state"], np.float64)
            self._restore(state, free_joints=bool(options.get("free_joints", True)))
        self._is_success = False
        self._first_success = None

    def _load_model(self, xml: str) -> None:
        try:
            self._sim.reset_from_xml_string(self._sim.edit_model_xml(xml))
        except Exception as error:  # whatever the parser raises
            raise SimulatorError(
                f"the scene of the recording cannot be loaded ({error!r}); leave the option model "
                "out to use the task's own"
            ) from error
        self._sim.sim.reset()

    def _restore(self, state: np.ndarray, *, free_joints: bool) -> None:
        size = len(self.simulator_state)
        if state.shape != (size,) or not np.isfinite(state).all():
            raise UsageError(
                f"reset option 'state' has shape {state.shape}, expected finite numbers of shape "
                f"({size},)"
            )
        self._sim.sim.set_state_from_flattened(state)
        self._sim.sim.forward()
        self._sim.update_state()
        for robot in self._sim.robots if free_joints else ():
            joints = self._sim.sim.data.qpos[robot._ref_arm_joint_pos_indexes]
            for arm in robot.arms:
                robot.part_controllers[arm].update_initial_joints(np.array(joints))
        # Twice: robosuite's poses relative to the hand use the hand's pose of the call before. A
        # forced reading also moves the moment at which sensors are read next, so start it anew.
        self._sim._get_observations(force_update=True)
        for observable in self._sim._observables.values():
            observable.reset()
        self._sim._get_observations(force_update=True)

    def _advance(self, action: np.ndarray) -> tuple[float, bool]:
        command = pose_from_six(action) if self.actions == "absolute_6d" else action
        self._sim.step(command)
        self._is_success = bool(self._sim._check_success())
        if self._is_success and self._first_success is None:
            self._first_success = self._n_steps + 1
        return float(self._is_success), self._end_on_success and self._is_success

    def _observe(self) -> dict[str, np.ndarray]:
        return self._read()

    def _read(self) -> dict[str, np.ndarray]:
        found = self._sim._get_observations()
        obs: dict[str, np.ndarray] = {}
        for key in self._keys:
            if key.endswith(_IMAGE):
                obs[key] = self._picture(key.removesuffix(_IMAGE), self._image_size)
                continue
            stored = "object-state" if key == "object" else key
            if stored not in found:
                known = [name for name in found if not name.endswith("-state")]
                raise UsageError(
                    f"{self.task.name} has no observation {key!r}; {nearest(key, known)}"
                )
            obs[key] = np.asarray(found[stored], np.float32)
            starts = self.task.quaternions_of(key)
            if self.quaternions == "rotation_6d" and starts:
                obs[key] = with_six(obs[key], starts)
        return obs

    def _metrics(self) -> dict[str, float]:
        first = self._first_success
        return {
            "success": float(first is not None),
            "time_to_success": float(self.max_steps if first is None else first),
        }

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the scene from ``render_camera``, ``(render_size, render_size, 3)`` uint8."""
        return self._picture(self._render_camera, self._render_size)

    def _picture(self, camera: str, size: int) -> np.ndarray:
        sim = self._sim.sim
        known = [sim.model.camera_id2name(i) for i in range(sim.model.ncam)]
        if camera not in known:
            raise UsageError(f"{self.task.name} has no camera {camera!r}; {nearest(camera, known)}")
        if size not in self._renderers:
            self._renderers[size] = CameraRenderer(sim.model._model, size=size)
        return self._renderers[size].picture(sim.data._data, camera)

    def _close_renderers(self) -> None:
        """Drop the renderers: a reset makes another model."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def close(self) -> None:
        """Free the simulator."""
        self._close_renderers()
        self._sim.close()


def _space_of(value: np.ndarray) -> gymnasium.spaces.Box:
    if value.dtype == np.uint8:
        return gymnasium.spaces.Box(0, 255, value.shape, np.uint8)
    return gymnasium.spaces.Box(-np.inf, np.inf, value.shape, np.float32)


@contextmanager
def _legacy_random(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which robosuite draws from, and put it back afterwards."""
    before = np.random.get_state()  # noqa: NPY002 - robosuite's, kept as found
    spread: Any = np.random.MT19937(np.random.SeedSequence(seed)).state
    try:
        np.random.set_state(spread)  # noqa: NPY002
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _import_robosuite(task: str) -> Any:
    """Import robosuite without its greetings; it sets ``MUJOCO_GL``, which is undone."""
    chosen = os.environ.get("MUJOCO_GL")
    logger = logging.getLogger("robosuite_logs")
    level = logger.level
    logging.disable(logging.WARNING)
    try:
        import_simulator("robosuite", task=f"robomimic/{task}", extra="robosuite")
    finally:
        logging.disable(logging.NOTSET)
        logger.setLevel(level)
        if chosen is None:
            os.environ.pop("MUJOCO_GL", None)
        else:
            os.environ["MUJOCO_GL"] = chosen
    return importlib.import_module("robosuite")
