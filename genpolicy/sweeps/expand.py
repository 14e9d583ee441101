"""From a description of a sweep to its jobs: methods x tasks x seeds x whatever else is swept.

Overrides are those of ``genpolicy train`` and are composed one after another, so that the later
wins: of the task, the method, the plan, the method on this task, the axes, the seed, and last those
of the command line.

A method may need checkpoints of others (EDA: a behaviour policy and a critic). For them jobs with
the same task, seed and overrides are made, and shared by all that need them; of the command line's
overrides they leave out those of ``algorithm`` and ``critic``, which are meant for the methods that
were asked for, and all axes.
"""

from __future__ import annotations

import copy
import itertools
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from genpolicy.errors import UsageError, nearest
from genpolicy.sweeps.jobs import NEED, Job, job_key, set_dotted

__all__ = ["Axis", "Compose", "Method", "SweepPlan", "Task", "expand", "split_axes"]

Compose: TypeAlias = Callable[[str, Sequence[str]], dict[str, Any]]
"""Name of a primary configuration and overrides to the resolved configuration."""

_OF_THE_ASKED = re.compile(r"[+~]*(algorithm|critic)\b")
_CHECKPOINTS = ("last", "best")


@dataclass(frozen=True, kw_only=True)
class Method:
    """One value of the first axis.

    Args:
        overrides: of ``genpolicy train``, for example ``("method=fql",)``.
        by_task: further ones by task.
        evaluate: settings of ``configs/evaluate.yaml`` for its evaluation.
        needs: dotted key of the configuration to the method whose checkpoint it is.
    """

    overrides: tuple[str, ...] = ()
    by_task: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One value of the second axis: overrides, and settings of the evaluation."""

    overrides: tuple[str, ...] = ()
    evaluate: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A swept key and the overrides that it runs through."""

    key: str
    overrides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What is to be run.

    Args:
        methods: by name; empty for one without overrides.
        tasks: by name; empty for the configuration's own.
        seeds: of training.
        support: methods that are run only where others need them.
        overrides: of every run.
        extra: of the command line.
        axes: other swept keys.
        evaluate: settings of ``configs/evaluate.yaml``.
        checkpoints: which of ``last`` and ``best`` are evaluated.
    """

    methods: Mapping[str, Method] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    support: Mapping[str, Method] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ()
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: Sequence[str] = _CHECKPOINTS

    def __post_init__(self) -> None:
        wrong = [name for name in self.checkpoints if name not in _CHECKPOINTS]
        if wrong or not self.checkpoints:
            raise UsageError(
                f"checkpoints is {list(self.checkpoints)}, expected some of {_CHECKPOINTS}"
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UsageError(f"seeds are {list(self.seeds)}, expected distinct numbers")


def split_axes(overrides: Sequence[str]) -> tuple[list[Axis], list[str]]:
    """Return the swept overrides, in Hydra's grammar (``key=a,b`` or ``range(0,3)``), and the rest.

    Raises:
        UsageError: for what does not parse, and for a sweep without an end (``interval``, which is
            for a search, and ``glob``).
    """
    axes: list[Axis] = []
    rest: list[str] = []
    try:
        for text in overrides:
            parsed = OverridesParser.create().parse_override(text)
            if not parsed.is_sweep_override():
                rest.append(text)
                continue
            if not parsed.is_discrete_sweep():
                raise UsageError(
                    f"{text!r} has no list of values; use it with sweeper=optuna, or name values"
                )
            key = parsed.get_key_element()
            values = tuple(f"{key}={value}" for value in parsed.sweep_string_iterator())
            axes.append(Axis(key=key, overrides=values))
    except HydraException as error:
        raise UsageError(f"cannot read the overrides {list(overrides)}: {error}") from error
    return axes, rest


def expand(plan: SweepPlan, compose: Compose, *, sweep: Path) -> list[Job]:
    """Return the jobs of a plan, each once, in the order methods, tasks, axes, seeds.

    Jobs that others need come before them. The same settings are one job, whoever asks for it.

    Args:
        plan: what is to be run.
        compose: composes configurations.
        sweep: folder of the sweep, for the commands that repeat a run.

    Raises:
        UsageError: for overrides that do not compose, and needs of unknown methods.
    """
    jobs: dict[str, Job] = {}
    configs = _Configs(compose, plan.seeds)
    methods = plan.methods or {"": Method()}
    tasks = plan.tasks or {"": Task()}
    for method, task in itertools.product(methods, tasks):
        for axes in _combinations(plan.axes):
            for seed in plan.seeds:
                maker = _Maker(plan, configs, sweep, task, seed)
                for job in maker.jobs(method, methods[method], axes):
                    there = jobs.get(job.key)
                    if there is None:
                        jobs[job.key] = job
                    elif job.reported and not there.reported:
                        jobs[job.key] = replace(job, needs=there.needs)
    return list(jobs.values())


def _combinations(axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
    for values in itertools.product(*(axis.overrides for axis in axes)):
        yield dict(zip((axis.key for axis in axes), values, strict=True))


class _Configs:
    """Composed configurations; those that differ in the seed alone are composed once."""

    def __init__(self, compose: Compose, seeds: Sequence[int]) -> None:
        self.compose, self.seeds = compose, seeds
        self._train: dict[tuple[str, ...], dict[str, Any] | None] = {}
        self._evaluate: dict[tuple[str, ...], dict[str, Any]] = {}

    def train(self, overrides: Sequence[str], seed: int) -> dict[str, Any]:
        """Return the configuration of a training, which the caller may change."""
        key = tuple(overrides)
        if key not in self._train:
            first, last = (
                self.compose("train", [*key, f"seed={s}"]) for s in (self.seeds[0], self.seeds[-1])
            )
            places = {name: first[name] for name in ("seed", "run_dir")}
            self._train[key] = first if {**last, **places} == first else None
        known = self._train[key]
        if known is None:
            return self.compose("train", [*key, f"seed={seed}"])
        return {**copy.deepcopy(known), "seed": seed}

    def evaluate(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of an evaluation."""
        key = tuple(f"{name}={value}" for name, value in _leaves(settings))
        if key not in self._evaluate:
            found = self.compose("evaluate", ["checkpoint=any", *key])
            places = ("checkpoint", "out", "resume")
            self._evaluate[key] = {k: v for k, v in found.items() if k not in places}
        return self._evaluate[key]


@dataclass(frozen=True)
class _Maker:
    """Makes the jobs of one task and seed."""

    plan: SweepPlan
    configs: _Configs
    sweep: Path
    task: str
    seed: int

    def jobs(
        self,
        name: str,
        method: Method,
        axes: Mapping[str, str],
        *,
        reported: bool = True,
        above: tuple[str, ...] = (),
    ) -> Iterator[Job]:
        """Yield the jobs that a method needs, and last its own."""
        if name in above:
            raise UsageError(f"methods need each other: {' -> '.join((*above, name))}")
        needs: dict[str, str] = {}
        for dotted, other in method.needs.items():
            found = list(
                self.jobs(
                    other, self._method(other, name), {}, reported=False, above=(*above, name)
                )
            )
            yield from found
            needs[dotted] = found[-1].key
        yield self._job(name, method, axes, needs, reported)

    def _method(self, name: str, needed_by: str) -> Method:
        known = {**self.plan.support, **self.plan.methods}
        if name not in known:
            raise UsageError(f"{needed_by} needs the method {name!r}; {nearest(name, known)}")
        return known[name]

    def _job(
        self,
        name: str,
        method: Method,
        axes: Mapping[str, str],
        needs: Mapping[str, str],
        reported: bool,
    ) -> Job:
        plan, task = self.plan, self.plan.tasks.get(self.task, Task())
        extra = plan.extra if reported else [o for o in plan.extra if not _OF_THE_ASKED.match(o)]
        overrides = [
            *task.overrides,
            *method.overrides,
            *plan.overrides,
            *method.by_task.get(self.task, ()),
            *axes.values(),
            *extra,
        ]
        try:
            train = self.configs.train([*overrides, *(f"{n}='{NEED}'" for n in needs)], self.seed)
        except UsageError as error:
            where = ", ".join(f"{k} {v}" for k, v in (("method", name), ("task", self.task)) if v)
            raise UsageError(f"{where}: {error}" if where else str(error)) from error
        for dotted, need in needs.items():
            set_dotted(train, dotted, f"{NEED}{need}")
        _check_one_process(train["trainer"])
        given = {**plan.evaluate, **task.evaluate, **method.evaluate}
        evaluate = {**self.configs.evaluate(given), "checkpoints": list(plan.checkpoints)}
        overrides.append(f"seed={self.seed}")
        key = job_key(train, evaluate)
        folder = self.sweep / "jobs"
        real = [f"{dotted}={folder / need / 'run' / 'last'}" for dotted, need in needs.items()]
        command = [*overrides, *real, f"run_dir={folder / key / 'run'}"]
        labels = {
            "method": name or train["algorithm"]["_target_"].rpartition(".")[2],
            "task": self.task or train["data"]["task"],
            "seed": train["seed"],
        }
        swept = {axis: text.partition("=")[2] for axis, text in axes.items()}
        return Job(
            key=key,
            labels={**labels, **swept},
            reported=reported,
            overrides=tuple(overrides),
            train=train,
            evaluate=evaluate,
            needs=dict(needs),
            command=shlex.join(["genpolicy", "train", *map(_quoted, command)]),
        )


def _check_one_process(trainer: Mapping[str, Any]) -> None:
    if trainer["devices"] not in (1, "1") or trainer["num_nodes"] != 1:
        raise UsageError(
            f"trainer has devices {trainer['devices']!r} on {trainer['num_nodes']} nodes; a job of "
            "a sweep is one process with one device: give the sweep more jobs at a time, or train "
            "across devices with `genpolicy train`"
        )


def _quoted(override: str) -> str:
    """Return an override, quoted where its value is a path that Hydra would misread."""
    key, equals, value = override.partition("=")
    if "/" in value and not value.startswith(("'", '"')) and re.search(r"[\s=,(){}\[\]]", value):
        return f"{key}{equals}'{value}'"
    return override


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, "null" if value is None else value
