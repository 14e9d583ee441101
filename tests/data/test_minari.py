from __future__ import annotations

import io
import json

import h5py
import numpy as np
import pytest

from genpolicy.data.minari import read_minari
from genpolicy.data.reading import DamagedFileError
from genpolicy.data.transitions import TransitionDataset
from genpolicy.errors import DataError

LENGTHS = (3, 1, 12)


def episode(number, length):
    """One episode in Minari's layout; the state's first entry counts all observations."""
    generator = np.random.default_rng(number)
    return {
        "observations/achieved/xy": generator.normal(size=(length + 1, 2)),
        "observations/state": generator.normal(size=(length + 1, 4)).astype(np.float32),
        "actions": generator.uniform(-1, 1, (length, 2)).astype(np.float32),
        "rewards": generator.normal(size=length),
        "terminations": np.arange(length) == (length - 1 if number == 0 else -1),
        "truncations": np.arange(length) == (length - 1 if number == 2 else -1),
    }


EPISODES = [episode(i, length) for i, length in enumerate(LENGTHS)]


def put(folder, episodes=EPISODES, **metadata):
    data = folder / "data"
    data.mkdir(parents=True)
    with h5py.File(data / "main_data.hdf5", "w") as handle:
        for number, arrays in enumerate(episodes):
            for key, value in arrays.items():
                handle[f"episode_{number}/{key}"] = value
    record = {"dataset_id": "toy/walk-v0", "total_episodes": len(episodes)} | metadata
    (data / "metadata.json").write_text(json.dumps(record))
    return folder


def joined(key, rows=slice(None)):
    return np.concatenate([arrays[key][rows] for arrays in EPISODES])


def test_a_tree_of_observations_is_read(tmp_path):
    episodes = read_minari(put(tmp_path / "walk-v0"))
    assert episodes.lengths.tolist() == list(LENGTHS)
    assert episodes.obs_shapes == {"achieved/xy": (2,), "state": (4,)}
    for key in episodes.obs:
        expected = joined(f"observations/{key}", slice(-1)).astype(np.float32)
        np.testing.assert_array_equal(episodes.obs[key], expected)
        last = np.stack([arrays[f"observations/{key}"][-1] for arrays in EPISODES])
        np.testing.assert_array_equal(episodes.final_obs[key], last.astype(np.float32))
    np.testing.assert_array_equal(episodes.actions, joined("actions"))
    np.testing.assert_array_equal(episodes.rewards, joined("rewards").astype(np.float32))
    assert np.flatnonzero(episodes.terminated).tolist() == [2]
    # An episode that says nothing of its end counts as cut.
    assert np.flatnonzero(episodes.truncated).tolist() == [3, 15]
    assert episodes.source.name == "toy/walk-v0"
    assert len(TransitionDataset(episodes)) == 16


def test_any_of_the_three_paths_will_do_and_keys_can_be_chosen(tmp_path):
    folder = put(tmp_path / "walk-v0")
    prints = {
        read_minari(path, obs_keys={"xy": "achieved/xy"}).fingerprint
        for path in (folder, folder / "data", folder / "data" / "main_data.hdf5")
    }
    assert len(prints) == 1
    assert read_minari(folder, obs_keys={"xy": "achieved/xy"}).obs_shapes == {"xy": (2,)}


def test_a_plain_array_is_the_state_and_episodes_are_ordered_by_number(tmp_path):
    arrays = [
        {
            "observations": np.full((3, 1), i, np.float32),
            "actions": np.zeros((2, 1), np.float32),
            "rewards": np.zeros(2),
            "terminations": np.array([False, True]),
            "truncations": np.zeros(2, bool),
        }
        for i in range(11)
    ]
    episodes = read_minari(put(tmp_path / "many-v0", arrays))
    assert episodes.obs["state"][::2, 0].tolist() == list(range(11))


def test_jpeg_images_are_decoded_and_text_is_refused(tmp_path):
    from PIL import Image

    pixels = np.zeros((3, 16, 24, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    encoded = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=95)
        encoded.append(np.frombuffer(buffer.getvalue(), np.uint8))
    arrays = {key: EPISODES[2][key][:2] for key in EPISODES[2] if key[0] != "o"}
    folder = put(tmp_path / "seen-v0", [arrays])
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as handle:
        kind = h5py.vlen_dtype(np.uint8)
        images = handle.create_dataset("episode_0/observations/image", (3,), dtype=kind)
        for i, one in enumerate(encoded):
            images[i] = one
    image = read_minari(folder).obs["image"]
    assert image.shape == (2, 16, 24, 3)
    assert np.abs(image.astype(int) - pixels[:2]).max() <= 3
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as handle:
        handle["episode_0/observations/mission"] = [b"go left"] * 3
    with pytest.raises(DataError, match=r"'mission' holds neither numbers nor images; .* obs_keys"):
        read_minari(folder)


def without(key):
    return [{k: v for k, v in arrays.items() if k != key} for arrays in EPISODES]


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "no group episode_0"),
        (without("rewards"), "no array 'rewards' in /episode_0; it has actions"),
        ([EPISODES[0] | {"rewards": np.zeros(2)}], r"rewards has shape \(2,\), expected \(3,\)"),
        (
            [EPISODES[0] | {"observations/state": np.zeros((3, 4))}],
            "'state' has 3 rows, expected 4",
        ),
        (
            [{k: v for k, v in EPISODES[0].items() if k != "actions"} | {"actions/arm": [0.0]}],
            r"actions are a tree \(arm\)",
        ),
        (
            [{k: v for k, v in EPISODES[0].items() if not k.startswith("obs")}],
            "has no observations",
        ),
        (
            [EPISODES[0] | {"observations/state": np.full((4, 4), np.nan)}],
            "obs/state: 12 values that are nan",
        ),
    ],
)
def test_inconsistent_files_are_refused(tmp_path, episodes, message):
    with pytest.raises(DataError, match=message):
        read_minari(put(tmp_path / "walk-v0", episodes))


def test_missing_parts_and_other_formats_are_refused(tmp_path):
    with pytest.raises(DamagedFileError, match="expected 5 episodes, found 3"):
        read_minari(put(tmp_path / "a-v0", total_episodes=5))
    folder = put(tmp_path / "b-v0")
    (folder / "data" / "metadata.json").write_text('{"dataset_id": ')
    with pytest.raises(DamagedFileError, match="truncated or corrupt JSON"):
        read_minari(folder)
    (folder / "data" / "metadata.json").unlink()
    assert read_minari(folder).source.name == "b-v0"
    (folder / "data" / "main_data.hdf5").unlink()
    with pytest.raises(DataError, match=r"no Minari data set: expected main_data\.hdf5"):
        read_minari(folder)
    (folder / "data" / "metadata.json").write_text("{}")
    with pytest.raises(DataError, match="data_format='hdf5'"):
        read_minari(folder)


@pytest.mark.filterwarnings("ignore")
def test_a_data_set_that_minari_wrote_is_read_as_minari_reads_it(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari", reason="needs genpolicy[minari]")
    spaces = pytest.importorskip("gymnasium", reason="needs genpolicy[sim]").spaces
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    buffers = [
        EpisodeBuffer(
            id=i,
            observations={
                "state": arrays["observations/state"],
                "xy": arrays["observations/achieved/xy"],
            },
            actions=arrays["actions"],
            rewards=arrays["rewards"].tolist(),
            terminations=arrays["terminations"].tolist(),
            truncations=arrays["truncations"].tolist(),
        )
        for i, arrays in enumerate(EPISODES)
    ]
    space = spaces.Dict(
        {"state": spaces.Box(-9, 9, (4,)), "xy": spaces.Box(-9, 9, (2,), np.float64)}
    )
    minari.create_dataset_from_buffers(
        dataset_id="toy/walk-v0",
        buffer=buffers,
        observation_space=space,
        action_space=spaces.Box(-1, 1, (2,)),
        data_format="hdf5",
    )
    theirs = list(minari.load_dataset("toy/walk-v0").iterate_episodes())
    ours = read_minari(tmp_path / "toy" / "walk-v0")
    assert ours.lengths.tolist() == [len(e.actions) for e in theirs]
    for key in ("state", "xy"):
        expected = np.concatenate([e.observations[key][:-1] for e in theirs]).astype(np.float32)
        np.testing.assert_array_equal(ours.obs[key], expected)
    np.testing.assert_array_equal(ours.actions, np.concatenate([e.actions for e in theirs]))
