"""`genpolicy runs`: list, show, compare and remove training runs and the jobs of sweeps."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from genpolicy.errors import UsageError, nearest

__all__ = ["HELP", "run"]

HELP = """\
usage: genpolicy runs list [PATH...]         status, step and last figures of every run below PATH
       genpolicy runs show RUN               all that is known of one run
       genpolicy runs compare RUN RUN        differing settings, results on common episode seeds
       genpolicy runs rm RUN... [--yes]      remove runs; asks first

  genpolicy runs list runs sweeps/d4rl_mini
  genpolicy runs compare runs/pusht_flow/seed-0 runs/pusht_flow/seed-1
  genpolicy runs rm sweeps/d4rl_mini/jobs/0f3a91c2b7d84e65     the job waits to be run again

A run that is in use, a job that others need, and what is no run are not removed.
"""

_ACTIONS = ("list", "show", "compare", "rm")


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0 or raises an error with its own exit code."""
    from genpolicy.reporting.entries import Entry, read_entries
    from genpolicy.reporting.manage import compare_text, list_text, show_text

    if not argv or argv[0] not in _ACTIONS:
        given = argv[0] if argv else ""
        raise UsageError(f"runs: unknown action {given!r}; {nearest(given, _ACTIONS)}")
    action, rest = argv[0], list(argv[1:])
    flags = [a for a in rest if a.startswith("-")]
    paths = [a for a in rest if not a.startswith("-")]
    allowed = ("--yes",) if action == "rm" else ()
    unknown = [flag for flag in flags if flag not in allowed]
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}; see `genpolicy runs --help`")
    if action == "list":
        print(list_text(read_entries(paths or ["."])))
        return 0
    if action == "rm":
        return _remove(paths, ask="--yes" not in flags)
    n = 2 if action == "compare" else 1
    if len(paths) != n:
        raise UsageError(f"runs {action} needs {n} run(s), got {len(paths)}")

    def one(path: str) -> Entry:
        entries = read_entries([path])
        if len(entries) != 1:
            raise UsageError(f"{path} holds {len(entries)} runs; name one of them")
        return entries[0]

    found = [one(path) for path in paths]
    print(compare_text(*found) if action == "compare" else show_text(found[0]))
    return 0


def _remove(paths: Sequence[str], *, ask: bool) -> int:
    """Remove runs after all of them were checked."""
    from genpolicy.reporting.manage import removable, remove_run

    if not paths:
        raise UsageError("runs rm needs the folder of a run")
    entries = [removable(path) for path in paths]
    for path, entry in zip(paths, entries, strict=True):
        print(f"{path}: {entry.title}, {entry.status}")
    if ask:
        if not sys.stdin.isatty():
            raise UsageError("runs rm asks before it removes; there is no terminal: add --yes")
        if input(f"remove {len(paths)} run(s)? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing removed")
            return 0
    for path in paths:
        remove_run(path)
        print(f"removed {path}")
    return 0
