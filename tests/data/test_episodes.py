from __future__ import annotations

import numpy as np
import pytest

from genpolicy.data import DataSource, Episodes
from genpolicy.data.images import as_image
from genpolicy.errors import DataError, UsageError


def test_shapes_counts_and_returns(make_episodes):
    episodes = make_episodes([3, 1, 4])
    assert (episodes.n_steps, episodes.n_episodes, episodes.action_dim) == (8, 3, 2)
    assert episodes.obs_shapes == {"state": (2,)}
    assert episodes.episode_starts.tolist() == [0, 3, 4]
    assert episodes.lengths.tolist() == [3, 1, 4]
    assert episodes.returns.tolist() == [0 + 1 + 2, 3, 4 + 5 + 6 + 7]
    assert [episodes.locate(row) for row in (0, 2, 3, 7)] == [(0, 0), (0, 2), (1, 0), (2, 3)]


def test_episodes_end_truncated_where_nothing_else_is_known(make_episodes):
    terminated = np.array([0, 0, 1, 0, 0], bool)
    episodes = make_episodes([3, 2], terminated=terminated)
    assert np.flatnonzero(episodes.terminated).tolist() == [2]
    assert np.flatnonzero(episodes.truncated).tolist() == [4]


def test_select_keeps_episodes_whole_and_in_the_given_order(make_episodes):
    final = {"state": np.arange(6, dtype=np.float32).reshape(3, 2)}
    chosen = make_episodes([3, 1, 4], final_obs=final).select([2, 0])
    assert chosen.episode_ends.tolist() == [4, 7]
    assert chosen.obs["state"][:, 0].tolist() == [4, 5, 6, 7, 0, 1, 2]
    assert chosen.actions[:, 0].tolist() == [40, 50, 60, 70, 0, 10, 20]
    assert chosen.final_obs["state"].tolist() == [[4, 5], [0, 1]]
    with pytest.raises(UsageError, match="it has 0 to 2"):
        make_episodes([3, 1, 4]).select([3])


def test_the_fingerprint_changes_with_the_content_and_with_nothing_else(make_episodes):
    fingerprint = make_episodes([3, 2]).fingerprint
    assert len(fingerprint) == 64
    assert make_episodes([3, 2], source=DataSource("other", "official", "/x")).fingerprint == (
        fingerprint
    )
    row = np.arange(5, dtype=np.float32)
    different = [
        make_episodes([2, 3]),
        make_episodes([3, 2], rewards=None),
        make_episodes([3, 2], rewards=np.array([0, 1, 2, 3, 4.0000005], np.float32)),
        make_episodes([3, 2], terminated=np.array([0, 0, 0, 0, 1], bool)),
        make_episodes([3, 2], obs={"stat": np.stack([row, -row], axis=1)}),
    ]
    assert len({e.fingerprint for e in different} | {fingerprint}) == 6


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", "bool"])
def test_low_dimensional_observations_become_float32(make_episodes, dtype):
    state = np.array([[0, 1], [1, 1], [1, 0]]).astype(dtype)
    episodes = make_episodes([3], obs={"state": state})
    assert episodes.obs["state"].dtype == np.float32
    np.testing.assert_array_equal(episodes.obs["state"], state.astype(np.float32))


def test_integer_actions_are_refused(make_episodes):
    with pytest.raises(DataError, match="actions are int64, expected floating point"):
        make_episodes([3], actions=np.zeros((3, 2), np.int64))


def test_a_value_that_is_not_finite_is_located(make_episodes):
    state = np.zeros((8, 2), np.float32)
    state[5, 1] = np.nan
    state[6] = np.inf
    message = r"obs/state: 3 values .* first in episode 2 at step 1; .* 1 of 3 episodes"
    with pytest.raises(DataError, match=message):
        make_episodes([3, 1, 4], obs={"state": state})
    rewards = np.array([0, 0, 0, -np.inf, 0, 0, 0, 0])
    with pytest.raises(DataError, match=r"rewards: 1 values .* episode 1 at step 0"):
        make_episodes([3, 1, 4], rewards=rewards)


def test_a_final_observation_that_is_not_finite_counts_as_after_the_last_step(make_episodes):
    final = {"state": np.array([[0, 0], [np.nan, 0]], np.float32)}
    with pytest.raises(DataError, match=r"final_obs/state: 1 values .* episode 1 at step 2"):
        make_episodes([3, 2], final_obs=final)


def test_episodes_that_are_not_finite_can_be_dropped(make_episodes):
    rewards = np.array([0, 0, 0, np.nan, 0, 0, 0, np.inf])
    with pytest.warns(UserWarning, match=r"dropped episodes \[1, 2\] \(2 of 3\)"):
        episodes = make_episodes([3, 1, 4], rewards=rewards, on_nan="drop_episode")
    assert episodes.obs["state"][:, 0].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="every episode is affected"):
        make_episodes([3], actions=np.full((3, 2), np.nan), on_nan="drop_episode")
    with pytest.raises(UsageError, match="'error' or 'drop_episode'"):
        make_episodes([3], on_nan="ignore")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode_ends": []}, "the data set is empty"),
        ({"episode_ends": [2, 2, 5]}, "do not increase to the number of steps 5"),
        ({"episode_ends": [3, 4]}, "up to 4 do not increase to the number of steps 5"),
        ({"episode_ends": [3, 9]}, "up to 9 do not increase to the number of steps 5"),
        ({"rewards": np.zeros(4)}, "rewards has 4 rows, expected 5, one per action"),
        ({"obs": {}}, r"observation keys are \[\]"),
        ({"obs": {"action": np.zeros((5, 1))}}, "none called 'action'"),
        ({"obs": {"a": np.zeros(5)}}, r"shape \(5,\), expected \(n_steps, \*shape\)"),
        ({"obs": {"a": np.array([["x"]] * 5)}}, "expected numbers"),
        ({"actions": np.zeros(5)}, r"expected \(n_steps, action_dim\)"),
        ({"final_obs": {"state": np.zeros((3, 2))}}, "has 3 rows, expected 2, one per episode"),
    ],
)
def test_inconsistent_arrays_are_refused(make_episodes, changes, message):
    with pytest.raises(DataError, match=message):
        make_episodes([3, 2], **changes)


def test_an_empty_data_set_is_refused():
    with pytest.raises(DataError, match=r"empty \(0 episodes, 0 steps\)"):
        Episodes.from_arrays(
            obs={"state": np.zeros((0, 2))},
            actions=np.zeros((0, 2)),
            episode_ends=[],
            source=DataSource("toy", "local"),
        )


def test_images_stay_uint8(make_episodes):
    images = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
    episodes = make_episodes([3], obs={"image": images})
    assert episodes.obs["image"].dtype == np.uint8
    np.testing.assert_array_equal(episodes.obs["image"], images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((3, 4, 5, 3), 0.5, np.float32), r"float32 in \[0.5, 0.5\], expected uint8"),
        (np.full((3, 4, 5, 3), 200, np.int64), r"int64 in \[200, 200\], expected uint8"),
        (np.full((3, 3, 4, 5), 200, np.uint8), "channels first; .* np.moveaxis"),
        (np.full((3, 5, 6, 7), 200, np.uint8), "of no known layout"),
        (np.ones((3, 4, 5, 3), np.uint8), "no value above 1"),
        (np.full((3, 4, 5), 200, np.uint8), r"uint8 of shape \(4, 5\); for grey images add"),
    ],
)
def test_images_of_another_type_range_or_layout_are_refused(make_episodes, images, message):
    with pytest.raises(DataError, match=message):
        make_episodes([3], obs={"image": images})


def test_float_images_are_converted_only_without_loss():
    whole = np.array([0.0, 7.0, 255.0], np.float32)
    assert as_image("toy", "image", whole).tolist() == [0, 7, 255]
    for wrong in ([0.0, 1.0], [0.0, 7.5], [-1.0, 7.0], [0.0, 256.0]):
        with pytest.raises(DataError, match="expected uint8"):
            as_image("toy", "image", np.array(wrong, np.float32))
