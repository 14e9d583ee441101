"""D4RL's own package as the oracle of our reader; skipped where it is not installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from genpolicy.data.d4rl import read_d4rl
from genpolicy.data.d4rl_package import import_d4rl
from genpolicy.data.transitions import TransitionDataset
from genpolicy.errors import DataError
from genpolicy.references import D4RL_REFERENCES

LIMIT = 7
CODE = """
import json, sys
import numpy as np
from genpolicy.data.d4rl_package import import_d4rl, package_references

d4rl = import_d4rl()

class Env:
    _max_episode_steps = int(sys.argv[2])
    def get_dataset(self):
        import h5py
        with h5py.File(sys.argv[1]) as file:
            return {key: file[key][()] for key in file}

transitions = d4rl.qlearning_dataset(Env())
lengths = [len(e["rewards"]) for e in d4rl.sequence_dataset(Env(), Env().get_dataset())]
np.savez(sys.argv[3], lengths=np.array(lengths), **transitions)
print(json.dumps(package_references()))
"""


@pytest.fixture(scope="module")
def oracle():
    if importlib.util.find_spec("d4rl") is None:
        pytest.skip("needs the package d4rl")

    def ask(path, out):
        argv = [sys.executable, "-c", CODE, str(path), str(LIMIT), str(out)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        with np.load(out) as stored:
            return dict(stored), json.loads(done.stdout.splitlines()[-1])

    return ask


def _write(path, *, with_timeouts):
    """30 rows: episodes ended by time, by a terminal row, and a rest.

    Without timeouts there is no terminal row either: the package counts one step too many after it.
    """
    rng = np.random.default_rng(3)
    terminals, timeouts = np.zeros(30, bool), np.zeros(30, bool)
    if with_timeouts:
        terminals[[10, 20]] = True
    timeouts[[6, 17, 27]] = True
    with h5py.File(path, "w") as file:
        file["observations"] = rng.normal(size=(30, 3)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (30, 2)).astype(np.float32)
        file["rewards"] = rng.normal(size=30).astype(np.float32)
        file["terminals"] = terminals
        if with_timeouts:
            file["timeouts"] = timeouts
    return path


@pytest.mark.parametrize("with_timeouts", [True, False])
def test_transitions_and_episodes_are_those_of_the_package(tmp_path, oracle, with_timeouts):
    path = _write(tmp_path / "data.hdf5", with_timeouts=with_timeouts)
    theirs, references = oracle(path, tmp_path / "out.npz")
    if with_timeouts:
        episodes = read_d4rl(path)
    else:
        with pytest.warns(UserWarning, match="timeouts"):
            episodes = read_d4rl(path, max_episode_steps=LIMIT)
    ours = TransitionDataset(episodes, n_obs_steps=1, horizon=1, n_action_steps=1, discount=0.9)
    batch = ours.gather(np.arange(len(ours)))
    assert np.array_equal(batch["obs"]["state"][:, 0].numpy(), theirs["observations"])
    assert np.array_equal(batch["action"][:, 0].numpy(), theirs["actions"])
    assert np.allclose(batch["reward"].numpy(), theirs["rewards"])
    over = batch["terminated"].numpy()
    assert np.array_equal(over, theirs["terminals"])
    following = batch["next_obs"]["state"][:, 0].numpy()  # after terminal rows nobody looks
    assert np.array_equal(following[~over], theirs["next_observations"][~over])
    if with_timeouts:  # without, the package's second episode and all later ones are a step short
        lengths = episodes.lengths.tolist()
        assert lengths[: len(theirs["lengths"])] == theirs["lengths"].tolist()
    assert references == {name: list(D4RL_REFERENCES[name]) for name in references}
    assert len(references) > 100


def test_without_the_package_the_error_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "d4rl", None)
    monkeypatch.setitem(sys.modules, "mujoco_py", sys.modules.get("mujoco_py"))
    with pytest.raises(DataError, match=r"pip install --no-deps d4rl==1.1"):
        import_d4rl()
