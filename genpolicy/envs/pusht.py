"""Push-T as Diffusion Policy runs it: same physics, same start states, same score.

A circular agent is pulled to the commanded position (pixels, 0..512) by a PD controller with gains
100 and 20 at 100 Hz, ten physics steps per action, and pushes a T onto the goal pose. With c the
covered fraction of the goal's area,

    reward = min(c / 0.95, 1),    success: c > 0.95, which ends the episode,                    (1)

and the reported score is the highest reward of at most 300 steps.

Start states: Diffusion Policy draws them with numpy's legacy generator seeded by the episode seed
and sets the block's position before its angle, which moves the block by up to 90 px because its
angle turns about the centre of mass. All 206 episodes of the official data start there (episode i
is seed i, to 1e-5 px), and so do the published evaluations (seeds from 100000): the default,
``start="diffusion_policy"``. With ``start="angle_first"`` the drawn position is the position.
gym-pusht itself draws other numbers, from numpy's newer generator.

Keypoints are those of ``genpolicy.pusht_geometry``. In frames with contact the recorded keypoints
were taken one relaxation step later than the recorded state (99 % of all frames agree to 0.04 px,
the worst one to 2.2 px); the environment returns those of the current state, as Diffusion Policy's
environment does.

Pictures differ from the recorded ones in 0.3 % of the values, all on edges of polygons, which newer
versions of pygame draw differently.

The bodies come from gym-pusht. Stepping and drawing are written out here: states and pictures are
bit for bit those of gym-pusht 0.1.8, without its contact callback, with the goal's polygon built
once per episode, and reading the drawn surface without a strided copy. Coverages agree to 3e-16:
gym-pusht adds the two bars of the T up in the arbitrary order of a set.

Source: Chi et al. 2023, arXiv 2303.04137, section 5.3; real-stanford/diffusion_policy.
"""

from __future__ import annotations

import math
import os
from typing import Any, Literal, cast, get_args

import gymnasium
import numpy as np

from genpolicy.envs.base import SeededEnv, check_options, import_simulator
from genpolicy.errors import UsageError
from genpolicy.pusht_geometry import TABLE_SIZE, block_keypoints

__all__ = ["PushTEnv"]

SUCCESS_COVERAGE = 0.95
_DT = 0.01
_SUBSTEPS = 10
_GAIN_P, _GAIN_V = 100, 20

ObsKind = Literal["keypoints", "state", "pixels", "all"]
Start = Literal["diffusion_policy", "angle_first"]


def _start_state(seed: int) -> list[float]:
    """Draw agent x, y (50..449), block x, y (100..399) and angle (N(-pi, 2 pi)) for a seed."""
    # Diffusion Policy's generator takes 32-bit seeds; larger ones are spread over its whole state.
    source = seed if seed < 2**32 else np.random.MT19937(np.random.SeedSequence(seed))
    rng = np.random.RandomState(source)
    agent = [float(rng.randint(50, 450)) for _ in range(2)]
    block = [float(rng.randint(100, 400)) for _ in range(2)]
    return [*agent, *block, float(rng.randn() * 2 * math.pi - math.pi)]


class _Scene:
    """The table: walls, agent, block and goal, with gym-pusht's bodies."""

    def __init__(self, goal_pose: tuple[float, float, float], *, task: str) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        bodies = import_simulator("gym_pusht.envs.pusht", task=task).PushTEnv
        pymunk = import_simulator("pymunk", task=task)
        self._shapely = import_simulator("shapely", task=task)
        self.space = pymunk.Space()
        self.space.gravity = 0, 0
        self.space.damping = 0.0
        near, far = 5, 506
        ends = ((near, far), (near, near)), ((near, near), (far, near))
        ends += ((far, near), (far, far)), ((near, far), (far, far))
        self.space.add(*(bodies.add_segment(self.space, a, b, 2) for a, b in ends))
        self.agent = bodies.add_circle(self.space, (256, 400), 15)
        self.block, shapes = bodies.add_tee(self.space, (256, 300), 0)
        self._corners = [shape.get_vertices() for shape in shapes]
        goal = bodies.get_goal_pose_body(np.array(goal_pose))
        self.goal_corners = self._corners_of(goal)
        self._goal = self._polygons(self.goal_corners)
        self._goal_area = self._goal.area
        self._goal_bounds = self._goal.bounds

    def _corners_of(self, body: Any) -> np.ndarray:
        """Return the corners ``(2, 4, 2)`` of the T's two bars on a body, in pixels."""
        return np.array([[body.local_to_world(v) for v in corners] for corners in self._corners])

    def _polygons(self, corners: np.ndarray) -> Any:
        closed = np.concatenate([corners, corners[:, :1]], axis=1)
        return self._shapely.multipolygons(self._shapely.polygons(closed))

    @property
    def state(self) -> np.ndarray:
        """Agent x, y, block x, y (pixels) and block angle (radians, not wrapped)."""
        return np.array([*self.agent.position, *self.block.position, self.block.angle])

    def place(self, state: list[float], *, angle_first: bool) -> None:
        """Put agent and block at rest, and take one physics step, as Diffusion Policy does."""
        self.agent.position = tuple(state[:2])
        if angle_first:
            self.block.angle = state[4]
            self.block.position = tuple(state[2:4])
        else:
            self.block.position = tuple(state[2:4])
            self.block.angle = state[4]
        self.space.step(_DT)

    def drive(self, target_x: float, target_y: float) -> None:
        """Pull the agent towards a target for one control step of 0.1 s."""
        agent, step = self.agent, self.space.step
        for _ in range(_SUBSTEPS):
            x, y = agent.position
            v_x, v_y = agent.velocity
            agent.velocity = (
                v_x + (_GAIN_P * (target_x - x) + _GAIN_V * (0 - v_x)) * _DT,
                v_y + (_GAIN_P * (target_y - y) + _GAIN_V * (0 - v_y)) * _DT,
            )
            step(_DT)

    def coverage(self) -> float:
        """Return the covered fraction of the goal's area."""
        corners = self._corners_of(self.block)
        low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
        left, top, right, bottom = self._goal_bounds
        if low[0] > right or high[0] < left or low[1] > bottom or high[1] < top:
            return 0.0
        return float(self._goal.intersection(self._polygons(corners)).area / self._goal_area)

    def draw(self, size: int) -> np.ndarray:
        """Return the table as ``(size, size, 3)`` uint8, without the action's marker."""
        import cv2
        import pygame
        from gym_pusht.envs.pymunk_override import DrawOptions

        surface = pygame.Surface((TABLE_SIZE, TABLE_SIZE), depth=32)
        surface.fill((255, 255, 255))
        for corners in self.goal_corners:
            points = [(round(x), round(y)) for x, y in corners.tolist()]
            pygame.draw.polygon(surface, pygame.Color("LightGreen"), points)
        self.space.debug_draw(DrawOptions(surface))
        # Blue, green, red, unused: the order in memory of a 32-bit surface. Resizing all four
        # contiguous channels is 40 times faster than gathering three first.
        memory = memoryview(surface.get_view("0"))  # type: ignore[arg-type]
        pixels = np.frombuffer(memory, dtype=np.uint8).reshape(TABLE_SIZE, TABLE_SIZE, 4)
        return np.ascontiguousarray(cv2.resize(pixels, (size, size))[:, :, 2::-1])


class PushTEnv(SeededEnv):
    """Push the T onto the goal.

    Observations by ``obs``, float32 in pixels unless said: ``"keypoints"``: ``keypoints`` (18,)
    and ``agent_pos`` (2,); ``"state"``: ``state`` (5,) agent, block, angle in [0, 2 pi);
    ``"pixels"``: ``image`` (96, 96, 3) uint8 and ``agent_pos``; ``"all"``: all of these, for
    compositions of policies that see different ones. The action is the agent's target in
    pixels; outside 0..512 it is clipped (Diffusion Policy and gym-pusht let the agent leave the
    table there).

    ``reset`` takes the option ``state`` (5,): a recorded state to restore, whatever ``start`` says.

    Metrics: ``max_coverage`` and ``max_reward`` over the steps so far, ``final_coverage`` (now),
    ``success`` (1 once the coverage was above 0.95), ``return``, ``clipped_actions``.

    Args:
        obs: ``"keypoints"``, ``"state"``, ``"pixels"`` or ``"all"``.
        max_steps: episode limit.
        end_on_success: terminate at success, as Diffusion Policy and gym-pusht do.
        start: ``"diffusion_policy"`` or ``"angle_first"``, see the module.
        goal_pose: x and y in pixels and angle in radians.
        render_mode: ``"rgb_array"`` or None; ``render`` works with both.
        render_size: height and width of ``render`` in pixels.

    Raises:
        UsageError: for an unknown ``obs`` or ``start``.
        SimulatorError: when gym-pusht is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium's

    def __init__(
        self,
        *,
        obs: ObsKind = "keypoints",
        max_steps: int = 300,
        end_on_success: bool = True,
        start: Start = "diffusion_policy",
        goal_pose: tuple[float, float, float] = (256.0, 256.0, math.pi / 4),
        render_mode: str | None = None,
        render_size: int = 384,
    ) -> None:
        super().__init__(max_steps=max_steps)
        for name, value, known in (("obs", obs, ObsKind), ("start", start, Start)):
            if value not in get_args(known):
                raise UsageError(
                    f"PushTEnv: {name} is {value!r}, expected one of {', '.join(get_args(known))}"
                )
        self.obs = obs
        self.render_mode = render_mode
        self._end_on_success = end_on_success
        self._start_kind = start
        self._goal_pose = tuple(float(v) for v in goal_pose)
        self._render_size = render_size
        box = gymnasium.spaces.Box
        spaces: dict[str, gymnasium.Space[Any]] = {}
        if obs in ("state", "all"):
            spaces["state"] = box(-np.inf, np.inf, (5,), np.float32)
        if obs != "state":
            spaces["agent_pos"] = box(-np.inf, np.inf, (2,), np.float32)
        if obs in ("keypoints", "all"):
            spaces["keypoints"] = box(-np.inf, np.inf, (18,), np.float32)
        if obs in ("pixels", "all"):
            spaces["image"] = box(0, 255, (96, 96, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = box(0.0, float(TABLE_SIZE), (2,), np.float32)
        self._scene = self._new_scene()
        self._action: np.ndarray | None = None
        self._coverage = self._max_coverage = self._max_reward = 0.0

    def _new_scene(self) -> _Scene:
        goal = cast(tuple[float, float, float], self._goal_pose)
        return _Scene(goal, task="pusht")

    def _start(self, seed: int, options: dict[str, Any]) -> None:
        given = check_options(options, {"state": (5,)})
        self._scene = self._new_scene()
        if "state" in given:
            self._scene.place(given["state"].tolist(), angle_first=True)
        else:
            angle_first = self._start_kind == "angle_first"
            self._scene.place(_start_state(seed), angle_first=angle_first)
        self._action = None
        self._coverage = self._scene.coverage()
        self._max_coverage = self._max_reward = 0.0

    def _advance(self, action: np.ndarray) -> tuple[float, bool]:
        self._action = action
        self._scene.drive(*action.tolist())
        self._coverage = self._scene.coverage()
        reward = min(max(self._coverage / SUCCESS_COVERAGE, 0.0), 1.0)
        self._max_coverage = max(self._max_coverage, self._coverage)
        self._max_reward = max(self._max_reward, reward)
        return reward, self._end_on_success and self._coverage > SUCCESS_COVERAGE

    def _observe(self) -> dict[str, np.ndarray]:
        state = self._scene.state
        obs: dict[str, np.ndarray] = {}
        for key in self.observation_space.spaces:
            if key == "agent_pos":
                obs[key] = state[:2].astype(np.float32)
            elif key == "keypoints":
                obs[key] = block_keypoints(state[2:]).astype(np.float32).reshape(18)
            elif key == "state":
                obs[key] = np.append(state[:4], state[4] % (2 * math.pi)).astype(np.float32)
            else:
                obs[key] = self._scene.draw(96)
        return obs

    def _metrics(self) -> dict[str, float]:
        return {
            "success": float(self._max_coverage > SUCCESS_COVERAGE),
            "max_reward": self._max_reward,
            "max_coverage": self._max_coverage,
            "final_coverage": self._coverage,
        }

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the table, ``(render_size, render_size, 3)`` uint8, with the action as a cross."""
        import cv2

        image = self._scene.draw(self._render_size)
        if self._action is not None:
            x, y = (int(v) for v in self._action / TABLE_SIZE * self._render_size)
            cv2.drawMarker(
                image,
                (x, y),
                color=(255, 0, 0),
                markerType=cv2.MARKER_CROSS,
                markerSize=max(1, self._render_size * 8 // 96),
                thickness=max(1, self._render_size // 96),
            )
        return image
