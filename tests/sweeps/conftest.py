"""Sweeps of jobs that take milliseconds: training and evaluation are replaced, the rest is real."""

from pathlib import Path

import pytest

from genpolicy.sweeps import Method, Outcome, SweepFolder, SweepPlan, Task, expand, run_job
from genpolicy.sweeps import worker as worker_module


def compose(name, overrides):
    """Stand in for Hydra: overrides as nested entries of a small configuration."""
    if name == "evaluate":
        config = {"checkpoint": "", "out": None, "resume": False, "n_episodes": 100, "task": None}
    else:
        config = {
            "name": "toy",
            "run_dir": "runs/toy",
            "seed": 0,
            "data": {"task": "toy"},
            "algorithm": {"_target_": "genpolicy.algorithms.Toy", "eta": 1.0, "behavior": None},
            "trainer": {"max_steps": 10, "devices": 1, "num_nodes": 1},
            "method": None,
            "experiment": None,
        }
    for override in overrides:
        dotted, _, text = override.partition("=")
        *parents, last = dotted.split(".")
        place = config
        for part in parents:
            place = place[part]
        assert last in place, override
        place[last] = int(text) if text.isdigit() else text.strip("'")
    if name == "train":
        config["run_dir"] = f"runs/toy-{config['method']}/seed-{config['seed']}"
    return config


class Inline:
    """A launcher that runs jobs in this process and keeps what it ran."""

    def __init__(self):
        self.ran = []

    def run(self, sweep: Path, keys, *, deadline=None):
        for key in keys:
            self.ran.append(key)
            yield Outcome(key, **run_job(str(sweep), key, deadline=deadline))


@pytest.fixture
def toy_jobs(monkeypatch):
    """Replace what jobs do; returns a dictionary: key of a job to an error that it raises."""
    faults = {}

    def run(folder, job, *, deadline, threads):
        print("working on", job.title())
        if job.key in faults:
            raise faults[job.key]
        for name in job.evaluate["checkpoints"] if job.reported else ():
            place = folder.evaluation(job.key, name)
            place.mkdir(parents=True, exist_ok=True)
            (place / "result.json").write_text("{}")
        with open(folder.path / "work.txt", "a") as handle:
            handle.write(f"{job.key}\n")

    monkeypatch.setattr(worker_module, "_run", run)
    return faults


@pytest.fixture
def plan():
    """Two methods and one that others need, two tasks, two seeds."""
    return SweepPlan(
        methods={
            "a": Method(overrides=("method=a",)),
            "eda": Method(overrides=("method=eda",), needs={"algorithm.behavior": "base"}),
        },
        tasks={"t": Task(overrides=("data.task=t",)), "u": Task(overrides=("data.task=u",))},
        seeds=(0, 1),
        support={"base": Method(overrides=("method=base",))},
        evaluate={"n_episodes": 5},
    )


@pytest.fixture
def sweep(tmp_path, plan):
    """A sweep that was not begun."""
    folder = SweepFolder(tmp_path / "toys")
    folder.write(expand(plan, compose, sweep=folder.path), command="genpolicy sweep", launcher={})
    return folder
