"""A search over settings with Optuna, whose trials are jobs of an ordinary sweep.

Every method on every task is a study of its own. A trial is one job per training seed; its value
is the mean over them of the primary metric of ``last``. There is no state beside the sweep's:
proposals are a function of the search's seed and the values before them, so a search that is run
again proposes the same trials, finds them done, and goes on.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from genpolicy.errors import UsageError
from genpolicy.evaluation.records import EvalResult
from genpolicy.files import write_json
from genpolicy.seeding import derive_seed
from genpolicy.sweeps.expand import Axis, Compose, SweepPlan, expand
from genpolicy.sweeps.folder import SweepFolder
from genpolicy.sweeps.jobs import Job
from genpolicy.sweeps.launchers import Launcher, Outcome
from genpolicy.sweeps.runner import Standing, run_sweep, standing, tidy_ledger

__all__ = ["distribution_of", "search"]


@dataclass
class _Trial:
    """A proposal of a study and the jobs that decide its value."""

    trial: Any
    axes: tuple[Axis, ...]
    jobs: list[Job]


def search(
    folder: SweepFolder,
    launcher: Launcher,
    plan: SweepPlan,
    space: Sequence[str],
    compose: Compose,
    *,
    n_trials: int,
    batch: int = 1,
    seed: int = 0,
    deadline: float | None = None,
    retry_failed: bool = False,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Standing:
    """Propose and run trials until there are ``n_trials`` of each method and task.

    The caller holds the sweep's lock. The trials so far are in ``search.json``, best first.

    Args:
        folder: the sweep.
        launcher: where jobs run.
        plan: methods, tasks and training seeds.
        space: swept overrides in Hydra's grammar: lists of values, ``range``, ``interval``, with
            ``tag(log, ...)`` for a logarithmic scale.
        compose: composes configurations.
        n_trials: of each study.
        batch: trials proposed before the results of the others among them are known.
        seed: of the proposals.
        deadline: as in ``run_sweep``.
        retry_failed: as in ``run_sweep``. A trial with a failed job has no value.
        on_outcome: as in ``run_sweep``.

    Raises:
        UsageError: when Optuna is missing or the space cannot be read.
    """
    if n_trials < 1 or batch < 1:
        raise UsageError(f"sweeper: n_trials is {n_trials} and batch {batch}, expected at least 1")
    optuna = _optuna()
    distributions = dict(distribution_of(text) for text in space)
    if "last" not in plan.checkpoints:
        raise UsageError("a search is decided by the checkpoint last; add it to checkpoints")
    studies = {
        (method, task): optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(
                seed=derive_seed(seed, method, task) % 2**32, constant_liar=batch > 1
            ),
        )
        for method in plan.methods or {"": None}
        for task in plan.tasks or {"": None}
    }
    told: dict[tuple[str, str], list[dict[str, Any]]] = {cell: [] for cell in studies}
    tidy_ledger(folder)
    for first in range(0, n_trials, batch):
        asked: dict[tuple[str, str], list[_Trial]] = {}
        for cell, study in studies.items():
            trials = [study.ask(distributions) for _ in range(min(batch, n_trials - first))]
            asked[cell] = [_proposed(plan, cell, trial, compose, folder) for trial in trials]
        jobs = [job for trials in asked.values() for trial in trials for job in trial.jobs]
        folder.write(jobs)
        retry = {key for key, state in folder.states().items() if state.event == "failed"}
        if standing(folder, jobs, retry=retry if retry_failed else ()).due:
            run_sweep(
                folder,
                launcher,
                deadline=deadline,
                retry_failed=retry_failed,
                on_outcome=on_outcome,
            )
        now = standing(folder, jobs)
        if now.due or now.waiting:
            break
        for cell, trials in asked.items():
            for trial in trials:
                value = _value(folder, trial.jobs)
                is_known = value is not None and math.isfinite(value)
                state = optuna.trial.TrialState.COMPLETE if is_known else None
                studies[cell].tell(
                    trial.trial,
                    value if is_known else None,
                    state=state or optuna.trial.TrialState.FAIL,
                )
                told[cell].append(
                    {
                        "overrides": [axis.overrides[0] for axis in trial.axes],
                        "value": value if is_known else None,
                        "jobs": [job.key for job in trial.jobs if job.reported],
                    }
                )
        _write(folder, told)
    return standing(folder)


def _optuna() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise UsageError(
            "sweeper=optuna needs Optuna, which is not installed; pip install 'genpolicy[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def distribution_of(text: str) -> tuple[str, Any]:
    """Return the key and the Optuna distribution of a swept override.

    Raises:
        UsageError: for what cannot be drawn from.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep

    optuna = _optuna()
    parsed = OverridesParser.create().parse_override(text)
    key, value = parsed.get_key_element(), parsed.value()
    if isinstance(value, ChoiceSweep):
        return key, optuna.distributions.CategoricalDistribution(
            list(parsed.sweep_string_iterator())
        )
    if isinstance(value, RangeSweep):
        values = [float(v) for v in parsed.sweep_string_iterator()]
        is_whole = all(v.is_integer() for v in values)
        kind = "IntDistribution" if is_whole else "FloatDistribution"
        low, high = (int(v) if is_whole else v for v in (min(values), max(values)))
        step = abs(value.step)
        return key, getattr(optuna.distributions, kind)(low, high, step=step)
    if isinstance(value, IntervalSweep) and value.start is not None and value.end is not None:
        is_log = "log" in value.tags
        is_whole = isinstance(value.start, int) and isinstance(value.end, int)
        kind = "IntDistribution" if is_whole and "int" in value.tags else "FloatDistribution"
        return key, getattr(optuna.distributions, kind)(value.start, value.end, log=is_log)
    raise UsageError(f"{text!r} cannot be searched; use a list, range(...) or interval(...)")


def _proposed(
    plan: SweepPlan, cell: tuple[str, str], trial: Any, compose: Compose, folder: SweepFolder
) -> _Trial:
    method, task = cell
    axes = tuple(
        Axis(key=key, overrides=(f"{key}={value}",)) for key, value in trial.params.items()
    )
    narrowed = replace(
        plan,
        methods={method: plan.methods[method]} if method else {},
        tasks={task: plan.tasks[task]} if task else {},
        support={**plan.support, **plan.methods},
        axes=(*plan.axes, *axes),
    )
    return _Trial(trial, axes, expand(narrowed, compose, sweep=folder.path))


def _value(folder: SweepFolder, jobs: Sequence[Job]) -> float | None:
    """Return the mean over training seeds of the primary metric, None where a job failed."""
    values = []
    for job in (job for job in jobs if job.reported):
        file = folder.evaluation(job.key, "last") / "result.json"
        if not folder.is_done(job):
            return None
        values.append(EvalResult.from_json(json.loads(file.read_text(encoding="utf-8"))).mean())
    return math.fsum(values) / len(values)


def _write(
    folder: SweepFolder, told: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
) -> None:
    """Write the trials so far, best first."""
    write_json(
        folder.path / "search.json",
        {
            "studies": [
                {
                    "method": method,
                    "task": task,
                    "trials": sorted(
                        trials, key=lambda t: math.inf if t["value"] is None else -t["value"]
                    ),
                }
                for (method, task), trials in told.items()
            ]
        },
    )
