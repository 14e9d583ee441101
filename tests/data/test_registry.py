from __future__ import annotations

import json

import numpy as np
import pytest
import zarr

from genpolicy.data.d4rl import write_d4rl
from genpolicy.data.episodes import DataSource
from genpolicy.data.reading import DamagedFileError
from genpolicy.data.registry import (
    DATASETS,
    cache_dir,
    describe_dataset,
    find_dataset,
    generated_path,
    get_dataset,
    load_dataset,
)
from genpolicy.errors import DataError, UsageError

TASK = "maze2d-umaze"
OFFICIAL = "maze2d-umaze-sparse-v1.hdf5"
N = 6


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """A folder of the user's and an empty cache."""
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.setenv("GENPOLICY_DATA", str(folder))
    monkeypatch.setenv("GENPOLICY_CACHE", str(tmp_path / "cache"))
    return folder


def put(path, *, seed=0, **changes):
    """A maze2d file of two episodes with one goal each; its fourth state entry is constant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    states = generator.normal(size=(N, 4)).astype(np.float32)
    states[:, 3] = 7
    arrays = {
        "observations": states,
        "actions": np.linspace(-1, 1, 2 * N, dtype=np.float32).reshape(N, 2),
        "rewards": np.arange(N, dtype=np.float32),
        "terminals": np.zeros(N, bool),
        "timeouts": np.zeros(N, bool),
        "infos": {"goal": np.repeat([[1, 2], [3, 4]], [2, 4], axis=0).astype(np.float32)},
        "source": DataSource("written", "generated", details={"seed": seed}),
    }
    write_d4rl(path, **(arrays | changes))
    return path


def test_the_official_file_comes_before_others_and_the_users_folder_before_the_cache(places):
    assert find_dataset(TASK) is None
    generated = put(generated_path(TASK))
    assert find_dataset(TASK) == generated
    mine = put(places / "deep" / "down" / f"{TASK}.hdf5")
    assert find_dataset(TASK) == mine
    cached = put(cache_dir() / "data" / TASK / OFFICIAL)
    assert find_dataset(TASK) == cached
    official = put(places / "deep" / OFFICIAL)
    assert find_dataset(TASK) == official


def test_links_back_into_the_folder_do_no_harm(places):
    (places / "loop").symlink_to(places)
    assert find_dataset(TASK) is None


def test_a_users_folder_that_does_not_exist_is_refused(places, monkeypatch):
    monkeypatch.setenv("GENPOLICY_DATA", str(places / "nowhere"))
    with pytest.raises(DataError, match=r"GENPOLICY_DATA is .*nowhere', which is no folder"):
        find_dataset(TASK)


def test_a_missing_data_set_says_where_it_was_looked_for_and_how_to_get_it(places):
    with pytest.raises(DataError) as caught:
        load_dataset(TASK)
    for part in (OFFICIAL, str(places), str(cache_dir()), f"genpolicy data get {TASK}"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(TASK, places / "nowhere.hdf5")


def test_a_maze_is_split_where_its_goal_changes(places):
    episodes = load_dataset(TASK, put(places / "a.hdf5"))
    assert episodes.obs_shapes == {"state": (4,), "goal": (2,)}
    assert episodes.lengths.tolist() == [2, 4]
    assert (episodes.source.name, episodes.source.kind) == (TASK, "generated")


def test_options_reach_the_reader_and_unknown_ones_are_refused(places):
    path = put(places / "a.hdf5")
    episodes = load_dataset(TASK, path, obs_keys={"state": "observations"}, split_on=None)
    assert episodes.obs_shapes == {"state": (4,)}
    assert episodes.lengths.tolist() == [6]
    with pytest.raises(UsageError, match="no option 'split_no'; did you mean 'split_on'"):
        load_dataset(TASK, path, split_no="goal")
    with pytest.raises(UsageError, match="no data set for 'maze2d_umaze'; did you mean"):
        load_dataset("maze2d_umaze")


def test_door_human_keeps_demonstrations_whole(places):
    """Its file has timeouts inside the demonstrations, which end at terminal rows."""
    put(
        places / "door-v0_demos_clipped.hdf5",
        terminals=np.isin(np.arange(N), [2, 5]),
        timeouts=np.isin(np.arange(N), [1, 4]),
    )
    assert load_dataset("door-human").lengths.tolist() == [3, 3]


def test_the_views_of_pusht_share_one_file(places):
    group = zarr.open_group(str(places / "pusht_cchi_v7_replay.zarr"), mode="w", zarr_format=2)
    group.create_array("data/state", data=np.full((4, 5), 2, np.float32))
    group.create_array("data/action", data=np.full((4, 2), 3, np.float32))
    group.create_array("data/keypoint", data=np.full((4, 9, 2), 4, np.float32))
    group.create_array("data/img", data=np.full((4, 6, 6, 3), 5, np.uint8))
    group.create_array("meta/episode_ends", data=np.array([4]))
    shapes = {
        "pusht": {"keypoints": (18,), "agent_pos": (2,)},
        "pusht-state": {"state": (5,)},
        "pusht-pixels": {"image": (6, 6, 3), "agent_pos": (2,)},
        "pusht-all": {"keypoints": (18,), "image": (6, 6, 3), "state": (5,), "agent_pos": (2,)},
    }
    for task, expected in shapes.items():
        episodes = load_dataset(task)
        assert episodes.obs_shapes == expected
        assert (episodes.source.name, episodes.source.kind) == (task, "official")
    assert len({DATASETS[task].folder for task in shapes}) == 1


def test_a_damaged_file_is_named_with_the_command_that_brings_another(places):
    content = put(cache_dir() / "data" / TASK / OFFICIAL).read_bytes()
    for path, remedy in (
        (cache_dir() / "data" / TASK / OFFICIAL, f"genpolicy data get {TASK} force=true"),
        (places / OFFICIAL, f"delete it and run: genpolicy data get {TASK}; or download http"),
        (generated_path(TASK), f"again: genpolicy data make {TASK}"),
    ):
        path.write_bytes(content[: int(0.9 * len(content))])
        with pytest.raises(DamagedFileError, match=f"expected {len(content)} bytes.*{remedy}"):
            load_dataset(TASK, path)
        assert path.exists()


def test_a_file_that_differs_from_its_record_is_refused(places):
    path = put(cache_dir() / "data" / TASK / OFFICIAL)
    path.with_name(f"{OFFICIAL}.sha256").write_text(f"{'0' * 64}  {OFFICIAL}\n")
    message = f"expected sha256 {'0' * 64}, is .* genpolicy data get {TASK} force=true"
    with pytest.raises(DamagedFileError, match=message):
        load_dataset(TASK)
    with pytest.raises(DamagedFileError, match=message):
        get_dataset(TASK)


def test_get_returns_what_is_here_and_refuses_offline(places):
    with pytest.raises(DataError, match="GENPOLICY_OFFLINE is set"):
        get_dataset(TASK)
    path = put(places / OFFICIAL)
    assert get_dataset(TASK) == path
    with pytest.raises(DataError, match="GENPOLICY_OFFLINE is set"):
        get_dataset(TASK, force=True)
    with pytest.raises(UsageError, match="'pusht' cannot be generated; those that can: maze2d"):
        generated_path("pusht")


def test_a_description_is_plain_and_right(places):
    path = put(places / "a.hdf5", seed=4)
    found = describe_dataset(TASK, path)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    episodes = load_dataset(TASK, path)
    assert found["fingerprint"] == episodes.fingerprint
    assert (found["n_episodes"], found["n_steps"]) == (2, 6)
    assert found["lengths"] == {"min": 2, "mean": 3, "max": 4}
    assert found["returns"] == {"min": 1, "mean": 7.5, "max": 14}
    assert (found["n_terminated"], found["n_truncated"]) == (0, 2)
    assert found["constant"] == {"state": [3]}
    assert found["obs"]["state"]["shape"] == [4]
    assert found["obs"]["state"]["min"] == episodes.obs["state"].min(axis=0).tolist()
    assert found["action"] | {"min": 0, "max": 0} == {
        "shape": [2],
        "dtype": "float32",
        "min": 0,
        "max": 0,
    }
    assert found["action"]["max"] == pytest.approx([9 / 11, 1.0])
    assert found["source"]["kind"] == "generated"
    assert found["source"]["details"]["seed"] == 4


def test_entries_are_complete():
    for name, entry in DATASETS.items():
        assert entry.name == name
        assert entry.hint.startswith(("genpolicy data", "data.path=FILE"))
        assert entry.urls or entry.local_files
        assert all(url.startswith(("http://", "https://")) for url in entry.urls)
        assert not entry.can_generate or entry.local_files


def test_published_files_of_one_name_are_told_apart_by_their_folders(tmp_path, monkeypatch):
    for task in ("can", "lift"):
        place = tmp_path / "robomimic" / task / "ph" / "low_dim_v141.hdf5"
        place.parent.mkdir(parents=True)
        place.touch()
    monkeypatch.setenv("GENPOLICY_DATA", str(tmp_path))
    assert find_dataset("robomimic/can_ph") == tmp_path / "robomimic/can/ph/low_dim_v141.hdf5"
    assert find_dataset("robomimic/lift_ph") == tmp_path / "robomimic/lift/ph/low_dim_v141.hdf5"
    assert find_dataset("robomimic/square_ph") is None
    newer = tmp_path / "other" / "can" / "ph" / "low_dim_v15.hdf5"
    newer.parent.mkdir(parents=True)
    newer.touch()
    assert find_dataset("robomimic/can_ph") == newer
    with pytest.raises(DataError, match=r"GENPOLICY_OFFLINE is set, .*robomimic_datasets/resolve"):
        get_dataset("robomimic/square_ph")
