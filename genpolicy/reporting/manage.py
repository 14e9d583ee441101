"""Runs as text: a list, one in full, two compared; and their removal."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from genpolicy.errors import UsageError
from genpolicy.evaluation import compare_results
from genpolicy.evaluation.records import align_columns, format_figure, format_interval
from genpolicy.evaluation.report import differences_table
from genpolicy.files import RunLock, lock_holder
from genpolicy.reporting.entries import Entry, read_entries, read_entry

__all__ = ["compare_text", "list_text", "removable", "remove_run", "show_text"]


def list_text(entries: Sequence[Entry]) -> str:
    """Return a line per run: method, task, seed, status, step, last figures, folder."""
    rows = [["method", "task", "seed", "status", "steps", "metric", "last", "best", "n", "folder"]]
    for e in entries:
        results = {v.checkpoint: v.result for v in e.evaluations}
        some = results.get("last") or results.get("best")
        steps = f"{e.step or 0}/{'?' if e.max_steps is None else e.max_steps}"
        figures = [
            format_figure(results[name].mean()) if name in results else "-"
            for name in ("last", "best")
        ]
        n = str(len(some.records)) if some else "-"
        metric = some.primary if some else _latest(e)
        head = [e.method, e.task, str(e.seed), e.status, steps]
        rows.append([*head, metric, *figures, n, str(e.folder)])
    lines = [align_columns(rows, right=(2, 4, 6, 7, 8))]
    notes = [f"{e.title}: {text}" for e in entries for text in (e.reason, *e.problems) if text]
    return "\n".join([*lines, *([""] if notes else []), *dict.fromkeys(notes)])


def _latest(entry: Entry) -> str:
    """Return the newest training figure of a run that has no evaluation."""
    for line in reversed(entry.metrics()):
        for key in ("eval/success", "val/loss", "train/loss"):
            if key in line:
                return f"{key} {format_figure(line[key])}"
    return "-"


def show_text(entry: Entry) -> str:
    """Return all that is known of a run."""
    facts = [
        ["method", entry.method],
        ["task", entry.task],
        ["seed", str(entry.seed)],
        ["status", f"{entry.status} ({entry.reason})" if entry.reason else entry.status],
        ["steps", f"{entry.step or 0} of {entry.max_steps}"],
        ["folder", str(entry.folder)],
        ["data", ", ".join(f"{k} {v}" for k, v in entry.dataset.items()) or "unknown"],
        ["attempts", str(entry.n_attempts) if entry.n_attempts else "unknown"],
        ["minutes", "unknown" if entry.seconds is None else f"{entry.seconds / 60:.1f}"],
        ["needs", ", ".join(f"{k} of {v}" for k, v in entry.needs.items()) or "no other job"],
        ["log", str(entry.log or "none")],
        ["command", entry.command],
    ]
    parts = [align_columns(facts)]
    newest: dict[str, tuple[int, float]] = {}
    for line in entry.metrics():
        newest |= {k: (line["step"], float(v)) for k, v in line.items() if k != "step"}
    if newest:
        rows = [["figure", "value", "step"]]
        rows += [[name, format_figure(value), str(step)] for name, (step, value) in newest.items()]
        parts.append(align_columns(rows, right=(1, 2)))
    parts += [f"evaluation of {v.checkpoint}: {v.result}" for v in entry.evaluations]
    parts += [f"problem: {text}" for text in entry.problems]
    return "\n\n".join(parts)


def compare_text(a: Entry, b: Entry) -> str:
    """Return the settings in which two runs differ, and their results on common episode seeds.

    The difference is that of these two policies: its interval is over episodes. What training
    again would give, only several seeds show (``genpolicy report``).
    """
    names = [str(a.folder), str(b.folder)]
    table = differences_table(dict(zip(names, (a.config, b.config), strict=True)))
    parts = [
        align_columns([["run", "", "status"], ["a", a.title, a.status], ["b", b.title, b.status]]),
        align_columns([["setting", "a", "b"], *(list(map(str, row)) for row in table.rows)]),
        table.caption,
    ]
    rows = [["checkpoint", "metric", "a", "b", "a - b", "95% interval", "common seeds"]]
    for first in a.evaluations:
        for second in b.evaluations:
            if first.checkpoint != second.checkpoint:
                continue
            x, y = first.result, second.result
            try:
                found = compare_results(x, y)
            except UsageError as error:
                parts.append(f"{first.checkpoint} is not compared: {error}")
                continue
            means = [format_figure(r.mean()) for r in (x, y)]
            figures = [*means, f"{found.mean:+.3f}", format_interval(found.interval)]
            rows.append([first.checkpoint, x.primary, *figures, str(found.n)])
    if len(rows) > 1:
        parts.append(align_columns(rows, right=(2, 3, 4, 6)))
    else:
        parts.append("No checkpoint was evaluated in both runs in a way that can be compared.")
    return "\n\n".join(parts)


def removable(path: str | Path) -> Entry:
    """Return the run of a folder that may be removed.

    Raises:
        UsageError: for a folder that is no run, is a job of a sweep that others need, or is in use.
    """
    folder = Path(path)
    if folder.is_symlink():
        raise UsageError(f"{folder} is a link; name the run's own folder")
    if (folder / "sweep.json").is_file():
        raise UsageError(f"{folder} is a sweep; `runs rm` removes single runs and jobs")
    is_job = (folder / "job.json").is_file()
    entries = read_entries([folder]) if is_job else [read_entry(folder)]
    if not entries:
        raise UsageError(f"{folder} is no job of its sweep")
    (entry,) = entries
    sweep = _sweep_of(folder)
    for place in filter(None, (folder, entry.folder, sweep)):
        holder = lock_holder(place)
        if holder is not None:
            raise UsageError(f"{place} is in use by {holder}; stop it first")
    if sweep is not None:
        users = [e.title for e in read_entries([sweep]) if entry.name in e.needs.values()]
        if users and is_job:
            raise UsageError(f"{folder} is needed by {users[0]} ({len(users)} in all)")
    return entry


def _sweep_of(folder: Path) -> Path | None:
    for parent in folder.resolve().parents:
        if (parent / "sweep.json").is_file():
            return parent
    return None


def remove_run(path: str | Path) -> None:
    """Remove a run's folder, or the files of a sweep's job, which then waits to be run again.

    Of a job the run, evaluations and log go; its description stays, so that
    ``genpolicy sweep resume=`` can repeat it. The folder is locked while it is emptied.

    Raises:
        UsageError: as ``removable``.
    """
    folder = Path(path)
    removable(folder)
    if (folder / "job.json").is_file():
        run = folder / "run"
        if run.is_dir():
            with RunLock(run):
                shutil.rmtree(run)
        shutil.rmtree(folder / "evaluations", ignore_errors=True)
        (folder / "log.txt").unlink(missing_ok=True)
        return
    with RunLock(folder):
        shutil.rmtree(folder)
