"""robomimic's own reader opens our files, and the layout that it documents is read by ours."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from genpolicy.data.robomimic import read_robomimic
from genpolicy.data.robomimic_file import Demo, write_robomimic
from genpolicy.robomimic_tasks import robomimic_task

ENV_ARGS = robomimic_task("lift").env_args(version="1.5.1")


def rows(demo: int, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(demo)
    last = np.arange(n) == n - 1
    return {
        "actions": rng.uniform(-1, 1, (n, 7)),
        "states": rng.standard_normal((n, 9)),
        "rewards": last.astype(np.float64),
        "dones": last.astype(np.int64),
        "obs/object": rng.standard_normal((n, 2)),
        "next_obs/object": rng.standard_normal((n, 2)),
    }


def put(path):
    """Write a file with h5py alone, as robomimic's documentation describes it."""
    import h5py

    with h5py.File(path, "w") as handle:
        for demo, n in enumerate((5, 3, 4)):
            for key, value in rows(demo, n).items():
                handle[f"data/demo_{demo}/{key}"] = value
            handle[f"data/demo_{demo}"].attrs["num_samples"] = n
        handle["mask/train"] = np.array([b"demo_0", b"demo_2"])
    return path


READ_WITH_ROBOMIMIC = """
import sys, numpy as np
import robomimic.utils.obs_utils as obs_utils
from robomimic.utils.dataset import SequenceDataset
obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["object"], "rgb": []}})
data = SequenceDataset(
    hdf5_path=sys.argv[1], obs_keys=["object"], dataset_keys=["actions", "rewards", "dones"],
    seq_length=1, frame_stack=1, hdf5_cache_mode="all", load_next_obs=True,
    filter_by_attribute=sys.argv[2],
)
items = [data[i] for i in range(len(data))]
np.savez(
    sys.argv[3], actions=np.concatenate([i["actions"] for i in items]),
    object=np.concatenate([i["obs"]["object"] for i in items]),
    next_object=np.concatenate([i["next_obs"]["object"] for i in items]),
)
"""


@pytest.mark.skipif(find_spec("robomimic") is None, reason="needs the [robomimic] extra")
def test_robomimics_own_reader_opens_our_files(tmp_path):
    demos = []
    for i, n in enumerate((5, 3, 4)):
        arrays = rows(i, n)
        obs = {kind: {"object": arrays.pop(f"{kind}/object")} for kind in ("obs", "next_obs")}
        demos.append(Demo(**arrays, **obs, filter_keys=("train",) if i != 1 else ()))
    ours = write_robomimic(tmp_path / "ours.hdf5", demos, env_args=ENV_ARGS)
    theirs = put(tmp_path / "theirs.hdf5")  # the layout of robomimic's documentation
    for file in (ours, theirs):
        out = tmp_path / f"{file.stem}.npz"
        done = subprocess.run(
            [sys.executable, "-c", READ_WITH_ROBOMIMIC, str(file), "train", str(out)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        read = np.load(out)
        episodes = read_robomimic(file, filter_key="train", obs_keys=["object"])
        np.testing.assert_allclose(read["actions"], episodes.actions, atol=1e-6)
        np.testing.assert_allclose(read["object"], episodes.obs["object"], atol=1e-6)
        last = episodes.episode_ends - 1
        np.testing.assert_allclose(
            read["next_object"][last], episodes.final_obs["object"], atol=1e-6
        )
