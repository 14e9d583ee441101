"""The list of tasks."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from genpolicy.d4rl_tasks import D4RL_TASKS
from genpolicy.envs import ENVS, env_entry, make_env, make_vector_env
from genpolicy.envs.base import import_simulator
from genpolicy.errors import SimulatorError, UsageError

OBS_SHAPES = {
    "maze2d-umaze": {"state": (4,), "goal": (2,)},
    "maze2d-medium": {"state": (4,), "goal": (2,)},
    "maze2d-large": {"state": (4,), "goal": (2,)},
    "pusht": {"keypoints": (18,), "agent_pos": (2,)},
    "pusht-state": {"state": (5,)},
    "pusht-pixels": {"image": (96, 96, 3), "agent_pos": (2,)},
    "pusht-all": {"image": (96, 96, 3), "keypoints": (18,), "state": (5,), "agent_pos": (2,)},
    "d4rl/hopper-medium-expert": {"state": (11,)},
    "d4rl/halfcheetah-random": {"state": (17,)},
    "d4rl/walker2d-full-replay": {"state": (17,)},
    "d4rl/pen-human": {"state": (45,)},
    "d4rl/door-cloned": {"state": (39,)},
    "d4rl/hammer-expert": {"state": (46,)},
    "d4rl/relocate-human-longhorizon": {"state": (39,)},
    "d4rl/kitchen-mixed": {"state": (30,)},
    "d4rl/antmaze-large-diverse": {"state": (29,)},
}


ROBOSUITE = {task for task in ENVS if task.startswith("robomimic/")}  # tested on their own


def test_the_tasks():
    assert set(ENVS) - ROBOSUITE - set(D4RL_TASKS) == set(OBS_SHAPES) - set(D4RL_TASKS)
    assert len(D4RL_TASKS) == 18 + 16 + 3 + 6
    assert {ENVS[task].extra for task in ROBOSUITE} == {"robosuite"}
    limits = {task: ENVS[f"robomimic/{task}"].max_steps for task in ("can", "can_ph", "can_mh")}
    assert limits == {"can": 400, "can_ph": 400, "can_mh": 500}
    assert ENVS["robomimic/transport_mh"].max_steps == 1100


def test_a_missing_robosuite_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "robosuite", None)
    with pytest.raises(SimulatorError, match=r"pip install 'genpolicy\[robosuite\]'"):
        make_env("robomimic/lift")


@pytest.mark.sim
@pytest.mark.parametrize("task", OBS_SHAPES)
def test_entries_tell_the_truth_about_their_environments(task: str):
    entry = ENVS[task]
    env = make_env(task)
    obs, info = env.reset(seed=0)
    assert {key: value.shape for key, value in obs.items()} == OBS_SHAPES[task]
    assert all(value.dtype in (np.float32, np.uint8) for value in obs.values())
    assert env.observation_space.contains(obs)
    assert set(info["metrics"]) == set(entry.metrics)
    assert env.max_steps == entry.max_steps
    middle = (env.action_space.low + env.action_space.high) / 2
    info = env.step(middle)[4]
    assert set(info["metrics"]) == set(entry.metrics)
    assert all(type(value) is float for value in info["metrics"].values())
    assert {"success", entry.primary} <= set(entry.metrics)
    assert entry.task == task
    assert "missing" not in entry.versions().values()


def test_scores_of_returns():
    assert ENVS["maze2d-large"].score(300) == pytest.approx(109.731004, abs=1e-6)
    assert ENVS["pusht"].score(1.0) is None


def test_unknown_tasks_and_settings_are_refused():
    with pytest.raises(UsageError, match="did you mean 'pusht'"):
        make_env("push-t")
    with pytest.raises(UsageError, match="did you mean"):
        env_entry("maze2d-huge")
    with pytest.raises(UsageError, match="n_envs is 0"):
        make_vector_env("pusht", 0)
    with pytest.raises(TypeError, match="max_stepz"):
        make_env("maze2d-umaze", max_stepz=3)


def test_a_missing_simulator_names_the_extra():
    with pytest.raises(SimulatorError, match=r"pip install 'genpolicy\[sim\]'"):
        import_simulator("no_such_simulator", task="pusht")


def test_listing_the_tasks_loads_no_simulator():
    code = (
        "import sys, genpolicy.envs\n"
        "found = {'mujoco', 'pymunk', 'pygame', 'gymnasium', 'torch', 'cv2'} & set(sys.modules)\n"
        "sys.exit(str(sorted(found)) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["gymnasium", "mujoco"])
def test_without_the_extra_the_error_says_how_to_install_it(module: str):
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from genpolicy.envs import make_env\n"
        "from genpolicy.errors import SimulatorError\n"
        "try:\n"
        "    make_env('maze2d-umaze')\n"
        "except SimulatorError as error:\n"
        "    sys.exit(0 if 'genpolicy[sim]' in str(error) else str(error))\n"
        "sys.exit('no error')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
