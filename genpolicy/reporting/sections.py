"""The parts of a report that say where numbers come from: runs, commands, versions, failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from genpolicy.evaluation.page import Block, Code, Details, Facts, Table, Text
from genpolicy.evaluation.records import count
from genpolicy.evaluation.report import differences_table
from genpolicy.reporting.cells import Cell, config_of_method
from genpolicy.reporting.entries import Entry, Sweep

__all__ = [
    "commands",
    "configurations",
    "environment",
    "failures",
    "head_facts",
    "runs_table",
    "warnings_of",
]

_LOG_LINES = 15
_FEW_SEEDS = 5


def head_facts(sweep: Sweep) -> Facts:
    """Return what the sweep is and how far it has come."""
    status = Counter(entry.status for entry in sweep.entries)
    seconds = [entry.seconds for entry in sweep.entries if entry.seconds is not None]
    facts = {
        "created": sweep.created,
        "command": sweep.command,
        "runs": ", ".join(f"{n} {name}" for name, n in status.items()),
        "compute": f"{sum(seconds) / 60:,.0f} minutes of all runs together" if seconds else "",
        "launcher": ", ".join(f"{k}={v}" for k, v in sweep.launcher.items()),
    }
    return Facts({name: text for name, text in facts.items() if text})


def warnings_of(sweep: Sweep, cells: Sequence[Cell]) -> list[list[str]]:
    """Return what a reader has to know before quoting a number: what, and what about it."""
    found: list[list[str]] = []
    for cell in cells:
        where = f"{cell.label}, {cell.task}, {cell.checkpoint}"
        if len(cell.results) < cell.n_expected:
            found.append([where, f"{cell.n_text}: runs are missing, see 'Not finished'"])
        if cell.variant:
            found.append([where, "not averaged with others of its name, which differ in this"])
        shares = max(result.clipped_share for result in cell.results)
        if shares > 0.05:
            found.append([where, f"up to {shares:.0%} of the actions of a run were clipped"])
        tags = sum((Counter(result.tags) for result in cell.results), Counter[str]())
        if tags:
            found.append([where, "; ".join(f"{n} episodes with {t}" for t, n in tags.items())])
        changed = {r.facts().get("changed since training") for r in cell.results} - {None}
        if changed:
            found.append(
                [where, f"simulator changed since training: {', '.join(map(str, changed))}"]
            )
    for task in dict.fromkeys(cell.task for cell in cells):
        on_task = [cell for cell in cells if cell.task == task]
        notes = dict.fromkeys(r.note for cell in on_task for r in cell.results if r.note)
        found += [[task, note] for note in notes]
        kinds = dict.fromkeys(cell.facts["data"] for cell in on_task)
        if set(kinds) != {"official"}:
            found.append([task, f"trained on data of this kind: {', '.join(kinds)}"])
        if len({cell.place for cell in on_task}) > 1:
            found.append([task, "methods differ in data or simulator and are not compared"])
    few = min((len(cell.results) for cell in cells), default=_FEW_SEEDS)
    if few < _FEW_SEEDS:
        found.append(
            [
                "intervals over seeds",
                f"with {count(few, 'training seed')} a bootstrap over seeds is too narrow (of 3 "
                "seeds it covers about 73% instead of 95%); the t interval over seeds is not, and "
                "is wide; it is about training again on these episodes",
            ]
        )
    found.append(
        [
            "best",
            "the best of several checkpoints of a run is chosen by a figure of that run; it is an "
            "upper reading, and last is the one to quote",
        ]
    )
    return found if cells else []


def configurations(sweep: Sweep) -> list[Block]:
    """Return the settings in which methods differ, and those that differ within a method."""
    by_method: dict[str, list[Entry]] = {}
    for entry in sweep.entries:
        by_method.setdefault(entry.method, []).append(entry)
    merged = {method: _merged(entries) for method, entries in by_method.items()}
    if len(merged) < 2:
        (only,) = merged.values() or ({},)
        rows = [[key, value] for key, value in only.items() if " / " in value]
        return [Table(["setting", "values"], rows, "Settings that differ between runs.")]
    caption = "Settings in which methods differ; a / b where they differ between a method's runs."
    return [differences_table(merged, caption=caption)]


def _merged(entries: Sequence[Entry]) -> dict[str, str]:
    """Return every setting of several runs, with all its values where they differ."""
    configs = [config_of_method(entry) for entry in entries]
    keys = dict.fromkeys(key for config in configs for key in config)
    found = {}
    for key in keys:
        values = list(dict.fromkeys(config.get(key, "-") for config in configs))
        shown = values if len(values) <= 4 else [*values[:3], f"({len(values) - 3} more)"]
        found[key] = " / ".join(shown)
    return found


def runs_table(sweep: Sweep) -> Table:
    """Return every run with its state."""
    rows: list[list[str | float | int]] = []
    for e in sweep.entries:
        steps = "-" if e.step is None else f"{e.step} of {e.max_steps}"
        figures = {v.checkpoint: v.result.mean() for v in e.evaluations}
        rows.append(
            [
                e.method if e.is_reported else f"{e.method} (serves others)",
                e.task,
                str(e.seed),
                e.status,
                steps,
                figures.get("last", "-"),
                figures.get("best", "-"),
                "-" if e.seconds is None else f"{e.seconds / 60:.1f}",
                e.n_attempts or "-",
                e.name,
            ]
        )
    columns = ["method", "task", "seed", "status", "steps", "last", "best", "minutes", "attempts"]
    return Table([*columns, "folder"], rows, "All runs; last and best are means of one run.")


def commands(sweep: Sweep) -> Details:
    """Return the exact command of every run, folded away."""
    text = "\n\n".join(f"# {e.title} ({e.name})\n{e.command}" for e in sweep.entries)
    return Details("The exact command of each run", [Code(text)])


def failures(sweep: Sweep) -> list[Block]:
    """Return every run and evaluation that is not complete, with its reason and end of its log."""
    unfinished = [e for e in sweep.entries if e.status != "finished" or e.problems]
    if not unfinished:
        return [Text("Every run is finished, and every evaluation is complete.")]
    rows = [
        [e.title, e.status, "; ".join(dict.fromkeys([*filter(None, [e.reason]), *e.problems]))]
        for e in unfinished
    ]
    blocks: list[Block] = [Table(["run", "status", "reason"], rows, "None of them is averaged.")]
    for e in unfinished:
        if e.log is not None and e.status in ("failed", "interrupted"):
            tail = e.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
            if tail:
                blocks.append(Details(f"End of the log: {e.title}", [Code("\n".join(tail))]))
    return blocks


def environment(sweep: Sweep, cells: Sequence[Cell]) -> list[Block]:
    """Return versions: of the sweep, of the evaluations, of the simulators by task."""
    blocks: list[Block] = []
    if sweep.versions:
        blocks.append(Facts({"sweep": _packages(sweep.versions)}))
    versions = Counter(_packages(r.versions) for cell in cells for r in cell.results)
    facts = {
        f"evaluations ({n})" if len(versions) > 1 else "evaluations": text
        for text, n in versions.most_common()
    }
    blocks.append(Facts(facts))
    rows = {
        (cell.task, cell.facts["simulator"], cell.facts["data"], cell.facts["data set"])
        for cell in cells
    }
    if rows:
        columns = ["task", "simulator", "kind of data", "data set and fingerprint"]
        blocks.append(Table(columns, sorted(map(list, rows))))
    protocols = {
        (c.task, c.label, c.facts["episodes"], c.facts["executed actions"], c.facts["policy"])
        for c in cells
    }
    if protocols:
        columns = ["task", "method", "episode seeds", "executed actions", "policy"]
        table = Table(columns, sorted(map(list, protocols)))
        blocks.append(Details("Protocol of every method", [table]))
    return blocks


def _packages(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
