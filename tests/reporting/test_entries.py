from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from genpolicy.errors import DataError, UsageError
from genpolicy.files import RunLock, lock_holder
from genpolicy.reporting import Sweep, cells_of, read_entries, read_entry, read_sweep
from tests.reporting.sweeps import SweepWriter, both, make_result, write_json


def test_every_job_is_read_with_what_became_of_it(sweep: Sweep, folder: Path) -> None:
    assert len(sweep.entries) == 23
    assert sweep.name == "synthetic"
    assert sweep.command == "genpolicy sweep sweep=synthetic"
    done = [entry for entry in sweep.entries if entry.status == "finished"]
    assert len(done) == 18
    assert {(e.method, e.task) for e in done} == {
        (m, t) for m in ("iql", "fql", "diffuser") for t in ("maze2d-umaze", "maze2d-medium")
    }
    first = done[0]
    assert first.command.startswith("genpolicy train algorithm=iql")
    assert (first.step, first.max_steps, first.seconds, first.n_attempts) == (200, 200, 90.0, 1)
    assert [e.checkpoint for e in first.evaluations] == ["best", "last"]
    assert first.dataset["kind"] == "official"
    assert len(first.metrics()) == 10
    others = {e.seed: (e.status, e.reason) for e in sweep.entries if e.status != "finished"}
    assert others[3] == ("failed", "NumericsError: the loss is nan at step 120")
    assert others[4][0] == "interrupted"
    assert others[5] == ("waiting", "not started")
    assert others[6][0] == "interrupted"
    assert "ended without a word" in others[6][1]
    assert others[7] == ("incomplete", "it has no evaluation of last and best")


def test_a_started_job_runs_while_its_folder_is_locked(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    job = writer.job("iql", "maze2d-umaze", 0, event="started")
    folder = writer.write()
    with RunLock(job / "run"):
        assert read_sweep(folder).entries[0].status == "running"
    assert read_sweep(folder).entries[0].status == "interrupted"
    with RunLock(folder):
        assert read_sweep(folder).entries[0].status == "running"


def test_reading_a_lock_leaves_it(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    assert not (tmp_path / ".lock").exists()
    with RunLock(tmp_path):
        assert lock_holder(tmp_path) == f"pid {os.getpid()} on {os.uname().nodename}"
        assert lock_holder(tmp_path) is not None
    assert lock_holder(tmp_path) is None


def test_a_later_attempt_counts(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    results = both("maze2d-umaze", 50.0, 0)
    job = writer.job("iql", "maze2d-umaze", 0, results=results)
    writer.events.clear()
    writer.log(job.name, "started", seconds=None)
    writer.log(job.name, "failed", seconds=10.0, reason="OSError: disk full")
    writer.log(job.name, "started", seconds=None, attempt=2)
    writer.log(job.name, "finished", seconds=90.0, attempt=2)
    (entry,) = read_sweep(writer.write()).entries
    assert (entry.status, entry.reason) == ("finished", "")
    assert (entry.seconds, entry.n_attempts) == (100.0, 2)


def test_a_torn_ledger_is_read_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    writer.job("iql", "maze2d-umaze", 0, results=both("maze2d-umaze", 50.0, 0))
    folder = writer.write()
    ledger = folder / "ledger.jsonl"
    whole = ledger.read_text(encoding="utf-8")
    ledger.write_text(whole + '{"key": "torn', encoding="utf-8")
    assert read_sweep(folder).entries[0].status == "finished"
    ledger.write_text('{"key": "torn\n' + whole, encoding="utf-8")
    with pytest.raises(DataError, match="damaged in line 1"):
        read_sweep(folder)
    ledger.write_text(whole.replace("finished", "teleported"), encoding="utf-8")
    with pytest.raises(DataError, match="unknown event 'teleported'"):
        read_sweep(folder)


def test_newer_and_damaged_sweeps_are_refused(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    folder = writer.write(schema=2)
    with pytest.raises(DataError, match="schema 2, this genpolicy reads 1"):
        read_sweep(folder)
    (folder / "sweep.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is no sweep"):
        read_sweep(folder)
    writer.write(jobs=["0123456789abcdef"])
    with pytest.raises(DataError, match=r"job\.json cannot be read"):
        read_sweep(folder)


def test_an_evaluation_without_all_records_is_a_problem(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    job = writer.job(
        "iql", "maze2d-umaze", 0, results={"last": make_result("m", 1, training_seed=0)}
    )
    result = job / "evaluations" / "last" / "result.json"
    result.unlink()
    (entry,) = read_sweep(writer.write()).entries
    assert entry.evaluations == ()
    assert entry.status == "incomplete"
    assert "is empty" in entry.reason
    result.write_text('{"schema_version": 1}', encoding="utf-8")
    (entry,) = read_sweep(tmp_path).entries
    assert entry.status == "incomplete"
    assert "evaluation last" in entry.problems[0]


def test_a_job_with_one_of_two_evaluations_is_not_complete(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    job = writer.job("iql", "maze2d-umaze", 0, results=both("maze2d-umaze", 50.0, 0))
    shutil.rmtree(job / "evaluations" / "best")
    (entry,) = read_sweep(writer.write()).entries
    assert (entry.status, entry.reason) == ("incomplete", "it has no evaluation of best")
    assert cells_of([entry]) == []


def test_an_evaluation_of_an_older_checkpoint_is_a_problem(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    old = make_result("maze2d-umaze", 50.0, training_seed=0, step=100)
    writer.job("iql", "maze2d-umaze", 0, results={"last": old})
    (entry,) = read_sweep(writer.write()).entries
    assert entry.evaluations == ()
    assert "of step 100, and last is step 200 by now" in entry.problems[0]


def test_a_run_that_serves_others_needs_no_evaluation(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    base = writer.job("bc", "maze2d-umaze", 0, reported=False)
    writer.job(
        "eda",
        "maze2d-umaze",
        0,
        needs={"algorithm.behavior": base.name},
        results=both("maze2d-umaze", 50.0, 0),
    )
    sweep = read_sweep(writer.write())
    assert [e.status for e in sweep.entries] == ["finished", "finished"]
    assert [e.method for e in sweep.reported] == ["eda"]


def test_plain_runs_are_found_below_a_folder(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    for seed in (0, 1):
        run = tmp_path / "runs" / "flow" / f"seed-{seed}"
        writer.run(run, writer.config("flow", "maze2d-umaze", seed), {}, is_done=seed == 0)
        step = 200 if seed == 0 else 100
        result = make_result("maze2d-umaze", 50.0, training_seed=seed, step=step)
        name = "last-maze2d-umaze-ema"
        write_json(run / "evaluations" / name / "result.json", result.to_json())
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs" / "flow")
    sweep = read_sweep(tmp_path / "runs")
    assert [(e.seed, e.status) for e in sweep.entries] == [(0, "finished"), (1, "stopped")]
    assert sweep.entries[1].reason == "at step 100 of 200"
    assert [e.evaluations[0].checkpoint for e in sweep.entries] == ["last", "last"]
    runs = [entry.folder for entry in sweep.entries]
    assert len(read_entries([runs[0], tmp_path / "runs"])) == 2  # each once
    with RunLock(runs[0]):
        assert read_entry(runs[0]).status == "running"


def test_what_is_neither_run_nor_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a sweep"):
        read_sweep(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model": "else"}), encoding="utf-8")
    with pytest.raises(UsageError, match="is no run"):
        read_entry(tmp_path)
    with pytest.raises(UsageError, match="neither a sweep"):
        read_sweep(tmp_path / "missing")
