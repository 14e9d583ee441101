"""`genpolicy train` and `genpolicy evaluate` as a user calls them: exit codes and messages."""

import json
import sys

import numpy as np
import pytest

from genpolicy.cli.main import main
from genpolicy.data.robomimic_file import Demo, write_robomimic
from genpolicy.robomimic_tasks import robomimic_task


def _run(capsys, *argv):
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "polcy=dp"], "did you mean 'policy'"),
        (["train", "path=cosin"], "did you mean 'cosine'"),
        (["train", "trainer.max_stps=3"], "did you mean 'trainer.max_steps'"),
        (["train", "experiment=pusht_flw"], "did you mean 'pusht_flow'"),
        (["train", "experiment=pusht_consistency"], "teacher"),
        (["train", "--fast"], "unknown option '--fast'"),
        (["train", "trainer.max_steps=a=b"], "cannot read the overrides"),
        (["train", "resume=x", "seed=1"], "its own configuration"),
        (["train", "data.horizon=4"], "horizon"),
        (["evaluate", "checkpoint=x", "n_episode=3"], "did you mean 'n_episodes'"),
        (["evaluate", "--fast"], "unknown option"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_what_is_valid(capsys, argv, message, tmp_path):
    extra = [f"run_dir='{tmp_path / 'r'}'"] if "data." in argv[-1] else []
    code, _, err = _run(capsys, *argv, *extra)
    assert message in err
    assert "Traceback" not in err
    assert code == 2


def test_missing_data_exits_with_3_and_names_the_command(capsys, tmp_path):
    code, _, err = _run(capsys, "train", "experiment=pusht_flow", f"run_dir='{tmp_path / 'r'}'")
    assert code == 3
    assert "genpolicy data get pusht" in err


def test_a_checkpoint_that_is_not_there_exits_with_4(capsys, tmp_path):
    code, _, err = _run(capsys, "evaluate", f"checkpoint={tmp_path / 'nothing'}")
    assert code == 4
    assert "policy.json" in err


def test_resuming_what_is_no_run_exits_with_4(capsys, tmp_path):
    code, _, err = _run(capsys, "train", f"resume={tmp_path / 'nothing'}")
    assert code == 4
    assert "not a training run" in err


def test_show_prints_the_configuration_and_trains_nothing(capsys, tmp_path):
    code, out, _ = _run(
        capsys, "train", "experiment=pusht_flow", f"run_dir='{tmp_path / 'r'}'", "--show"
    )
    assert code == 0
    assert "genpolicy.algorithms.FlowBC" in out
    assert not (tmp_path / "r").exists()


@pytest.mark.sim
def test_make_train_and_evaluate_from_the_command_line(capsys, tmp_path):
    data, run = tmp_path / "maze.hdf5", tmp_path / "run"
    code, _, err = _run(capsys, "data", "make", "maze2d-umaze", "n=600", f"path={data}")
    assert code == 0, err
    code, out, err = _run(
        capsys,
        "train",
        "experiment=maze2d_umaze_flow",
        f"data.path={data}",
        f"run_dir='{run}'",
        "policy.network.width=16",
        "trainer.max_steps=4",
        "save.every=2",
        "data.batch_size=8",
        "logger=none",
    )
    assert code == 0, err
    assert str(run / "last") in out
    arguments = ["evaluate", f"checkpoint={run}", "n_episodes=3", "n_envs=2", "sampler.n_steps=2"]
    code, out, err = _run(capsys, *arguments, f"out={tmp_path / 'e'}")
    assert code == 0, err
    assert "d4rl_score" in out
    assert "95% interval" in out
    result = json.loads((tmp_path / "e" / "result.json").read_text())
    assert len(result["records"]) == 3
    code, _, err = _run(capsys, *arguments, f"out={tmp_path / 'e'}")
    assert code == 2
    assert "resume" in err
    code, out, _ = _run(capsys, *arguments, f"out={tmp_path / 'e'}", "--resume")
    assert code == 0


def test_without_robosuite_policies_train_and_only_rollouts_are_refused(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "robosuite", None)
    rng = np.random.default_rng(0)
    sizes = {"object": 10, "robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
    obs = {key: rng.standard_normal((30, size)) for key, size in sizes.items()}
    demo = Demo(actions=rng.uniform(-1, 1, (30, 7)), obs=obs)
    path = write_robomimic(tmp_path / "a.hdf5", [demo], env_args=robomimic_task("lift").env_args())
    run = tmp_path / "run"
    code, _, err = _run(
        capsys,
        "train",
        "experiment=robomimic_lift_flow",
        "data=robomimic",
        f"data.path={path}",
        f"run_dir='{run}'",
        "policy.network.width=16",
        "trainer.max_steps=2",
        "save.every=2",
        "data.batch_size=4",
        "data.val_ratio=0.0",
        "logger=none",
    )
    assert code == 0, err
    code, _, err = _run(capsys, "evaluate", f"checkpoint={run}", "n_episodes=1")
    assert code == 6
    assert "pip install 'genpolicy[robosuite]'" in err
