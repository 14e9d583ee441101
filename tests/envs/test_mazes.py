"""Maps and coordinates of the mazes."""

from __future__ import annotations

import numpy as np
import pytest

from genpolicy.envs.mazes import MAZES, from_robotics, maze_layout, maze_of, to_robotics
from genpolicy.errors import UsageError


@pytest.mark.parametrize(
    ("task", "shape", "n_free", "target", "max_steps"),
    [
        ("maze2d-umaze", (5, 5), 7, (1, 1), 300),
        ("maze2d-medium", (8, 8), 26, (6, 6), 600),
        ("maze2d-large", (9, 12), 46, (7, 9), 800),
    ],
)
def test_maps_match_d4rl(
    task: str,
    shape: tuple[int, int],
    n_free: int,
    target: tuple[int, int],
    max_steps: int,
):
    maze = MAZES[task]
    assert maze.shape == shape
    assert maze.is_free.sum() == n_free
    assert maze.target.tolist() == list(target)
    assert maze.max_steps == max_steps
    is_free = maze.is_free
    border = [is_free[0], is_free[-1], is_free[:, 0], is_free[:, -1]]
    assert not any(edge.any() for edge in border)
    assert maze.start_cells[-1].tolist() == list(target)
    assert len(maze.start_cells) == n_free


def test_walls_are_whole_cells_around_the_offset_centres():
    maze, layout = maze_of("maze2d-umaze"), maze_layout("maze2d-umaze")
    assert len(layout.walls) == 25 - 7
    inside = [
        ((low <= p[0]) & (p[0] <= high) & (left <= p[1]) & (p[1] <= right))
        for p in [maze.centre_of(tuple(c)) for c in maze.start_cells.tolist()]
        for low, high, left, right in layout.walls
    ]
    assert not any(inside)
    # The corridor of cell (1, 1) spans (0.3, 1.3): D4RL mounts the point 0.2 m off the grid.
    assert layout.walls[:, 1].min() == pytest.approx(0.3)
    assert maze.cell_of(np.array([0.31, 1.29])) == (1, 1)
    assert layout.bounds.tolist() == pytest.approx([-0.7, 4.3, -0.7, 4.3])


def test_the_centred_frame_puts_the_middle_of_the_map_at_the_origin():
    middle = maze_of("maze2d-umaze").centre_of((2, 2))
    state = np.array([*middle, 1.0, 2.0])
    assert to_robotics("maze2d-umaze", state) == pytest.approx([0, 0, 2, -1])
    states = np.random.default_rng(0).normal(size=(5, 4))
    for task in MAZES:
        assert from_robotics(task, to_robotics(task, states)) == pytest.approx(states)


def test_an_unknown_maze_is_refused():
    with pytest.raises(UsageError, match="did you mean 'maze2d-umaze'"):
        maze_of("maze2d-umase")
