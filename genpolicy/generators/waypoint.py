"""A controller for the mazes: shortest path on the grid, then a PD law towards the next corner.

With position x, velocity v and the waypoint w,

    action = clip(p_gain * (w - x) - d_gain * v, -1, 1).                                        (1)

The waypoint is the end of the straight run of cells that the shortest path starts with, or the goal
itself in the last run. All cells of a run form a rectangle without walls that contains the point,
so the straight line to the waypoint is free. The law has no memory: it plans from the current
state at every call.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from genpolicy.envs.mazes import maze_of
from genpolicy.errors import UsageError

__all__ = ["WaypointController"]

Cell = tuple[int, int]


class WaypointController:
    """Goes from any state to any goal in one maze and stops there; see the module.

    The gains are those that D4RL collected its data with. Its waypoints lie in every cell on the
    way, here only at corners, so straight runs reach the top speed of 5 m/s.

    Args:
        task: which maze.
        p_gain: action per metre, above 0.
        d_gain: action per m/s, at least 0.

    Raises:
        UsageError: for an unknown maze or gains out of range.
    """

    def __init__(self, *, task: str, p_gain: float = 10.0, d_gain: float = 1.0) -> None:
        if p_gain <= 0 or d_gain < 0:
            raise UsageError(f"gains are {p_gain} and {d_gain}, expected above 0 and at least 0")
        self.task = task
        self.p_gain = p_gain
        self.d_gain = d_gain
        self._maze = maze_of(task)
        self._free = {tuple(cell) for cell in np.argwhere(self._maze.is_free).tolist()}
        self._runs: dict[Cell, dict[Cell, Cell]] = {}

    def action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Return the action ``(2,)`` in [-1, 1] of (1).

        Args:
            state: position and velocity ``(4,)`` in m and m/s.
            goal: position ``(2,)`` in m, in a free cell.

        Raises:
            UsageError: when the goal lies in a wall.
        """
        x, y, v_x, v_y = (float(value) for value in state)
        w_x, w_y = self.waypoint((x, y), (float(goal[0]), float(goal[1])))
        a_x = self.p_gain * (w_x - x) - self.d_gain * v_x
        a_y = self.p_gain * (w_y - y) - self.d_gain * v_y
        return np.array([min(max(a_x, -1.0), 1.0), min(max(a_y, -1.0), 1.0)])

    def waypoint(
        self, position: tuple[float, float], goal: tuple[float, float]
    ) -> tuple[float, float]:
        """Return the point to steer to from ``position`` on the way to ``goal``, both in metres.

        Raises:
            UsageError: when the goal lies in a wall.
        """
        maze = self._maze
        goal_cell = maze.cell_of(goal)
        runs = self._runs.get(goal_cell)
        if runs is None:
            runs = self._runs[goal_cell] = self._plan(goal_cell)
        cell = maze.cell_of(position)
        if cell not in runs:
            cell = min(runs, key=lambda c: float(np.hypot(*(maze.centre_of(c) - position))))
        end = runs[cell]
        if end == goal_cell:
            return goal
        x, y = maze.centre_of(end).tolist()
        return x, y

    def path(self, start: Cell, goal: Cell) -> list[Cell]:
        """Return the corners of the planned path from one cell to another, ``goal`` last.

        Raises:
            UsageError: when the goal lies in a wall or cannot be reached.
        """
        runs = self._plan(goal)
        if start not in runs:
            raise UsageError(f"there is no way from cell {start} to cell {goal} in {self.task!r}")
        corners = [start]
        while corners[-1] != goal:
            corners.append(runs[corners[-1]])
        return corners[1:] or [goal]

    def _plan(self, goal: Cell) -> dict[Cell, Cell]:
        """Return, for every cell, where the first straight run of its way to ``goal`` ends."""
        if goal not in self._free:
            raise UsageError(f"the goal lies in cell {goal} of {self.task!r}, which is a wall")
        onward: dict[Cell, Cell] = {goal: goal}
        queue = deque([goal])
        while queue:
            cell = queue.popleft()
            for step in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                near = (cell[0] + step[0], cell[1] + step[1])
                if near in self._free and near not in onward:
                    onward[near] = cell
                    queue.append(near)
        runs: dict[Cell, Cell] = {}
        for cell, following in onward.items():
            direction = (following[0] - cell[0], following[1] - cell[1])
            end = following
            while end != goal:
                ahead = onward[end]
                if (ahead[0] - end[0], ahead[1] - end[1]) != direction:
                    break
                end = ahead
            runs[cell] = end
        return runs
