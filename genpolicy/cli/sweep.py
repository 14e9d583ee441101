"""`genpolicy sweep`: many trainings and evaluations, resumable, here or on a cluster."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from genpolicy.config import build
from genpolicy.errors import IncompleteEvaluationError, UsageError

if TYPE_CHECKING:
    from genpolicy.cli.sweep_plan import SweepRequest
    from genpolicy.sweeps import Job, Launcher, Outcome, SweepFolder
    from genpolicy.sweeps.runner import Standing

__all__ = ["HELP", "run"]

HELP = """\
usage: genpolicy sweep sweep=NAME [key=value ...]
       genpolicy sweep algorithm=A,B task=T,U seed=0,1,2 [key=value ...]
       genpolicy sweep resume=FOLDER

Train and evaluate every combination of methods, tasks and seeds. What is done stays done: the same
command again, or resume=FOLDER, runs what is missing, and continues what was stopped in between.

  genpolicy sweep sweep=d4rl_mini                       configs/sweep/d4rl_mini.yaml
  genpolicy sweep sweep=d4rl_mini --dry-run             list the jobs, and what is missing
  genpolicy sweep sweep=d4rl_mini budget=600            stop after ten minutes; continue later
  genpolicy sweep algorithm=dql,fql task=maze2d-umaze seed=0,1,2 evaluate.n_episodes=50
  genpolicy sweep algorithm=eda algorithm.beta=0.5,1 task=maze2d-umaze trainer.max_steps=1000
  genpolicy sweep sweep=d4rl_mini launcher.n_jobs=4     four jobs at a time
  genpolicy sweep sweep=d4rl_mini launcher=joblib       or ray, or slurm launcher.partition=gpu
  genpolicy sweep algorithm=fql task=maze2d-umaze sweeper=optuna \\
    'algorithm.alpha=tag(log,interval(0.01,10))' sweeper.n_trials=20
  genpolicy sweep resume=sweeps/NAME --retry-failed     also those that failed

Entries of configs/sweep.yaml are the sweep's own, all others are overrides of `genpolicy train`.
Results are in sweeps/NAME; `genpolicy report sweeps/NAME` compares them.
"""

_FLAGS = ("--dry-run", "--retry-failed")


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0 when all jobs are done, 7 when some are missing or failed."""
    flags = [a for a in argv if a.startswith("-")]
    for flag in flags:
        if flag not in _FLAGS:
            raise UsageError(f"unknown option {flag!r}; see `genpolicy sweep --help`")
    given = [a for a in argv if not a.startswith("-")]
    if not given:
        raise UsageError("nothing to sweep; see `genpolicy sweep --help`")
    from genpolicy.cli.compose_config import compose_config
    from genpolicy.cli.sweep_plan import read_sweep
    from genpolicy.sweeps import SweepFolder, expand

    resumed = [a.removeprefix("resume=") for a in given if a.startswith("resume=")]
    if resumed:
        own = [a for a in given if not a.startswith("resume=")]
        _check_resumed(own)
        folder = SweepFolder(resumed[0].strip("'\""))
        before = folder.content()
        settings = compose_config("sweep", own)
        if not any(a.startswith("launcher") for a in own):
            settings["launcher"] = before["launcher"]
        command = str(before["command"])
        request = read_sweep(shlex.split(command)[2:]) if before.get("is_search") else None
    else:
        request = read_sweep(given)
        settings = dict(request.settings)
        folder = SweepFolder(request.folder)
        command = shlex.join(["genpolicy", "sweep", *given])
    is_search = request is not None and bool(request.searched)
    jobs: list[Job] = []
    if request is not None and not is_search:
        jobs = expand(request.plan, compose_config, sweep=folder.path)
    if "--dry-run" in flags:
        _describe(folder, jobs or (folder.jobs() if folder.exists() else []), is_search=is_search)
        return 0
    seconds = settings["budget"]
    options: dict[str, Any] = {
        "deadline": None if seconds is None else time.time() + float(seconds),
        "retry_failed": "--retry-failed" in flags,
    }
    with folder.lock():
        facts = {"command": command, "is_search": is_search, "launcher": settings["launcher"]}
        folder.write(jobs, versions=_versions(), **facts)
        launcher = build(settings["launcher"], packages=("genpolicy.sweeps",))
        now = _watched(folder, launcher, request if is_search else None, options)
    return _summary(folder, now)


def _check_resumed(own: Sequence[str]) -> None:
    wrong = [a for a in own if a.partition("=")[0].split(".")[0] not in ("launcher", "budget")]
    if wrong:
        raise UsageError(
            "resume=FOLDER continues a sweep with its own jobs; besides it takes launcher and "
            f"budget, got {wrong}"
        )


def _versions() -> dict[str, str]:
    from genpolicy.policies.checkpoint import installed_versions

    return installed_versions()


def _watched(
    folder: SweepFolder, launcher: Launcher, request: SweepRequest | None, options: dict[str, Any]
) -> Standing:
    """Run the sweep and show how it goes: a table in a terminal, else a line for each job."""
    from rich.console import Console
    from rich.live import Live

    from genpolicy.cli.compose_config import compose_config
    from genpolicy.sweeps import run_sweep
    from genpolicy.sweeps.progress import SweepView
    from genpolicy.sweeps.search import search

    console = Console()
    view = SweepView(folder)

    def tell(outcome: Outcome) -> None:
        text = f"{outcome.event}: {folder.job(outcome.key).title()}"
        console.print(
            f"{text}: {outcome.reason}" if outcome.reason else text, markup=False, soft_wrap=True
        )

    live = Live(view, console=console, refresh_per_second=1) if console.is_terminal else None
    with live or nullcontext():
        if request is None:
            return run_sweep(folder, launcher, on_outcome=tell, **options)
        return search(
            folder,
            launcher,
            request.plan,
            request.searched,
            compose_config,
            **{k: request.settings["sweeper"][k] for k in ("n_trials", "batch", "seed")},
            on_outcome=tell,
            **options,
        )


def _describe(folder: SweepFolder, jobs: Sequence[Job], *, is_search: bool) -> None:
    """Print the jobs and where each of them stands."""
    from genpolicy.evaluation.records import align_columns
    from genpolicy.sweeps.runner import standing

    now = standing(folder, jobs)
    place = {key: name for name, keys in vars(now).items() for key in keys}
    rows = [["job", "", "for", "what"]]
    for job in jobs:
        purpose = "report" if job.reported else "others"
        rows.append([job.key, place[job.key], purpose, job.title()])
    print(align_columns(rows))
    print(f"{folder.path}: {len(jobs)} jobs, {now.missing} of them missing")
    if is_search:
        print("the search proposes its trials from the results of those before them")


def _summary(folder: SweepFolder, now: Standing) -> int:
    """Print where the sweep stands and return the exit code."""
    states = folder.states()
    for key in now.failed:
        job = folder.job(key)
        print(f"failed: {job.title()}: {states[key].reason} (see {folder.job_folder(key)}/log.txt)")
    for key in now.blocked:
        print(f"not run, for it needs a job that failed: {folder.job(key).title()}")
    n = len(now.done) + now.missing
    print(f"{folder.path}: {len(now.done)} of {n} jobs done")
    if not now.missing:
        print(f"compare them: genpolicy report {shlex.quote(str(folder.path))}")
        return 0
    again = " --retry-failed" if now.failed else ""
    print(f"run the rest: genpolicy sweep resume={shlex.quote(str(folder.path))}{again}")
    return IncompleteEvaluationError.exit_code
