"""The data of D4RL's tasks in the forms in which it comes."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from genpolicy.data.d4rl import read_d4rl, write_d4rl
from genpolicy.data.episodes import DataSource
from genpolicy.data.registry import dataset_entry, find_dataset, get_dataset, load_dataset
from genpolicy.data.rewards import RewardTransform
from genpolicy.errors import DataError, UsageError

N = 12


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("GENPOLICY_DATA", str(tmp_path))
    return tmp_path


def _rows(*rows, n=N):
    return np.isin(np.arange(n), rows)


def _write(path, *, width, terminals=(), timeouts=(), observations=None, actions=2, n=N):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    write_d4rl(
        path,
        observations=rng.normal(size=(n, width)) if observations is None else observations,
        actions=rng.uniform(-1, 1, (n, actions)),
        rewards=np.arange(n, dtype=np.float32),
        terminals=_rows(*terminals, n=n),
        timeouts=_rows(*timeouts, n=n),
        source=DataSource("written", "local"),
    )
    return path


def test_human_files_of_adroit_v0_have_timeouts_inside_the_demonstrations(places):
    """door-human-v0: true at one step of each, which then runs on to its terminal row."""
    _write(places / "door-v0_demos_clipped.hdf5", width=39, terminals=(5, 11), timeouts=(3, 9))
    episodes = load_dataset("d4rl/door-human")
    assert episodes.lengths.tolist() == [6, 6]
    assert not episodes.truncated.any()
    warning = episodes.source.details["warning"]
    assert warning.startswith("NOT comparable with published scores of door-human-v1")
    assert load_dataset("d4rl/door-human", split="flags").lengths.tolist() == [4, 2, 4, 2]


@pytest.mark.parametrize(
    ("terminals", "timeouts", "lengths"),
    [
        ((), (5, 11), [6, 6]),  # v1: flags at the ends
        ((5, 11), (5, 11), [6, 6]),
        ((11,), (3, 7), [4, 4, 4]),  # several timeouts in what terminal rows delimit
        ((5, 11), (3, 10), [4, 2, 5, 1]),  # at different steps
    ],
)
def test_other_human_files_are_split_by_flags(places, terminals, timeouts, lengths):
    _write(places / "door-human-v1.hdf5", width=39, terminals=terminals, timeouts=timeouts)
    episodes = load_dataset("d4rl/door-human")
    assert episodes.lengths.tolist() == lengths
    assert "warning" not in episodes.source.details


def test_fault_14_without_timeouts_the_tasks_limit_ends_episodes_with_one_warning(places):
    path = _write(places / "hopper_medium-v2.hdf5", width=11, n=2500)
    with h5py.File(path, "a") as file:
        del file["timeouts"]
    with pytest.warns(UserWarning, match="timeouts") as caught:
        episodes = load_dataset("d4rl/hopper-medium")
    assert len(caught) == 1
    assert episodes.lengths.tolist() == [1000, 1000, 500]
    assert episodes.truncated.sum() == 3


def test_the_goal_in_d4rls_observations_of_the_kitchen_is_left_out(places):
    observations = np.random.default_rng(0).normal(size=(N, 60)).astype(np.float32)
    _write(
        places / "kitchen_microwave_kettle_light_slider-v0.hdf5",
        width=60,
        observations=observations,
    )
    episodes = load_dataset("d4rl/kitchen-partial")
    assert np.array_equal(episodes.obs["state"], observations[:, :30])
    assert dict(episodes.source.env) == {}
    with pytest.raises(DataError, match="no velocities"):
        load_dataset("d4rl/kitchen-partial", obs="full")


def test_the_positions_of_gymnasium_robotics_kitchen_are_taken_unless_all_is_asked_for(places):
    observations = np.random.default_rng(0).normal(size=(N, 59)).astype(np.float32)
    path = _write(places / "kitchen-complete.hdf5", width=59, observations=observations)
    episodes = load_dataset("kitchen-complete")
    columns = [*range(9), *range(18, 39)]
    assert np.array_equal(episodes.obs["state"], observations[:, columns])
    assert "NOT comparable" in episodes.source.details["warning"]
    full = load_dataset("d4rl/kitchen-complete", obs="full")
    assert np.array_equal(full.obs["state"], observations)
    assert full.source.env == {"obs": "full"}
    with pytest.raises(DataError, match="expected 60"):
        load_dataset("d4rl/kitchen-complete", _write(path, width=30))
    with pytest.raises(UsageError, match="for the kitchen"):
        load_dataset("d4rl/hopper-medium", path, obs="full")


def test_episodes_of_antmaze_also_end_where_the_ant_jumps(places):
    """D4RL issue 77: in v0 the timeouts are out of step with the ends."""
    observations = np.zeros((N, 29), np.float32)
    observations[:, 0] = 0.5 * np.arange(N)
    observations[5:, 0] += 10
    name = "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5"
    path = _write(places / name, width=29, observations=observations, timeouts=(8,))
    episodes = load_dataset("antmaze-umaze-v0")
    assert episodes.lengths.tolist() == [5, 4, 3]
    assert episodes.truncated.sum() == 3
    assert "antmaze-umaze-v0 is another version" in episodes.source.details["warning"]
    assert read_d4rl(path, max_jump=20.0).lengths.tolist() == [9, 3]


def _write_minari(folder, *, tree=False):
    (folder / "data").mkdir(parents=True)
    rng = np.random.default_rng(1)
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for k in range(2):
            group = file.create_group(f"episode_{k}")
            state = rng.normal(size=(5, 59 if tree else 39))
            group["observations/observation" if tree else "observations"] = state
            group["actions"] = rng.uniform(-1, 1, (4, 3))
            group["rewards"] = np.ones(4)
            group["terminations"] = np.zeros(4, bool)
            group["truncations"] = _rows(3, n=4)
    (folder / "data" / "metadata.json").write_text(json.dumps({"total_episodes": 2}))
    return folder


def test_minaris_data_is_read_as_the_task_and_says_that_it_was_made_again(places):
    folder = _write_minari(places / "D4RL" / "door" / "human-v2")
    episodes = load_dataset("D4RL/door/human-v2")
    assert episodes.source.name == "d4rl/door-human"
    assert episodes.obs_shapes == {"state": (39,)}
    assert episodes.final_obs is not None
    assert "made again on Gymnasium's simulators" in episodes.source.details["warning"]
    assert load_dataset("d4rl/door-human", folder).fingerprint == episodes.fingerprint
    kitchen = _write_minari(places / "kitchen", tree=True)
    assert load_dataset("d4rl/kitchen-complete", kitchen).obs_shapes == {"state": (30,)}


def test_names_of_other_versions_ask_for_other_files(places):
    assert dataset_entry("hopper-medium").official_files[0] == "hopper_medium-v2.hdf5"
    old = dataset_entry("hopper-medium-v0")
    assert (old.name, old.official_files) == ("d4rl/hopper-medium", ("hopper_medium.hdf5",))
    assert old.urls[0].endswith("offline_rl/gym_mujoco/hopper_medium.hdf5")
    assert "genpolicy data get hopper-medium-v0" in old.hint
    _write(places / "hopper_medium-v2.hdf5", width=11)
    assert find_dataset("hopper-medium-v0") is None
    assert find_dataset("hopper-medium-v2") == find_dataset("d4rl/hopper-medium")
    assert find_dataset("mujoco/hopper/medium-v0") is None
    with pytest.raises(DataError, match="GENPOLICY_OFFLINE"):
        get_dataset("d4rl/hopper-expert")


def test_folders_of_the_packages_are_searched_too(places, tmp_path_factory, monkeypatch):
    theirs = tmp_path_factory.mktemp("d4rl")
    path = _write(theirs / "hopper_expert-v2.hdf5", width=11)
    assert find_dataset("d4rl/hopper-expert") is None
    monkeypatch.setenv("D4RL_DATASET_DIR", str(theirs))
    assert find_dataset("d4rl/hopper-expert") == path


@pytest.mark.parametrize(
    ("method", "task", "name"),
    [
        ("iql", "hopper-medium", "iql_locomotion"),
        ("iql", "antmaze-umaze", "iql_antmaze"),
        ("iql", "door-human", "none"),
        ("diffusion_ql", "antmaze-umaze", "cql_antmaze"),
        ("diffusion_ql", "door-human", "normalize"),
        ("diffusion_ql", "kitchen-mixed", "none"),
        ("diffusion_ql", "hopper-medium", "none"),
    ],
)
def test_rewards_by_method_are_those_of_the_family(places, method, task, name):
    width = 60 if "kitchen" in task else 29
    path = _write(
        places / "file.hdf5", width=width, timeouts=(3, 11), observations=np.zeros((N, width))
    )
    episodes = load_dataset(f"d4rl/{task}", path)
    ours, published = (RewardTransform.fit(one, episodes) for one in (method, name))
    assert (ours.gain, ours.offset) == (published.gain, published.offset)
