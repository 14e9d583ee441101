"""Scripted motion of one robosuite arm: targets for the hand, one command per control step.

A script is a Python generator of ``Command`` values. Each is turned into an action by a
proportional law on the hand's pose error,

    action = clip(gain * error / reach, -speed, speed),                                          (1)

in position (reach 0.05 m) and, with the rotation error as a vector, in orientation (0.5 rad): the
controller of ``RobomimicTask.env_args`` turns an action of 1 into a step of that reach.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from genpolicy.envs.robomimic import RobomimicEnv
from genpolicy.rotations import axis_angle_of_matrix, matrix_of_axis_angle

__all__ = ["CLOSED", "OPEN", "ArmScript", "Command", "Script", "turned"]

OPEN, CLOSED = -1.0, 1.0

_REACH_M, _REACH_RAD = 0.05, 0.5
_GAIN_M, _GAIN_RAD = 2.0, 1.2


@dataclass(frozen=True)
class Command:
    """Where the hand should go next.

    Args:
        position: target of the hand in m, world frame.
        rotation: target orientation as a matrix, world frame.
        gripper: ``OPEN`` or ``CLOSED``.
        noise: factor of the expert's noise: 1 in free motion, 0 where precision decides.
        speed: bound of each entry of the action's motion, up to 1.
    """

    position: np.ndarray
    rotation: np.ndarray
    gripper: float
    noise: float = 1.0
    speed: float = 1.0


Script = Generator[Command, None, None]


def turned(rotation: np.ndarray, yaw_rad: float) -> np.ndarray:
    """Return an orientation turned about the world's vertical axis."""
    return matrix_of_axis_angle(np.array([0.0, 0.0, yaw_rad])) @ rotation


def _heading(axis: np.ndarray) -> float:
    """Return the angle of a direction seen from above, in radians."""
    return float(np.arctan2(axis[1], axis[0]))


def _pointing_down(rotation: np.ndarray) -> np.ndarray:
    """Return the orientation of a hand that points straight down, with the same heading."""
    x = np.array([rotation[0, 0], rotation[1, 0], 0.0])
    x /= np.linalg.norm(x)
    z = np.array([0.0, 0.0, -1.0])
    return np.stack([x, np.cross(z, x), z], axis=1)


class ArmScript:
    """What a script can see and do; experts are built on it.

    ``down`` is the orientation that points straight down with the heading of the start.

    Args:
        env: an environment that was just reset.
    """

    def __init__(self, env: RobomimicEnv) -> None:
        self.env = env
        robot = env.simulator.robots[0]
        self._controller: Any = robot.part_controllers["right"]
        self.down = _pointing_down(self.rotation)

    @property
    def sim(self) -> Any:
        """Robosuite's simulator."""
        return self.env.simulator.sim

    @property
    def position(self) -> np.ndarray:
        """Position of the hand, between the finger tips, in m."""
        return np.array(self.sim.data.get_site_xpos(self._controller.ref_name))

    @property
    def rotation(self) -> np.ndarray:
        """Orientation of the hand as a matrix; the fingers move along its x axis."""
        return np.array(self.sim.data.get_site_xmat(self._controller.ref_name)).reshape(3, 3)

    @property
    def opening(self) -> float:
        """Distance of the fingers in m, up to 0.08."""
        obs = self.env.simulator._get_observations()["robot0_gripper_qpos"]
        return float(np.abs(obs).sum())

    def body_position(self, body: int) -> np.ndarray:
        """Position of a body in m."""
        return np.array(self.sim.data.body_xpos[body])

    def body_rotation(self, body: int) -> np.ndarray:
        """Orientation of a body as a matrix."""
        return np.array(self.sim.data.body_xmat[body]).reshape(3, 3)

    @property
    def yaw(self) -> float:
        """Turn of the hand from ``down`` about the vertical axis, in radians."""
        angle = _heading(self.rotation[:, 0]) - _heading(self.down[:, 0])
        return float((angle + np.pi) % (2 * np.pi) - np.pi)

    def action(self, command: Command) -> np.ndarray:
        """Return the action (1) without noise, ``(7,)`` in [-1, 1]."""
        error = command.position - self.position
        turn = axis_angle_of_matrix(command.rotation @ self.rotation.T)
        move = np.concatenate([_GAIN_M * error / _REACH_M, _GAIN_RAD * turn / _REACH_RAD])
        return np.append(np.clip(move, -command.speed, command.speed), command.gripper)

    def move(
        self,
        target: Callable[[], np.ndarray],
        rotation: Callable[[], np.ndarray],
        gripper: float,
        *,
        within_m: float,
        within_rad: float = 0.1,
        n_steps: int = 80,
        noise: float = 1.0,
        speed: float = 1.0,
    ) -> Script:
        """Go to a target, which may move, until the hand is near it or the steps are used up."""
        for _ in range(n_steps):
            position, orientation = target(), rotation()
            off = np.linalg.norm(axis_angle_of_matrix(orientation @ self.rotation.T))
            if np.linalg.norm(position - self.position) <= within_m and off <= within_rad:
                return
            yield Command(position, orientation, gripper, noise, speed)

    def grip(self, gripper: float, *, n_steps: int = 14, settle_m: float = 4e-4) -> Script:
        """Stay, open or close the fingers, and go on once they no longer move."""
        position, rotation = self.position, self.rotation
        last = self.opening
        for step in range(n_steps):
            yield Command(position, rotation, gripper, noise=0.0)
            moved, last = abs(self.opening - last), self.opening
            if step >= 2 and moved < settle_m:
                return

    def grasp_yaw(self, axis: np.ndarray, *, symmetry: int, rank: int) -> float:
        """Return the turn from ``down`` that lays the fingers across an axis.

        Args:
            axis: horizontal direction ``(3,)`` along which the fingers should move.
            symmetry: how many equal turns of it are as good: 2 for a bar, 4 for a square.
            rank: which of them: 0 for the smallest turn, 1 for the next.
        """
        angle = _heading(axis) - _heading(self.down[:, 0])
        turns = angle + 2 * np.pi * np.arange(symmetry) / symmetry
        turns = (turns + np.pi) % (2 * np.pi) - np.pi
        return float(turns[np.argsort(np.abs(turns))[rank]])
