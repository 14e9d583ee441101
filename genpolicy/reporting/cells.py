"""The runs of one method on one task that may be averaged: one protocol, one kind of data.

Runs are put together by method, task and checkpoint. Where their evaluations differ in what decides
a number (simulator, kind of data, episode seeds, environment, sampler, configuration), they become
several cells, each labelled with what sets it apart; nothing is averaged across such a difference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genpolicy.errors import UsageError
from genpolicy.evaluation import EvalResult, TaskScores
from genpolicy.evaluation.records import format_seeds
from genpolicy.evaluation.report import flatten_config
from genpolicy.reporting.entries import Entry

__all__ = [
    "Cell",
    "cells_of",
    "checkpoint_rank",
    "config_of_method",
    "differing_settings",
    "metric_scale",
]

_PLACES = ("run_dir", "name", "seed", "logger", "log_every", "trainer.devices")


@dataclass(frozen=True)
class Cell:
    """Evaluations that are averaged.

    Args:
        method: with what else was swept.
        task: name of the task.
        checkpoint: ``"last"``, ``"best"`` or a step.
        variant: what sets it apart from other cells of this method, task and checkpoint; empty
            where there is only one.
        entries: the runs, one per training seed.
        results: their evaluations, in the same order.
        facts: what all of them have in common: kind of data, simulator, episodes and so on.
        n_expected: runs of this method and task that there should be.
    """

    method: str
    task: str
    checkpoint: str
    variant: str
    entries: tuple[Entry, ...]
    results: tuple[EvalResult, ...]
    facts: Mapping[str, str]
    n_expected: int

    @property
    def label(self) -> str:
        """The method, and the variant in brackets where there is one."""
        return f"{self.method} [{self.variant}]" if self.variant else self.method

    @property
    def primary(self) -> str:
        """The metric that the task is ranked by."""
        return self.results[0].primary

    @property
    def place(self) -> tuple[str, str]:
        """Kind of data and simulator: only cells of one place are compared across methods."""
        return self.facts["data"], self.facts["simulator"]

    @property
    def n_text(self) -> str:
        """Seeds and episodes: ``"3 seeds x 100"``, ``"2 of 3 seeds x 100"``."""
        n = len(self.results)
        sizes = sorted({len(result.records) for result in self.results})
        episodes = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]}-{sizes[-1]}"
        of = "" if n == self.n_expected else f" of {self.n_expected}"
        return f"{n}{of} {'seed' if n == 1 and not of else 'seeds'} x {episodes}"

    def scores(self, metric: str | None = None, *, scale: float = 1.0) -> TaskScores:
        """Return a metric of every episode of every run; None means the primary one."""
        name = self.primary if metric is None else metric
        runs = [dict(zip(r.seeds, r.values(name), strict=True)) for r in self.results]
        return TaskScores.of(runs, scale=scale)


def metric_scale(metric: str) -> float:
    """Return what a metric is divided by for figures over several tasks: 100 for points."""
    return 100.0 if metric.endswith("_score") else 1.0


def cells_of(entries: Sequence[Entry]) -> list[Cell]:
    """Return the cells of runs, in the order in which they first appear.

    Only finished runs count, and runs outside a sweep that were stopped (the step is then part of
    what sets cells apart). Runs that are not to be reported are left out.

    Raises:
        UsageError: for two runs of one method, task and training seed that nothing sets apart.
    """
    reported = [entry for entry in entries if entry.is_reported]
    groups: dict[tuple[str, str, str], list[tuple[Entry, EvalResult]]] = {}
    for entry in reported:
        if entry.status not in ("finished", "stopped"):
            continue
        for evaluation in entry.evaluations:
            key = (entry.method, entry.task, evaluation.checkpoint)
            groups.setdefault(key, []).append((entry, evaluation.result))
    found: list[Cell] = []
    for (method, task, checkpoint), members in groups.items():
        n_expected = len({str(e.seed) for e in reported if (e.method, e.task) == (method, task)})
        facts = [_facts(entry, result, checkpoint) for entry, result in members]
        settings = differing_settings([entry for entry, _ in members])
        telling = [k for k in facts[0] if len({f.get(k) for f in facts}) > 1]
        variants: dict[str, list[int]] = {}
        for i, known in enumerate(facts):
            parts = [f"{key} {known[key] or 'standard'}" for key in telling]
            parts += [f"{key}={values[i]}" for key, values in settings.items()]
            variants.setdefault("; ".join(parts), []).append(i)
        for name, chosen in variants.items():
            runs = tuple(members[i][0] for i in chosen)
            _check_distinct(runs, method, task, checkpoint)
            found.append(
                Cell(
                    method=method,
                    task=task,
                    checkpoint=checkpoint,
                    variant=name,
                    entries=runs,
                    results=tuple(members[i][1] for i in chosen),
                    facts=facts[chosen[0]],
                    n_expected=n_expected,
                )
            )
    order = {name: i for i, name in enumerate(dict.fromkeys(c.method for c in found))}
    return sorted(found, key=lambda c: (order[c.method], checkpoint_rank(c.checkpoint)))


def checkpoint_rank(name: str) -> int:
    """Return where a checkpoint stands among others: ``last``, then ``best``, then steps."""
    return {"last": 0, "best": 1}.get(name, 2)


def _check_distinct(runs: Sequence[Entry], method: str, task: str, checkpoint: str) -> None:
    """Check that no training seed counts twice."""
    seeds = [str(run.seed) for run in runs]
    for seed in seeds:
        if seeds.count(seed) > 1:
            twice = [str(r.folder) for r in runs if str(r.seed) == seed]
            raise UsageError(
                f"two evaluations of {method} on {task}, checkpoint {checkpoint}, have training "
                f"seed {seed} and nothing that sets them apart: {', '.join(twice)}; leave one out"
            )


def _facts(entry: Entry, result: EvalResult, checkpoint: str) -> dict[str, str]:
    """Return what decides the number of an evaluation, by name; equal for runs to be averaged."""
    policy = re.sub(r", weights [0-9a-f]{12}$", "", result.policy.describe())
    if result.policy.settings is not None:
        chosen = {k: result.policy.settings.get(k) for k in ("n_candidates", "temperature")}
        policy += "".join(f", {k} {v}" for k, v in chosen.items() if v is not None)
    info = result.checkpoint
    data = str(entry.dataset.get("kind") or "kind unknown")
    facts = {
        "data": data,
        "data set": " ".join(
            str(entry.dataset.get(key, ""))[:n] for key, n in (("name", 40), ("fingerprint", 8))
        ).strip()
        or "unknown",
        "simulator": ", ".join(f"{k} {v}" for k, v in sorted(result.simulators.items())),
        "episodes": format_seeds(result.seeds),
        "environment": ", ".join(f"{k}={v}" for k, v in sorted(result.settings.items())),
        "executed actions": str(result.n_action_steps),
        "policy": policy,
        "weights": str(info.weights) if info is not None else "unsaved",
    }
    # The best checkpoint of every run is of its own step.
    step = None if info is None or checkpoint == "best" else info.step
    facts["step"] = "its own" if step is None else str(step)
    return facts


def config_of_method(entry: Entry) -> dict[str, str]:
    """Return the entries of a configuration that do not belong to a single run alone."""
    flat = flatten_config(entry.config)
    return {
        key: value
        for key, value in flat.items()
        if not any(key == p or key.startswith(f"{p}.") for p in (*_PLACES, *entry.needs))
    }


def _comparable(entry: Entry) -> dict[str, str]:
    """Return the settings of a run that another seed of it shares; paths differ between seeds."""
    return {key: value for key, value in config_of_method(entry).items() if "/" not in value}


def differing_settings(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Return the settings in which runs differ, by dotted key, with the values of each run."""
    configs = [_comparable(entry) for entry in entries]
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: [config.get(key, "-") for config in configs] for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}
