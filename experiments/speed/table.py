"""Tables with the rows of several processors: a run replaces those of its own."""

from __future__ import annotations

import csv
import platform
from pathlib import Path

__all__ = ["processor", "save"]


def processor() -> str:
    """Return the name of this machine's processor, as the system gives it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def save(file: Path, rows: list[dict]) -> None:
    """Write rows, with a first column for the processor, behind those of other processors."""
    own = [{"processor": processor(), **row} for row in rows]
    others: list[dict] = []
    if file.is_file():
        with open(file, newline="", encoding="utf-8") as old:
            others = [row for row in csv.DictReader(old) if row["processor"] != processor()]
    with open(file, "w", newline="", encoding="utf-8") as new:
        writer = csv.DictWriter(new, fieldnames=list(own[0]), restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(others + own)
