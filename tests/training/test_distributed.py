"""Data-parallel training with two processes on the CPU."""

import os
import subprocess
import sys

from safetensors.torch import load_file

from genpolicy.policies import load_policy, read_card


def _train(tiny_maze, run, *overrides):
    command = [
        *(sys.executable, "-m", "genpolicy", "train", "experiment=maze2d_umaze_flow"),
        *(f"data.path={tiny_maze}", f"run_dir={run}", "policy.network.width=16"),
        *("trainer.max_steps=4", "trainer.precision=32-true", "save.every=2", "log_every=1"),
        *("data.val_ratio=0.2", "logger=none", *overrides),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "WORLD_SIZE": ""}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return run


def test_two_processes_train_save_and_resume(tiny_maze, tmp_path):
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=8"]
    run = _train(tiny_maze, tmp_path / "ddp", *ddp, "trainer.precision=32-true")
    assert read_card(run).training["step"] == 4
    weights = load_file(run / "last" / "raw.safetensors")
    assert all(t.isfinite().all() for t in weights.values())
    assert load_policy(run).spec.task == "maze2d-umaze"
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert sum("train/loss" in line for line in lines) == 4
