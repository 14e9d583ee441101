"""The maze tasks: physics, start states, reward, metrics, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from genpolicy.envs import ENVS, make_env
from genpolicy.envs.maze2d import Maze2DEnv, PointMass
from genpolicy.envs.mazes import MAZES, maze_of, to_robotics
from genpolicy.errors import NumericsError, UsageError

pytestmark = pytest.mark.sim


def run(env: Maze2DEnv, seed: int, n_steps: int = 60) -> np.ndarray:
    """States of an episode under actions that depend on the seed."""
    obs, _ = env.reset(seed=seed)
    actions = np.random.default_rng(seed).uniform(-1, 1, (n_steps, 2))
    return np.array([obs["state"], *(env.step(action)[0]["state"] for action in actions)])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", MAZES)
def test_physics_equal_gymnasium_robotics_in_its_frame(task: str):
    point_maze = pytest.importorskip("gymnasium_robotics.envs.maze.point_maze")
    maze = maze_of(task)
    other = point_maze.PointMazeEnv(maze_map=(~maze.is_free).astype(int).tolist())
    other.reset(seed=0)
    point = PointMass(task=task)
    rng = np.random.default_rng(1)
    start = np.array([*maze.centre_of(tuple(maze.start_cells[2].tolist())), 0.3, -0.2])
    point.set_state(start)
    moved = to_robotics(task, start)
    other.point_env.set_state(moved[:2], moved[2:])
    action = np.zeros(2)
    for k in range(250):  # long enough to run into walls and slide along them
        if k % 20 == 0:
            action = rng.uniform(-1, 1, 2)
        state = point.step(action)
        observation = other.step(np.array([action[1], -action[0]]))[0]["observation"]
        np.testing.assert_allclose(to_robotics(task, state), observation, atol=1e-6)
    other.close()


def test_free_motion_follows_the_equation_of_motion():
    # Semi-implicit Euler with implicit damping: v' = (m v + dt f) / (m + dt c), x' = x + dt v'.
    mass, gear, damping, dt = 1000 * 4 / 3 * np.pi * 0.1**3, 100.0, 1.0, 0.01
    point = PointMass(task="maze2d-medium")
    x, v = np.array([0.9, 0.9]), np.array([0.1, -0.2])
    point.set_state(np.array([*x, *v]))
    for action in np.random.default_rng(0).uniform(-0.5, 0.5, (20, 2)):
        v = (mass * v + dt * gear * action) / (mass + dt * damping)
        x = x + dt * v
        np.testing.assert_allclose(point.step(action), [*x, *v], atol=1e-9)


def test_speed_is_clipped_before_each_step():
    point = PointMass(task="maze2d-large")
    point.set_state(np.array([2.8, 0.8, 0.0, 30.0]))
    state = point.step(np.array([0.0, 1.0]))
    assert 5.0 < state[3] < 5.25


def test_start_states_are_free_cells_with_noise_and_the_target_is_fixed():
    env = Maze2DEnv(task="maze2d-umaze")
    cells = set()
    for seed in range(60):
        obs, _ = env.reset(seed=seed)
        offset = obs["state"][:2] - np.round(obs["state"][:2])
        assert np.abs(offset).max() <= 0.1
        assert np.abs(obs["state"][2:]).max() < 0.6
        assert obs["goal"].tolist() == [1, 1]
        cells.add(tuple(np.round(obs["state"][:2]).astype(int).tolist()))
    assert cells == {tuple(c) for c in maze_of("maze2d-umaze").start_cells.tolist()}


def test_an_episode_depends_on_its_seed_alone():
    env = Maze2DEnv(task="maze2d-medium")
    first = run(env, 11)
    for other in (3, 4):
        run(env, other, n_steps=17)
    assert np.array_equal(run(env, 11), first)
    assert np.array_equal(run(Maze2DEnv(task="maze2d-medium"), 11), first)
    assert not np.array_equal(run(env, 12), first)


def test_reward_and_metrics_over_a_whole_episode():
    env = Maze2DEnv(task="maze2d-umaze", max_steps=40)
    _, info = env.reset(seed=0, options={"state": [1.0, 1.9, 0.0, 0.0]})
    assert info["metrics"] == {
        "success": 0.0,
        "steps_at_goal": 0.0,
        "time_to_goal": 40.0,
        "d4rl_score": pytest.approx(-17.281356, abs=1e-6),
        "return": 0.0,
        "clipped_actions": 0.0,
    }
    rewards, distances = [], []
    for k in range(40):
        action = np.array([0.0, -1.0 if k < 20 else 1.0])
        obs, reward, terminated, truncated, info = env.step(action)
        distances.append(np.hypot(*(obs["state"][:2] - obs["goal"])))
        rewards.append(reward)
        assert not terminated
        assert truncated == (k == 39)
    inside = np.array(distances) <= 0.5
    assert inside.any()
    assert not inside.all()
    assert rewards == inside.astype(float).tolist()
    metrics = info["metrics"]
    assert metrics["return"] == metrics["steps_at_goal"] == inside.sum()
    assert metrics["success"] == 1.0
    assert metrics["time_to_goal"] == np.flatnonzero(inside)[0] + 1
    score = 100 * (inside.sum() - 23.85) / (161.86 - 23.85)
    assert metrics["d4rl_score"] == pytest.approx(score)


def test_success_stays_after_leaving_the_goal():
    env = Maze2DEnv(task="maze2d-umaze")
    env.reset(seed=0, options={"state": [1.0, 1.0, 0.0, 4.0]})
    for _ in range(60):
        _, reward, _, _, info = env.step(np.array([0.0, 1.0]))
    assert reward == 0.0
    assert info["metrics"]["success"] == 1.0
    assert info["metrics"]["time_to_goal"] == 0.0


def test_goal_option_moves_the_target_for_one_episode():
    env = Maze2DEnv(task="maze2d-umaze")
    obs, info = env.reset(seed=0, options={"state": [3.0, 1.0, 0, 0], "goal": [3.0, 1.2]})
    assert obs["goal"] == pytest.approx([3.0, 1.2])
    assert info["metrics"]["success"] == 1.0
    obs, _ = env.reset(seed=0)
    assert obs["goal"].tolist() == [1, 1]


def test_actions_out_of_range_are_clipped_and_counted():
    env = Maze2DEnv(task="maze2d-umaze")
    env.reset(seed=5)
    clipped = env.step(np.array([7.0, -9.0]))
    env.reset(seed=5)
    plain = env.step(np.array([1.0, -1.0]))
    assert np.array_equal(clipped[0]["state"], plain[0]["state"])
    assert clipped[4]["metrics"]["clipped_actions"] == 1.0
    assert plain[4]["metrics"]["clipped_actions"] == 0.0


def test_misuse_is_refused():
    env = Maze2DEnv(task="maze2d-umaze", max_steps=1)
    with pytest.raises(UsageError, match="call reset first"):
        env.step(np.zeros(2))
    env.reset(seed=0)
    with pytest.raises(NumericsError, match="finite"):
        env.step(np.array([np.nan, 0.0]))
    with pytest.raises(UsageError, match="shape"):
        env.step(np.zeros(3))
    env.step(np.zeros(2))
    with pytest.raises(UsageError, match="episode is over"):
        env.step(np.zeros(2))
    with pytest.raises(UsageError, match="at least 0"):
        env.reset(seed=-1)
    with pytest.raises(UsageError, match="valid options: state, goal"):
        env.reset(seed=0, options={"target": [0, 0]})
    with pytest.raises(UsageError, match="shape"):
        env.reset(seed=0, options={"state": [0.0, 0.0]})
    with pytest.raises(UsageError, match="max_steps"):
        Maze2DEnv(task="maze2d-umaze", max_steps=0)


def test_a_reset_without_a_seed_takes_the_next_of_the_own_generator():
    env = Maze2DEnv(task="maze2d-large")
    env.reset(seed=3)
    unseeded = [env.reset()[0]["state"] for _ in range(2)]
    env.reset(seed=3)
    assert np.array_equal(env.reset()[0]["state"], unseeded[0])
    assert not np.array_equal(unseeded[0], unseeded[1])


def test_render_draws_walls_goal_and_point_where_they_are():
    env = Maze2DEnv(task="maze2d-umaze", pixels_per_metre=20)
    env.reset(seed=0, options={"state": [2.8, 0.8, 0, 0]})
    image = env.render()
    assert image.shape == (100, 100, 3)
    assert image.dtype == np.uint8
    assert image[70, 30].tolist() == [40, 70, 200]  # middle of cell (3, 1)
    assert image[34, 34].tolist() == [60, 160, 60]  # the target, 0.2 m off the middle of (1, 1)
    assert image[50, 30].tolist() == [178, 128, 77]  # the wall between them


@pytest.mark.filterwarnings("ignore")
def test_gymnasium_accepts_the_interface():
    from gymnasium.utils.env_checker import check_env

    check_env(make_env("maze2d-umaze"), skip_render_check=True)
    assert make_env("maze2d-umaze").max_steps == ENVS["maze2d-umaze"].max_steps
