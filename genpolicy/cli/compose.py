"""`genpolicy compose`: several checkpoints as one policy, explained, evaluated and searched."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genpolicy.errors import UsageError, nearest

if TYPE_CHECKING:
    from genpolicy.evaluation import EvalResult
    from genpolicy.evaluation.weight_search import WeightSearch
    from genpolicy.policies import ComposedPolicy, Critic, DenoisingPolicy, SelectedPolicy

__all__ = ["HELP", "run"]

HELP = """\
usage: genpolicy compose members=[A,B,...] op=OPERATOR [weights=[...]] [key=value ...]

Combine checkpoints when acting, without training: say what the composition samples and at what
cost, and evaluate it, or search its weights by rollouts:

  genpolicy compose members=[pusht-flow,pusht-diffusion] op=mean weights=[0.4,0.6]
  genpolicy compose members=[pusht-flow,pusht-diffusion] op=mean weights=[0.4,0.6] task=pusht \\
      evaluate=true
  genpolicy compose members=[pusht-flow,pusht-diffusion] op=mean search=grid n_trials=11 \\
      seeds=0-99 report_seeds=1000-1199 save=checkpoints/mixed
  genpolicy compose members=[base,tuned] op=rl_guidance search=bayes bounds=[0,3]

operators and their settings:
  mean           weights       product        weights       rl_guidance    scale
  negation       strength      mixture        prior         superpose_or   temperature
  superpose_and  correct_widths                             endpoint_mean  weights
  value_guided   scale, critic_from                         best_of        n_candidates, critic_from

A search continues when it is started again with the same settings.
"""

_SETTINGS: dict[str, tuple[str, ...]] = {
    "mean": ("weights",),
    "product": ("weights",),
    "rl_guidance": ("scale",),
    "negation": ("strength",),
    "mixture": ("prior",),
    "superpose_or": ("temperature",),
    "superpose_and": ("correct_widths",),
    "endpoint_mean": ("weights",),
    "value_guided": ("scale", "critic_from"),
    "best_of": ("n_candidates", "temperature", "critic_from"),
}
_BY_CRITIC = ("value_guided", "best_of")
_NEEDED = {
    "rl_guidance": "scale",
    "negation": "strength",
    "value_guided": "scale",
    "best_of": "n_candidates",
}
_SEARCHED = ("mean", "rl_guidance", "negation")


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0 or raises an error with its own exit code."""
    from genpolicy.cli.compose_config import compose_config
    from genpolicy.policies.explanation import explain

    flags = {"--resume": "resume=true"}
    unknown = [a for a in argv if a.startswith("-") and a not in flags]
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}; see `genpolicy compose --help`")
    config = compose_config("compose", [flags.get(a, a) for a in argv])
    _check(config)
    policies = _load(config)
    sampling = _sampling(config, policies)
    policy: ComposedPolicy | SelectedPolicy | None = None
    if config["search"] is None:
        policy = _compose(config, policies, sampling)
        print(explain(policy))
        if config["evaluate"]:
            result, folder = _evaluate(config, policy)
            print(f"\n{result}\nrecords: {folder / 'records.jsonl'}")
    else:
        search, folder = _search(config, policies, sampling)
        policy = _best(config, policies, sampling, search)
        print(f"{explain(policy)}\n\n{search}")
        print(f"records, result.json and curve.png: {folder}")
    if config["save"] is not None:
        from genpolicy.policies.checkpoint import save

        print(f"saved: {save(policy, str(config['save']))}")
    return 0


def _check(config: Mapping[str, Any]) -> None:
    """Check what needs no checkpoint, before one is read."""
    op, members, method = config["op"], config["members"], config["search"]
    if op not in _SETTINGS:
        raise UsageError(f"unknown op {op!r}; {nearest(str(op), _SETTINGS)}")
    if op in _BY_CRITIC:
        if not isinstance(members, list) or len(members) != 1 or config["critic_from"] is None:
            raise UsageError(
                f"op={op} takes one member and a critic, got members={members} and "
                f"critic_from={config['critic_from']}: members=[a] critic_from=runs/iql"
            )
    elif not isinstance(members, list) or len(members) < 2:
        raise UsageError(
            f"members is {members!r}, expected at least two checkpoints: members=[a,b]"
        )
    if op in ("rl_guidance", "negation") and len(members) != 2:
        raise UsageError(f"op={op} takes 2 members, got {len(members)}")
    every = {name for names in _SETTINGS.values() for name in names}
    given = {name for name in every if config[name] is not None}
    wrong = sorted(given - set(_SETTINGS[op]))
    if wrong:
        raise UsageError(f"op={op} takes no {wrong[0]}; it takes {', '.join(_SETTINGS[op])}")
    if method is None:
        needed = _NEEDED.get(op)
        if needed is not None and needed not in given:
            raise UsageError(f"op={op} needs {needed}=NUMBER, or search=grid to find one")
        return
    if method not in ("grid", "bayes"):
        raise UsageError(f"unknown search {method!r}; {nearest(str(method), ('grid', 'bayes'))}")
    if op not in _SEARCHED:
        raise UsageError(f"op={op} has nothing to search; search takes {', '.join(_SEARCHED)}")
    if given:
        raise UsageError(
            f"search={method} finds {sorted(given)[0]} itself; leave it out, or leave search out"
        )


def _load(config: Mapping[str, Any]) -> list[DenoisingPolicy]:
    from genpolicy.policies import load_policy

    policies = [
        load_policy(str(name), weights=config["checkpoint_weights"], device=config["device"])
        for name in config["members"]
    ]
    if not 0 <= int(config["reference"]) < len(policies):
        raise UsageError(
            f"reference is {config['reference']}, expected 0 to {len(policies) - 1}, the number "
            "of a member"
        )
    return policies


def _sampling(config: Mapping[str, Any], policies: Sequence[DenoisingPolicy]) -> dict[str, Any]:
    """Return the keyword arguments about sampling that every operator takes."""
    changes = {key: value for key, value in config["sampler"].items() if value is not None}
    sampler = policies[int(config["reference"])].sampler
    return {
        "sampler": replace(sampler, **changes) if changes else None,
        "corrector": config["corrector"],
        "corrector_options": config["corrector_options"],
        "n_particles": config["n_particles"],
        "reference": int(config["reference"]),
    }


def _compose(
    config: Mapping[str, Any], policies: list[DenoisingPolicy], sampling: Mapping[str, Any]
) -> ComposedPolicy | SelectedPolicy:
    """Return the composition that the settings name."""
    from genpolicy import compose

    op, equal = config["op"], [1.0 / len(policies)] * len(policies)
    value = config[_SETTINGS[op][0]]
    if op == "best_of":
        member = policies[0] if sampling["sampler"] is None else _with_sampler(config, policies[0])
        return compose.best_of(
            member, _critic(config), n=int(value), temperature=float(config["temperature"] or 0.0)
        )
    builders: dict[str, Callable[[], ComposedPolicy]] = {
        "mean": lambda: compose.mean(policies, value or equal, **sampling),
        "product": lambda: compose.product(policies, value, **sampling),
        "rl_guidance": lambda: compose.rl_guidance(
            base=policies[0], tuned=policies[1], scale=float(value), **sampling
        ),
        "negation": lambda: compose.negation(*policies, strength=float(value), **sampling),
        "mixture": lambda: compose.mixture(policies, value, **sampling),
        "superpose_or": lambda: compose.superpose_or(
            policies, temperature=1.0 if value is None else float(value), **sampling
        ),
        "superpose_and": lambda: compose.superpose_and(
            policies, correct_widths=bool(value), **sampling
        ),
        "endpoint_mean": lambda: compose.endpoint_mean(policies, value or equal, **sampling),
        "value_guided": lambda: compose.value_guided(
            policies[0], _critic(config), scale=float(value), **sampling
        ),
    }
    return builders[op]()


def _critic(config: Mapping[str, Any]) -> Critic:
    from genpolicy.policies import load_critic

    return load_critic(str(config["critic_from"]), device=config["device"])


def _with_sampler(config: Mapping[str, Any], policy: DenoisingPolicy) -> DenoisingPolicy:
    changes = {key: value for key, value in config["sampler"].items() if value is not None}
    return policy.with_sampler(**changes)


def _evaluate(config: Mapping[str, Any], policy: DenoisingPolicy) -> tuple[EvalResult, Path]:
    from genpolicy.evaluation import evaluate
    from genpolicy.files import write_json

    task = config["task"] or policy.spec.task
    folder = _folder(config, task)
    result = evaluate(
        policy,
        task,
        seeds=_seeds("report_seeds", config["report_seeds"]),
        n_envs=int(config["n_envs"]),
        n_action_steps=config["n_action_steps"],
        workers=bool(config["workers"]),
        ledger=folder / "records.jsonl",
        resume=bool(config["resume"]),
    )
    write_json(folder / "result.json", result.to_json())
    return result, folder


def _search(
    config: Mapping[str, Any], policies: list[DenoisingPolicy], sampling: Mapping[str, Any]
) -> tuple[WeightSearch, Path]:
    from genpolicy.compose import search_weights

    task = config["task"] or policies[int(config["reference"])].spec.task
    folder = _folder(config, task)
    search = search_weights(
        policies,
        task,
        seeds=_seeds("seeds", config["seeds"]),
        report_seeds=_seeds("report_seeds", config["report_seeds"]),
        operator=config["op"],
        bounds=None if config["bounds"] is None else tuple(config["bounds"]),
        method=config["search"],
        n_trials=int(config["n_trials"]),
        metric=config["metric"],
        out=folder,
        n_envs=int(config["n_envs"]),
        n_action_steps=config["n_action_steps"],
        workers=bool(config["workers"]),
        batch=int(config["batch"]),
        seed=int(config["seed"]),
        **sampling,
    )
    return search, folder


def _best(
    config: Mapping[str, Any],
    policies: list[DenoisingPolicy],
    sampling: Mapping[str, Any],
    search: WeightSearch,
) -> ComposedPolicy | SelectedPolicy:
    """Return the composition that a search chose."""
    name = _SETTINGS[config["op"]][0]
    point = search.best.numbers
    found = list(point) if name == "weights" else point[0]
    return _compose({**config, name: found}, policies, {**sampling, "sampler": search.sampler})


def _seeds(name: str, value: Any) -> list[int]:
    """Return seeds of ``0-99`` or a list.

    Raises:
        UsageError: for anything else.
    """
    if isinstance(value, list) and all(isinstance(v, int) for v in value):
        return [int(v) for v in value]
    found = re.fullmatch(r"(\d+)-(\d+)", str(value))
    if found is None or int(found[1]) > int(found[2]):
        raise UsageError(f"{name} is {value!r}, expected a range such as 0-99, or a list [3,5,8]")
    return list(range(int(found[1]), int(found[2]) + 1))


def _folder(config: Mapping[str, Any], task: str) -> Path:
    """Return where results go; different settings go to different folders."""
    if config["out"]:
        return Path(str(config["out"]))
    ignored = {"out", "resume", "save", "n_envs", "workers", "device", "evaluate"}
    settings = {key: value for key, value in config.items() if key not in ignored}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    return Path("runs") / "compositions" / f"{config['op']}-{task}-{digest}"
