"""Scripted experts of robosuite tasks, each with several strategies.

Every expert reads the poses of objects from the simulator, lays the fingers across the object, and
carries it to its place. A strategy is one word for each choice, joined by ``-``; it is drawn for
every episode, so that the demonstrations of one start state can differ:

- grasp: ``near`` turns the hand the shorter way, ``far`` the next longer one (Door has one grasp),
- way: ``over`` goes straight, ``left`` and ``right`` by a point at the side.

On top of it every way point is displaced at random, and Gaussian noise is added to the motion
where the command allows it (``Command.noise``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from genpolicy.envs.robomimic import RobomimicEnv
from genpolicy.errors import UsageError, nearest
from genpolicy.generators.arm_script import CLOSED, OPEN, ArmScript, Command, Script, turned
from genpolicy.rotations import axis_angle_of_matrix, matrix_of_axis_angle

__all__ = ["EXPERTS", "Expert", "expert_of"]

_HINGE = np.array([0.255, 0.0, 0.0])
"""Where the door turns, in the frame of its panel, in m."""

_SIDES = {"over": 0.0, "left": 1.0, "right": -1.0}


class Expert(ABC):
    """One episode of a scripted expert.

    Args:
        env: an environment of the expert's task that was just reset.
        strategy: one of ``strategies``.
        rng: displaces the way points.

    Raises:
        UsageError: for an unknown strategy.
    """

    strategies: tuple[str, ...]

    def __init__(self, env: RobomimicEnv, *, strategy: str, rng: np.random.Generator) -> None:
        if strategy not in self.strategies:
            raise UsageError(
                f"{type(self).__name__} has no strategy {strategy!r}; "
                f"{nearest(strategy, self.strategies)}"
            )
        self.arm = ArmScript(env)
        self.rng = rng
        self.words = strategy.split("-")
        self.task = env.simulator

    @abstractmethod
    def script(self) -> Script:
        """Return the commands of the episode."""

    @property
    def rank(self) -> int:
        """0 for the grasp ``near``, 1 for ``far``."""
        return int("far" in self.words)

    def sideways(self, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return the strategy's way point between two positions, with its random part, in m."""
        side = next(_SIDES[word] for word in self.words if word in _SIDES)
        along = (end - begin)[:2]
        across = np.array([-along[1], along[0]]) / max(float(np.linalg.norm(along)), 0.05)
        middle = (begin + end) / 2
        middle[:2] += 0.06 * side * across
        return middle + self.rng.uniform(-0.015, 0.015, 3)


class LiftExpert(Expert):
    """Grasp the cube across two of its sides and lift it."""

    strategies = ("near-over", "near-left", "near-right", "far-over", "far-left", "far-right")

    def script(self) -> Script:
        arm, body = self.arm, self.task.cube_body_id
        yaw = arm.grasp_yaw(arm.body_rotation(body)[:, 0], symmetry=4, rank=self.rank)
        hand = turned(arm.down, yaw)
        above = np.array([0.0, 0.0, 0.06]) + self.rng.uniform(-0.01, 0.01, 3)
        way = self.sideways(arm.position, arm.body_position(body) + above)
        yield from arm.move(lambda: way, lambda: hand, OPEN, within_m=0.03, within_rad=0.5)
        yield from arm.move(
            lambda: arm.body_position(body) + above, lambda: hand, OPEN, within_m=0.015
        )
        yield from arm.move(
            lambda: arm.body_position(body), lambda: hand, OPEN, within_m=0.008, noise=0.5
        )
        yield from arm.grip(CLOSED)
        goal = arm.position + np.array([0.0, 0.0, 0.15])
        yield from arm.move(lambda: goal, lambda: hand, CLOSED, within_m=0.01)


class CanExpert(Expert):
    """Grasp the can from above, carry it over the wall between the bins and let it go."""

    strategies = ("near-over", "near-left", "near-right", "far-over", "far-left", "far-right")

    def script(self) -> Script:
        arm = self.arm
        body = self.task.obj_body_id[self.task.obj_to_use]
        # A can looks alike from everywhere: the grasp is a quarter turn to either side of the bar
        # through the hand, or none.
        yaw = float(self.rng.uniform(-0.3, 0.3)) + (0.9 if self.rank else 0.0)
        hand = turned(arm.down, yaw)
        above = np.array([0.0, 0.0, 0.10]) + self.rng.uniform(-0.01, 0.01, 3)
        grasp = np.array([0.0, 0.0, 0.02 + float(self.rng.uniform(-0.005, 0.01))])
        yield from arm.move(
            lambda: arm.body_position(body) + above, lambda: hand, OPEN, within_m=0.02
        )
        yield from arm.move(
            lambda: arm.body_position(body) + grasp, lambda: hand, OPEN, within_m=0.01, noise=0.5
        )
        yield from arm.grip(CLOSED)
        lifted = arm.position + np.array([0.0, 0.0, 0.17])
        yield from arm.move(lambda: lifted, lambda: hand, CLOSED, within_m=0.03)
        place = np.array(self.task.target_bin_placements[self.task.object_id])
        # The middle of the can's quarter of the bin is at the end of the arm's reach, where it
        # would strain until its steps are used up; this side of it is as good.
        place += np.array([*self.rng.uniform(-0.03, 0.03, 2) - 0.055, 0.0])
        over = np.array([place[0], place[1], arm.position[2]])
        way = self.sideways(arm.position, over)
        way[2] = arm.position[2]
        yield from arm.move(lambda: way, lambda: hand, CLOSED, within_m=0.05)
        yield from arm.move(lambda: over, lambda: hand, CLOSED, within_m=0.03)
        down = over - np.array([0.0, 0.0, 0.08])
        yield from arm.move(lambda: down, lambda: hand, CLOSED, within_m=0.02, n_steps=30)
        yield from arm.grip(OPEN)
        away = arm.position + np.array([0.0, 0.0, 0.15])
        yield from arm.move(lambda: away, lambda: hand, OPEN, within_m=0.02)


class SquareExpert(Expert):
    """Grasp the nut's handle, turn its hole onto the peg's edges and lower it."""

    strategies = ("near-over", "near-left", "near-right", "far-over", "far-left", "far-right")

    def script(self) -> Script:
        arm = self.arm
        nut = self.task.nuts[self.task.nut_id]
        body = self.task.obj_body_id[nut.name]
        handle = self.task.sim.model.site_name2id(nut.important_sites["handle"])
        peg = arm.body_position(self.task.peg1_body_id)

        def handle_position() -> np.ndarray:
            return np.array(self.task.sim.data.site_xpos[handle])

        yaw = arm.grasp_yaw(arm.body_rotation(body)[:, 1], symmetry=2, rank=0)
        hand = turned(arm.down, yaw)
        above = np.array([0.0, 0.0, 0.07]) + self.rng.uniform(-0.01, 0.01, 3)
        yield from arm.move(lambda: handle_position() + above, lambda: hand, OPEN, within_m=0.015)
        yield from arm.move(handle_position, lambda: hand, OPEN, within_m=0.006, noise=0.3)
        yield from arm.grip(CLOSED)
        lifted = np.array([*arm.position[:2], peg[2] + 0.2])
        yield from arm.move(lambda: lifted, lambda: hand, CLOSED, within_m=0.03)

        # The nut fits after every quarter turn. With the handle on the far side of the peg the hand
        # would be out of the arm's reach; of the others it takes the shortest or the next one.
        axis = arm.body_rotation(body)[:, 0]
        edge = arm.body_rotation(self.task.peg1_body_id)[:, 0]
        heading = np.arctan2(axis[1], axis[0])
        angle = np.arctan2(edge[1], edge[0]) - heading
        turns = (angle + np.pi / 2 * np.arange(4) + np.pi) % (2 * np.pi) - np.pi
        turns = turns[np.cos(heading + turns) < 0.5]
        total = (yaw + turns + np.pi) % (2 * np.pi) - np.pi  # of the hand, from its start
        turn = float(turns[np.argsort(np.abs(total))[self.rank]])
        final = turned(hand, turn)

        def hand_over(height: float) -> np.ndarray:
            """Where the hand has to be for the nut to be above the peg."""
            offset = arm.position - arm.body_position(body)
            return np.array([*(peg[:2] + offset[:2]), height])

        def straight() -> np.ndarray:
            """The orientation that turns the nut onto the peg's edges, from where it is now."""
            now = arm.body_rotation(body)[:, 0]
            off = (np.arctan2(edge[1], edge[0]) - np.arctan2(now[1], now[0])) % (np.pi / 2)
            off = off - np.pi / 2 if off > np.pi / 4 else off
            return turned(arm.down, arm.yaw + off) if abs(off) < 0.3 else final

        way = self.sideways(arm.position, np.array([*peg[:2], lifted[2]]))
        yield from arm.move(
            lambda: way, lambda: final, CLOSED, within_m=0.05, within_rad=0.6, n_steps=60
        )
        top = lifted[2]
        yield from arm.move(
            lambda: hand_over(top),
            lambda: final,
            CLOSED,
            within_m=0.01,
            within_rad=0.08,
            noise=0.5,
        )
        yield from arm.move(
            lambda: hand_over(peg[2] + 0.13),
            straight,
            CLOSED,
            within_m=0.004,
            within_rad=0.04,
            n_steps=60,
            noise=0.0,
            speed=0.5,
        )
        low = self.task.table_offset[2] + 0.01
        yield from arm.move(
            lambda: hand_over(low),
            straight,
            CLOSED,
            within_m=0.01,
            n_steps=60,
            noise=0.0,
            speed=0.6,
        )
        yield from arm.grip(OPEN)
        away = arm.position + np.array([0.0, 0.0, 0.15])
        yield from arm.move(lambda: away, lambda: final, OPEN, within_m=0.02)


class StackExpert(Expert):
    """Grasp the small cube, carry it over the large one and let it go."""

    strategies = ("near-over", "near-left", "near-right", "far-over", "far-left", "far-right")

    def script(self) -> Script:
        arm, body, base = self.arm, self.task.cubeA_body_id, self.task.cubeB_body_id
        yaw = arm.grasp_yaw(arm.body_rotation(body)[:, 0], symmetry=4, rank=self.rank)
        hand = turned(arm.down, yaw)
        above = np.array([0.0, 0.0, 0.07]) + self.rng.uniform(-0.01, 0.01, 3)
        yield from arm.move(
            lambda: arm.body_position(body) + above, lambda: hand, OPEN, within_m=0.015
        )
        yield from arm.move(
            lambda: arm.body_position(body), lambda: hand, OPEN, within_m=0.006, noise=0.5
        )
        yield from arm.grip(CLOSED)
        lifted = arm.position + np.array([0.0, 0.0, 0.12])
        yield from arm.move(lambda: lifted, lambda: hand, CLOSED, within_m=0.03)

        def over(height: float) -> np.ndarray:
            offset = arm.position - arm.body_position(body)
            goal = arm.body_position(base) + offset
            return goal + np.array([0.0, 0.0, height])

        way = self.sideways(arm.position, over(0.12))
        way[2] = lifted[2]
        yield from arm.move(lambda: way, lambda: hand, CLOSED, within_m=0.04)
        yield from arm.move(lambda: over(0.10), lambda: hand, CLOSED, within_m=0.01, noise=0.5)
        yield from arm.move(
            lambda: over(0.046),
            lambda: hand,
            CLOSED,
            within_m=0.004,
            n_steps=40,
            noise=0.0,
            speed=0.5,
        )
        yield from arm.grip(OPEN)
        away = arm.position + np.array([0.0, 0.0, 0.12])
        yield from arm.move(lambda: away, lambda: hand, OPEN, within_m=0.02)


class DoorExpert(Expert):
    """Grasp the handle from the front, turn it until the latch is free and pull the door open.

    The handle is pressed down; turned upwards, the fingers slip off while they pull.
    """

    strategies = ("over", "left", "right")

    def script(self) -> Script:
        arm, ids = self.arm, self.task.object_body_ids
        latch, door = ids["latch"], ids["door"]
        handle, qpos = self.task.door_handle_site_id, self.task.sim.data.qpos
        wanted = float(self.rng.uniform(1.15, 1.3))

        def handle_position() -> np.ndarray:
            return np.array(self.task.sim.data.site_xpos[handle])

        # Straight at the panel, one finger above the bar and one below.
        normal = arm.body_rotation(latch)[:, 1]
        upward = np.array([0.0, 0.0, 1.0])
        grasps = [np.stack([x, np.cross(normal, x), normal], axis=1) for x in (upward, -upward)]
        turns = [np.linalg.norm(axis_angle_of_matrix(g @ arm.rotation.T)) for g in grasps]
        hand = grasps[int(np.argmin(turns))]
        along = -arm.body_rotation(latch)[:, 0] * float(self.rng.uniform(0.0, 0.02))
        before = -0.09 * normal + self.rng.uniform(-0.01, 0.01, 3)
        way = self.sideways(arm.position, handle_position() + before)
        yield from arm.move(lambda: way, lambda: hand, OPEN, within_m=0.04, within_rad=0.6)
        yield from arm.move(
            lambda: handle_position() + along + before, lambda: hand, OPEN, within_m=0.015
        )
        yield from arm.move(
            lambda: handle_position() + along, lambda: hand, OPEN, within_m=0.008, noise=0.5
        )
        yield from arm.grip(CLOSED)

        # The hand's pose on the handle, kept while both turn about the latch and the hinge.
        frame = arm.body_rotation(latch)
        offset = frame.T @ (arm.position - arm.body_position(latch))
        pose = frame.T @ arm.rotation

        def held(turn_rad: float, open_rad: float) -> Command:
            """The hand where the handle and the door would be turned further by two angles."""
            now = arm.body_rotation(latch)
            turn = matrix_of_axis_angle(turn_rad * now[:, 1])
            swing = matrix_of_axis_angle(np.array([0.0, 0.0, open_rad]))
            hinge = arm.body_position(door) + arm.body_rotation(door) @ _HINGE
            point = arm.body_position(latch) + turn @ now @ offset
            return Command(hinge + swing @ (point - hinge), swing @ turn @ now @ pose, CLOSED, 0.3)

        for _ in range(80):
            missing = wanted - float(qpos[self.task.handle_qpos_addr])
            if abs(missing) < 0.15:
                break
            yield held(float(np.clip(missing, -0.4, 0.4)), 0.0)
        for _ in range(120):
            missing = wanted - float(qpos[self.task.handle_qpos_addr])
            yield held(float(np.clip(missing, -0.2, 0.2)), 0.07)


EXPERTS: Mapping[str, type[Expert]] = MappingProxyType(
    {
        "lift": LiftExpert,
        "can": CanExpert,
        "square": SquareExpert,
        "stack": StackExpert,
        "door": DoorExpert,
    }
)
"""The expert of each task that has one."""


def expert_of(task: str) -> type[Expert]:
    """Return the expert of a robosuite task.

    Raises:
        UsageError: for a task without one.
    """
    if task not in EXPERTS:
        raise UsageError(
            f"there is no scripted expert for robomimic/{task}; there is one for "
            f"{', '.join(EXPERTS)}"
        )
    return EXPERTS[task]
