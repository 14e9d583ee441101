"""Sweeps: many runs from one description, resumable, on one machine or many.

A sweep is a folder of jobs keyed by their resolved configuration, and a ledger of what happened to
them (``folder.py``). ``expand`` makes the jobs, a launcher runs ``run_job`` for each of them, and
``run_sweep`` decides which are due.
"""

from genpolicy.sweeps.expand import Axis, Method, SweepPlan, Task, expand
from genpolicy.sweeps.folder import JobState, SweepFolder
from genpolicy.sweeps.jobs import Job, job_key
from genpolicy.sweeps.launchers import (
    JoblibLauncher,
    Launcher,
    LocalLauncher,
    Outcome,
    RayLauncher,
    SlurmLauncher,
)
from genpolicy.sweeps.runner import run_sweep
from genpolicy.sweeps.worker import run_job

__all__ = [
    "Axis",
    "Job",
    "JobState",
    "JoblibLauncher",
    "Launcher",
    "LocalLauncher",
    "Method",
    "Outcome",
    "RayLauncher",
    "SlurmLauncher",
    "SweepFolder",
    "SweepPlan",
    "Task",
    "expand",
    "job_key",
    "run_job",
    "run_sweep",
]
