"""The three D4RL mazes as data: maps, coordinates and walls, without a simulator.

A position is what D4RL stores as qpos: the first coordinate counts rows of the map downwards, the
second columns to the right. D4RL mounts the point 0.2 m off the grid, so that

    centre of cell (i, j) = (i - 0.2, j - 0.2),   target of the task = (i, j) of the cell G,   (1)

that is, targets and starts lie 0.2 m off the middle of their corridor. Walls fill whole cells.

Source: Fu et al. 2020, arXiv 2004.07219; geometry of d4rl/pointmaze/maze_model.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from genpolicy.errors import UsageError, nearest

__all__ = [
    "MAZES",
    "Maze",
    "MazeLayout",
    "from_robotics",
    "maze_layout",
    "maze_of",
    "to_robotics",
]

CELL_OFFSET = 0.2
"""Metres from the middle of a cell to the position with its integer indices, on both axes (1)."""
POINT_RADIUS = 0.1
"""Radius of the point mass in metres."""
GOAL_RADIUS = 0.5
"""Distance in metres within which D4RL counts the point as being at the target."""


@dataclass(frozen=True)
class Maze:
    """One map.

    Args:
        rows: equal strings of ``#`` wall, ``.`` free and one ``G`` target; the border is wall.
        max_steps: D4RL's episode limit for version 1 of the task.
        d4rl_name: name that D4RL's reference returns go by.
    """

    rows: tuple[str, ...]
    max_steps: int
    d4rl_name: str

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns of cells."""
        return len(self.rows), len(self.rows[0])

    @property
    def is_free(self) -> np.ndarray:
        """Boolean ``(rows, columns)``: cells that are no wall."""
        return np.array([[cell != "#" for cell in row] for row in self.rows])

    @property
    def target_cell(self) -> tuple[int, int]:
        """Indices of the cell ``G``."""
        row = next(i for i, cells in enumerate(self.rows) if "G" in cells)
        return row, self.rows[row].index("G")

    @property
    def target(self) -> np.ndarray:
        """Position ``(2,)`` of the task's fixed target, in metres."""
        return np.array(self.target_cell, dtype=np.float64)

    @property
    def start_cells(self) -> np.ndarray:
        """Cells ``(n, 2)`` to start in: all free ones, the target's last, as in D4RL."""
        cells = [
            tuple(c) for c in np.argwhere(self.is_free).tolist() if tuple(c) != self.target_cell
        ]
        return np.array([*cells, self.target_cell])

    def cell_of(self, position: Sequence[float] | np.ndarray) -> tuple[int, int]:
        """Return the cell that contains a position ``(2,)`` given in metres."""
        return round(float(position[0]) + CELL_OFFSET), round(float(position[1]) + CELL_OFFSET)

    @staticmethod
    def centre_of(cell: tuple[int, int]) -> np.ndarray:
        """Return the position ``(2,)`` of the middle of a cell (1)."""
        return np.array(cell, dtype=np.float64) - CELL_OFFSET


MAZES: Mapping[str, Maze] = MappingProxyType(
    {
        "maze2d-umaze": Maze(
            rows=(
                "#####",
                "#G..#",
                "###.#",
                "#...#",
                "#####",
            ),
            max_steps=300,
            d4rl_name="maze2d-umaze-v1",
        ),
        "maze2d-medium": Maze(
            rows=(
                "########",
                "#..##..#",
                "#..#...#",
                "##...###",
                "#..#...#",
                "#.#..#.#",
                "#...#.G#",
                "########",
            ),
            max_steps=600,
            d4rl_name="maze2d-medium-v1",
        ),
        "maze2d-large": Maze(
            rows=(
                "############",
                "#....#.....#",
                "#.##.#.#.#.#",
                "#......#...#",
                "#.####.###.#",
                "#..#.#.....#",
                "##.#.#.#.###",
                "#..#...#.G.#",
                "############",
            ),
            max_steps=800,
            d4rl_name="maze2d-large-v1",
        ),
    }
)
"""The sparse tasks of version 1, by task name."""


def maze_of(task: str) -> Maze:
    """Return the maze of a task.

    Raises:
        UsageError: for a task that is no maze.
    """
    if task not in MAZES:
        raise UsageError(f"there is no maze {task!r}; {nearest(task, MAZES)}")
    return MAZES[task]


@dataclass(frozen=True)
class MazeLayout:
    """What a plot of a maze needs, in the coordinates of the observations (metres).

    Args:
        walls: ``(n, 4)`` rectangles: low and high first coordinate, low and high second.
        bounds: ``(4,)`` rectangle around all cells, in the same order.
        target: ``(2,)`` the task's fixed target.
        goal_radius: distance from the target that counts as reaching it.
        point_radius: radius of the point mass.
    """

    walls: np.ndarray
    bounds: np.ndarray
    target: np.ndarray
    goal_radius: float
    point_radius: float


def maze_layout(task: str) -> MazeLayout:
    """Return walls and target of a maze, for plots and for obstacle costs.

    Plotted with the second coordinate to the right and the first downwards it looks like the map.

    Raises:
        UsageError: for a task that is no maze.
    """
    maze = maze_of(task)
    low = np.argwhere(~maze.is_free) - CELL_OFFSET - 0.5
    n_rows, n_columns = maze.shape
    edge = -CELL_OFFSET - 0.5
    return MazeLayout(
        walls=np.stack([low[:, 0], low[:, 0] + 1, low[:, 1], low[:, 1] + 1], axis=1),
        bounds=np.array([edge, edge + n_rows, edge, edge + n_columns]),
        target=maze.target,
        goal_radius=GOAL_RADIUS,
        point_radius=POINT_RADIUS,
    )


def to_robotics(task: str, states: np.ndarray) -> np.ndarray:
    """Convert D4RL states to the frame of Gymnasium-Robotics' PointMaze (and Minari's data).

    There the map is centred on the origin, the first coordinate runs along columns and the second
    up the rows. Actions turn like velocities.

    Args:
        task: the maze.
        states: ``(..., 4)`` positions and velocities.

    Returns:
        ``(..., 4)`` states with ``(x, y) = (second + 0.7 - columns/2, rows/2 - 0.7 - first)``.
    """
    n_rows, n_columns = maze_of(task).shape
    first, second, v_first, v_second = np.moveaxis(np.asarray(states), -1, 0)
    half = CELL_OFFSET + 0.5
    return np.stack(
        [second + half - n_columns / 2, n_rows / 2 - half - first, v_second, -v_first], axis=-1
    )


def from_robotics(task: str, states: np.ndarray) -> np.ndarray:
    """Convert states of Gymnasium-Robotics' PointMaze to D4RL's frame: the inverse of the above.

    Args:
        task: the maze.
        states: ``(..., 4)`` positions and velocities.

    Returns:
        ``(..., 4)`` states in the coordinates of the task's observations.
    """
    n_rows, n_columns = maze_of(task).shape
    x, y, v_x, v_y = np.moveaxis(np.asarray(states), -1, 0)
    half = CELL_OFFSET + 0.5
    return np.stack([n_rows / 2 - half - y, x - half + n_columns / 2, -v_y, v_x], axis=-1)
