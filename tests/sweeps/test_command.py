"""`genpolicy sweep` as a user calls it, with real trainings."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from genpolicy.cli.main import main
from genpolicy.files import sha256_of
from genpolicy.sweeps import SweepFolder
from tests.training.conftest import tiny_maze

__all__ = ["tiny_maze"]
FILES = ("run/last/ema.safetensors", "run/last/raw.safetensors", "run/metrics.jsonl")


def _arguments(tiny_maze, out, *more):
    return [
        "sweep",
        "experiment=maze2d_umaze_flow",
        "seed=0,1",
        f"out={out}",
        f"data.path={tiny_maze}",
        "policy.network.width=16",
        "trainer.precision=32-true",
        "data.batch_size=8",
        "data.val_ratio=0.2",
        "logger=none",
        "evaluate.n_episodes=3",
        "evaluate.n_envs=1",
        *more,
    ]


def test_a_dry_run_lists_jobs_and_touches_nothing(tiny_maze, tmp_path, capsys):
    arguments = _arguments(tiny_maze, tmp_path / "s", "trainer.max_steps=2", "--dry-run")
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "2 jobs, 2 of them missing" in out
    assert "FlowBC maze2d-umaze seed=1" in out
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["sweep"], 2, "nothing to sweep"),
        (["sweep", "--fast"], 2, "unknown option"),
        (["sweep", "sweep=d4rl_minni"], 2, "did you mean 'd4rl_mini'"),
        (["sweep", "launcher=rey", "task=maze2d-umaze"], 2, "did you mean 'ray'"),
        (["sweep", "algorithm=fql", "task=maze2d-umase"], 2, "did you mean"),
        (["sweep", "task=maze2d-umaze", "evaluate.n_episode=3"], 2, "n_episodes"),
        (["sweep", "resume=nowhere"], 3, "is no sweep"),
        (["sweep", "resume=nowhere", "seed=1"], 2, "its own jobs"),
    ],
)
def test_wrong_usage_is_named(argv, code, message, capsys):
    assert main(argv) == code
    assert message in capsys.readouterr().err


@pytest.mark.sim
@pytest.mark.slow
def test_killed_three_times_at_random_the_results_are_those_of_an_undisturbed_sweep(
    tiny_maze, tmp_path
):
    rng = random.Random(1)
    more = ["trainer.max_steps=1500", "save.every=50", "log_every=10"]

    def start(name):
        command = [
            sys.executable,
            "-m",
            "genpolicy",
            *_arguments(tiny_maze, tmp_path / name, *more),
        ]
        return subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    assert start("whole").wait() == 0
    whole, folder = SweepFolder(tmp_path / "whole"), SweepFolder(tmp_path / "killed")
    for _ in range(3):
        child = start("killed")
        size = sum(p.stat().st_size for p in folder.path.rglob("metrics.jsonl"))
        while sum(p.stat().st_size for p in folder.path.rglob("metrics.jsonl")) == size:
            assert child.poll() is None
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.0))
        os.kill(child.pid, signal.SIGKILL)  # its worker notices, saves and ends
        child.wait()
    assert start("killed").wait() == 0
    assert [job.key for job in folder.jobs()] == [job.key for job in whole.jobs()]
    finished = [event["key"] for event in folder.events() if event["event"] == "finished"]
    assert sorted(finished) == sorted(job.key for job in folder.jobs())
    for job in whole.jobs():
        places = [sweep.job_folder(job.key) for sweep in (whole, folder)]
        for name in FILES:
            assert sha256_of(places[0] / name) == sha256_of(places[1] / name), name
        for which in ("last", "best"):
            results = [
                json.loads((p / "evaluations" / which / "result.json").read_text())["records"]
                for p in places
            ]
            assert results[0] == results[1]
            lines = (places[1] / "evaluations" / which / "records.jsonl").read_text().splitlines()
            assert sum("record" in json.loads(line) for line in lines) == 3
