"""The folder of a sweep: what is to be run, and an append-only ledger of what happened.

::

    sweep.json               name, command, jobs in order, versions, launcher
    ledger.jsonl             one line per event: started, finished, failed, interrupted
    jobs/KEY/job.json        what the job is
    jobs/KEY/run/            an ordinary run folder
    jobs/KEY/evaluations/last/, best/
    jobs/KEY/log.txt         what the job printed

One process owns the sweep (``SweepFolder.lock``); its jobs, which may run elsewhere, only append to
the ledger. What is done is read from the files, so that a kill at any moment needs no repair.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from genpolicy.errors import DataError
from genpolicy.files import RunLock, clean_staging, write_json
from genpolicy.sweeps.jobs import Job

__all__ = ["Event", "JobState", "SweepFolder"]

_SCHEMA = 1
Event: TypeAlias = Literal["started", "finished", "failed", "interrupted"]


@dataclass(frozen=True)
class JobState:
    """What the ledger says of one job.

    Args:
        event: the newest event; None for a job that was never started.
        attempts: times that it was started.
        reason: why it failed, else "".
        time: of the newest event, ISO in UTC.
        seconds: that all attempts took together, as far as they came to an end.
    """

    event: Event | None = None
    attempts: int = 0
    reason: str = ""
    time: str = ""
    seconds: float = 0.0


class SweepFolder:
    """Names and upkeep of a sweep's files.

    Args:
        path: the folder; created by ``write``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.ledger = self.path / "ledger.jsonl"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Own the sweep; a second process is refused with this one's pid and host."""
        with RunLock(self.path):
            for folder in (self.path, self.path / "jobs", *(self.path / "jobs").glob("*")):
                clean_staging(folder)
            yield

    def exists(self) -> bool:
        """Return whether the folder holds a sweep."""
        return (self.path / "sweep.json").is_file()

    def content(self) -> dict[str, Any]:
        """Return ``sweep.json``.

        Raises:
            DataError: when there is none, or it is damaged or of a newer schema.
        """
        file = self.path / "sweep.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} is no sweep ({error})") from error
        if found["schema"] > _SCHEMA:
            raise DataError(
                f"{file} has schema {found['schema']}, this genpolicy reads {_SCHEMA}; "
                "upgrade genpolicy"
            )
        return found

    def write(self, jobs: Sequence[Job], **facts: Any) -> None:
        """Add jobs to the sweep, creating it where it does not exist.

        Jobs that are there already keep their place and results; one that only served others
        becomes a reported one when it is asked for.

        Args:
            jobs: in order.
            facts: entries of ``sweep.json`` beside the jobs; those given replace older ones.
        """
        now = {"schema": _SCHEMA, "name": self.path.name, "created": _now()}
        before = self.content() if self.exists() else {**now, "jobs": []}
        for job in jobs:
            file = self.job_folder(job.key) / "job.json"
            if file.exists():
                there = self.job(job.key)
                if there.reported or not job.reported:
                    continue
                job = replace(job, needs=there.needs)
            write_json(file, job.to_json())
        keys = list(dict.fromkeys([*before["jobs"], *(job.key for job in jobs)]))
        write_json(self.path / "sweep.json", {**before, **facts, "jobs": keys})

    def job_folder(self, key: str) -> Path:
        """Return the folder of a job."""
        return self.path / "jobs" / key

    def run_folder(self, key: str) -> Path:
        """Return the run folder of a job."""
        return self.job_folder(key) / "run"

    def evaluation(self, key: str, which: str) -> Path:
        """Return the folder of the evaluation of ``last`` or ``best``."""
        return self.job_folder(key) / "evaluations" / which

    def job(self, key: str) -> Job:
        """Return a job.

        Raises:
            DataError: when its file is missing or damaged.
        """
        file = self.job_folder(key) / "job.json"
        try:
            return Job.from_json(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read: {error}") from error

    def jobs(self) -> list[Job]:
        """Return all jobs, in order."""
        return [self.job(key) for key in self.content()["jobs"]]

    def is_done(self, job: Job, state: JobState | None = None) -> bool:
        """Return whether a job is trained and, where it is reported, evaluated.

        Args:
            job: the job.
            state: of it, where it is known already.
        """
        if (state or self.states().get(job.key, JobState())).event != "finished":
            return False
        return not job.reported or self.is_evaluated(job)

    def is_evaluated(self, job: Job) -> bool:
        """Return whether all evaluations of a job have results."""
        names = job.evaluate["checkpoints"]
        return all((self.evaluation(job.key, name) / "result.json").is_file() for name in names)

    def note(self, key: str, event: Event, *, attempt: int, **details: Any) -> None:
        """Append one event to the ledger; it is on disk when this returns.

        Safe for several processes at once; what a kill left half-written is cut off first.
        """
        line = {"key": key, "event": event, "time": _now(), "attempt": attempt}
        line |= {"host": socket.gethostname(), "pid": os.getpid(), **details}
        with open(self.ledger, "ab+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            data = handle.read()
            handle.truncate(data.rfind(b"\n") + 1)
            handle.write((json.dumps(line, allow_nan=False) + "\n").encode())
            handle.flush()
            os.fsync(handle.fileno())

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events in order; a last line torn by a kill is left out.

        Raises:
            DataError: for a line before the last that cannot be read.
        """
        data = self.ledger.read_bytes() if self.ledger.exists() else b""
        for number, line in enumerate(data.split(b"\n")[:-1], start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(f"{self.ledger} is damaged in line {number} ({error})") from error

    def states(self) -> dict[str, JobState]:
        """Return what the ledger says of each job that it names."""
        found: dict[str, JobState] = {}
        for event in self.events():
            before = found.get(event["key"], JobState())
            found[event["key"]] = JobState(
                event=event["event"],
                attempts=max(before.attempts, int(event["attempt"])),
                reason=str(event.get("reason", "")),
                time=event["time"],
                seconds=before.seconds + float(event.get("seconds", 0.0)),
            )
        return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
