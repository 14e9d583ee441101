"""D4RL's maze2d tasks (version 1, sparse) on current MuJoCo, in D4RL's own coordinates.

A ball of radius 0.1 m and density 1000 kg/m^3 (4.19 kg) slides on a plane, driven by two motors of
gear 100 N with actions in [-1, 1] and joint damping 1 N s/m; one control step is one Euler step of
0.01 s, and velocities are clipped to +-5 m/s before it. The reward is 1 where the position after
the step is within 0.5 m of the target. Episodes never terminate; they are truncated at D4RL's
limit. All this, the maps, the fixed targets and the 0.2 m offset of the coordinates are D4RL's, so
official files need no conversion and D4RL's reference returns apply.

Differences:

- D4RL ran MuJoCo 2 with frictionless contacts from the same model; contacts are soft, and current
  solvers move a point that presses on a wall by micrometres differently.
- D4RL recomputed the model's derived quantities after clipping the velocity. That changes nothing
  but the warm start of the contact solver and is left out.
- The ground plane is left out: the ball cannot move along its normal.
- Start states have D4RL's distribution, not its random stream.
- Gymnasium-Robotics' PointMaze has the same dynamics, but a centred frame (``to_robotics``), a goal
  radius of 0.45 m, start noise of 0.25 m and random targets: other numbers.

Source: Fu et al. 2020, arXiv 2004.07219; d4rl/pointmaze/maze_model.py.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from genpolicy.envs.base import SeededEnv, check_options, import_simulator
from genpolicy.envs.mazes import GOAL_RADIUS, POINT_RADIUS, Maze, maze_layout, maze_of
from genpolicy.references import normalized_score

__all__ = ["Maze2DEnv", "PointMass"]

MAX_SPEED = 5.0
"""Limit in m/s that each velocity entry is clipped to before a step."""


def _model_xml(maze: Maze) -> str:
    walls = "\n".join(
        f'<geom type="box" pos="{x} {y} 0" size="0.5 0.5 0.2" contype="2" conaffinity="1"/>'
        for x, y in (maze.centre_of((i, j)) for i, j in np.argwhere(~maze.is_free).tolist())
    )
    return f"""
    <mujoco model="maze2d">
      <compiler angle="radian" inertiafromgeom="true"/>
      <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/>
      <default>
        <joint type="slide" damping="1" limited="false"/>
        <geom density="1000" friction="0.5 0.1 0.1" margin="0.002" condim="1"/>
        <motor ctrllimited="true" ctrlrange="-1 1" gear="100"/>
      </default>
      <worldbody>
        <body name="point">
          <geom type="sphere" size="{POINT_RADIUS}" contype="1" conaffinity="1"/>
          <joint name="first" axis="1 0 0"/>
          <joint name="second" axis="0 1 0"/>
        </body>
        {walls}
      </worldbody>
      <actuator>
        <motor joint="first"/>
        <motor joint="second"/>
      </actuator>
    </mujoco>
    """


class PointMass:
    """The simulated ball in one maze.

    Args:
        task: which maze.

    Raises:
        SimulatorError: when MuJoCo is not installed.
    """

    def __init__(self, *, task: str) -> None:
        mujoco = import_simulator("mujoco", task=task)
        self._reset = mujoco.mj_resetData
        self._step = mujoco.mj_step
        self._model = mujoco.MjModel.from_xml_string(_model_xml(maze_of(task)))
        self._data = mujoco.MjData(self._model)
        self._position = self._data.qpos
        self._velocity = self._data.qvel
        self._control = self._data.ctrl

    def set_state(self, state: np.ndarray) -> None:
        """Put the ball at ``state``: position and velocity ``(4,)`` in m and m/s."""
        self._reset(self._model, self._data)
        self._position[:] = state[:2]
        self._velocity[:] = state[2:]

    def step(self, action: np.ndarray) -> np.ndarray:
        """Apply ``action`` ``(2,)`` in [-1, 1] for 0.01 s and return the new state ``(4,)``."""
        np.clip(self._velocity, -MAX_SPEED, MAX_SPEED, out=self._velocity)
        self._control[:] = action
        self._step(self._model, self._data)
        return self.state

    @property
    def state(self) -> np.ndarray:
        """Position and velocity ``(4,)``, float64."""
        return np.concatenate([self._position, self._velocity])


class Maze2DEnv(SeededEnv):
    """Reach the target and stay there.

    Observations are ``state`` (position in m, velocity in m/s) and ``goal`` (the target), float32.
    ``reset`` takes the options ``state`` (4,) and ``goal`` (2,) to start anywhere and go elsewhere;
    without them the start is a random free cell +-0.1 m with a velocity of N(0, 0.1 m/s) and the
    target is the task's.

    Metrics: ``success`` (1 when ever within 0.5 m of the target), ``steps_at_goal``,
    ``time_to_goal`` (steps until first there; ``max_steps`` when never), ``return`` (the reward
    after a step counts, hence equal to ``steps_at_goal``), ``d4rl_score``, ``clipped_actions``.

    Args:
        task: ``"maze2d-umaze"``, ``"maze2d-medium"`` or ``"maze2d-large"``.
        max_steps: episode limit; None for D4RL's (300, 600, 800).
        render_mode: ``"rgb_array"`` or None; ``render`` works with both and needs no OpenGL.
        pixels_per_metre: resolution of ``render``.

    Raises:
        UsageError: for an unknown task.
        SimulatorError: when MuJoCo is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 100}  # noqa: RUF012 - gymnasium's

    def __init__(
        self,
        *,
        task: str = "maze2d-umaze",
        max_steps: int | None = None,
        render_mode: str | None = None,
        pixels_per_metre: int = 32,
    ) -> None:
        self.maze = maze_of(task)
        super().__init__(max_steps=self.maze.max_steps if max_steps is None else max_steps)
        self.task = task
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Dict(
            {
                "goal": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
                "state": gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32),
            }
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._point = PointMass(task=task)
        self._layout = maze_layout(task)
        self._pixels_per_metre = pixels_per_metre
        self._starts = self.maze.start_cells
        self._goal = self.maze.target
        self._n_at_goal = 0
        self._first_at_goal: int | None = None
        self._state = np.zeros(4)

    def _start(self, seed: int, options: dict[str, Any]) -> None:
        given = check_options(options, {"state": (4,), "goal": (2,)})
        self._goal = given.get("goal", self.maze.target)
        state = given.get("state")
        if state is None:
            rng = np.random.default_rng(seed)
            position = self._starts[rng.integers(len(self._starts))] + rng.uniform(-0.1, 0.1, 2)
            state = np.concatenate([position, 0.1 * rng.standard_normal(2)])
        self._point.set_state(state)
        self._state = self._point.state
        self._n_at_goal = 0
        self._first_at_goal = 0 if self._is_at_goal() else None

    def _is_at_goal(self) -> bool:
        return bool(np.hypot(*(self._state[:2] - self._goal)) <= GOAL_RADIUS)

    def _advance(self, action: np.ndarray) -> tuple[float, bool]:
        self._state = self._point.step(action)
        if not self._is_at_goal():
            return 0.0, False
        self._n_at_goal += 1
        if self._first_at_goal is None:
            self._first_at_goal = self._n_steps + 1
        return 1.0, False

    def _observe(self) -> dict[str, np.ndarray]:
        return {
            "goal": self._goal.astype(np.float32),
            "state": self._state.astype(np.float32),
        }

    def _metrics(self) -> dict[str, float]:
        first = self._first_at_goal
        return {
            "success": float(first is not None),
            "steps_at_goal": float(self._n_at_goal),
            "time_to_goal": float(self.max_steps if first is None else first),
            "d4rl_score": normalized_score(self.maze.d4rl_name, self._return),
        }

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the maze from above as ``(height, width, 3)`` uint8, oriented like its map."""
        layout, scale = self._layout, self._pixels_per_metre
        height, width = (n * scale for n in self.maze.shape)
        first = (np.arange(height)[:, None] + 0.5) / scale + layout.bounds[0]
        second = (np.arange(width)[None, :] + 0.5) / scale + layout.bounds[2]
        is_free = np.kron(self.maze.is_free, np.ones((scale, scale), dtype=bool))
        image = np.full((height, width, 3), (178, 128, 77), dtype=np.uint8)
        image[is_free] = 245
        for centre, radius, color in (
            (self._goal, GOAL_RADIUS, (200, 235, 200)),
            (self._goal, POINT_RADIUS, (60, 160, 60)),
            (self._state[:2], 1.5 * POINT_RADIUS, (40, 70, 200)),
        ):
            is_inside = np.hypot(first - centre[0], second - centre[1]) <= radius
            image[is_inside & is_free] = color
        return image
