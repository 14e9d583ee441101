"""`genpolicy report`: the report of a sweep or of runs, as a page, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from genpolicy.errors import UsageError, nearest

__all__ = ["HELP", "run"]

HELP = """\
usage: genpolicy report PATH... [--format html|md|csv|latex] [--videos] [baseline=METHOD] [out=DIR]

Write the report of a sweep, or of runs: tables with intervals, pictures, commands, failures.

  genpolicy report sweeps/d4rl_mini                 report.html, .md, .csv, .tex and plots/ in it
  genpolicy report sweeps/d4rl_mini --format md     report.md alone
  genpolicy report sweeps/d4rl_mini --videos        films inside the page, not their strips alone
  genpolicy report runs/a runs/b out=comparison     of runs that were trained one by one
  genpolicy report sweeps/d4rl_mini baseline=iql    differences and probabilities against iql

Runs that failed, are unfinished, or were evaluated in another way are shown and never averaged.
`tensorboard --logdir sweeps/NAME/tensorboard` shows the runs by method, task and seed.
"""


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0 or raises an error with its own exit code."""
    from genpolicy.cli.arguments import read_options
    from genpolicy.reporting.build import Format, build_report, write_report_files
    from genpolicy.reporting.entries import Sweep as Runs
    from genpolicy.reporting.entries import read_entries, read_sweep
    from genpolicy.reporting.tensorboard import link_tensorboard

    formats = get_args(Format)
    given = _joined(argv)
    paths = [a for a in given if not a.startswith("-") and "=" not in a]
    options, flags = read_options(
        [a for a in given if a not in paths],
        known=("format", "baseline", "out"),
        flags=("--videos",),
    )
    if not paths:
        raise UsageError("report needs a sweep or runs, for example: genpolicy report sweeps/NAME")
    wanted: tuple[Any, ...] = formats
    if "format" in options:
        if options["format"] not in formats:
            raise UsageError(
                f"unknown format {options['format']!r}; {nearest(str(options['format']), formats)}"
            )
        wanted = (options["format"],)
    sweep = read_sweep(paths[0])
    if len(paths) > 1:
        folder = Path(str(options.get("out") or "report"))
        sweep = Runs(name="runs", folder=folder, entries=tuple(read_entries(paths)))
    report = build_report(
        sweep,
        baseline=None if options.get("baseline") is None else str(options["baseline"]),
        videos="--videos" in flags,
    )
    out = Path(str(options.get("out") or sweep.folder))
    for path in write_report_files(report, out, formats=wanted):
        print(path)
    events = link_tensorboard(sweep)
    if events is not None:
        print(f"curves: tensorboard --logdir {events}")
    return 0


def _joined(argv: Sequence[str]) -> list[str]:
    """Return arguments with ``--format X`` and ``--format=X`` written as ``format=X``."""
    found: list[str] = []
    for argument in argv:
        if found and found[-1] == "--format":
            found[-1] = f"format={argument}"
        else:
            found.append(argument)
    if "--format" in found:
        raise UsageError("--format needs one of html, md, csv, latex")
    return [a.removeprefix("--") if a.startswith("--format=") else a for a in found]
