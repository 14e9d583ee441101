"""The waypoint controller: shortest paths, free lines, arrival."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from genpolicy.envs.maze2d import PointMass
from genpolicy.envs.mazes import MAZES, maze_layout, maze_of
from genpolicy.errors import UsageError
from genpolicy.generators.waypoint import WaypointController


def distances_from(task: str, start: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Lengths of shortest paths between cells, by plain breadth-first search."""
    is_free = maze_of(task).is_free
    found, queue = {start: 0}, deque([start])
    while queue:
        i, j = queue.popleft()
        for near in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if is_free[near] and near not in found:
                found[near] = found[i, j] + 1
                queue.append(near)
    return found


@pytest.mark.parametrize("task", MAZES)
def test_paths_are_shortest_and_straight_between_their_corners(task: str):
    maze, controller = maze_of(task), WaypointController(task=task)
    for start in map(tuple, maze.start_cells[::3].tolist()):
        lengths = distances_from(task, start)
        for goal in map(tuple, maze.start_cells[::2].tolist()):
            length, here = 0, start
            for corner in controller.path(start, goal):
                step = np.sign(np.subtract(corner, here))
                n_cells = int(np.abs(np.subtract(corner, here)).max())
                assert start == goal or np.abs(step).sum() == 1
                run = [tuple((here + k * step).tolist()) for k in range(n_cells + 1)]
                assert all(maze.is_free[cell] for cell in run)
                length, here = length + n_cells, corner
            assert here == goal
            assert length == lengths[goal]


def test_the_way_through_the_u_maze():
    controller = WaypointController(task="maze2d-umaze")
    assert controller.path((3, 1), (1, 1)) == [(3, 3), (1, 3), (1, 1)]
    assert controller.waypoint((2.7, 0.9), (1.0, 1.0)) == pytest.approx((2.8, 2.8))
    assert controller.waypoint((1.9, 2.8), (1.0, 1.0)) == pytest.approx((0.8, 2.8))
    assert controller.waypoint((0.8, 2.8), (1.0, 1.0)) == (1.0, 1.0)
    assert controller.path((1, 1), (1, 1)) == [(1, 1)]


def test_the_law_is_a_clipped_pd_law():
    controller = WaypointController(task="maze2d-umaze", p_gain=4.0, d_gain=0.5)
    goal = np.array([1.0, 1.0])
    action = controller.action(np.array([0.9, 1.2, -0.2, 0.4]), goal)
    assert action == pytest.approx([4 * 0.1 + 0.5 * 0.2, -4 * 0.2 - 0.5 * 0.4])
    assert controller.action(np.array([0.7, 2.0, 0.0, 0.0]), goal) == pytest.approx([1, -1])


@pytest.mark.sim
@pytest.mark.parametrize("task", MAZES)
def test_it_reaches_random_goals_and_stops_exactly_there(task: str):
    maze, controller, point = maze_of(task), WaypointController(task=task), PointMass(task=task)
    rng = np.random.default_rng(0)
    for _ in range(8):
        start, goal = (
            maze.start_cells[rng.integers(len(maze.start_cells))] + rng.uniform(-0.1, 0.1, 2)
            for _ in range(2)
        )
        point.set_state(np.concatenate([start, rng.normal(size=2)]))
        for _ in range(maze.max_steps):
            state = point.step(controller.action(point.state, goal))
        np.testing.assert_allclose(state, [*goal, 0, 0], atol=1e-4)


@pytest.mark.sim
def test_it_does_not_run_into_walls():
    layout, point = maze_layout("maze2d-large"), PointMass(task="maze2d-large")
    controller = WaypointController(task="maze2d-large")
    point.set_state(np.array([0.8, 0.8, 0.0, 0.0]))
    gaps = []
    for _ in range(500):
        state = point.step(controller.action(point.state, layout.target))
        low, high = layout.walls[:, [0, 2]], layout.walls[:, [1, 3]]
        outside = np.maximum(np.maximum(low - state[:2], state[:2] - high), 0)
        gaps.append(np.hypot(*outside.T).min())
    assert min(gaps) > layout.point_radius


def test_misuse_is_refused():
    controller = WaypointController(task="maze2d-umaze")
    with pytest.raises(UsageError, match="wall"):
        controller.action(np.zeros(4), np.array([2.0, 1.0]))
    with pytest.raises(UsageError, match="no way"):
        controller.path((0, 0), (1, 1))
    with pytest.raises(UsageError, match="gains"):
        WaypointController(task="maze2d-umaze", p_gain=0.0)
    with pytest.raises(UsageError, match="no maze"):
        WaypointController(task="pusht")
