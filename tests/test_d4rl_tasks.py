"""D4RL's names, files and scores."""

from __future__ import annotations

import pytest

from genpolicy.d4rl_tasks import D4RL_TASKS, resolve_d4rl
from genpolicy.envs import ENVS, env_entry
from genpolicy.errors import UsageError
from genpolicy.references import normalized_score

FILES = {
    "d4rl/hopper-medium-expert": "gym_mujoco_v2/hopper_medium_expert-v2.hdf5",
    "d4rl/walker2d-full-replay": "gym_mujoco_v2/walker2d_full_replay-v2.hdf5",
    "d4rl/pen-cloned": "hand_dapg_v1/pen-cloned-v1.hdf5",
    "d4rl/door-human-longhorizon": "hand_dapg_v1/door-human-v1.hdf5",
    "d4rl/kitchen-mixed": "kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5",
    "d4rl/antmaze-umaze": "ant_maze_v2/Ant_maze_u-maze_noisy_multistart_False_multigoal_False"
    "_sparse_fixed.hdf5",
}


def test_files_are_those_of_the_current_versions():
    assert {task: D4RL_TASKS[task].file for task in FILES} == FILES
    assert D4RL_TASKS["d4rl/walker2d-medium-replay"].files[0] == "gym_mujoco/walker_mixed.hdf5"
    assert D4RL_TASKS["d4rl/door-human"].files[0] == "hand_dapg/door-v0_demos_clipped.hdf5"


@pytest.mark.parametrize(
    ("task", "episode_return", "score"),
    [
        ("d4rl/hopper-medium", 1000, 31.348890),
        ("d4rl/halfcheetah-medium-replay", 5000, 42.530027),
        ("d4rl/walker2d-expert", 2000, 43.531131),
        ("d4rl/pen-human", 3000, 97.422201),
        ("d4rl/door-human-longhorizon", -50, 0.221745),
        ("d4rl/kitchen-partial", 3, 75),
        ("d4rl/antmaze-large-play", 1, 100),
    ],
)
def test_scores(task, episode_return, score):
    assert ENVS[task].score(episode_return) == pytest.approx(score, abs=1e-6)


def test_time_limits_are_d4rls():
    limits = {
        "hopper-random": 1000,
        "pen-human": 100,
        "pen-human-longhorizon": 200,
        "door-expert": 200,
        "door-human-longhorizon": 300,
        "hammer-human-longhorizon": 600,
        "relocate-human-longhorizon": 500,
        "kitchen-mixed": 280,
        "antmaze-umaze-diverse": 700,
        "antmaze-medium-play": 1000,
    }
    assert {name: ENVS[f"d4rl/{name}"].max_steps for name in limits} == limits


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("hopper-medium-v2", "d4rl/hopper-medium"),
        ("d4rl/hopper-medium-v2", "d4rl/hopper-medium"),
        ("hopper-medium", "d4rl/hopper-medium"),
        ("door-human-v1", "d4rl/door-human"),
        ("kitchen-complete-v0", "d4rl/kitchen-complete"),
        ("d4rl/maze2d-umaze-v1", "maze2d-umaze"),
        ("d4rl/maze2d-large", "maze2d-large"),
    ],
)
def test_current_names_mean_the_task_itself(name, task):
    assert env_entry(name) == ENVS[task]


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("hopper-medium-v0", "d4rl/hopper-medium"),
        ("d4rl/walker2d-expert-v1", "d4rl/walker2d-expert"),
        ("door-human-v0", "d4rl/door-human"),
        ("antmaze-umaze-v0", "d4rl/antmaze-umaze"),
        ("mujoco/hopper/medium-v0", "d4rl/hopper-medium"),
        ("D4RL/door/human-v2", "d4rl/door-human"),
        ("D4RL/kitchen/complete-v2", "d4rl/kitchen-complete"),
        ("D4RL/antmaze/large-play-v1", "d4rl/antmaze-large-play"),
    ],
)
def test_fault_50_names_of_other_versions_warn_in_every_result(name, task):
    entry = env_entry(name)
    assert entry.task == task
    assert entry.note.startswith("NOT comparable with published scores of ")
    assert D4RL_TASKS[task].d4rl_name in entry.note


@pytest.mark.parametrize("task", D4RL_TASKS)
def test_fault_50_v4_simulators_with_v2_references_warn_in_every_result(task):
    is_v4 = D4RL_TASKS[task].env_id.endswith("-v4")
    assert is_v4 == ENVS[task].note.startswith("NOT comparable with published scores")


@pytest.mark.parametrize("name", ["carla-town-full-v0", "ant-random-expert-v0", "hopper-v2"])
def test_fault_51_no_references_no_number(name):
    with pytest.raises(UsageError, match="no D4RL reference returns") as caught:
        normalized_score(name, 100.0)
    assert caught.value.exit_code == 2
    assert resolve_d4rl(name).task == name
    with pytest.raises(UsageError, match="there is no environment"):
        env_entry(name)
