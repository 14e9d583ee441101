"""Mirror images of Push-T demonstrations, and their use as training data."""

import math

import numpy as np
import pytest
import zarr

from genpolicy.data.datamodule import WindowDataModule
from genpolicy.data.episodes import DataSource, Episodes
from genpolicy.data.pusht import PUSHT_MIRROR
from genpolicy.data.symmetry import Symmetry
from genpolicy.errors import UsageError
from genpolicy.pusht_geometry import (
    block_keypoints,
    mirror_image,
    mirror_keypoints,
    mirror_point,
    mirror_state,
)

N, ENDS = 60, [14, 30, 44, 60]
RNG = np.random.default_rng(0)
POSES = np.concatenate([RNG.uniform(100, 400, (N, 2)), RNG.uniform(-7, 7, (N, 1))], axis=1)
POSES[np.array(ENDS) - 1, :2] = 256.0  # episodes end at the goal
STATES = np.concatenate([RNG.uniform(20, 490, (N, 2)), POSES], axis=1)


def test_the_goal_is_its_own_mirror_image():
    goal = np.array([[256.0, 256.0, 256.0, 256.0, math.pi / 4]])
    np.testing.assert_allclose(mirror_state(goal), goal)


def test_mirroring_twice_changes_nothing():
    twice = mirror_state(mirror_state(STATES))
    np.testing.assert_allclose(twice[:, :4], STATES[:, :4])
    np.testing.assert_allclose(twice[:, 4], STATES[:, 4] % (2 * math.pi))
    images = RNG.integers(0, 255, (2, 8, 8, 3))
    np.testing.assert_array_equal(mirror_image(mirror_image(images)), images)


def test_mirrored_keypoints_are_those_of_the_mirrored_block():
    expected = block_keypoints(mirror_state(STATES)[:, 2:]).reshape(N, 18)
    found = mirror_keypoints(block_keypoints(POSES).reshape(N, 18))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_pixel_moves_with_the_point_it_shows():
    image = np.zeros((96, 96, 3), np.uint8)
    row, column = 10, 70  # y and x
    image[row, column] = 255
    x, y = mirror_point(np.array([[(column + 0.5) * 512 / 96, (row + 0.5) * 512 / 96]]))[0]
    assert mirror_image(image)[int(y * 96 / 512), int(x * 96 / 512), 0] == 255


def episodes():
    return Episodes.from_arrays(
        obs={"state": STATES.astype(np.float32)},
        actions=RNG.uniform(0, 512, (N, 2)).astype(np.float32),
        rewards=np.arange(N, dtype=np.float32),
        episode_ends=ENDS,
        final_obs={"state": STATES[: len(ENDS)].astype(np.float32)},
        source=DataSource("pusht", "generated"),
    )


def test_data_is_enlarged_by_its_images():
    plain = episodes()
    both = PUSHT_MIRROR.enlarge(plain)
    both.validate()
    assert (both.n_episodes, both.n_steps) == (8, 2 * N)
    image = both.select(range(4, 8))
    np.testing.assert_array_equal(image.actions, mirror_point(plain.actions))
    np.testing.assert_array_equal(image.rewards, plain.rewards)
    np.testing.assert_array_equal(image.lengths, plain.lengths)
    assert both.fingerprint != plain.fingerprint
    with pytest.raises(UsageError, match="no map for the observations"):
        Symmetry(obs={}, action=mirror_point).image(plain)


@pytest.fixture
def path(tmp_path):
    group = zarr.open_group(str(tmp_path / "pusht.zarr"), mode="w", zarr_format=2)
    arrays = {
        "data/state": STATES.astype(np.float32),
        "data/action": RNG.uniform(12, 511, (N, 2)).astype(np.float32),
        "data/keypoint": block_keypoints(POSES).astype(np.float32),
        "meta/episode_ends": np.array(ENDS, np.int64),
    }
    for key, value in arrays.items():
        group.create_array(key, data=value, chunks=value.shape)
    return tmp_path / "pusht.zarr"


def module(path, **changes):
    settings = {"task": "pusht", "seed": 1, "path": path, "batch_size": 8, "val_ratio": 0.25}
    data = WindowDataModule(**(settings | changes))
    data.setup("fit")
    return data


def test_images_of_training_episodes_are_trained_on_and_no_others(path):
    plain, mirrored = module(path), module(path, symmetry="mirror")
    assert mirrored.train_ids.tolist() == [*plain.train_ids, *(plain.train_ids + 4)]
    assert mirrored.validation_ids.tolist() == plain.validation_ids.tolist()
    assert len(mirrored.train_windows) == 2 * len(plain.train_windows)
    low, high = (getattr(mirrored.normalizer.stats["agent_pos"], n) for n in ("minimum", "maximum"))
    np.testing.assert_allclose(low, 512 - high[::-1], atol=1e-3)  # as symmetric as the data
    assert mirrored.episodes.fingerprint != plain.episodes.fingerprint


@pytest.mark.parametrize("key", ["state", "keypoints"])
def test_data_with_another_goal_is_refused(key):
    elsewhere = POSES + np.array([100.0, 100.0, 0.0])
    states = np.concatenate([STATES[:, :2], elsewhere], axis=1)
    values = states if key == "state" else block_keypoints(elsewhere).reshape(N, 18)
    data = Episodes.from_arrays(
        obs={key: values.astype(np.float32)},
        actions=np.zeros((N, 2), np.float32),
        episode_ends=ENDS,
        source=DataSource("pusht", "generated"),
    )
    with pytest.raises(UsageError, match=r"not on the mirror's line .* data\.symmetry=null"):
        PUSHT_MIRROR.enlarge(data)


def test_an_unknown_symmetry_is_refused_before_data_is_read(tmp_path):
    with pytest.raises(UsageError, match="mirror"):
        module(tmp_path / "none", symmetry="mirorr")
    with pytest.raises(UsageError, match="none is known"):
        WindowDataModule(task="maze2d-umaze", seed=0, symmetry="mirror")


def test_a_range_of_the_episodes(path):
    first, second = module(path, episode_range=[0, 2]), module(path, episode_range=[2, 4])
    assert first.episodes.n_episodes == second.episodes.n_episodes == 2
    np.testing.assert_array_equal(first.episodes.obs["agent_pos"], STATES[:30, :2].astype("f4"))
    np.testing.assert_array_equal(second.episodes.obs["agent_pos"], STATES[30:, :2].astype("f4"))
    for wrong in ([2, 2], [-1, 2], [1]):
        with pytest.raises(UsageError, match="episode_range"):
            module(path, episode_range=wrong)
    with pytest.raises(UsageError, match="episodes 0 to 3"):
        module(path, episode_range=[0, 5])
