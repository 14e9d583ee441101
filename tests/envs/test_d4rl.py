"""D4RL's tasks on Gymnasium's simulators."""

from __future__ import annotations

import numpy as np
import pytest

from genpolicy.d4rl_tasks import D4RL_TASKS
from genpolicy.envs import make_env
from genpolicy.errors import UsageError
from genpolicy.references import normalized_score

pytestmark = pytest.mark.sim
ONE_OF_EACH = (
    "d4rl/hopper-medium",
    "d4rl/halfcheetah-medium",
    "d4rl/walker2d-medium",
    "d4rl/pen-human",
    "d4rl/door-human",
    "d4rl/hammer-human",
    "d4rl/relocate-human",
    "d4rl/kitchen-complete",
    "d4rl/antmaze-umaze",
)


def _roll(env, *, seed, n_steps=20, options=None):
    """Return all observations and rewards of an episode of random actions."""
    actions = np.random.default_rng(5).uniform(-1, 1, (n_steps, *env.action_space.shape))
    found = [env.reset(seed=seed, options=options)[0]["state"]]
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        found.append(np.append(obs["state"], reward))
        if terminated or truncated:
            break
    return np.concatenate(found)


@pytest.mark.parametrize("task", ONE_OF_EACH)
def test_the_seed_decides_the_whole_episode(task):
    one, other = make_env(task), make_env(task)
    first = _roll(one, seed=3)
    _roll(one, seed=4)
    assert np.array_equal(_roll(one, seed=3), first)
    assert np.array_equal(_roll(other, seed=3), first)
    assert not np.array_equal(_roll(one, seed=4)[: len(first)], first)


@pytest.mark.parametrize("task", [task for task in ONE_OF_EACH if "kitchen" not in task])
def test_an_episode_goes_on_from_a_state_that_was_taken(task):
    env = make_env(task)
    env.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(5):
        env.step(rng.uniform(-1, 1, env.action_space.shape))
    state = env.state
    first = _roll(env, seed=2, n_steps=3, options=state)
    assert np.array_equal(_roll(env, seed=2, n_steps=3, options=state), first)
    assert np.allclose(
        env.reset(seed=2, options=state)[0]["state"], first[: len(first) // 4], atol=9
    )
    with pytest.raises(UsageError, match="expected all of"):
        env.reset(seed=2, options={"qpos": state["qpos"]})
    with pytest.raises(UsageError, match="unknown reset option"):
        env.reset(seed=2, options={"position": state["qpos"]})


@pytest.mark.parametrize(
    ("task", "cost", "alive"),
    [("hopper", 1e-3, 1.0), ("walker2d", 1e-3, 1.0), ("halfcheetah", 0.1, 0.0)],
)
def test_rewards_of_the_robots_are_those_of_v2(task, cost, alive):
    env = make_env(f"d4rl/{task}-medium")
    env.reset(seed=0)
    terminated = False
    for k in range(200):
        before = env.state["qpos"][0]
        action = np.full(env.action_space.shape, 0.5 - k % 2)
        _, reward, terminated, _, info = env.step(action)
        speed = (env.state["qpos"][0] - before) * env.task.steps_per_second
        # v5 withholds the bonus of staying alive in the step that falls.
        assert reward == pytest.approx(speed + alive - cost * (action**2).sum(), abs=1e-9)
        if terminated:
            break
    assert terminated == (task != "halfcheetah")
    assert info["metrics"]["success"] == float(not terminated)
    score = normalized_score(f"{task}-medium-v2", info["metrics"]["return"])
    assert info["metrics"]["d4rl_score"] == score


def _distance_reward(task, env):
    """D4RL's reward of the current state of an adroit task that is far from done."""
    sim, obs = env._sim, env._raw
    if task == "door":
        hinge, reach, speed = obs[28], obs[35:38], sim.data.qvel
        return -0.1 * np.linalg.norm(reach) - 0.1 * (hinge - 1.57) ** 2 - 1e-5 * (speed**2).sum()
    if task == "hammer":
        palm, handle, nail = obs[33:36], obs[36:39], obs[42:45]
        head, goal = (sim.data.site_xpos[i] for i in (sim.tool_site_id, sim.goal_site_id))
        found = -0.1 * np.linalg.norm(palm - handle) - np.linalg.norm(head - nail)
        found += -10 * np.linalg.norm(nail - goal) - 1e-2 * np.linalg.norm(sim.data.qvel)
        return found + 2 * (handle[2] > 0.04 and head[2] > 0.04)
    return -0.1 * np.linalg.norm(obs[30:33])


@pytest.mark.parametrize("task", ["door", "hammer", "relocate"])
def test_adroit_punishes_the_distance_between_palm_and_object_as_d4rl_does(task):
    env = make_env(f"d4rl/{task}-human")
    env.reset(seed=0)
    for _ in range(3):
        reward = env.step(np.zeros(env.action_space.shape))[1]
        assert reward == pytest.approx(_distance_reward(task, env), abs=1e-9)


def test_door_succeeds_when_it_was_open_for_more_than_25_steps():
    env = make_env("d4rl/door-human")
    env.reset(seed=0)
    state = env.state
    state["qpos"][28] = 1.5
    env.reset(seed=0, options=state)
    for k in range(1, 28):
        env._sim.set_env_state(state)
        reward = env.step(np.zeros(28))[1]
        assert reward > 15
        metrics = env._metrics()
        assert (metrics["steps_at_goal"], metrics["success"]) == (k, float(k > 25))


def test_an_episode_of_pen_ends_when_the_pen_is_dropped():
    env = make_env("d4rl/pen-human")
    env.reset(seed=0)
    assert not env.step(np.zeros(24))[2]
    state = env.state
    state["qpos"][24] = 0.3  # the slide along the vertical, which points down
    env.reset(seed=0, options=state)
    assert env.step(np.zeros(24))[2]


def test_the_kitchen_counts_each_task_once_and_ends_with_the_last():
    goals = {
        "microwave": ([22], [-0.75]),
        "slide cabinet": ([19], [0.37]),
        "light switch": ([17, 18], [-0.69, -0.05]),
    }
    env = make_env("d4rl/kitchen-complete")
    env.reset(seed=0)
    state = env.state
    for columns, values in goals.values():
        state["qpos"][columns] = values
    env.reset(seed=0, options=state)
    assert [env.step(np.zeros(9))[1] for _ in range(3)] == [3.0, 0.0, 0.0]
    kettle = [-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06]
    state = env.state
    state["qpos"][23:30] = kettle
    env._restore(state)
    _, reward, terminated, _, info = env.step(np.zeros(9))
    assert (reward, terminated) == (1.0, True)
    metrics = info["metrics"]
    assert (metrics["tasks_completed"], metrics["success"], metrics["d4rl_score"]) == (
        4.0,
        1.0,
        100.0,
    )


def test_mixed_asks_for_the_burner_instead_of_the_cabinet():
    assert D4RL_TASKS["d4rl/kitchen-mixed"].goals[-1] == "bottom burner"
    assert D4RL_TASKS["d4rl/kitchen-partial"].goals == D4RL_TASKS["d4rl/kitchen-complete"].goals


def test_positions_of_the_kitchen_are_among_its_full_observations():
    few, all_ = (make_env("d4rl/kitchen-complete", obs=obs) for obs in ("positions", "full"))
    position, full = (env.reset(seed=2)[0]["state"] for env in (few, all_))
    assert np.array_equal(position, np.concatenate([full[:9], full[18:39]]))
    assert position[9:] == pytest.approx(few.state["qpos"][9:], abs=1e-3)
    with pytest.raises(UsageError, match="expected 'positions' or 'full'"):
        make_env("d4rl/kitchen-complete", obs="images")


def test_the_ant_is_d4rls():
    env = make_env("d4rl/antmaze-umaze")
    model = env._sim.model
    assert model.opt.timestep == 0.02
    assert np.allclose(model.actuator_gear[:, 0], 30)
    assert np.allclose(model.actuator_ctrlrange, [[-1, 1]] * 8)
    assert env._sim.dt == pytest.approx(0.1)
    starts = np.stack([env.reset(seed=seed)[0]["state"] for seed in range(20)])
    assert np.abs(starts[:, :2]).max() <= 0.1  # where R is
    assert starts.shape[1] == 29


@pytest.mark.parametrize(
    ("size", "corner"), [("umaze", (0, 8)), ("medium-play", (20, 20)), ("large-play", (32, 24))]
)
def test_goals_of_the_ant_are_in_the_far_corner_and_end_the_episode(size, corner):
    env = make_env(f"d4rl/antmaze-{size}")
    goals = []
    for seed in range(10):
        env.reset(seed=seed)
        goals.append(env.goal)
    offsets = np.array(goals) - corner
    assert (offsets >= 0).all()
    assert (offsets <= 1.5).all()
    assert np.std(offsets, axis=0).min() > 0.05
    state = env.state
    state["qpos"][:2] = env.goal + np.array([0.3, 0.0])
    env.reset(seed=9, options=state)
    _, reward, terminated, _, info = env.step(np.zeros(8))
    assert (reward, terminated) == (1.0, True)
    assert (info["metrics"]["success"], info["metrics"]["time_to_goal"]) == (1.0, 1.0)


def test_walls_stop_the_ant():
    env = make_env("d4rl/antmaze-umaze")
    env.reset(seed=0)
    state = env.state
    state["qpos"][:2] = [0.0, 1.2]  # the wall begins at y = 2
    state["qvel"][:2] = [0.0, 5.0]
    env.reset(seed=0, options=state)
    for _ in range(20):
        env.step(np.zeros(8))
    assert env.state["qpos"][1] < 2.0


def test_pictures(off_screen):
    for task in ("d4rl/hopper-medium", "d4rl/door-human"):
        env = make_env(task, render_size=48)
        env.reset(seed=0)
        image = env.render()
        assert image.shape == (48, 48, 3)
        assert image.std() > 5
        env.close()


def test_unknown_tasks_are_refused():
    from genpolicy.envs.d4rl import LocomotionEnv, make_d4rl

    for build in (make_d4rl, lambda task: LocomotionEnv(task=task)):
        with pytest.raises(UsageError, match="did you mean 'd4rl/hopper-medium'"):
            build("d4rl/hoper-medium")
