"""From the arguments of `genpolicy sweep` and configs/sweep to a plan of jobs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from genpolicy.cli.compose_config import canonical_name, compose_config, option_names
from genpolicy.cli.configs_dir import configs_dir
from genpolicy.errors import UsageError, check_options, nearest
from genpolicy.sweeps import Method, SweepPlan, Task
from genpolicy.sweeps.expand import split_axes

__all__ = ["SweepRequest", "experiment_of", "read_sweep"]

_GROUPS = ("sweep", "launcher", "sweeper")
_CHOOSES = ("method=", "algorithm=", "experiment=")


@dataclass(frozen=True)
class SweepRequest:
    """A sweep as it was asked for.

    Args:
        settings: resolved ``configs/sweep.yaml``.
        training: overrides of training, swept ones included.
        plan: what is to be run.
        searched: swept overrides that a search draws from; empty for a grid.
    """

    settings: Mapping[str, Any]
    training: tuple[str, ...]
    plan: SweepPlan
    searched: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where the sweep lies."""
        if self.settings["out"] is not None:
            return Path(self.settings["out"])
        return Path("sweeps") / self.name

    @property
    def name(self) -> str:
        """Its name: as given, else one that the same arguments have again."""
        if self.settings["name"] is not None:
            return str(self.settings["name"])
        asked = {k: v for k, v in self.settings.items() if k not in ("launcher", "budget", "out")}
        text = json.dumps([asked, sorted(self.training)], sort_keys=True)
        return f"sweep-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def experiment_of(task: str) -> str:
    """Return the experiment of a task: ``d4rl_hopper_medium`` for ``d4rl/hopper-medium``.

    Raises:
        UsageError: when there is none.
    """
    name = re.sub(r"[^0-9a-zA-Z]+", "_", task)
    known = option_names("experiment")
    if name not in known:
        raise UsageError(f"there is no experiment {name!r} for task={task}; {nearest(name, known)}")
    return name


def read_sweep(argv: Sequence[str]) -> SweepRequest:
    """Return the sweep that arguments ask for.

    Raises:
        UsageError: for what does not parse, unknown methods and tasks, and contradictions.
    """
    base = yaml.safe_load((configs_dir() / "sweep.yaml").read_text(encoding="utf-8"))
    own = {name for name in base if name != "defaults"} | set(_GROUPS)
    is_own = {a: a.lstrip("+~").partition("=")[0].split(".")[0] in own for a in argv}
    settings = compose_config("sweep", [a for a in argv if is_own[a]])
    training = [a for a in argv if not is_own[a]]
    is_search = settings["sweeper"]["name"] == "optuna"
    named, searched, rest = _split(training, is_search)
    methods, tasks = dict(settings["methods"]), _mapping(settings["tasks"])
    if "method" in named:
        chosen = [canonical_name("method", name) for name in named["method"]]
        methods = {name: methods.get(name) for name in chosen}
    if "task" in named:
        tasks = {name: tasks.get(name) for name in named["task"]}
    seeds = [int(seed) for seed in (named["seed"] if "seed" in named else settings["seeds"])]
    needs = {name: dict(needed) for name, needed in settings["needs"].items()}
    described = {**settings["support"], **settings["methods"]}
    support: dict[str, Method] = {}
    wanted = list(methods)
    while wanted:
        for other in needs.get(wanted.pop(), {}).values():
            if other not in methods and other not in support:
                support[other] = _method(other, described.get(other), needs)
                wanted.append(other)
    axes, fixed = split_axes(rest)
    plan = SweepPlan(
        methods={name: _method(name, entry, needs) for name, entry in methods.items()},
        tasks={name: _task(name, entry) for name, entry in tasks.items()},
        seeds=seeds,
        support=support,
        overrides=tuple(settings["overrides"]),
        extra=tuple(fixed),
        axes=tuple(axes),
        evaluate=settings["evaluate"],
        checkpoints=tuple(settings["checkpoints"]),
    )
    return SweepRequest(settings, tuple(training), plan, tuple(searched))


def _split(
    training: Sequence[str], is_search: bool
) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """Return the values of methods, tasks and seeds, what is searched, and the rest."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    named: dict[str, list[str]] = {}
    searched: list[str] = []
    rest: list[str] = []
    for text in training:
        try:
            parsed = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise UsageError(f"cannot read {text!r}: {' '.join(str(error).split())}") from error
        key = {"algorithm": "method"}.get(str(parsed.key_or_group), str(parsed.key_or_group))
        if key in ("method", "task", "seed"):
            if key in named:
                raise UsageError(f"{text!r}: {key} is given twice (algorithm= names methods)")
            if parsed.is_sweep_override():
                named[key] = [str(value) for value in parsed.sweep_string_iterator()]
            else:
                named[key] = [str(parsed.value())]
        elif is_search and parsed.is_sweep_override():
            searched.append(text)
        else:
            rest.append(text)
    return named, searched, rest


def _mapping(entries: Any) -> dict[str, Any]:
    return dict.fromkeys(entries) if isinstance(entries, list) else dict(entries or {})


def _entry(owner: str, entry: Any, known: Sequence[str]) -> dict[str, Any]:
    """Return an entry of configs/sweep: a list of overrides, or a mapping of ``known``."""
    if isinstance(entry, list):
        return {"overrides": entry}
    found = dict(entry or {})
    check_options(owner, found, known)
    return found


def _method(name: str, entry: Any, needs: Mapping[str, Mapping[str, str]]) -> Method:
    given = _entry(f"method {name}", entry, ("overrides", "evaluate", "by_task", "needs"))
    overrides = [str(o) for o in given.get("overrides") or []]
    if not any(o.startswith(_CHOOSES) for o in overrides):
        if name in option_names("method"):
            overrides = [f"method={name}", *overrides]
        elif name in option_names("algorithm"):
            overrides = [f"algorithm={name}", *overrides]
        else:
            known = [*option_names("method"), *option_names("algorithm")]
            raise UsageError(f"there is no method {name!r}; {nearest(name, known)}")
    return Method(
        overrides=tuple(overrides),
        by_task={t: tuple(o or ()) for t, o in (given.get("by_task") or {}).items()},
        evaluate=given.get("evaluate") or {},
        needs=given.get("needs") or needs.get(name, {}),
    )


def _task(name: str, entry: Any) -> Task:
    given = _entry(f"task {name}", entry, ("overrides", "evaluate"))
    overrides = [str(o) for o in given.get("overrides") or []]
    if not any(o.startswith("experiment=") for o in overrides):
        overrides = [f"experiment={experiment_of(name)}", *overrides]
    return Task(overrides=tuple(overrides), evaluate=given.get("evaluate") or {})
