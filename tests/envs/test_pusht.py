"""Push-T: start states, keypoints and dynamics against recorded data and against gym-pusht."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genpolicy.envs.pusht import PushTEnv
from genpolicy.errors import UsageError
from genpolicy.pusht_geometry import block_keypoints

pytestmark = pytest.mark.sim

# First recorded state of some episodes of the official data set, by episode number.
FIRST_STATES = {
    0: [222.0, 97.0, 222.9938201904297, 381.5990295410156, 3.0079994201660156],
    1: [87.0, 285.0, 158.16250610351562, 357.1803283691406, 5.970620632171631],
    2: [218.0, 65.0, 178.35867309570312, 211.54847717285156, 2.99981427192688],
    100: [58.0, 330.0, 184.26930236816406, 242.6904296875, 3.0242276191711426],
    205: [372.0, 342.0, 368.7065734863281, 333.8953857421875, 2.390594959259033],
}

# Recorded block poses and the recorded keypoints of the same rows.
KEYPOINTS = [
    (
        [222.9938201904297, 381.5990295410156, 3.0079994201660156],
        [
            [201.8135, 293.5950],
            [283.5920, 374.6524],
            [162.8094, 391.0933],
            [219.8596, 356.2470],
            [220.5748, 258.0041],
            [179.9621, 354.2294],
            [258.2446, 343.8376],
            [231.2951, 317.0550],
            [199.8886, 386.4198],
        ],
    ),
    (
        [176.61361694335938, 236.50762939453125, 2.2284741401672363],
        [
            [99.6875, 188.8036],
            [214.8308, 188.9699],
            [140.4816, 285.5666],
            [156.5634, 220.6792],
            [88.0131, 150.3015],
            [126.7682, 247.2898],
            [175.1416, 184.8706],
            [137.1472, 184.7656],
            [163.5688, 256.1780],
        ],
    ),
    (
        [319.4066467285156, 291.546875, 0.31055206060409546],
        [
            [300.7179, 380.1134],
            [261.7030, 271.7813],
            [377.8314, 308.8341],
            [311.3434, 315.7860],
            [268.4839, 404.1898],
            [346.5030, 334.7512],
            [271.3504, 310.4978],
            [284.1771, 346.2618],
            [342.3416, 297.1218],
        ],
    ),
]


def pushing(n_steps: int) -> np.ndarray:
    """Targets that drag the agent through the middle of the table, in pixels."""
    angle = np.linspace(0, 4 * np.pi, n_steps)
    return np.stack([256 + 150 * np.cos(angle), 256 + 150 * np.sin(1.3 * angle)], axis=1)


@pytest.mark.parametrize("episode", FIRST_STATES)
def test_seed_i_starts_where_recorded_episode_i_starts(episode: int):
    obs, _ = PushTEnv(obs="state").reset(seed=episode)
    np.testing.assert_allclose(obs["state"], FIRST_STATES[episode], atol=1e-4)


def test_angle_first_starts_at_the_position_drawn():
    obs, _ = PushTEnv(obs="state", start="angle_first").reset(seed=0)
    np.testing.assert_allclose(obs["state"], [222, 97, 217, 292, 3.0079994], atol=1e-4)


@pytest.mark.parametrize(("pose", "recorded"), KEYPOINTS)
def test_keypoints_of_recorded_states(pose: list[float], recorded: list[list[float]]):
    np.testing.assert_allclose(block_keypoints(np.array(pose)), recorded, atol=3e-4)
    env = PushTEnv()
    obs, _ = env.reset(seed=0, options={"state": [20.0, 30.0, *pose]})
    np.testing.assert_allclose(obs["keypoints"], np.ravel(recorded), atol=3e-4)
    assert obs["agent_pos"].tolist() == [20, 30]


def test_keypoints_are_fixed_to_the_body():
    pymunk = pytest.importorskip("pymunk")
    body = pymunk.Body(1, 1)
    body.angle, body.position = 0.7, (30, 40)
    local = block_keypoints(np.zeros(3))
    expected = [body.local_to_world(tuple(point)) for point in local]
    np.testing.assert_allclose(block_keypoints(np.array([30, 40, 0.7])), expected, atol=1e-9)
    poses = np.random.default_rng(0).normal(size=(4, 2, 3))
    assert block_keypoints(poses).shape == (4, 2, 9, 2)
    np.testing.assert_array_equal(block_keypoints(poses)[3, 1], block_keypoints(poses[3, 1]))


def test_states_and_pictures_equal_gym_pusht():
    other = pytest.importorskip("gym_pusht.envs.pusht").PushTEnv(obs_type="pixels_agent_pos")
    rng = np.random.RandomState(43)
    start = [rng.randint(50, 450), rng.randint(50, 450), rng.randint(100, 400)]
    start += [rng.randint(100, 400), rng.randn() * 2 * np.pi - np.pi]
    other.reset(options={"reset_to_state": start})  # gym-pusht sets the position first as well
    by_state = PushTEnv(obs="state", end_on_success=False)
    by_picture = PushTEnv(obs="pixels", end_on_success=False)
    by_state.reset(seed=43)
    by_picture.reset(seed=43)
    poses = []
    for action in pushing(60):
        expected, other_reward, _, _, other_info = other.step(action)
        obs, reward, _, _, info = by_state.step(action)
        picture = by_picture.step(action)[0]["image"]
        x, y, angle = other_info["block_pose"]
        agent = expected["agent_pos"]
        assert np.array_equal(
            obs["state"], np.array([*agent, x, y, angle % (2 * np.pi)], dtype=np.float32)
        )
        assert np.array_equal(picture, expected["pixels"])
        assert info["metrics"]["final_coverage"] == pytest.approx(other_info["coverage"], abs=1e-12)
        assert reward == pytest.approx(other_reward, abs=1e-12)
        poses.append([x, y])
    assert np.ptp(poses, axis=0).max() > 20  # the block was pushed


def test_a_policy_is_judged_by_its_best_coverage():
    pose = [256.0, 256.0, math.pi / 4]
    env = PushTEnv(max_steps=3)
    _, info = env.reset(seed=0, options={"state": [60.0, 60.0, *pose]})
    assert info["metrics"] == {
        "success": 0.0,
        "max_reward": 0.0,
        "max_coverage": 0.0,
        "final_coverage": pytest.approx(1.0),
        "return": 0.0,
        "clipped_actions": 0.0,
    }
    _, reward, terminated, truncated, info = env.step(np.array([60.0, 60.0]))
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info["metrics"]["success"] == info["metrics"]["max_reward"] == 1.0
    assert info["metrics"]["max_coverage"] == pytest.approx(1.0)
    going_on = PushTEnv(max_steps=3, end_on_success=False)
    going_on.reset(seed=0, options={"state": [60.0, 60.0, *pose]})
    ends = [going_on.step(np.array([60.0, 60.0]))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("shift", [5.0, 10.0, 25.0])
def test_coverage_of_a_shifted_block_in_closed_form(shift: float):
    # Bars of 120 x 30 and 30 x 90: a shift along the long bar loses 30 and 90 px^2 a pixel.
    cos, sin = math.cos(math.pi / 4), math.sin(math.pi / 4)
    pose = [256 + shift * cos, 256 + shift * sin, math.pi / 4]
    _, info = PushTEnv().reset(seed=0, options={"state": [40.0, 40.0, *pose]})
    expected = ((120 - shift) * 30 + (30 - shift) * 90) / (120 * 30 + 30 * 90)
    assert info["metrics"]["final_coverage"] == pytest.approx(expected, abs=1e-9)


def test_a_block_far_from_the_goal_covers_nothing_and_a_moved_goal_is_scored():
    state = [40.0, 40.0, 100.0, 420.0, 0.0]
    _, info = PushTEnv().reset(seed=0, options={"state": state})
    assert info["metrics"]["final_coverage"] == 0.0
    moved = PushTEnv(goal_pose=(100.0, 420.0, 0.0))
    _, info = moved.reset(seed=0, options={"state": state})
    assert info["metrics"]["final_coverage"] == pytest.approx(1.0)


@pytest.mark.parametrize("obs", ["keypoints", "state", "pixels"])
def test_an_episode_depends_on_its_seed_alone(obs: str):
    def run(env: PushTEnv, seed: int) -> list[np.ndarray]:
        rows = [env.reset(seed=seed)[0]]
        rows += [env.step(action)[0] for action in pushing(40)]
        return [np.concatenate([v.ravel() for v in row.values()]) for row in rows]

    env = PushTEnv(obs=obs, end_on_success=False)
    first = run(env, 100_003)
    run(env, 7)
    assert np.array_equal(run(env, 100_003), first)
    assert np.array_equal(run(PushTEnv(obs=obs, end_on_success=False), 100_003), first)
    assert env.observation_space.contains(env.reset(seed=1)[0])


def test_seeds_beyond_32_bits_start_episodes_of_their_own():
    env = PushTEnv(obs="state")
    states = [env.reset(seed=seed)[0]["state"] for seed in (1, 2**32 + 1, 2**62 + 1)]
    assert len({state.tobytes() for state in states}) == 3
    assert np.array_equal(env.reset(seed=2**62 + 1)[0]["state"], states[2])


def test_recorded_angles_are_wrapped_only_in_observations():
    env = PushTEnv(obs="state")
    obs, _ = env.reset(seed=0, options={"state": [50, 50, 300, 300, -0.5]})
    assert obs["state"][4] == pytest.approx(2 * math.pi - 0.5)


def test_render_marks_the_action():
    env = PushTEnv(render_size=192)
    env.reset(seed=0)
    plain = env.render()
    assert plain.shape == (192, 192, 3)
    assert plain.dtype == np.uint8
    assert not (plain == [255, 0, 0]).all(axis=-1).any()
    env.step(np.array([400.0, 120.0]))
    rows, columns = np.nonzero((env.render() == [255, 0, 0]).all(axis=-1))
    assert rows.mean() == pytest.approx(120 * 192 / 512, abs=2)
    assert columns.mean() == pytest.approx(400 * 192 / 512, abs=2)


def test_unknown_settings_are_refused():
    with pytest.raises(UsageError, match="keypoints, state, pixels"):
        PushTEnv(obs="keypoint")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="angle_first"):
        PushTEnv(start="legacy")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
def test_gymnasium_accepts_the_interface():
    from gymnasium.utils.env_checker import check_env

    check_env(PushTEnv(), skip_render_check=True)
