"""Training runs and jobs of a sweep as they lie on disk: labels, status, configuration, results.

A job of a sweep (``sweeps/folder.py``) is an entry, and so is a run folder by itself
(``genpolicy train``), whose evaluations are those below its own ``evaluations/``. Nothing here
writes, and nothing needs a simulator.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from genpolicy.errors import CheckpointError, DataError, UsageError
from genpolicy.files import lock_holder
from genpolicy.policies import read_card
from genpolicy.reporting.evaluations import (
    EvaluationOf,
    read_evaluations,
    step_of,
)
from genpolicy.sweeps.folder import JobState, SweepFolder
from genpolicy.training.run_folder import RunFolder

__all__ = ["Entry", "Status", "Sweep", "read_entries", "read_entry", "read_sweep"]

Status = Literal["finished", "running", "failed", "interrupted", "waiting", "incomplete", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run, or a job of a sweep.

    Args:
        name: key of the job, or the name of the run's folder.
        folder: the run's folder; it need not exist yet.
        labels: ``method``, ``task``, ``seed`` and what else was swept.
        status: what has become of it.
        reason: why it is not finished; empty where there is nothing to say.
        config: resolved training configuration.
        command: the command that repeats the run.
        evaluations: the complete ones.
        problems: evaluations that are not complete, damaged, or of an older checkpoint.
        dataset: name, kind and fingerprint of the training data, as far as they are known.
        step: optimizer steps of ``last``; None before the first save.
        is_reported: False for a run that only serves others.
        needs: configuration keys that name another job's files, and that job's key.
        seconds: how long its attempts took together; None where unknown.
        n_attempts: how often it was started; 0 where unknown.
        log: its output; None without one.
    """

    name: str
    folder: Path
    labels: Mapping[str, Any]
    status: Status
    reason: str = ""
    config: Mapping[str, Any]
    command: str
    evaluations: tuple[EvaluationOf, ...] = ()
    problems: tuple[str, ...] = ()
    dataset: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    is_reported: bool = True
    needs: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    n_attempts: int = 0
    log: Path | None = None

    @property
    def method(self) -> str:
        """The method with what else was swept: ``"fql, alpha=10"``."""
        others = [
            f"{key}={value}"
            for key, value in self.labels.items()
            if key not in ("method", "task", "seed")
        ]
        return ", ".join([str(self.labels.get("method", "?")), *others])

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.labels.get("task", "?"))

    @property
    def seed(self) -> Any:
        """Training seed."""
        return self.labels.get("seed", "?")

    @property
    def title(self) -> str:
        """Method, task and seed in one line."""
        return f"{self.method}, {self.task}, seed {self.seed}"

    @property
    def max_steps(self) -> int | None:
        """Optimizer steps that the run is meant to make."""
        value = dict(self.config.get("trainer") or {}).get("max_steps")
        return None if value is None else int(value)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``."""
        return list(RunFolder(self.folder).read_metrics())


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep, or some runs put together.

    Args:
        name: of the sweep, or of the folder.
        folder: of the sweep; where reports go.
        entries: its jobs in order, or the runs.
        created: when it was made, in UTC; empty for plain runs.
        command: that started it; empty for plain runs.
        versions: packages it was started with.
        launcher: how its jobs were run.
    """

    name: str
    folder: Path
    entries: tuple[Entry, ...]
    created: str = ""
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    launcher: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reported(self) -> tuple[Entry, ...]:
        """The entries whose results are compared."""
        return tuple(entry for entry in self.entries if entry.is_reported)


def read_sweep(path: str | Path) -> Sweep:
    """Read a sweep, or the runs at and below a folder.

    Args:
        path: a sweep's folder, a run's folder, or a folder with runs below it.

    Raises:
        UsageError: when there is neither a sweep nor a run.
        DataError: when the sweep's files are damaged or of a newer schema.
    """
    folder = Path(path)
    if (folder / "sweep.json").is_file():
        return _read_sweep(folder)
    entries = tuple(read_entry(run) for run in _run_folders(folder))
    if not entries:
        raise UsageError(
            f"{folder} is neither a sweep (it has no sweep.json) nor a run, and has no runs below "
            "it; name the folder that `genpolicy sweep` or `genpolicy train` wrote"
        )
    return Sweep(name=folder.resolve().name, folder=folder, entries=entries)


def read_entries(paths: Iterable[str | Path]) -> list[Entry]:
    """Return the entries of several sweeps, runs or folders with runs, in order, each once.

    Raises:
        UsageError: for a path with neither a sweep nor a run.
        DataError: for a damaged sweep.
    """
    found: dict[Path, Entry] = {}
    for path in paths:
        folder = Path(path)
        if (folder / "job.json").is_file():
            sweep = folder.parent.parent
            job = folder.name
            entries = [e for e in _read_sweep(sweep).entries if e.name == job]
        else:
            entries = list(read_sweep(folder).entries)
        for entry in entries:
            found.setdefault(entry.folder.resolve(), entry)
    return list(found.values())


def _run_folders(folder: Path) -> list[Path]:
    """Return the run folders at or below a folder, in sorted order."""
    if _is_run(folder):
        return [folder]
    if not folder.is_dir():
        return []
    below = [child for child in sorted(folder.iterdir()) if child.is_dir() and child.name[0] != "."]
    return [run for child in below if not child.is_symlink() for run in _run_folders(child)]


def _is_run(folder: Path) -> bool:
    """Return whether a folder holds a training run: its configuration says so."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"trainer", "algorithm", "data"} <= set(config)


def read_entry(path: str | Path) -> Entry:
    """Read one run folder.

    Raises:
        UsageError: when it is none.
    """
    folder = Path(path)
    if not _is_run(folder):
        raise UsageError(f"{folder} is no run: it has no configuration of `genpolicy train`")
    config = RunFolder(folder).config()
    step = step_of(folder / "last")
    target = int(config["trainer"]["max_steps"])
    status: Status = "finished" if step is not None and step >= target else "stopped"
    reason = "" if status == "finished" else f"at step {step or 0} of {target}"
    holder = lock_holder(folder)
    if holder is not None:
        status, reason = "running", holder
    evaluations, problems = read_evaluations(folder / "evaluations", folder)
    return Entry(
        name=folder.name,
        folder=folder,
        labels={
            "method": config.get("name", "?"),
            "task": dict(config["data"]).get("task", "?"),
            "seed": config.get("seed", "?"),
        },
        status=status,
        reason=reason,
        config=config,
        command=f"genpolicy train resume={shlex.quote(str(folder))}",
        evaluations=evaluations,
        problems=problems,
        dataset=_dataset(folder),
        step=step,
    )


def _read_sweep(path: Path) -> Sweep:
    folder = SweepFolder(path)
    content, states = folder.content(), folder.states()
    is_held = lock_holder(path) is not None
    entries = [
        _read_job(folder, key, states.get(key, JobState()), is_held) for key in content["jobs"]
    ]
    return Sweep(
        name=str(content.get("name", path.name)),
        folder=path,
        entries=tuple(entries),
        created=str(content.get("created", "")),
        command=str(content.get("command", "")),
        versions=dict(content.get("versions") or {}),
        launcher=dict(content.get("launcher") or {}),
    )


def _read_job(folder: SweepFolder, key: str, state: JobState, is_held: bool) -> Entry:
    job, run, home = folder.job(key), folder.run_folder(key), folder.job_folder(key)
    evaluations, problems = read_evaluations(home / "evaluations", run)
    status, reason = _status(state, is_held or lock_holder(run) is not None)
    wanted = list(job.evaluate.get("checkpoints", ("last", "best"))) if job.reported else []
    missing = [name for name in wanted if name not in {e.checkpoint for e in evaluations}]
    if status == "finished" and missing:
        status = "incomplete"
        reason = "; ".join(problems) or f"it has no evaluation of {' and '.join(missing)}"
    log = home / "log.txt"
    return Entry(
        name=key,
        folder=run,
        labels=dict(job.labels),
        status=status,
        reason=reason,
        config=dict(job.train),
        command=job.command,
        evaluations=evaluations,
        problems=problems,
        dataset=_dataset(run),
        step=step_of(run / "last"),
        is_reported=job.reported,
        needs=dict(job.needs),
        seconds=state.seconds if state.attempts else None,
        n_attempts=state.attempts,
        log=log if log.is_file() else None,
    )


def _status(state: JobState, is_held: bool) -> tuple[Status, str]:
    """Return what became of a job by its newest event, and why."""
    if state.event is None:
        return "waiting", "not started"
    if state.event == "started":
        if is_held:
            return "running", f"since {state.time}"
        return "interrupted", f"started {state.time} and ended without a word"
    if state.event not in ("finished", "failed", "interrupted"):
        raise DataError(f"the sweep's ledger has an unknown event {state.event!r}")
    is_over = state.event == "finished"
    return state.event, "" if is_over else state.reason or "no reason given"


def _dataset(run: Path) -> dict[str, Any]:
    """Return what the run's checkpoint says of its training data; empty without one."""
    try:
        dataset = read_card(run / "last").dataset
    except CheckpointError:
        return {}
    return {key: dataset[key] for key in ("name", "kind", "fingerprint") if key in dataset}
