"""The report of a sweep: one page that needs nothing else, tables in three formats, pictures.

::

    report.html     the page
    report.md       its tables
    report.tex      its tables for LaTeX (booktabs)
    report.csv      every metric of every cell with all digits
    plots/          its pictures as PNG
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from genpolicy import __version__
from genpolicy.errors import UsageError, nearest
from genpolicy.evaluation.page import (
    Block,
    Details,
    Figure,
    Film,
    Section,
    Table,
    Text,
    render_report,
)
from genpolicy.evaluation.tables import to_csv, to_latex, to_markdown
from genpolicy.files import write_bytes
from genpolicy.reporting.cells import Cell, cells_of, checkpoint_rank
from genpolicy.reporting.comparison import (
    aggregate_table,
    compare_methods,
    improvement_table,
    order_table,
    overview_table,
    paired_table,
    published_table,
)
from genpolicy.reporting.entries import Sweep
from genpolicy.reporting.figures import Figures, details_tables, figures_of, figures_table
from genpolicy.reporting.pictures import (
    aggregate_picture,
    films,
    improvement_picture,
    interval_pictures,
    learning_pictures,
    profile_picture,
    weight_curves,
)
from genpolicy.reporting.sections import (
    commands,
    configurations,
    environment,
    failures,
    head_facts,
    runs_table,
    warnings_of,
)

__all__ = ["Format", "Report", "build_report", "write_report_files"]

Format = Literal["html", "md", "csv", "latex"]
_FILES: dict[Format, str] = {
    "html": "report.html",
    "md": "report.md",
    "csv": "report.csv",
    "latex": "report.tex",
}


@dataclass(frozen=True)
class Report:
    """A report before it is written.

    Args:
        title: of the page.
        subtitle: line below it.
        sections: in order.
        figures: every metric of every cell.
    """

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    figures: tuple[Figures, ...]

    def text(self, kind: Format) -> str:
        """Return the report in a format."""
        if kind == "html":
            return render_report(self.title, self.sections, subtitle=self.subtitle)
        if kind == "csv":
            table = figures_table(self.figures)
            return to_csv(table.columns, table.rows)
        parts = [f"# {self.title}\n\n{self.subtitle}\n"] if kind == "md" else []
        for section in self.sections:
            blocks = list(_unfolded(section.blocks))
            tables = [block for block in blocks if isinstance(block, Table) and block.rows]
            texts = [block.text for block in blocks if isinstance(block, Text)]
            if kind == "latex":
                parts += [to_latex(t.columns, t.rows, caption=t.caption) for t in tables]
            elif tables or texts:
                parts.append(f"## {section.title}\n")
                parts += [f"{text}\n" for text in texts]
                parts += [
                    (f"{t.caption}\n\n" if t.caption else "") + to_markdown(t.columns, t.rows)
                    for t in tables
                ]
        return "\n".join(parts)

    def pictures(self) -> dict[str, bytes]:
        """Return its pictures and filmstrips for light pages, by file name."""
        found: dict[str, bytes] = {}
        for section in self.sections:
            for block in _unfolded(section.blocks):
                data = {Figure: "png", Film: "filmstrip"}.get(type(block))
                if data is not None:
                    found[_file_name(block, found)] = getattr(block, data)
        return found


def _unfolded(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        if isinstance(block, Details):
            yield from _unfolded(block.blocks)
        else:
            yield block


def _file_name(block: Block, taken: dict[str, bytes]) -> str:
    text = str(getattr(block, "alt", "picture")).lower()
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip("-")[:80]
    while "--" in name:
        name = name.replace("--", "-")
    n = sum(other == f"{name}.png" or other.startswith(f"{name}~") for other in taken)
    return f"{name}.png" if n == 0 else f"{name}~{n}.png"


def build_report(sweep: Sweep, *, baseline: str | None = None, videos: bool = False) -> Report:
    """Return the report of a sweep.

    Args:
        sweep: its jobs, finished or not.
        baseline: method that the others are compared with; None for the first.
        videos: whether films go into the page, and not their filmstrips alone.

    Raises:
        UsageError: for an unknown baseline, or two runs that nothing sets apart.
    """
    cells = cells_of(sweep.entries)
    paired = _paired(cells, baseline)
    figures = figures_of(cells)
    sections = [
        Section("Overview", _overview(sweep, cells)),
        Section("Results", _results(cells, figures)),
        Section("Over tasks", _over_tasks(cells, baseline)),
        Section("Paired differences", paired),
        Section("Published scores", _published(cells)),
        Section(
            "Learning",
            learning_pictures(sweep.reported, {cell.task: cell.primary for cell in cells}),
        ),
        Section("Weights", weight_curves(sweep)),
        Section("Rollouts", films(cells, videos=videos)),
        Section("Configurations", configurations(sweep)),
        Section("Runs", [runs_table(sweep), commands(sweep)]),
        Section("Not finished", failures(sweep)),
        Section("Environment", environment(sweep, cells)),
    ]
    n_finished = sum(entry.status == "finished" for entry in sweep.entries)
    subtitle = f"{n_finished} of {len(sweep.entries)} runs finished; genpolicy {__version__}"
    kept = tuple(section for section in sections if section.blocks)
    return Report(f"Report of {sweep.name}", subtitle, kept, tuple(figures))


def write_report_files(
    report: Report, folder: str | Path, *, formats: Sequence[Format] = get_args(Format)
) -> list[Path]:
    """Write a report, its pictures too where it is written in every format.

    Args:
        report: what ``build_report`` made.
        folder: where the files go; created when missing.
        formats: some of ``"html"``, ``"md"``, ``"csv"`` and ``"latex"``.

    Raises:
        UsageError: for an unknown format.
    """
    written = []
    for kind in formats:
        if kind not in _FILES:
            raise UsageError(f"unknown format {kind!r}; {nearest(kind, _FILES)}")
        target = Path(folder) / _FILES[kind]
        write_bytes(target, report.text(kind).encode())
        written.append(target)
    if set(formats) == set(_FILES):
        for name, data in report.pictures().items():
            write_bytes(Path(folder) / "plots" / name, data)
        written.append(Path(folder) / "plots")
    return written


def _checkpoints(cells: Sequence[Cell]) -> list[str]:
    """Return the checkpoints that were evaluated, ``last`` first and ``best`` second."""
    names = dict.fromkeys(cell.checkpoint for cell in cells)
    return sorted(names, key=lambda name: (checkpoint_rank(name), name))


def _overview(sweep: Sweep, cells: Sequence[Cell]) -> list[Block]:
    blocks: list[Block] = [head_facts(sweep)]
    blocks += [overview_table(cells, name) for name in _checkpoints(cells)]
    if not cells:
        blocks.append(Text("No run has a complete evaluation yet."))
    lines = warnings_of(sweep, cells)
    if lines:
        blocks.append(Table(["what", "to know"], lines, "Read before quoting a number"))
    return blocks


def _results(cells: Sequence[Cell], figures: Sequence[Figures]) -> list[Block]:
    blocks: list[Block] = []
    for table in details_tables(figures):
        on_task = [cell for cell in cells if cell.task == table.caption]
        blocks += [interval_pictures(on_task)[table.caption], table]
    return blocks


def _over_tasks(cells: Sequence[Cell], baseline: str | None) -> list[Block]:
    blocks: list[Block] = []
    for checkpoint in (c for c in _checkpoints(cells) if c in ("last", "best")):
        comparison = compare_methods(cells, checkpoint)
        if not comparison.methods:
            continue
        inside: list[Block] = [aggregate_picture(comparison), aggregate_table(comparison)]
        inside += [profile_picture(comparison), improvement_table(comparison)]
        shown = improvement_picture(comparison, baseline)
        inside += [] if shown is None else [shown]
        if comparison.left_out:
            inside.append(Text("Left out. " + ". ".join(comparison.left_out) + "."))
        blocks += inside if not blocks else [Details(f"Checkpoint {checkpoint}", inside)]
    return blocks


def _paired(cells: Sequence[Cell], baseline: str | None) -> list[Block]:
    tables = [paired_table(cells, name, baseline) for name in _checkpoints(cells)]
    return [table for table in tables if table.rows]


def _published(cells: Sequence[Cell]) -> list[Block]:
    table = published_table(cells)
    orders = [order_table(cells, name) for name in _checkpoints(cells)]
    blocks: list[Block] = [block for block in (table, *orders) if block.rows]
    return blocks
