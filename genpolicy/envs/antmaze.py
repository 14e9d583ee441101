"""D4RL's antmaze tasks: an ant in a maze, in D4RL's own coordinates.

D4RL's ant (its torques, time step and contacts) and mazes on Gymnasium's ``AntEnv``.
gymnasium-robotics' AntMaze has a stronger ant at twice the control rate, a mirrored maze, other
starts and goals. The goal is drawn at each reset as for D4RL's v2 names: in the far corner, not
shown to the policy. Episodes end at the goal.

Data by a policy of ours is not offered: an ant that reaches goals has to be trained with
reinforcement learning first. D4RL's files are read and scored.

Source: Fu et al. 2020, arXiv 2004.07219; Farama-Foundation/D4RL, d4rl/locomotion (ant.py,
maze_env.py, goal_reaching_env.py).
"""

from __future__ import annotations

import os
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np

from genpolicy.envs.base import import_simulator
from genpolicy.envs.d4rl import D4RLEnv
from genpolicy.errors import SimulatorError

__all__ = ["AntMazeEnv"]

_CELL = 4.0
"""Width of a cell of an ant's maze in m."""

# D4RL's maps: R is where the ant starts, the origin of the coordinates; G is the goal's cell.
_MAZES = {
    "antmaze-umaze": ("#####", "#R  #", "### #", "#G  #", "#####"),
    "antmaze-medium": (
        "########",
        "#R ##  #",
        "#  #   #",
        "##   ###",
        "#  #   #",
        "# #  # #",
        "#   # G#",
        "########",
    ),
    "antmaze-large": (
        "############",
        "#R   #     #",
        "# ## # # # #",
        "#      #   #",
        "# #### ### #",
        "#  # #     #",
        "## # # # ###",
        "#  #   # G #",
        "############",
    ),
}


class AntMazeEnv(D4RLEnv):
    """Walk an ant through a maze to a corner; the reward is 1 within 0.5 m, where episodes end.

    Metrics: ``success`` and ``time_to_goal`` (``max_steps`` when it was not reached).
    """

    _goal: np.ndarray
    _reached: int | None = None

    def _build(self) -> Any:
        module: Any = import_simulator("gymnasium.envs.mujoco.ant_v5", task=self.task.task)
        self._maze = _MAZES[self.task.robot]
        text = _ant_maze_xml(Path(module.__file__).parent / "assets" / "ant.xml", self._maze)
        handle, name = tempfile.mkstemp(suffix=".xml")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            return module.AntEnv(
                xml_file=name,
                terminate_when_unhealthy=False,
                exclude_current_positions_from_observation=False,
                include_cfrc_ext_in_observation=False,
                reset_noise_scale=0.1,
            )
        finally:
            os.unlink(name)

    def _start(self, seed: int, options: dict[str, Any]) -> None:
        super()._start(seed, options)
        rng = np.random.default_rng([seed, 1])  # not the simulator's stream
        corner = _cell_position(self._maze, "G")
        # Two draws added, as D4RL does: its cells are entered up to 1.5 m from their middle.
        noise = rng.uniform(0, 0.25 * _CELL, 2) + 0.25 * _CELL * rng.uniform(0, 0.5, 2)
        self._goal = np.maximum(corner + noise, 0.0)
        self._reached = None

    @property
    def goal(self) -> np.ndarray:
        """Position of the goal of this episode in m, ``(2,)``."""
        return self._goal.copy()

    def _outcome(self, reward: float, terminated: bool, info: dict[str, Any]) -> tuple[float, bool]:
        is_there = bool(np.linalg.norm(self._body.data.qpos[:2] - self._goal) <= 0.5)
        if is_there:
            self._reached = self._n_steps + 1
        return float(is_there), is_there

    def _metrics(self) -> dict[str, float]:
        return {
            "success": float(self._reached is not None),
            "time_to_goal": float(self.max_steps if self._reached is None else self._reached),
            **super()._metrics(),
        }


def _cell_position(maze: tuple[str, ...], letter: str) -> np.ndarray:
    """Return the centre of the cell with a letter in m, (x, y): columns, then rows."""
    cells = {cell: (j, i) for i, row in enumerate(maze) for j, cell in enumerate(row)}
    return _CELL * (np.array(cells[letter]) - np.array(cells["R"]))


def _ant_maze_xml(ant: Path, maze: tuple[str, ...]) -> str:
    """Return Gymnasium's ant as D4RL's, in a maze."""
    tree = ElementTree.parse(ant)
    root = tree.getroot()

    def found(path: str) -> ElementTree.Element:
        element = root.find(path)
        if element is None:
            raise SimulatorError(f"{ant} has no {path}; this release of Gymnasium has another ant")
        return element

    found("option").set("timestep", "0.02")
    contact = found("default/geom")
    contact.set("solref", ".02 1")
    contact.set("solimp", ".8 .8 .01")
    for motor in found("actuator"):
        motor.set("gear", "30")
    origin_j, origin_i = next(
        (j, i) for i, row in enumerate(maze) for j, cell in enumerate(row) if cell == "R"
    )
    world = found("worldbody")
    for i, row in enumerate(maze):
        for j, cell in enumerate(row):
            if cell == "#":
                x, y = _CELL * (j - origin_j), _CELL * (i - origin_i)
                ElementTree.SubElement(
                    world,
                    "geom",
                    type="box",
                    pos=f"{x} {y} 1",
                    size=f"{_CELL / 2} {_CELL / 2} 1",
                    contype="1",
                    conaffinity="1",
                    rgba="0.4 0.4 0.4 1",
                )
    return ElementTree.tostring(root, encoding="unicode")
