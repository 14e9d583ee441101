"""Rendered files: pictures of the recorded states, everything else as recorded."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec

import h5py
import numpy as np
import pytest

from genpolicy.data.registry import load_dataset
from genpolicy.data.robomimic_file import open_robomimic, write_robomimic
from genpolicy.errors import DataError, UsageError

pytestmark = [
    pytest.mark.sim,
    pytest.mark.usefixtures("off_screen"),
    pytest.mark.skipif(find_spec("robosuite") is None, reason="needs the [robosuite] extra"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two demonstrations of four steps: the beginnings of two scripted ones."""
    from genpolicy.generators import make_robomimic

    folder = tmp_path_factory.mktemp("made")
    whole = make_robomimic(
        "robomimic/lift", seed=1, path=folder / "whole.hdf5", n_demos=2, progress=False
    )
    with open_robomimic(whole) as file:
        demos = [_beginning(file.demo(name)) for name in file.names]
        env_args, attributes = file.env_args(), file.attributes
    return write_robomimic(folder / "b.hdf5", demos, env_args=env_args, attributes=attributes)


def _beginning(demo, n=4):
    cut = {name: getattr(demo, name)[:n] for name in ("actions", "states", "rewards", "dones")}
    for name in ("obs", "next_obs", "extra"):
        cut[name] = {key: value[:n] for key, value in getattr(demo, name).items()}
    return dataclasses.replace(demo, **cut)


def test_pictures_are_of_the_recorded_states_and_the_rest_stays(made, tmp_path):
    from genpolicy.envs import make_env
    from genpolicy.generators import render_demos

    path = render_demos(
        made, tmp_path / "r.hdf5", image_size=32, n_demos=1, next_obs=True, progress=False
    )
    with open_robomimic(made) as before, open_robomimic(path) as after:
        assert after.names == ("demo_0",)
        assert after.env_args() == before.env_args()
        old, new = before.demo("demo_0"), after.demo("demo_0")
        assert after.attributes["kind"] == "generated"
        assert after.attributes["rendered_size"] == 32
    assert new.filter_keys == old.filter_keys
    for name in ("actions", "states", "rewards", "dones"):
        np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
    for key, value in old.obs.items():
        np.testing.assert_array_equal(new.obs[key], value)
    images = new.obs["agentview_image"]
    assert (images.shape, images.dtype) == ((4, 32, 32, 3), np.uint8)
    assert new.obs["robot0_eye_in_hand_image"].shape == images.shape
    np.testing.assert_array_equal(new.next_obs["agentview_image"][:-1], images[1:])
    assert (new.next_obs["agentview_image"][-1] != images[-1]).any()  # the arm has moved
    env = make_env("robomimic/lift", obs_keys=["agentview_image"], image_size=32)
    start = {"state": old.states[2], "model": old.model_file}
    seen, _ = env.reset(seed=3, options=start)
    np.testing.assert_array_equal(images[2], seen["agentview_image"])
    env.close()
    episodes = load_dataset("robomimic/lift-image", path, lazy=True)
    np.testing.assert_array_equal(episodes.obs["agentview_image"][2:3], images[2:3])


def test_missing_observations_are_computed_from_the_states(made, tmp_path):
    from genpolicy.generators import render_demos

    bare = tmp_path / "bare.hdf5"
    bare.write_bytes(made.read_bytes())
    with h5py.File(bare, "a") as file:
        for demo in file["data"].values():
            del demo["obs"], demo["next_obs"]
    path = render_demos(bare, tmp_path / "r.hdf5", image_size=32, n_demos=1, progress=False)
    with open_robomimic(made) as before, open_robomimic(path) as after:
        old, new = before.demo("demo_0"), after.demo("demo_0")
    assert not new.next_obs
    assert set(new.obs) >= {"object", "robot0_eef_pos", "agentview_image"}
    # Recorded sensors were read 2 ms before the state.
    np.testing.assert_allclose(new.obs["robot0_eef_pos"], old.obs["robot0_eef_pos"], atol=2e-3)
    np.testing.assert_allclose(new.obs["object"][:, :3], old.states[:, 10:13], atol=1e-6)


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(made, tmp_path):
    from genpolicy.generators import render_demos

    one, two = (
        render_demos(made, tmp_path / f"{n}.hdf5", image_size=32, n_workers=n, progress=False)
        for n in (1, 2)
    )
    assert one.read_bytes() == two.read_bytes()


def test_what_cannot_be_rendered_is_refused_and_nothing_is_lost(made, tmp_path):
    from genpolicy.generators import render_demos

    before = made.read_bytes()
    with pytest.raises(UsageError, match="is the recording itself"):
        render_demos(made, made)
    with pytest.raises(UsageError, match="image_size is 0"):
        render_demos(made, tmp_path / "x.hdf5", image_size=0)
    with pytest.raises(UsageError, match="no camera 'agentvew'; did you mean 'agentview'"):
        render_demos(made, tmp_path / "x.hdf5", cameras=["agentvew"], progress=False)
    stateless = tmp_path / "stateless.hdf5"
    stateless.write_bytes(before)
    with h5py.File(stateless, "a") as file:
        del file["data/demo_0/states"]
    with pytest.raises(DataError, match="demo_0 has no states"):
        render_demos(stateless, tmp_path / "x.hdf5")
    assert made.read_bytes() == before
    assert not (tmp_path / "x.hdf5").exists()
