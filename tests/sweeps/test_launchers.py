"""The same sweep, really trained and evaluated, gives the same records wherever it runs."""

import json
import os
import time

import pytest

from genpolicy.cli.compose_config import compose_config
from genpolicy.errors import UsageError
from genpolicy.files import sha256_of
from genpolicy.sweeps import (
    JoblibLauncher,
    LocalLauncher,
    Method,
    RayLauncher,
    SlurmLauncher,
    SweepFolder,
    SweepPlan,
    expand,
    run_sweep,
)
from genpolicy.sweeps import launchers as launchers_module
from tests.sweeps.conftest import Inline
from tests.training.conftest import tiny_maze

pytestmark = pytest.mark.sim
__all__ = ["tiny_maze"]
LAUNCHERS = {
    "joblib": JoblibLauncher(n_jobs=2),
    "ray": RayLauncher(n_cpus=2),
    "submitit": SlurmLauncher(cluster="local", poll_s=0.1),
}
PACKAGES = {"joblib": "joblib", "ray": "ray", "submitit": "submitit"}


def _plan(data):
    small = ["policy.network.width=16", "policy.network.n_blocks=1", "trainer.max_steps=4"]
    shared = [f"data.path={data}", "data.batch_size=8", "save.every=2", "logger=none", *small]
    return SweepPlan(
        methods={
            "distilled": Method(
                overrides=("experiment=maze2d_umaze_consistency",),
                needs={"algorithm.teacher": "flow"},
            ),
            "flow": Method(overrides=("experiment=maze2d_umaze_flow",)),
        },
        overrides=(*shared, "trainer.precision=32-true", "data.val_ratio=0.2"),
        evaluate={"n_episodes": 2, "n_envs": 2},
    )


def _begun(path, data):
    folder = SweepFolder(path)
    folder.write(expand(_plan(data), compose_config, sweep=path), command="", launcher={})
    return folder


def _results(folder):
    """Weights, figures and records of every job, without places and times."""
    found = {}
    for job in folder.jobs():
        run = folder.run_folder(job.key)
        records = {
            which: json.loads((folder.evaluation(job.key, which) / "result.json").read_text())
            for which in ("last", "best")
        }
        found[job.key] = (
            sha256_of(run / "last" / "ema.safetensors"),
            (run / "metrics.jsonl").read_text(),
            {which: result["records"] for which, result in records.items()},
            {which: result["checkpoint"]["weights"] for which, result in records.items()},
        )
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory, tiny_maze):
    """The sweep as it comes out in this process."""
    folder = _begun(tmp_path_factory.mktemp("here") / "sweep", tiny_maze)
    assert run_sweep(folder, Inline()).missing == 0
    return _results(folder)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_gives_the_same_records(name, reference, tiny_maze, tmp_path):
    pytest.importorskip(PACKAGES[name])
    folder = _begun(tmp_path / "sweep", tiny_maze)
    now = run_sweep(folder, LAUNCHERS[name])
    assert now.missing == 0, [state.reason for state in folder.states().values()]
    assert _results(folder) == reference
    assert all(event["pid"] != os.getpid() for event in folder.events())


def test_local_workers_give_the_same_records_and_a_dead_one_is_a_failed_job(
    reference, tiny_maze, tmp_path
):
    folder = _begun(tmp_path / "sweep", tiny_maze)
    job = next(job for job in folder.jobs() if job.labels["method"] == "flow")
    outcomes = []
    launcher = LocalLauncher().run(folder.path, [job.key])
    code = "import os; os.kill(os.getpid(), 9)"
    patch = pytest.MonkeyPatch()
    patch.setattr(launchers_module, "_WORKER", ["-c", code])
    outcomes += list(launcher)
    patch.undo()
    assert [(o.event, "signal 9" in o.reason) for o in outcomes] == [("lost", True)]
    assert run_sweep(folder, LocalLauncher()).missing == 0
    assert _results(folder) == reference


def test_slots_have_threads_and_devices_of_their_own(tmp_path, monkeypatch):
    shown = "import json, os, sys\nfor line in sys.stdin:\n    names = 'OMP_NUM_THREADS', "
    shown += "'CUDA_VISIBLE_DEVICES'\n    seen = ' '.join(os.environ[n] for n in names)\n"
    shown += "    print(json.dumps({'event': 'finished', 'reason': seen}), flush=True)"
    monkeypatch.setattr(launchers_module, "_WORKER", ["-c", shown])
    launcher = LocalLauncher(n_jobs=3, threads=2, gpus=[4, 7])
    outcomes = {o.key: o.reason for o in launcher.run(tmp_path, ["a", "b", "c"])}
    assert outcomes == {"a": "2 4", "b": "2 7", "c": "2 4"}


def test_workers_end_with_the_sweep(tmp_path, monkeypatch):
    slow = "import sys, time\nfor line in sys.stdin:\n    time.sleep(60)"
    monkeypatch.setattr(launchers_module, "_WORKER", ["-c", slow])
    monkeypatch.setattr(launchers_module, "_GRACE_S", 0.2)
    fast = 'import sys\nfor line in sys.stdin:\n    print(\'{"event": "finished"}\', flush=True)'
    begun = time.monotonic()
    running = LocalLauncher(n_jobs=2).run(tmp_path, ["a", "b"])
    monkeypatch.setattr(launchers_module, "_WORKER", ["-c", fast])
    assert next(running).event == "finished"
    running.close()
    assert time.monotonic() - begun < 10


def test_a_missing_launcher_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "joblib", None)
    with pytest.raises(UsageError, match=r"genpolicy\[joblib\]"):
        list(JoblibLauncher().run(tmp_path, ["a"]))
    with pytest.raises(UsageError, match="n_jobs is 0"):
        LocalLauncher(n_jobs=0)
