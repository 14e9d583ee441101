"""What one job does, wherever it runs; and the process in which the local launcher runs jobs.

``python -m genpolicy.sweeps`` reads one request per line from its standard input,
``{"sweep": ..., "key": ..., "deadline": ..., "threads": ...}``, and answers each with one line on
its standard output. It stops when its input ends, which is also how it learns that its parent has
gone: a training under way then saves its state first.
"""

from __future__ import annotations

import copy
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from genpolicy.errors import RunStoppedError
from genpolicy.files import RunLock, write_json
from genpolicy.sweeps.folder import JobState, SweepFolder
from genpolicy.sweeps.jobs import Job, set_dotted

__all__ = ["main", "run_job"]


def run_job(
    sweep: str, key: str, *, deadline: float | None = None, threads: int | None = None
) -> dict[str, str]:
    """Train and evaluate one job of a sweep, as far as that is not done, and note it in the ledger.

    Args:
        sweep: folder of the sweep.
        key: of the job, whose needs are finished.
        deadline: ``time.time()`` after which nothing is begun; a training stops there and is
            continued by the next call. None for never.
        threads: that torch may use; None leaves it as it is.

    Returns:
        ``event`` ("finished", "failed", "interrupted", or "postponed" where the deadline had
        passed) and ``reason``.
    """
    folder = SweepFolder(sweep)
    with RunLock(folder.job_folder(key), wait=True):
        job = folder.job(key)
        before = folder.states().get(key, JobState())
        if folder.is_done(job, before):
            return {"event": "finished", "reason": ""}
        if deadline is not None and time.time() > deadline:
            return {"event": "postponed", "reason": "the sweep's budget is spent"}
        attempt, begun = before.attempts + 1, time.monotonic()
        folder.note(key, "started", attempt=attempt)
        event, reason = "finished", ""
        with _printing_to(folder.job_folder(key) / "log.txt"):
            try:
                _run(folder, job, deadline=deadline, threads=threads)
            except RunStoppedError as stopped:
                event, reason = "interrupted", str(stopped)
            except KeyboardInterrupt:
                event, reason = "interrupted", "interrupted by hand"
            except Exception as error:  # whatever it is: the sweep goes on, the ledger keeps it
                traceback.print_exc()
                event, reason = "failed", f"{type(error).__name__}: {error}"
        seconds = round(time.monotonic() - begun, 3)
        details: dict[str, Any] = {"reason": reason} if reason else {}
        folder.note(key, event, attempt=attempt, seconds=seconds, **details)
    return {"event": event, "reason": reason}


def _run(folder: SweepFolder, job: Job, *, deadline: float | None, threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    _train(folder, job, deadline)
    for which in job.evaluate["checkpoints"] if job.reported else ():
        if (folder.evaluation(job.key, which) / "result.json").is_file():
            continue
        if deadline is not None and time.time() > deadline:
            raise RunStoppedError("stopped by its deadline before an evaluation")
        _evaluate(folder, job, which)


def _train(folder: SweepFolder, job: Job, deadline: float | None) -> None:
    from genpolicy.training import resume, train
    from genpolicy.training.run_folder import RunFolder

    run = RunFolder(folder.run_folder(job.key))
    if run.is_finished():
        return
    if (run.path / "config.json").is_file():
        resume(run.path, progress=False, deadline=deadline)
        return
    config: dict[str, Any] = copy.deepcopy(dict(job.train))
    config["run_dir"] = str(run.path)
    for dotted, key in job.needs.items():
        set_dotted(config, dotted, str(folder.run_folder(key) / "last"))
    train(config, progress=False, deadline=deadline)


def _evaluate(folder: SweepFolder, job: Job, which: str) -> None:
    """Evaluate a checkpoint, continuing what is there; ``best`` that is ``last`` takes its records.

    An episode is a function of policy, task and seed, so that to run the same checkpoint again
    would repeat the same records.
    """
    from genpolicy.evaluation.of_checkpoint import evaluate_checkpoint

    run, out = folder.run_folder(job.key), folder.evaluation(job.key, which)
    last = folder.evaluation(job.key, "last")
    is_same = which == "best" and (run / "best").readlink() == (run / "last").readlink()
    if is_same and (last / "result.json").is_file():
        _adopt(last, out, run / which)
        return
    settings = {name: value for name, value in job.evaluate.items() if name != "checkpoints"}
    settings |= {"checkpoint": str(run / which), "out": str(out), "resume": True}
    evaluate_checkpoint(settings, progress=False)


def _adopt(source: Path, out: Path, checkpoint: Path) -> None:
    """Write an evaluation's records as those of another name of the same checkpoint."""
    from genpolicy.evaluation.identity import describe_checkpoint
    from genpolicy.evaluation.ledger import Ledger, read_ledger

    content = read_ledger(source / "records.jsonl")
    named = describe_checkpoint(checkpoint, content.header.policy)
    header = replace(content.header, checkpoint=named)
    with Ledger(
        out / "records.jsonl",
        header,
        seeds=content.seeds,
        versions=content.versions,
        resume=True,
    ) as book:
        book.append([content.records[s] for s in content.seeds if s not in book.content.records])
        result = book.content.result()
    write_json(out / "result.json", result.to_json())


@contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Send what this process and its children print to a file, at its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with open(log, "a", encoding="utf-8", buffering=1) as target:
        try:
            os.dup2(target.fileno(), 1)
            os.dup2(target.fileno(), 2)
            with redirect_stdout(target), redirect_stderr(target):
                yield
        finally:
            for descriptor, number in zip(kept, (1, 2), strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)


def main() -> int:
    """Answer requests until there are no more; see the module."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            requests.put(line)
        requests.put(None)
        os.kill(os.getpid(), signal.SIGTERM)  # a training saves its state, the rest just ends

    threading.Thread(target=listen, daemon=True).start()
    while (line := requests.get()) is not None:
        outcome = run_job(**json.loads(line))
        answers.write(json.dumps(outcome) + "\n")
        answers.flush()
    return 0
