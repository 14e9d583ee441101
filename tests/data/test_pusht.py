from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest
import zarr

from genpolicy.data.pusht import read_pusht
from genpolicy.data.reading import DamagedFileError
from genpolicy.errors import DataError, UsageError

N, ENDS = 23, [9, 23]


def arrays(**changes):
    generator = np.random.default_rng(0)
    return {
        "data/state": generator.uniform(0, 500, (N, 5)).astype(np.float32),
        "data/action": generator.uniform(12, 511, (N, 2)).astype(np.float32),
        "data/keypoint": generator.uniform(0, 500, (N, 9, 2)).astype(np.float32),
        "data/img": generator.integers(0, 256, (N, 8, 8, 3)).astype(np.float32),
        "meta/episode_ends": np.array(ENDS, np.int64),
    } | changes


def put(path, *, zarr_format=2, **changes):
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    for key, value in arrays(**changes).items():
        if value is not None:
            chunks = (5, *value.shape[1:]) if key.startswith("data") else value.shape
            group.create_array(key, data=value, chunks=chunks)
    return path


def pack(folder, target, *, prefix="", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(target, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return target


@pytest.fixture
def folder(tmp_path):
    return put(tmp_path / "pusht_cchi_v7_replay.zarr")


def test_keypoints_and_the_position_of_the_agent(folder):
    episodes = read_pusht(folder)
    stored = arrays()
    assert episodes.obs_shapes == {"keypoints": (18,), "agent_pos": (2,)}
    np.testing.assert_array_equal(episodes.obs["keypoints"][:, 4:6], stored["data/keypoint"][:, 2])
    np.testing.assert_array_equal(episodes.obs["agent_pos"], stored["data/state"][:, :2])
    np.testing.assert_array_equal(episodes.actions, stored["data/action"])
    assert episodes.episode_ends.tolist() == ENDS
    assert episodes.rewards is None
    assert np.flatnonzero(episodes.truncated).tolist() == [8, 22]


def test_states(folder):
    episodes = read_pusht(folder, variant="state")
    np.testing.assert_array_equal(episodes.obs["state"], arrays()["data/state"])
    assert list(episodes.obs) == ["state"]


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_images_become_uint8_without_loss(tmp_path, dtype):
    images = arrays()["data/img"]
    path = put(tmp_path / "a.zarr", **{"data/img": images.astype(dtype)})
    episodes = read_pusht(path, variant="pixels")
    assert episodes.obs["image"].dtype == np.uint8
    np.testing.assert_array_equal(episodes.obs["image"], images)
    assert set(episodes.obs) == {"image", "agent_pos"}


def test_images_in_zero_to_one_are_refused(tmp_path):
    images = arrays()["data/img"] / 255
    path = put(tmp_path / "a.zarr", **{"data/img": images})
    with pytest.raises(DataError, match="expected uint8 from 0 to 255"):
        read_pusht(path, variant="pixels")
    assert read_pusht(path).n_steps == N


def test_every_container_gives_the_same_data(tmp_path, folder):
    outer = tmp_path / "unpacked"
    shutil.copytree(folder, outer / "pusht" / folder.name)
    packed = [
        folder,
        outer,
        pack(folder, tmp_path / "replay.zarr.zip"),
        pack(
            folder,
            tmp_path / "pusht.zip",
            prefix=f"pusht/{folder.name}/",
            compression=zipfile.ZIP_DEFLATED,
        ),
        put(tmp_path / "new.zarr", zarr_format=3),
    ]
    assert len({read_pusht(path).fingerprint for path in packed}) == 1


def test_a_truncated_zip_is_refused_with_its_size_and_kept(tmp_path, folder):
    path = pack(folder, tmp_path / "pusht.zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(0.9 * len(content))])
    size = path.stat().st_size
    with pytest.raises(DamagedFileError, match=f"truncated or corrupt: .* found {size} bytes"):
        read_pusht(path)
    assert path.exists()


def test_flipped_bytes_in_a_zip_are_found(tmp_path, folder):
    path = pack(folder, tmp_path / "pusht.zip")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("data/action/1.0").header_offset + 50
    for i in range(start, start + 8):
        content[i] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="array 'data/action' is corrupt"):
        read_pusht(path)


def test_missing_chunks_are_not_read_as_zeros(folder):
    (folder / "data" / "action" / "2.0").unlink()
    with pytest.raises(DamagedFileError, match="1 of 5 chunks of data/action are missing"):
        read_pusht(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data/keypoint": None}, "no array 'data/keypoint'"),
        ({"data/state": np.ones((N, 4), np.float32)}, r"data/state has shape \(23, 4\)"),
        ({"data/action": np.ones((N - 1, 2), np.float32)}, "expected 22, one per action"),
        ({"meta/episode_ends": np.array([9, 22])}, "up to 22 do not increase"),
        ({"data/state": np.full((N, 5), np.nan, np.float32)}, "obs/agent_pos: 46 values"),
    ],
)
def test_inconsistent_data_is_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_pusht(put(tmp_path / "a.zarr", **changes))


def test_other_paths_and_variants_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_pusht(tmp_path / "nowhere.zip")
    with pytest.raises(DataError, match="no zarr group with meta/episode_ends"):
        read_pusht(tmp_path)
    with pytest.raises(UsageError, match="did you mean 'pixels'"):
        read_pusht(tmp_path, variant="pixel")
