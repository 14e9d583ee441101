"""What a running sweep looks like in a terminal, read from its files."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from genpolicy.sweeps.folder import JobState, SweepFolder
from genpolicy.sweeps.jobs import Job

__all__ = ["SweepView", "format_seconds"]

_TAIL = 4096


@dataclass
class SweepView:
    """A rich renderable: jobs done by method and task, those that run, and the time left.

    Args:
        folder: the sweep; its jobs are read again when there are more.
        begun: ``time.monotonic()`` when this process began, for the time left.
    """

    folder: SweepFolder
    begun: float = field(default_factory=time.monotonic)
    jobs: Sequence[Job] = ()
    _first: int | None = None

    def __rich__(self) -> RenderableType:
        if len(self.folder.content()["jobs"]) != len(self.jobs):
            self.jobs = self.folder.jobs()
        states = self.folder.states()
        done = {job.key for job in self.jobs if self.folder.is_done(job, _of(states, job))}
        running = [j for j in self.jobs if _of(states, j).event == "started"]
        failed = [j for j in self.jobs if _of(states, j).event == "failed"]
        return Group(
            self._heading(len(done), len(running), len(failed)),
            self._grid(done, {j.key for j in running}, {j.key for j in failed}),
            *(self._running(job, states[job.key]) for job in running),
            *(
                Text(f"  failed: {job.title()}: {states[job.key].reason[:200]}", style="red")
                for job in failed[:5]
            ),
        )

    def _heading(self, n_done: int, n_running: int, n_failed: int) -> Text:
        if self._first is None:
            self._first = n_done
        spent = time.monotonic() - self.begun
        text = f"{self.folder.path.name}: {n_done} of {len(self.jobs)} jobs done"
        text += f", {n_running} running" + (f", {n_failed} failed" if n_failed else "")
        text += f", {format_seconds(spent)} spent"
        if n_done > self._first:
            left = len(self.jobs) - n_done - n_failed
            text += f", about {format_seconds(spent / (n_done - self._first) * left)} left"
        return Text(text, style="bold")

    def _grid(self, done: set[str], running: set[str], failed: set[str]) -> Table:
        shown = [job for job in self.jobs if job.reported]
        tasks = list(dict.fromkeys(str(job.labels["task"]) for job in shown))
        table = Table(box=None, pad_edge=False)
        table.add_column("method")
        for task in tasks:
            table.add_column(task, justify="right")
        for method in dict.fromkeys(str(job.labels["method"]) for job in shown):
            cells = [self._cell(shown, method, task, done, running, failed) for task in tasks]
            table.add_row(method, *cells)
        others = [job for job in self.jobs if not job.reported]
        if others:
            n = sum(job.key in done for job in others)
            table.add_row("(for others)", Text(f"{n}/{len(others)}", style="dim"))
        return table

    @staticmethod
    def _cell(
        jobs: Sequence[Job],
        method: str,
        task: str,
        done: set[str],
        running: set[str],
        failed: set[str],
    ) -> Text:
        here = [
            job.key
            for job in jobs
            if (str(job.labels["method"]), str(job.labels["task"])) == (method, task)
        ]
        n_done, n_failed = sum(k in done for k in here), sum(k in failed for k in here)
        text = f"{n_done}/{len(here)}"
        if n_failed:
            return Text(f"{text} {n_failed} failed", style="red")
        if any(key in running for key in here):
            return Text(f"{text} running", style="yellow")
        return Text(text, style="green" if n_done == len(here) else "dim")

    def _running(self, job: Job, state: JobState) -> Text:
        seconds = time.time() - datetime.fromisoformat(state.time).timestamp()
        where = self._where(job)
        return Text(f"  {job.title()}: {where}, {format_seconds(seconds)}", style="yellow")

    def _where(self, job: Job) -> str:
        """Return how far a running job is, from the newest lines of its files."""
        for name in reversed(job.evaluate["checkpoints"]):
            records = self.folder.evaluation(job.key, name) / "records.jsonl"
            if records.exists():
                n = records.read_bytes().count(b'{"record"')
                return f"evaluating {name}, episode {n} of {job.evaluate['n_episodes']}"
        step = _last_step(self.folder.run_folder(job.key) / "metrics.jsonl")
        return f"step {step} of {job.train['trainer']['max_steps']}"


def _of(states: dict[str, JobState], job: Job) -> JobState:
    return states.get(job.key, JobState())


def _last_step(metrics: Path) -> int:
    """Return the step of the last complete line of a run's metrics."""
    if not metrics.exists():
        return 0
    with open(metrics, "rb") as handle:
        handle.seek(max(0, metrics.stat().st_size - _TAIL))
        lines = handle.read().split(b"\n")[:-1]
    try:
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except ValueError:
        return 0


def format_seconds(seconds: float) -> str:
    """Return ``42 s``, ``3 min 20 s`` or ``5 h 12 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
