"""robomimic files: written here as the format says, read back, damaged, and cross-checked."""

from __future__ import annotations

import json
import pickle
import tracemalloc

import h5py
import numpy as np
import pytest
import torch

from genpolicy.data import Normalizer, WindowDataset
from genpolicy.data.reading import DamagedFileError
from genpolicy.data.robomimic import read_robomimic
from genpolicy.data.robomimic_check import check_robomimic
from genpolicy.data.robomimic_file import Demo, open_robomimic, write_robomimic
from genpolicy.errors import DataError, UsageError
from genpolicy.robomimic_tasks import robomimic_task
from genpolicy.rotations import pose_from_six

LENGTHS = (5, 3, 4)
ENV_ARGS = robomimic_task("lift").env_args(version="1.5.1")


def rows(demo: int) -> dict[str, np.ndarray]:
    """The arrays of one demonstration; every number says where it belongs."""
    n = LENGTHS[demo]
    rng = np.random.default_rng(demo)
    step = np.arange(n, dtype=np.float64)
    found = {
        "actions": rng.uniform(-1, 1, (n, 7)),
        "states": rng.standard_normal((n, 9)),
        "rewards": (step == n - 1).astype(np.float64),
        "dones": (step == n - 1).astype(np.int64),
    }
    found["obs/object"] = np.stack([100 * demo + step, -step], axis=1)
    found["next_obs/object"] = np.stack([100 * demo + step + 1, -step - 1], axis=1)
    found["obs/agentview_image"] = rng.integers(0, 256, (n, 4, 6, 3), dtype=np.uint8)
    found["next_obs/agentview_image"] = np.roll(found["obs/agentview_image"], -1, axis=0)
    return found


def put(path, *, without=(), env_args=ENV_ARGS, masks=True, order=(0, 1, 2), **changes):
    """Write a file with h5py alone; ``changes`` replace arrays of demo_1."""
    with h5py.File(path, "w") as handle:
        data = handle.create_group("data")
        for demo in order:
            group = data.create_group(f"demo_{demo}")
            arrays = rows(demo) | (changes if demo == 1 else {})
            for key, value in arrays.items():
                if key.split("/")[0] not in without and key not in without:
                    group[key] = value
            group.attrs["num_samples"] = LENGTHS[demo]
        if env_args is not None:
            data.attrs["env_args"] = json.dumps(env_args)
        if masks:
            handle["mask/train"] = np.array([b"demo_0", b"demo_2"])
            handle["mask/none"] = np.array([], dtype="S6")
            handle["mask/wrong"] = np.array([b"demo_7"])
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.hdf5"


def test_demonstrations_become_episodes_in_the_order_of_their_numbers(path):
    episodes = read_robomimic(put(path, order=(2, 0, 1)))
    assert episodes.lengths.tolist() == list(LENGTHS)
    assert episodes.names == ("demo_0", "demo_1", "demo_2")
    whole = [rows(demo) for demo in range(3)]
    for key in ("object", "agentview_image"):
        np.testing.assert_array_equal(
            episodes.obs[key], np.concatenate([demo[f"obs/{key}"] for demo in whole])
        )
        np.testing.assert_array_equal(
            episodes.final_obs[key], np.stack([demo[f"next_obs/{key}"][-1] for demo in whole])
        )
    actions = np.concatenate([demo["actions"] for demo in whole])
    np.testing.assert_array_equal(episodes.actions, actions.astype(np.float32))
    assert episodes.obs["object"].dtype == np.float32
    assert episodes.obs["agentview_image"].dtype == np.uint8
    assert np.flatnonzero(episodes.terminated).tolist() == [4, 7, 11]
    assert episodes.source.env == {"env_args": ENV_ARGS}


def test_an_episode_that_ends_without_reward_is_truncated(path):
    episodes = read_robomimic(put(path, rewards=np.zeros(3), dones=np.array([1, 0, 1])))
    assert np.flatnonzero(episodes.terminated).tolist() == [4, 11]
    assert np.flatnonzero(episodes.truncated).tolist() == [7]


def test_masks_select_demonstrations(path):
    put(path)
    episodes = read_robomimic(path, filter_key="train", obs_keys=["object"])
    assert episodes.names == ("demo_0", "demo_2")
    assert set(episodes.obs) == {"object"}
    assert episodes.source.details["filter_key"] == "train"
    with pytest.raises(DataError, match="no filter key 'tarin'; it has the filter keys none, tra"):
        read_robomimic(path, filter_key="tarin")
    with pytest.raises(DataError, match="'none' selects nothing; it has the filter keys"):
        read_robomimic(path, filter_key="none")
    with pytest.raises(DataError, match="names 'demo_7'"):
        read_robomimic(path, filter_key="wrong")


@pytest.mark.parametrize(
    "part", ["next_obs", "rewards", "dones", "states", "masks", "env_args", "everything"]
)
def test_files_that_lack_a_part_are_read(path, part):
    settings = {"masks": {"masks": False}, "env_args": {"env_args": None}}.get(part)
    if part == "everything":
        gone = ("next_obs", "rewards", "dones", "states")
        settings = {"masks": False, "env_args": None, "without": gone}
    episodes = read_robomimic(put(path, **(settings or {"without": (part,)})))
    assert episodes.n_episodes == 3
    assert (episodes.final_obs is None) == (part in ("next_obs", "everything"))
    assert (episodes.rewards is None) == (part in ("rewards", "everything"))
    assert episodes.terminated.any() == (part not in ("dones", "everything"))
    assert episodes.truncated.any() == (part in ("dones", "everything"))
    assert bool(episodes.source.env) == (part not in ("env_args", "everything"))
    notes = " ".join(check_robomimic(path).notes)
    if part in ("env_args", "everything"):
        assert "no env_args" in notes
    if part not in ("masks", "env_args", "everything"):
        assert f"3 of 3 demonstrations have no {part}" in notes


def test_a_file_without_observations_says_what_it_has(path):
    put(path, without=("obs", "next_obs"))
    with pytest.raises(DataError, match="no observations, only actions, dones, rewards, states"):
        read_robomimic(path)
    with pytest.raises(DataError, match="no observation 'cube'; it has agentview_image, object"):
        read_robomimic(put(path), obs_keys=["cube"])


def test_another_environments_file_is_refused(path):
    with pytest.raises(DataError, match="recorded in Lift, expected PickPlaceCan"):
        read_robomimic(put(path), env_name="PickPlaceCan")
    assert read_robomimic(put(path, env_args=None), env_name="PickPlaceCan").n_episodes == 3


def test_lazy_images_are_the_same_data(path):
    kept, lazy = read_robomimic(put(path)), read_robomimic(path, lazy=True)
    assert lazy.fingerprint == kept.fingerprint
    images = lazy.obs["agentview_image"]
    assert not isinstance(images, np.ndarray)
    assert (images.shape, images.dtype, len(images)) == ((12, 4, 6, 3), np.uint8, 12)
    order = np.array([11, 0, 0, 7, 6, 5, 4])
    np.testing.assert_array_equal(images[order], kept.obs["agentview_image"][order])
    np.testing.assert_array_equal(images[3:9:2], kept.obs["agentview_image"][3:9:2])
    np.testing.assert_array_equal(images[2], kept.obs["agentview_image"][2])
    np.testing.assert_array_equal(np.asarray(images), kept.obs["agentview_image"])
    chosen = lazy.select([2, 0])
    assert not isinstance(chosen.obs["agentview_image"], np.ndarray)
    assert chosen.fingerprint == kept.select([2, 0]).fingerprint
    sizes = {"n_obs_steps": 2, "horizon": 4, "pad_before": 1, "pad_after": 3}
    batches = [
        WindowDataset(one, **sizes).gather(torch.tensor([3, 0, 11, 3])) for one in (kept, lazy)
    ]
    for key in kept.obs:
        assert torch.equal(batches[0]["obs"][key], batches[1]["obs"][key])
    assert Normalizer.fit(lazy).to_json() == Normalizer.fit(kept).to_json()


def test_a_lazy_file_that_changes_under_another_process_is_noticed(path):
    lazy = read_robomimic(put(path), lazy=True)
    copied = pickle.loads(pickle.dumps(lazy.obs["agentview_image"]))
    np.testing.assert_array_equal(copied[4], lazy.obs["agentview_image"][4])
    copied = pickle.loads(pickle.dumps(copied))
    path.unlink()
    put(path, without=("obs/agentview_image",))
    with pytest.raises(DataError, match="changed or damaged while it was in use"):
        copied[0]


def test_reading_needs_little_more_memory_than_the_arrays(tmp_path):
    rng = np.random.default_rng(0)
    demos = [
        Demo(actions=rng.uniform(-1, 1, (500, 7)), obs={"object": rng.standard_normal((500, 60))})
        for _ in range(40)
    ]
    path = write_robomimic(tmp_path / "large.hdf5", demos, env_args=None)
    read_robomimic(path)  # imports
    tracemalloc.start()
    episodes = read_robomimic(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = episodes.actions.nbytes + sum(value.nbytes for value in episodes.obs.values())
    assert peak <= 1.5 * size


def test_a_truncated_file_names_both_sizes_and_stays(path):
    put(path)
    size = path.stat().st_size
    with open(path, "r+b") as handle:
        handle.truncate(int(0.9 * size))
    with pytest.raises(DamagedFileError, match=f"expected {size} bytes, found {int(0.9 * size)}"):
        read_robomimic(path)
    assert path.exists()


def test_flipped_bytes_are_noticed(path):
    demos = [Demo(actions=rows(0)["actions"], obs={"object": rows(0)["obs/object"]})]
    write_robomimic(path, demos, env_args=None)
    with h5py.File(path) as handle:
        place = handle["data/demo_0/actions"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 20] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match="array 'actions' is corrupt"):
        read_robomimic(path)
    assert "actions" in check_robomimic(path).problems[0]


def test_a_demonstration_shorter_than_it_says_is_damaged(path):
    put(path, **{"actions": rows(1)["actions"][:2]})
    with pytest.raises(
        DamagedFileError, match=r"demo_1 is incomplete: expected 3 steps .* found 2"
    ):
        read_robomimic(path)


def test_rows_that_do_not_match_are_named(path):
    put(path, **{"obs/object": np.zeros((2, 2))})
    with pytest.raises(
        DataError, match=r"demo_1: obs/object has shape \(2, 2\), expected \(3, 2\)"
    ):
        read_robomimic(path)
    with open_robomimic(path) as file, pytest.raises(DataError, match="has 2 rows, expected 3"):
        file.demo("demo_1")


@pytest.mark.parametrize("key", ["obs/object", "actions", "rewards"])
def test_values_that_are_not_finite_are_named_or_dropped(path, key):
    values = rows(1)[key]
    values[2] = np.inf if key == "rewards" else np.nan
    put(path, **{key: values})
    name = key if key == "rewards" else key.replace("obs/object", "obs/object")
    with pytest.raises(DataError, match=rf"{name}: \d+ values .* episode 1 \(demo_1\) at step 2"):
        read_robomimic(path)
    with pytest.warns(UserWarning, match="dropped episodes"):
        episodes = read_robomimic(path, on_nan="drop_episode")
    assert episodes.names == ("demo_0", "demo_2")
    assert f"demo_1: {key} has" in check_robomimic(path).problems[0]


def test_actions_have_to_be_floating_point(path):
    with h5py.File(path, "w") as handle:
        handle["data/demo_0/actions"] = np.zeros((4, 7), np.int64)
        handle["data/demo_0/obs/object"] = np.zeros((4, 2))
    with pytest.raises(DataError, match="actions are int64, expected floating point"):
        read_robomimic(path)
    assert "actions are int64" in check_robomimic(path).problems[0]


@pytest.mark.parametrize("lazy", [False, True])
def test_images_of_another_kind_are_refused(path, lazy):
    image = np.zeros((4, 6, 6, 3), np.float32) + 0.5
    for value, text in (
        (image, "float32"),
        (np.full((4, 3, 6, 8), 200, np.uint8), "channels first"),
    ):
        with h5py.File(path, "w") as handle:
            handle["data/demo_0/actions"] = np.zeros((4, 7))
            handle["data/demo_0/obs/view_image"] = value
        with pytest.raises(DataError, match=text):
            read_robomimic(path, lazy=lazy)


def test_other_files_are_no_robomimic_files(path):
    with h5py.File(path, "w") as handle:
        handle["observations"] = np.zeros(3)
    with pytest.raises(DataError, match="no robomimic file"):
        read_robomimic(path)
    with h5py.File(path, "w") as handle:
        handle["data/demo_0/obs/object"] = np.zeros((3, 2))
    with pytest.raises(DataError, match="has no array 'actions'"):
        read_robomimic(path)
    put(path)
    with h5py.File(path, "r+") as handle:
        handle["data"].attrs["env_args"] = "{not json"
    with pytest.raises(DamagedFileError, match="env_args is no JSON"):
        read_robomimic(path)


def test_what_is_written_is_read_back_and_the_same_every_time(tmp_path):
    demos = [
        Demo(
            actions=rows(i)["actions"],
            obs={"object": rows(i)["obs/object"]},
            next_obs={"object": rows(i)["next_obs/object"]},
            states=rows(i)["states"],
            rewards=rows(i)["rewards"],
            dones=rows(i)["dones"],
            model_file="<mujoco/>",
            extra={"actions_abs": rows(i)["actions"] / 2},
            attributes={"strategy": "left", "seed": "7"},
            filter_keys=("train",) if i else ("valid",),
        )
        for i in range(3)
    ]
    attributes = {"kind": "generated", "task": "robomimic/lift", "seed": 3}
    first = write_robomimic(tmp_path / "a.hdf5", demos, env_args=ENV_ARGS, attributes=attributes)
    again = write_robomimic(
        tmp_path / "b.hdf5", iter(demos), env_args=ENV_ARGS, attributes=attributes
    )
    assert first.read_bytes() == again.read_bytes()
    with open_robomimic(first) as file:
        assert file.env_args() == ENV_ARGS
        found = file.demo("demo_1")
    assert (found.model_file, found.attributes) == ("<mujoco/>", demos[1].attributes)
    assert found.filter_keys == ("train",)
    for name in ("actions", "states", "rewards", "dones"):
        np.testing.assert_array_equal(getattr(found, name), getattr(demos[1], name))
    np.testing.assert_array_equal(found.extra["actions_abs"], demos[1].extra["actions_abs"])
    episodes = read_robomimic(first, filter_key="train")
    assert episodes.names == ("demo_1", "demo_2")
    assert (episodes.source.kind, episodes.source.name) == ("generated", "robomimic/lift")
    assert episodes.source.details["seed"] == 3


def test_nothing_is_left_behind_by_a_file_that_cannot_be_written(tmp_path):
    bad = Demo(actions=np.zeros((3, 7)), rewards=np.zeros(2))
    for demos, text in (([], "no demonstrations"), ([bad], "rewards has 2 rows, expected 3")):
        with pytest.raises(DataError, match=text):
            write_robomimic(tmp_path / "x.hdf5", demos, env_args=None)
    assert list(tmp_path.iterdir()) == []


def test_absolute_actions_are_read_as_ten_numbers(path):
    goals = rows(0)["actions"]
    write_robomimic(
        path,
        [Demo(actions=-goals, obs={"object": rows(0)["obs/object"]}, extra={"actions_abs": goals})],
        env_args=ENV_ARGS,
    )
    episodes = read_robomimic(path, actions="absolute_6d")
    assert episodes.action_dim == 10
    np.testing.assert_allclose(pose_from_six(episodes.actions), goals, atol=1e-6)
    assert episodes.source.env["actions"] == "absolute_6d"
    absolute = json.loads(json.dumps(ENV_ARGS).replace('"delta"', '"absolute"'))
    assert read_robomimic(put(path, env_args=absolute), actions="absolute_6d").action_dim == 10
    old = {"env_name": "Lift", "env_kwargs": {"controller_configs": {"control_delta": False}}}
    assert read_robomimic(put(path, env_args=old), actions="absolute_6d").action_dim == 10
    with pytest.raises(DataError, match="no array actions_abs and the recorded ones are no abs"):
        read_robomimic(put(path), actions="absolute_6d")
    with pytest.raises(UsageError, match="did you mean 'absolute_6d'"):
        read_robomimic(path, actions="absolute")


def test_the_check_reports_what_is_there(path):
    constant = rows(1)["obs/object"]
    report = check_robomimic(put(path, **{"obs/object": constant}))
    assert report.problems == ()
    assert report.facts["demonstrations"] == "3, 3 to 5 steps, 12 in all"
    assert report.facts["environment"] == "Lift 1.5.1"
    assert report.facts["solved"] == "3 of 3 have a reward above 0"
    with h5py.File(path, "r+") as handle:
        for name in handle["data"]:
            handle[f"data/{name}/actions"][:, 4] = 1.5
    report = check_robomimic(path)
    assert report.constant["actions"] == [4]
    assert any("12 steps have entries outside" in note for note in report.notes)


def test_intended_actions_are_read_where_the_file_has_them(path):
    meant = rows(0)["actions"] / 2
    obs = {"object": rows(0)["obs/object"]}
    demo = Demo(actions=rows(0)["actions"], obs=obs, extra={"actions_intended": meant})
    write_robomimic(path, [demo], env_args=ENV_ARGS)
    episodes = read_robomimic(path, actions="intended")
    np.testing.assert_allclose(episodes.actions, meant, atol=1e-6)
    assert "actions" not in episodes.source.env  # the same controller takes them
    with pytest.raises(DataError, match="no array actions_intended"):
        read_robomimic(put(path), actions="intended")


def test_quaternions_are_read_as_six_numbers_that_do_not_depend_on_their_sign(path):
    def with_quaternions(sign):
        values = np.zeros((3, 10))
        values[1:, 3:7] = sign * np.array([0.6, 0.0, 0.8, 0.0])  # the first row stays zero
        values[:, 7:] = 0.5
        demo = Demo(
            actions=np.zeros((3, 7)), obs={"object": values, "robot0_eef_pos": values[:, :3]}
        )
        write_robomimic(path, [demo], env_args=ENV_ARGS)
        return read_robomimic(path, quaternions="rotation_6d")

    one, other = with_quaternions(1.0), with_quaternions(-1.0)
    assert one.obs["object"].shape == (3, 12)
    np.testing.assert_array_equal(one.obs["object"], other.obs["object"])
    np.testing.assert_array_equal(one.obs["object"][0], [0] * 9 + [0.5] * 3)
    np.testing.assert_allclose(one.obs["object"][1, 3:9], [-0.28, 0, 0.96, 0, -1, 0], atol=1e-6)
    assert one.obs["robot0_eef_pos"].shape == (3, 3)
    assert one.source.env["quaternions"] == "rotation_6d"
    with pytest.raises(DataError, match="entries 3 to 6 of object are no quaternion"):
        read_robomimic(put(path), quaternions="rotation_6d")
    no_recipe = {"env_name": "Wipe", "env_kwargs": {}}
    with pytest.raises(DataError, match="not for Wipe"):
        read_robomimic(put(path, env_args=no_recipe), quaternions="rotation_6d")
