"""`genpolicy doctor`: look at the installation and say what to mend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from genpolicy.cli import checks
from genpolicy.cli.checks import Row
from genpolicy.errors import UsageError

__all__ = ["HELP", "run"]

HELP = """\
usage: genpolicy doctor

Check this installation: versions against the tested ones, devices, the compiled operators, the
simulator, off-screen rendering, data sets, disk space. Each row is OK, WARN (something is limited),
FAIL (training or evaluation on maze2d cannot run) or off (an optional part left out), with what to
do about it. Exits with 0 when nothing failed, else 1. It takes about ten seconds.

example:
  genpolicy doctor                 paste its output into a bug report
"""

_CHECKS: tuple[Callable[[], Iterable[Row]], ...] = (
    checks.check_python,
    checks.check_packages,
    checks.check_lightning_release,
    checks.check_device,
    checks.check_main_job,
    checks.check_rendering,
    checks.check_data,
    checks.check_disk,
)

_STYLES = {"OK": "green", "WARN": "yellow", "FAIL": "bold red", "off": "dim"}
_PLAIN_WIDTH = 160


def run(argv: Sequence[str]) -> int:
    """Print the report; returns 0 when nothing failed, else 1."""
    if argv:
        raise UsageError(f"doctor takes no arguments, got {' '.join(argv)!r}")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PLAIN_WIDTH)
    rows: list[Row] = []
    with console.status("checking"):
        for check in _CHECKS:
            rows += _rows_of(check)
    console.print(_table(rows))
    failed = [row for row in rows if row.status == "FAIL"]
    warned = sum(row.status == "WARN" for row in rows)
    if failed:
        names = ", ".join(row.name for row in failed)
        console.print(f"[bold red]{len(failed)} failed[/] ({names}), {warned} warnings")
        return 1
    console.print(f"Training and evaluation can run; {warned} warnings.")
    return 0


def _rows_of(check: Callable[[], Iterable[Row]]) -> list[Row]:
    """Run one check; a broken dependency that stops the check itself is reported as its row."""
    rows: list[Row] = []
    try:
        for row in check():
            rows.append(row)  # one by one: those before an error are kept
    except (ImportError, OSError, RuntimeError) as error:
        name = check.__name__.removeprefix("check_")
        found = f"{type(error).__name__}: {error}"
        rows.append(Row(name, name, "FAIL", found, "reinstall: pip install 'genpolicy[sim]'"))
    return rows


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "status", "what", "found", "what to do"):
        table.add_column(title, overflow="fold", no_wrap=title in ("", "status"))
    group = ""
    for row in rows:
        heading = row.group if row.group != group else ""
        if heading and group:
            table.add_row()
        group = row.group
        table.add_row(
            Text(heading, style="bold"),
            Text(row.status, style=_STYLES[row.status]),
            Text(row.name),
            Text(row.found),
            Text(row.remedy),
        )
    return table
