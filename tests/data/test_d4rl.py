from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest

from genpolicy.data import DataSource
from genpolicy.data.d4rl import read_d4rl, write_d4rl
from genpolicy.data.reading import DamagedFileError
from genpolicy.errors import DataError, UsageError

N = 7


def arrays(**changes):
    row = np.arange(N, dtype=np.float32)
    found = {
        "observations": np.stack([row, row**2], axis=1),
        "actions": np.stack([row / 10, -row / 10], axis=1),
        "rewards": row,
        "terminals": np.isin(row, [2]),
        "timeouts": np.isin(row, [4]),
    } | changes
    return {key: value for key, value in found.items() if value is not None}


def put(path, **changes):
    with h5py.File(path, "w") as handle:
        for key, value in arrays(**changes).items():
            handle[key] = value
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some-v1.hdf5"


def test_episodes_end_at_terminals_timeouts_and_the_end_of_the_file(path):
    episodes = read_d4rl(put(path))
    assert episodes.episode_ends.tolist() == [3, 5, 7]
    assert np.flatnonzero(episodes.terminated).tolist() == [2]
    assert np.flatnonzero(episodes.truncated).tolist() == [4, 6]
    np.testing.assert_array_equal(episodes.obs["state"], arrays()["observations"])
    np.testing.assert_array_equal(episodes.actions, arrays()["actions"])
    np.testing.assert_array_equal(episodes.rewards, arrays()["rewards"])
    assert (episodes.source.name, episodes.source.kind) == ("some-v1", "local")


def test_a_row_can_be_terminal_and_a_timeout(path):
    episodes = read_d4rl(put(path, timeouts=np.isin(np.arange(N), [2, 6])))
    assert np.flatnonzero(episodes.terminated).tolist() == [2]
    assert np.flatnonzero(episodes.truncated).tolist() == [2, 6]


def test_without_timeouts_episodes_end_at_the_limit_with_one_warning(path):
    put(path, timeouts=None)
    with pytest.warns(UserWarning, match="no array 'timeouts'; .* after 2 steps") as caught:
        episodes = read_d4rl(path, max_episode_steps=2)
    assert len(caught) == 1
    assert episodes.episode_ends.tolist() == [2, 3, 5, 7]
    with pytest.raises(DataError, match="give the task's time limit as max_episode_steps"):
        read_d4rl(path)


def test_the_limit_is_not_used_where_there_are_timeouts(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_d4rl(put(path), max_episode_steps=2).episode_ends.tolist() == [3, 5, 7]


def test_misplaced_timeouts_are_left_out_when_terminals_mark_the_ends(path):
    """The flags of door-human-v0: timeouts inside demonstrations that go on to a terminal row."""
    put(path, terminals=np.isin(np.arange(N), [3, 6]), timeouts=np.isin(np.arange(N), [1, 5]))
    episodes = read_d4rl(path, split="terminals")
    assert episodes.episode_ends.tolist() == [4, 7]
    assert not episodes.truncated.any()
    assert read_d4rl(path).n_episodes == 4


def goals(*ends):
    """Goals that change after each of the given rows."""
    return np.searchsorted(ends, np.arange(N))[:, None].repeat(2, axis=1).astype(np.float32)


def test_no_episode_goes_across_a_change_of_goal(path):
    put(path, **{"infos/goal": goals(1, 4), "terminals": np.zeros(N), "timeouts": np.zeros(N)})
    keys = {"state": "observations", "goal": "infos/goal"}
    episodes = read_d4rl(path, obs_keys=keys, split_on="goal")
    assert episodes.episode_ends.tolist() == [2, 5, 7]
    assert episodes.obs_shapes == {"state": (2,), "goal": (2,)}
    for start, end in zip(episodes.episode_starts, episodes.episode_ends, strict=True):
        assert len(np.unique(episodes.obs["goal"][start:end], axis=0)) == 1
    assert not episodes.terminated.any()


def test_changes_of_goal_replace_absent_timeouts(path):
    put(path, **{"infos/goal": goals(3), "terminals": np.zeros(N, bool), "timeouts": None})
    keys = {"state": "observations", "goal": "infos/goal"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        episodes = read_d4rl(path, obs_keys=keys, split_on="goal")
    assert episodes.episode_ends.tolist() == [4, 7]


def test_columns_stored_as_matrices_and_wide_types_are_read(path):
    put(
        path,
        observations=arrays()["observations"].astype(np.float64),
        rewards=arrays()["rewards"][:, None],
        terminals=arrays()["terminals"].astype(np.uint8)[:, None],
    )
    episodes = read_d4rl(path)
    assert episodes.obs["state"].dtype == episodes.rewards.dtype == np.float32
    assert episodes.rewards.tolist() == list(range(N))
    assert np.flatnonzero(episodes.terminated).tolist() == [2]


def test_what_is_written_is_read(path):
    details = {"seed": 3, "noise_std": 0.5, "controller": "pd"}
    source = DataSource("maze2d-umaze", "generated", details=details)
    write_d4rl(path, **arrays(), infos={"goal": goals(3)}, source=source)
    keys = {"state": "observations", "goal": "infos/goal"}
    episodes = read_d4rl(path, obs_keys=keys)
    assert episodes.source.name == "maze2d-umaze"
    assert episodes.source.kind == "generated"
    assert {key: episodes.source.details[key] for key in details} == details
    np.testing.assert_array_equal(episodes.obs["goal"], goals(3))
    put(path.with_name("plain.hdf5"), **{"infos/goal": goals(3)})
    plain = read_d4rl(path.with_name("plain.hdf5"), obs_keys=keys)
    assert plain.fingerprint == episodes.fingerprint


def test_the_same_arrays_give_the_same_bytes_and_nothing_else_in_the_folder(tmp_path):
    source = DataSource("toy", "generated")
    for name in ("a.hdf5", "b.hdf5"):
        write_d4rl(tmp_path / name, **arrays(), source=source)
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b.hdf5").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.hdf5", "b.hdf5"]


def test_arrays_of_different_length_are_not_written(path):
    with pytest.raises(DataError, match="'rewards': 3"):
        write_d4rl(path, **arrays(rewards=np.zeros(3)), source=DataSource("toy", "generated"))
    assert not path.exists()


def test_a_truncated_file_is_named_with_both_sizes_and_kept(path):
    write_d4rl(path, **arrays(), source=DataSource("toy", "generated"))
    content = path.read_bytes()
    path.write_bytes(content[: int(0.9 * len(content))])
    found = path.stat().st_size
    message = f"truncated or corrupt: expected {len(content)} bytes, found {found} bytes"
    with pytest.raises(DamagedFileError, match=message):
        read_d4rl(path)
    assert path.exists()


def test_flipped_bytes_are_found(path):
    random = np.random.default_rng(0).normal(size=(N, 50)).astype(np.float32)
    write_d4rl(path, **arrays(observations=random), source=DataSource("toy", "generated"))
    content = bytearray(path.read_bytes())
    with h5py.File(path) as handle:
        offset = handle["observations"].id.get_chunk_info(0).byte_offset
    for i in range(offset + 20, offset + 40):
        content[i] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="array 'observations' is corrupt"):
        read_d4rl(path)


def test_what_is_no_hdf5_file_is_refused(path):
    path.write_text("not found")
    with pytest.raises(DamagedFileError, match="expected an HDF5 file of unknown size, found 9"):
        read_d4rl(path)
    with pytest.raises(DataError, match="does not exist"):
        read_d4rl(path.with_name("nowhere.hdf5"))
    with pytest.raises(DataError, match="is a folder"):
        read_d4rl(path.parent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": None}, "no array 'observations' in /; it has actions, rewards"),
        ({"rewards": np.zeros(3)}, r"rewards has shape \(3,\), expected \(7,\)"),
        ({"observations": np.zeros((3, 2))}, "obs/state has 3 rows, expected 7"),
        ({"observations": np.full((N, 2), np.nan)}, "obs/state: 14 values that are nan or inf"),
        ({"actions": np.zeros((N, 2), int)}, "actions are int64"),
    ],
)
def test_inconsistent_files_are_refused(path, changes, message):
    with pytest.raises(DataError, match=message):
        read_d4rl(put(path, **changes))


def test_an_empty_file_is_refused(path):
    empty = {key: value[:0] for key, value in arrays().items()}
    with pytest.raises(DataError, match="the data set is empty"):
        read_d4rl(put(path, **empty))


def test_options_are_checked_before_the_file(path):
    with pytest.raises(UsageError, match="split is 'goals'"):
        read_d4rl(path, split="goals")
    with pytest.raises(UsageError, match=r"split_on 'goal' is no key; .* state"):
        read_d4rl(path, split_on="goal")
    with pytest.raises(UsageError, match="max_episode_steps is 0"):
        read_d4rl(path, max_episode_steps=0)
