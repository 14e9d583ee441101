"""Execute the tutorials as notebooks, and record the numbers that they check.

python experiments/tutorials/build.py [NAME ...]     for example 01_mean; none is all
python experiments/tutorials/build.py --text         cells from the scripts, nothing executed

Needs the extra ``docs``. A notebook keeps its outputs; ``results.csv`` has one row per number.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.csv"
COLUMNS = ("tutorial", "quantity", "measured", "expected", "tolerance")
LARGEST = 300_000
"""Bytes of a notebook."""


@dataclass(frozen=True)
class Cell:
    """One cell of a script in percent format.

    Args:
        kind: ``"markdown"`` or ``"code"``.
        source: its text, without the comment signs of markdown.
    """

    kind: str
    source: str


def scripts() -> list[Path]:
    """Return the tutorials in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def cells_of(script: Path) -> list[Cell]:
    """Return the cells of a script.

    Raises:
        ValueError: when it does not start with a cell, or a line of markdown is no comment.
    """
    cells: list[Cell] = []
    block: list[str] | None = None
    kind = "code"

    def close() -> None:
        if block is None:
            return
        text = "\n".join(block).strip("\n")
        if kind == "markdown":
            lines = text.split("\n")
            if any(not line.startswith("#") for line in lines):
                raise ValueError(f"{script.name}: a markdown cell has a line that is no comment")
            text = "\n".join(line[2:] for line in lines)
        cells.append(Cell(kind, text))

    for line in script.read_text(encoding="utf-8").splitlines():
        if line.startswith("# %%"):
            close()
            kind, block = ("markdown" if "[markdown]" in line else "code"), []
        elif block is None:
            raise ValueError(f"{script.name}: the first line has to start a cell with '# %%'")
        else:
            block.append(line)
    close()
    return cells


def notebook_of(script: Path) -> dict[str, Any]:
    """Return a notebook with the cells of a script and without outputs."""
    cells: list[dict[str, Any]] = []
    for number, cell in enumerate(cells_of(script)):
        entry: dict[str, Any] = {
            "cell_type": cell.kind,
            "id": f"cell-{number:02d}",
            "metadata": {},
            "source": cell.source,
        }
        if cell.kind == "code":
            entry |= {"execution_count": None, "outputs": []}
        cells.append(entry)
    spec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": spec, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def execute(script: Path, record: Path) -> None:
    """Run a tutorial in a fresh kernel and write its notebook; numbers are added to ``record``."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.from_dict(notebook_of(script))
    os.environ["GENPOLICY_TUTORIALS_CSV"] = str(record)
    os.environ["GENPOLICY_TUTORIALS_NAME"] = script.stem
    os.environ.pop("GENPOLICY_TUTORIALS", None)
    client = NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(HERE)}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata = {}  # times of the execution
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    if len(text.encode()) > LARGEST:
        raise SystemExit(f"{script.stem}: {len(text.encode())} bytes, at most {LARGEST} are wanted")
    script.with_suffix(".ipynb").write_text(text, encoding="utf-8")
    print(f"{script.stem}: {len(text.encode()) / 1000:.0f} kB")


def merge(fresh: Path, executed: Sequence[str]) -> None:
    """Replace the rows of the executed tutorials in ``results.csv``."""
    kept: list[list[str]] = []
    if RESULTS.exists():
        with open(RESULTS, encoding="utf-8", newline="") as file:
            kept = [row for row in csv.reader(file) if row[0] not in (*executed, COLUMNS[0])]
    with open(fresh, encoding="utf-8", newline="") as file:
        kept += list(csv.reader(file))
    kept.sort(key=lambda row: row[0])  # stable: the order within a tutorial stays
    with open(RESULTS, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *kept])


def main() -> None:
    """Build the notebooks that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="tutorials, for example 01_mean")
    parser.add_argument("--text", action="store_true", help="do not execute; outputs are lost")
    arguments = parser.parse_args()
    chosen = [s for s in scripts() if not arguments.names or s.stem in arguments.names]
    if not chosen:
        raise SystemExit(
            f"no tutorial of {arguments.names}; there are {[s.stem for s in scripts()]}"
        )
    fresh = HERE / ".results-fresh.csv"
    try:
        for script in chosen:
            if arguments.text:
                text = json.dumps(notebook_of(script), indent=1, ensure_ascii=False) + "\n"
                script.with_suffix(".ipynb").write_text(text, encoding="utf-8")
            else:
                fresh.write_text("", encoding="utf-8")
                execute(script, fresh)
                merge(fresh, [script.stem])
    finally:
        fresh.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
