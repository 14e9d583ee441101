"""Generated maze data: D4RL's rules, true transitions, and the same file for any workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genpolicy.data.d4rl import read_d4rl
from genpolicy.envs.maze2d import PointMass
from genpolicy.envs.mazes import maze_of
from genpolicy.errors import UsageError
from genpolicy.generators import collect_maze2d, make_maze2d

pytestmark = pytest.mark.sim

N_STEPS = 3000


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    return collect_maze2d("maze2d-umaze", n_steps=N_STEPS, seed=3)


def test_shapes_and_types(rows: dict[str, np.ndarray]):
    shapes = {key: (value.shape, value.dtype.name) for key, value in rows.items()}
    assert shapes == {
        "observations": ((N_STEPS, 4), "float32"),
        "actions": ((N_STEPS, 2), "float32"),
        "rewards": ((N_STEPS,), "float32"),
        "terminals": ((N_STEPS,), "bool"),
        "timeouts": ((N_STEPS,), "bool"),
        "infos/goal": ((N_STEPS, 2), "float32"),
        "infos/qpos": ((N_STEPS, 2), "float32"),
        "infos/qvel": ((N_STEPS, 2), "float32"),
    }
    assert np.isfinite(rows["observations"]).all()
    assert np.abs(rows["actions"]).max() == 1.0
    assert np.array_equal(rows["observations"][:, :2], rows["infos/qpos"])
    assert np.array_equal(rows["observations"][:, 2:], rows["infos/qvel"])


def test_every_row_that_is_no_timeout_leads_to_the_next(rows: dict[str, np.ndarray]):
    point = PointMass(task="maze2d-umaze")
    inner = np.flatnonzero(~rows["timeouts"][:-1])
    for i in inner[::7]:
        point.set_state(rows["observations"][i].astype(np.float64))
        following = point.step(rows["actions"][i].astype(np.float64))
        np.testing.assert_allclose(rows["observations"][i + 1], following, atol=2e-4)
        assert np.array_equal(rows["infos/goal"][i], rows["infos/goal"][i + 1])


def test_episodes_follow_d4rls_transition_rules(rows: dict[str, np.ndarray]):
    maze = maze_of("maze2d-umaze")
    assert not rows["terminals"].any()
    assert rows["timeouts"][-1]
    ends = np.flatnonzero(rows["timeouts"])
    lengths = np.diff(np.concatenate([[-1], ends]))
    assert lengths.max() <= maze.max_steps
    goals = rows["infos/goal"][ends]
    assert (np.abs(goals - np.round(goals)) <= 0.1 + 1e-6).all()
    assert len(np.unique(goals, axis=0)) == len(ends)
    # Off by one on purpose: the reward of a row is about its own observation.
    position = rows["observations"][:, :2].astype(np.float64)
    at_target = np.hypot(*(position - maze.target).T) <= 0.5
    assert np.array_equal(rows["rewards"], at_target.astype(np.float32))
    assert 0 < rows["rewards"].mean() < 1


def test_episodes_arrive_and_stay_a_random_while(rows: dict[str, np.ndarray]):
    gap = np.hypot(*(rows["observations"][:, :2] - rows["infos/goal"]).T)
    stays = []
    for start, end in zip(
        [0, *(np.flatnonzero(rows["timeouts"])[:-1] + 1)],
        np.flatnonzero(rows["timeouts"]),
        strict=True,
    ):
        arrived = np.flatnonzero(gap[start : end + 1] <= 0.1)
        if len(arrived):
            stays.append(end - start - arrived[0])
    assert len(stays) > 0.8 * rows["timeouts"].sum()
    assert max(stays) <= 50
    assert len(set(stays)) > 10
    assert np.mean(stays) == pytest.approx(25, abs=9)


def test_most_episodes_go_on_where_the_last_one_stopped(rows: dict[str, np.ndarray]):
    ends = np.flatnonzero(rows["timeouts"])[:-1]
    jumps = np.abs(rows["observations"][ends + 1] - rows["observations"][ends]).max(axis=1)
    assert 0 < (jumps > 0.4).mean() < 0.4


def test_the_file_is_the_same_for_any_number_of_workers(tmp_path: Path):
    settings = {"seed": 5, "n_steps": 900, "chunk_steps": 400, "progress": False}
    one = make_maze2d("maze2d-medium", path=tmp_path / "one.hdf5", **settings)
    two = make_maze2d("maze2d-medium", path=tmp_path / "two.hdf5", n_workers=2, **settings)
    assert one.read_bytes() == two.read_bytes()
    other = make_maze2d("maze2d-medium", path=tmp_path / "c.hdf5", **{**settings, "seed": 6})
    assert one.read_bytes() != other.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.hdf5", "one.hdf5", "two.hdf5"]


def test_the_reader_finds_the_episodes_and_where_they_came_from(
    tmp_path: Path, rows: dict[str, np.ndarray]
):
    path = make_maze2d(
        "maze2d-umaze", seed=3, path=tmp_path / "a" / "u.hdf5", n_steps=N_STEPS, progress=False
    )
    episodes = read_d4rl(path, obs_keys={"state": "observations", "goal": "infos/goal"})
    assert episodes.episode_ends.tolist() == (np.flatnonzero(rows["timeouts"]) + 1).tolist()
    assert np.array_equal(episodes.obs["state"], rows["observations"])
    assert np.array_equal(episodes.obs["goal"], rows["infos/goal"])
    assert np.array_equal(episodes.actions, rows["actions"])
    assert episodes.rewards is not None
    assert np.array_equal(episodes.rewards, rows["rewards"])
    assert np.array_equal(episodes.truncated, rows["timeouts"])
    assert not episodes.terminated.any()
    source = episodes.source
    assert (source.name, source.kind) == ("maze2d-umaze", "generated")
    assert source.details["generator"] == "genpolicy.generators.make_maze2d"
    assert source.details["seed"] == 3
    assert source.details["noise_std"] == 0.5
    assert "mujoco" in source.details["versions"]


def test_without_noise_the_actions_are_the_controllers():
    from genpolicy.generators import WaypointController

    rows = collect_maze2d("maze2d-umaze", n_steps=200, seed=0, noise_std=0.0)
    controller = WaypointController(task="maze2d-umaze")
    for state, goal, action in zip(
        rows["observations"], rows["infos/goal"], rows["actions"], strict=True
    ):
        np.testing.assert_allclose(controller.action(state, goal), action, atol=1e-4)


@pytest.mark.parametrize(
    "setting",
    [
        {"n_steps": 0},
        {"n_workers": 0},
        {"noise_std": -0.1},
        {"max_stay_steps": -1},
        {"restart_probability": 1.5},
        {"chunk_steps": 0},
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, setting: dict[str, float]):
    path = tmp_path / "x.hdf5"
    with pytest.raises(UsageError, match=next(iter(setting))):
        make_maze2d("maze2d-umaze", **{"seed": 0, "path": path, "progress": False, **setting})
    assert not path.exists()
