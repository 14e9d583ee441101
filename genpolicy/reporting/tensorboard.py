"""Names for TensorBoard: links from method, task and seed to the event files of a sweep's jobs.

TensorBoard names runs after their folders, and jobs are named by a hash. ``link_tensorboard`` makes
``sweeps/NAME/tensorboard/METHOD/TASK/seed-N``, which follow the jobs while they run.
"""

from __future__ import annotations

import os
from pathlib import Path

from genpolicy.files import swap_link
from genpolicy.reporting.entries import Entry, Sweep

__all__ = ["link_tensorboard"]


def link_tensorboard(sweep: Sweep) -> Path | None:
    """Make or renew the links of a sweep and return the folder for ``tensorboard --logdir``.

    Returns:
        The folder; None for runs that are no sweep, and where no job has event files yet.
    """
    root = sweep.folder / "tensorboard"
    made = False
    for entry in sweep.entries:
        events = entry.folder / "tensorboard"
        if not (sweep.folder / "sweep.json").is_file() or not events.is_dir():
            continue
        link = root / _safe(entry.method) / _safe(entry.task) / _leaf(entry)
        link.parent.mkdir(parents=True, exist_ok=True)
        made = True
        if not link.is_symlink() or os.path.realpath(link) != os.path.realpath(events):
            swap_link(link, events)
    return root if made else None


def _leaf(entry: Entry) -> str:
    return f"seed-{_safe(str(entry.seed))}"


def _safe(name: str) -> str:
    """Return a name that is one folder."""
    kept = "".join(c if c.isalnum() or c in "-_.=+" else "-" for c in name)
    return kept.strip(".") or "unnamed"
