"""Tables as text: Markdown, csv and LaTeX, with few digits for people and all of them for csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TypeAlias

from genpolicy.errors import UsageError
from genpolicy.evaluation.records import format_figure

__all__ = [
    "Cell",
    "begins_with_number",
    "cell_text",
    "check_rows",
    "to_csv",
    "to_latex",
    "to_markdown",
]

Cell: TypeAlias = str | float | int
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def check_rows(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Check that every row has an entry for every column.

    Raises:
        UsageError: for one that has not.
    """
    for row in rows:
        if len(row) != len(columns):
            raise UsageError(f"Table: a row has {len(row)} entries, expected {len(columns)}: {row}")


def cell_text(value: Cell) -> str:
    """Return an entry as people read it."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) else format_figure(value)


def begins_with_number(text: str) -> bool:
    """Return whether a text is a figure, alone or with an interval or unit behind it."""
    stripped = text.lstrip("+-\u2212")
    return text == "-" or stripped[:1].isdigit()


def to_markdown(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table in GitHub's Markdown."""
    lines = [[*columns], ["---"] * len(columns), *([cell_text(v) for v in row] for row in rows)]
    escaped = [[text.replace("|", r"\|").replace("\n", " ") for text in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped) + "\n"


def to_csv(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table as csv with figures in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


def to_latex(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str = "") -> str:
    """Return a table for LaTeX with the package booktabs."""
    texts = [[cell_text(value) for value in row] for row in rows]
    sides = "".join(
        "r" if i and texts and all(begins_with_number(row[i]) for row in texts) else "l"
        for i in range(len(columns))
    )
    lines = [" & ".join(escape_latex(text) for text in row) + r" \\" for row in [columns, *texts]]
    body = "\n".join(lines[1:])
    title = f"\\caption{{{escape_latex(caption)}}}\n" if caption else ""
    return (
        f"\\begin{{table}}\n\\centering\n{title}\\begin{{tabular}}{{{sides}}}\n\\toprule\n{lines[0]}\n"
        f"\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def escape_latex(text: str) -> str:
    """Return a text with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(character, character) for character in text)
