"""Running a sweep: once each, in order of need, failures kept, stopped and continued."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genpolicy.errors import RunStoppedError, UsageError
from genpolicy.sweeps import SweepFolder, SweepPlan, expand, run_job, run_sweep
from genpolicy.sweeps.runner import standing
from tests.sweeps.conftest import Inline, compose


def _work(sweep):
    file = sweep.path / "work.txt"
    return file.read_text().split() if file.exists() else []


def test_every_job_runs_once_after_what_it_needs(sweep, toy_jobs):
    with sweep.lock():
        now = run_sweep(sweep, Inline())
    jobs = sweep.jobs()
    assert now.missing == 0
    assert sorted(_work(sweep)) == sorted(job.key for job in jobs)
    for job in jobs:
        assert all(_work(sweep).index(k) < _work(sweep).index(job.key) for k in job.needs.values())
        assert sweep.states()[job.key].attempts == 1
        assert "working on" in (sweep.job_folder(job.key) / "log.txt").read_text()
    again = Inline()
    run_sweep(sweep, again)
    assert again.ran == []


def test_a_sweep_killed_after_three_of_its_jobs_runs_the_others(sweep, toy_jobs):
    class Dies(Inline):
        def run(self, sweep, keys, *, deadline=None):
            for n, outcome in enumerate(super().run(sweep, keys, deadline=deadline)):
                yield outcome
                if n == 2:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), sweep.lock():
        run_sweep(sweep, Dies())
    assert len(_work(sweep)) == 3
    rest = Inline()
    with sweep.lock():
        run_sweep(sweep, rest)
    assert len(rest.ran) == len(sweep.jobs()) - 3
    assert len(set(_work(sweep))) == len(_work(sweep)) == len(sweep.jobs())


def test_failures_are_kept_with_their_reason_and_retried_on_request_only(sweep, toy_jobs):
    jobs = sweep.jobs()
    base = next(job for job in jobs if not job.reported)
    toy_jobs[base.key] = ValueError("no such\nluck")
    now = run_sweep(sweep, Inline())
    needing = [job.key for job in jobs if base.key in job.needs.values()]
    assert now.failed == (base.key,)
    assert list(now.blocked) == needing
    assert sweep.states()[base.key].reason == "ValueError: no such\nluck"
    assert "Traceback" in (sweep.job_folder(base.key) / "log.txt").read_text()
    idle = Inline()
    run_sweep(sweep, idle)
    assert idle.ran == []
    toy_jobs.clear()
    now = run_sweep(sweep, Inline(), retry_failed=True)
    assert now.missing == 0
    assert sweep.states()[base.key].attempts == 2
    toy_jobs[base.key] = ValueError("again")
    assert run_sweep(sweep, Inline(), retry_failed=True).missing == 0


def test_a_retried_job_that_fails_again_is_not_run_forever(sweep, toy_jobs):
    key = sweep.jobs()[0].key
    toy_jobs[key] = ValueError("always")
    run_sweep(sweep, Inline())
    second = Inline()
    assert run_sweep(sweep, second, retry_failed=True).failed == (key,)
    assert second.ran == [key]


def test_a_budget_that_is_spent_begins_nothing_and_a_stopped_job_is_continued(sweep, toy_jobs):
    now = run_sweep(sweep, Inline(), deadline=time.time() - 1)
    assert now.done == ()
    assert not sweep.ledger.exists()
    key = sweep.jobs()[0].key
    assert run_job(str(sweep.path), key, deadline=time.time() - 1)["event"] == "postponed"
    toy_jobs[key] = RunStoppedError("stopped by its deadline")
    assert run_job(str(sweep.path), key)["event"] == "interrupted"
    assert key in standing(sweep).due
    toy_jobs.clear()
    assert run_sweep(sweep, Inline()).missing == 0
    assert sweep.states()[key].attempts == 2


def test_jobs_added_to_a_sweep_are_merged(sweep, plan, toy_jobs):
    run_sweep(sweep, Inline())
    before = len(sweep.jobs())
    wider = SweepPlan(**{**vars(plan), "seeds": (0, 1, 2)})
    sweep.write(expand(wider, compose, sweep=sweep.path))
    more = Inline()
    run_sweep(sweep, more)
    assert len(sweep.jobs()) == before * 3 // 2
    assert len(more.ran) == before // 2
    asked = {**plan.methods, "base": plan.support["base"]}
    sweep.write(expand(SweepPlan(**{**vars(plan), "methods": asked}), compose, sweep=sweep.path))
    last = Inline()
    assert run_sweep(sweep, last).missing == 0
    assert len(last.ran) == 4  # trained for others before, now evaluated as well


def test_the_ledger_has_a_line_per_event_and_survives_a_torn_one(sweep, toy_jobs):
    keys = [job.key for job in sweep.jobs()]
    run_job(str(sweep.path), keys[0])
    with open(sweep.ledger, "a") as handle:
        handle.write('{"key": "' + keys[1])
    assert sweep.states().keys() == {keys[0]}
    run_sweep(sweep, Inline())
    events = [json.loads(line) for line in sweep.ledger.read_text().splitlines()]
    assert len(events) == 2 * len(keys)
    assert {event["event"] for event in events} == {"started", "finished"}
    for event in events:
        assert {"key", "event", "time", "attempt", "host", "pid"} <= event.keys()


def test_a_second_process_is_refused_with_pid_and_host(sweep):
    code = (
        "from genpolicy.sweeps import SweepFolder\n"
        f"with SweepFolder({str(sweep.path)!r}).lock(): pass\n"
    )
    with sweep.lock():
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.returncode != 0
    assert f"in use by pid {os.getpid()} on" in other.stderr
    with pytest.raises(UsageError, match="in use"), sweep.lock(), sweep.lock():
        pass


_DRIVER = """
import sys, time
from genpolicy.sweeps import SweepFolder, run_sweep, worker
from tests.sweeps.conftest import Inline

def run(folder, job, *, deadline, threads):
    time.sleep(0.05)
    for name in job.evaluate["checkpoints"] if job.reported else ():
        place = folder.evaluation(job.key, name)
        place.mkdir(parents=True, exist_ok=True)
        (place / "result.json").write_text("{}")
    with open(folder.path / "work.txt", "a") as handle:
        handle.write(job.key + "\\n")

worker._run = run
folder = SweepFolder(sys.argv[1])
with folder.lock():
    print("begun", flush=True)
    run_sweep(folder, Inline())
"""


def test_killed_three_times_at_random_it_loses_and_repeats_nothing(sweep):
    rng = random.Random(0)
    n = len(sweep.jobs())
    command = [sys.executable, "-c", _DRIVER, str(sweep.path)]
    root = Path(__file__).parents[2]
    done_before = 0
    for _ in range(3):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root)
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        time.sleep(rng.uniform(0.06, 0.2))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        finished = [k for k, s in sweep.states().items() if s.event == "finished"]
        assert len(finished) >= done_before
        done_before = len(finished)
    assert done_before < n
    subprocess.run(command, check=True, cwd=root, stdout=subprocess.DEVNULL)
    events = list(sweep.events())
    assert standing(SweepFolder(sweep.path)).missing == 0
    finished = [event["key"] for event in events if event["event"] == "finished"]
    assert len(finished) == len(set(finished)) == n
    n_interrupted = sum(event["event"] == "interrupted" for event in events)
    assert sum(event["event"] == "started" for event in events) == n + n_interrupted
    assert n_interrupted <= 3
