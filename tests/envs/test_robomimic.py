"""robosuite's tasks: seeds, recorded states, absolute actions, crashes. Needs [robosuite]."""

from __future__ import annotations

import multiprocessing
import os
import signal
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from genpolicy.envs import make_env, make_vector_env
from genpolicy.errors import SimulatorError, UsageError
from genpolicy.evaluation import evaluate
from genpolicy.evaluation.task import EvaluationTask
from genpolicy.robomimic_tasks import ROBOMIMIC_TASKS, robomimic_task
from genpolicy.rotations import pose_to_six, with_six
from genpolicy.shapes import TaskSpec

pytestmark = [
    pytest.mark.sim,
    pytest.mark.skipif(find_spec("robosuite") is None, reason="needs the [robosuite] extra"),
]


@pytest.fixture(scope="module")
def lift():
    env = make_env("robomimic/lift")
    yield env
    env.close()


def episode(env, seed, n_steps=6, **options):
    """Observations of an episode with actions that its seed decides."""
    rng = np.random.default_rng(seed)
    found = [env.reset(seed=seed, options=options or None)[0]]
    for _ in range(n_steps):
        found.append(env.step(rng.uniform(-1, 1, env.action_space.shape))[0])
    return found


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        assert set(one) == set(other)
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("name", ROBOMIMIC_TASKS)
def test_every_task_starts_and_steps(name):
    task = robomimic_task(name)
    env = make_env(f"robomimic/{name}")
    obs, info = env.reset(seed=1)
    assert set(obs) == set(task.low_dim_keys)
    assert obs["object"].shape == (task.object_dim,)
    assert env.action_space.shape == (7 * task.n_arms,)
    assert env.max_steps == task.max_steps
    assert info["metrics"]["success"] == 0.0
    obs, reward, terminated, truncated, info = env.step(np.zeros(env.action_space.shape))
    assert env.observation_space.contains(obs)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["metrics"]["time_to_success"] == task.max_steps
    for start in task.quaternions:
        assert np.linalg.norm(obs["object"][start : start + 4]) == pytest.approx(1.0, abs=1e-3)
    env.close()


def test_a_seed_decides_the_episode_whatever_ran_before(lift):
    first = episode(lift, 3)
    other = episode(lift, 4)
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - what robosuite draws from
    assert_same(episode(lift, 3), first)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert not np.array_equal(first[0]["object"], other[0]["object"])
    fresh = make_env("robomimic/lift")
    assert_same(episode(fresh, 3), first)
    fresh.close()


def test_a_recorded_state_goes_on_as_it_did(lift):
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (8, 7))
    lift.reset(seed=5)
    model, states, seen = lift.model_xml, [lift.simulator_state], []
    for action in actions:
        seen.append(lift.step(action)[0])
        states.append(lift.simulator_state)
    obs, _ = lift.reset(seed=77, options={"state": states[0], "model": model})
    np.testing.assert_allclose(lift.simulator_state, states[0], atol=1e-12)
    for action, expected in zip(actions, seen, strict=True):
        obs = lift.step(action)[0]
        for key in obs:
            np.testing.assert_allclose(obs[key], expected[key], atol=1e-4)
    with pytest.raises(UsageError, match=r"'state' has shape \(3,\)"):
        lift.reset(seed=0, options={"state": np.zeros(3)})
    with pytest.raises(UsageError, match="unknown reset option 'sate'"):
        lift.reset(seed=0, options={"sate": states[0]})
    with pytest.raises(SimulatorError, match="cannot be loaded"):
        lift.reset(seed=0, options={"model": "<mujoco><nothing/></mujoco>"})


@pytest.mark.parametrize("name", ["lift", "two_arm_handover"])
def test_absolute_actions_reach_where_deltas_aimed(name):
    delta = make_env(f"robomimic/{name}")
    absolute = make_env(f"robomimic/{name}", actions="absolute_6d")
    n_arms = robomimic_task(name).n_arms
    assert absolute.action_space.shape == (10 * n_arms,)
    delta.reset(seed=2)
    absolute.reset(seed=2)
    rng = np.random.default_rng(0)
    for _ in range(5):
        after = delta.step(rng.uniform(-0.5, 0.5, 7 * n_arms))[0]
        obs = absolute.step(pose_to_six(delta.goal_pose()))[0]
        for arm in range(n_arms):
            key = f"robot{arm}_eef_pos"
            np.testing.assert_allclose(obs[key], after[key], atol=2e-4)
    delta.close()
    absolute.close()


def test_quaternions_are_seen_as_six_numbers():
    plain, six = (
        make_env("robomimic/square", quaternions=kind) for kind in ("recorded", "rotation_6d")
    )
    assert six.observation_space["object"].shape == (18,)
    for before, after in zip(episode(plain, 4), episode(six, 4), strict=True):
        np.testing.assert_array_equal(after["object"], with_six(before["object"], (3, 10)))
        np.testing.assert_array_equal(
            after["robot0_eef_quat"], with_six(before["robot0_eef_quat"], (0,))
        )
        np.testing.assert_array_equal(after["robot0_eef_pos"], before["robot0_eef_pos"])
    plain.close()
    six.close()
    with pytest.raises(UsageError, match="quaternions is 'six'"):
        make_env("robomimic/square", quaternions="six")


def test_old_recipes_are_restored(lift):
    old = {
        "env_name": "Lift",
        "type": 1,
        "env_version": "1.4.1",
        "env_kwargs": {
            "robots": "Panda",
            "control_freq": 20,
            "camera_names": ["agentview"],
            "use_camera_obs": True,
            "controller_configs": {
                "type": "OSC_POSE",
                "input_max": 1,
                "input_min": -1,
                "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
                "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
                "kp": 150,
                "damping": 1,
                "impedance_mode": "fixed",
                "control_delta": True,
            },
        },
    }
    env = make_env("robomimic/lift", env_args=old)
    first, _ = env.reset(seed=3)
    action = np.array([1.0, 0, 0, 0, 0, 0, -1])
    for _ in range(5):
        obs = env.step(action)[0]
    moved = obs["robot0_eef_pos"] - first["robot0_eef_pos"]
    assert moved[0] > 0.03  # along the world's x axis, which is what old deltas mean
    assert np.abs(moved[1:]).max() < 0.02
    env.close()
    with pytest.raises(UsageError, match="env_args are of 'Lift', the task 'can'"):
        make_env("robomimic/can", env_args=old)
    broken = {**old, "env_kwargs": {**old["env_kwargs"], "no_such_setting": 1}}
    with pytest.raises(SimulatorError, match="cannot make Lift from these env_args"):
        make_env("robomimic/lift", env_args=broken)


def test_settings_that_do_not_exist_are_refused():
    with pytest.raises(UsageError, match="no observation 'objet'"):
        make_env("robomimic/lift", obs_keys=["objet"])
    with pytest.raises(UsageError, match="actions is 'absolute'"):
        make_env("robomimic/lift", actions="absolute")


def test_a_killed_worker_is_a_simulator_error_and_new_ones_repeat_the_episode():
    def first_steps(vector):
        obs, _ = vector.reset([0, 1], [7, 8])
        for _ in range(2):
            obs, *_ = vector.step(np.full((2, 7), 0.2, np.float32), np.ones(2, bool))
        return obs

    with make_vector_env("robomimic/lift", 2) as serial:
        expected = first_steps(serial)
    workers = make_vector_env("robomimic/lift", 2, workers=True)
    assert_same([first_steps(workers)], [expected])
    os.kill(workers._env.processes[1].pid, signal.SIGKILL)
    with pytest.raises(SimulatorError, match="make the environments again"):
        workers.step(np.zeros((2, 7), np.float32), np.ones(2, bool))
    with make_vector_env("robomimic/lift", 2, workers=True) as again:
        assert_same([first_steps(again)], [expected])


@pytest.mark.slow
@pytest.mark.usefixtures("off_screen")
def test_images_are_upright_and_decided_by_the_seed():
    env = make_env("robomimic/lift-image", image_size=48)
    obs, _ = env.reset(seed=0)
    image = obs["agentview_image"]
    assert (image.shape, image.dtype) == ((48, 48, 3), np.uint8)
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(again["agentview_image"], image)
    # The robot's dark base is at the top of the picture, the bright table below it.
    assert image[-12:].mean() > image[:12].mean()
    assert env.render().shape == (256, 256, 3)
    env.close()


class _KillsAWorker:
    """A policy of small fixed actions that kills a worker when it is asked for the third time."""

    def __init__(self, spec, *, kills):
        self.spec, self.n_calls, self.kills = spec, 0, kills

    def sample(self, obs, *, seeds=None):
        self.n_calls += 1
        if self.kills and self.n_calls == 3:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        rows = [np.random.default_rng(seed).uniform(-0.3, 0.3, (4, 7)) for seed in seeds]
        return torch.as_tensor(np.stack(rows), dtype=torch.float32)


def test_an_evaluation_with_workers_and_a_crash_equals_a_serial_one():
    task = EvaluationTask.named("robomimic/lift", max_steps=10)
    keys = robomimic_task("lift").low_dim_keys
    shapes = dict(zip(keys, [(10,), (3,), (4,), (2,)], strict=True))
    spec = TaskSpec(
        task="robomimic/lift",
        obs_shapes=shapes,
        action_dim=7,
        n_obs_steps=1,
        horizon=4,
        n_action_steps=4,
    )
    serial = evaluate(_KillsAWorker(spec, kills=False), task, seeds=range(3), n_envs=1)
    parallel = evaluate(
        _KillsAWorker(spec, kills=True), task, seeds=range(3), n_envs=2, workers=True
    )
    assert parallel.n_restarts == 1
    assert [record.seed for record in parallel.records] == [0, 1, 2]
    assert parallel.records == serial.records
    wrong = TaskSpec.from_json({**spec.to_json(), "action_dim": 10})
    with pytest.raises(UsageError, match=r"10 entries for the policy and shape \(7,\)"):
        evaluate(_KillsAWorker(wrong, kills=False), task, seeds=range(1))
