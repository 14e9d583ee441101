"""Running what a sweep still lacks, in an order that respects what jobs need."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from genpolicy.sweeps.folder import JobState, SweepFolder
from genpolicy.sweeps.jobs import Job
from genpolicy.sweeps.launchers import Launcher, Outcome

__all__ = ["Standing", "run_sweep", "standing", "tidy_ledger"]


@dataclass(frozen=True)
class Standing:
    """Where a sweep stands; each job is in one of the tuples.

    Args:
        done: trained and, where reported, evaluated.
        failed: kept with their reasons, and run again only when that is asked for.
        blocked: need a job that failed.
        due: whose needs are done.
        waiting: need a job that is not done yet.
    """

    done: tuple[str, ...]
    failed: tuple[str, ...]
    blocked: tuple[str, ...]
    due: tuple[str, ...]
    waiting: tuple[str, ...]

    @property
    def missing(self) -> int:
        """Number of jobs that are not done."""
        return sum(map(len, (self.failed, self.blocked, self.due, self.waiting)))


def standing(
    folder: SweepFolder, jobs: Sequence[Job] | None = None, *, retry: Iterable[str] = ()
) -> Standing:
    """Return where a sweep stands.

    Args:
        folder: the sweep.
        jobs: of the sweep; None reads them.
        retry: failed jobs that are due again.
    """
    found: dict[str, str] = {}
    states, again = folder.states(), set(retry)
    jobs = folder.jobs() if jobs is None else jobs
    by_key = {job.key: job for job in jobs}

    def place(job: Job) -> str:
        if job.key in found:
            return found[job.key]
        state = states.get(job.key, JobState())
        if folder.is_done(job, state):
            result = "done"
        elif state.event == "failed" and job.key not in again:
            result = "failed"
        else:
            needs = [place(by_key[key]) for key in job.needs.values()]
            is_blocked = any(need in ("failed", "blocked") for need in needs)
            ready = all(need == "done" for need in needs)
            result = "blocked" if is_blocked else "due" if ready else "waiting"
        found[job.key] = result
        return result

    for job in jobs:
        place(job)
    names = ("done", "failed", "blocked", "due", "waiting")
    return Standing(**{n: tuple(job.key for job in jobs if found[job.key] == n) for n in names})


def tidy_ledger(folder: SweepFolder) -> None:
    """Note as interrupted what was begun and never ended: its process was killed."""
    for key, state in folder.states().items():
        if state.event == "started":
            folder.note(key, "interrupted", attempt=state.attempts, reason="its process was killed")


def run_sweep(
    folder: SweepFolder,
    launcher: Launcher,
    *,
    deadline: float | None = None,
    retry_failed: bool = False,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Standing:
    """Run all jobs of a sweep that are not done. The caller holds the sweep's lock.

    Jobs whose needs are done run together; when they have ended, those that needed them follow.
    Each is run at most once per call, and one that failed only where that is asked for.

    Args:
        folder: the sweep.
        launcher: where jobs run.
        deadline: ``time.time()`` after which none is begun; trainings stop there with their state
            saved.
        retry_failed: also run jobs that have failed before.
        on_outcome: called with what became of each job.

    Returns:
        Where the sweep stands afterwards.
    """
    tidy_ledger(folder)
    jobs = folder.jobs()
    tried: set[str] = set()
    failed = set(standing(folder, jobs).failed) if retry_failed else set()
    while True:
        now = standing(folder, jobs, retry=failed - tried)
        due = [key for key in now.due if key not in tried]
        if not due or (deadline is not None and time.time() > deadline):
            return now
        tried |= set(due)
        with closing(launcher.run(folder.path, due, deadline=deadline)) as outcomes:
            for outcome in outcomes:
                if outcome.event == "lost":
                    attempts = folder.states().get(outcome.key, JobState()).attempts
                    folder.note(outcome.key, "failed", attempt=attempts, reason=outcome.reason)
                on_outcome(outcome)
