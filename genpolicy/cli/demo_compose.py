"""The demo's compositions: a mean with a searched weight, and the same kept out of a disc."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genpolicy import compose
from genpolicy.cli.demo_report import evaluate_each
from genpolicy.composition import KeepOut, PointMass
from genpolicy.errors import UsageError
from genpolicy.evaluation import EvalResult, replay
from genpolicy.evaluation.statistics import Interval, wilson_interval
from genpolicy.policies import ComposedPolicy, DenoisingPolicy, Policy

if TYPE_CHECKING:
    from genpolicy.evaluation.weight_results import WeightSearch

__all__ = ["KEPT_OUT", "MEAN", "DemoCompositions", "Violation", "compose_demo", "kept_out_disc"]

MEAN, KEPT_OUT = "mean", "mean, kept out"
_PARENTS = ("flow", "diffusion")


@dataclass(frozen=True)
class Violation:
    """In how many episodes a policy enters the disc.

    Args:
        rate: share of the episodes.
        interval: its 95% Wilson interval.
        n: episodes.
    """

    rate: float
    interval: Interval
    n: int


@dataclass(frozen=True)
class DemoCompositions:
    """What the demo composed and found.

    Args:
        policies: by name.
        results: their evaluations on the demo's seeds.
        search: the weight search.
        weights: of the mean: the best that gives both members some weight.
        violations: of the disc, for the parents' better one, the mean, and the mean kept out.
    """

    policies: dict[str, Policy]
    results: dict[str, EvalResult]
    search: WeightSearch
    weights: tuple[float, ...]
    violations: dict[str, Violation]


def kept_out_disc(config: Mapping[str, Any]) -> KeepOut:
    """Return the cost of entering the demo's disc.

    Raises:
        UsageError: when ``keep_out`` of the configuration is no disc.
    """
    settings = dict(config["keep_out"])
    if not {"center", "radius", "margin"} <= set(settings):
        raise UsageError(
            f"demo: keep_out has {sorted(settings)}, expected center, radius, margin and scale"
        )
    return KeepOut(
        center=tuple(settings["center"]),
        radius=float(settings["radius"]),
        margin=float(settings["margin"]),
        positions=PointMass(),
    )


def compose_demo(
    config: Mapping[str, Any], out: Path, policies: Mapping[str, Policy]
) -> DemoCompositions:
    """Search the weight of flow and diffusion, keep their mean out of a disc, and evaluate both.

    Args:
        config: resolved ``configs/demo.yaml``.
        out: the demo's folder; the search and the ledgers continue there.
        policies: the demo's policies, by name.
    """
    task = config["task"]
    parents = [_denoising(policies[name]) for name in _PARENTS]
    first, n = int(config["search"]["first_seed"]), int(config["search"]["n_episodes"])
    n_report = int(config["search"]["n_report"])
    print("compose: search the weight of the mean", flush=True)
    search = compose.search_weights(
        parents,
        task,
        seeds=range(first, first + n),
        report_seeds=range(first + n, first + n + n_report),
        n_trials=int(config["search"]["n_trials"]),
        out=out / "compose" / "search",
        n_envs=int(config["n_envs"]),
        batch=max(n // 2, 1),
    )
    inside = [c for c in search.candidates if c.parent is None]
    weights = max(inside, key=lambda c: sum(c.values) / len(c.values)).numbers
    mean = compose.mean(parents, weights)
    disc = kept_out_disc(config)
    kept_out = compose.with_cost(
        mean,
        cost=disc,
        scale=float(config["keep_out"]["scale"]),
        options={"interval": tuple(float(v) for v in config["keep_out"]["interval"])},
    )
    print(kept_out.explain())
    composed: dict[str, Policy] = {MEAN: mean, KEPT_OUT: kept_out}
    results = evaluate_each(config, composed, out / "compose", {})
    start = int(config["first_seed"])
    watched = list(range(start, start + int(config["keep_out"]["n_episodes"])))
    everyone = {_PARENTS[0]: policies[_PARENTS[0]], **composed}
    violations = {n: _violation(p, task, watched, disc) for n, p in everyone.items()}
    return DemoCompositions(composed, results, search, tuple(weights), violations)


def _denoising(policy: Policy) -> DenoisingPolicy:
    assert isinstance(policy, DenoisingPolicy)
    assert not isinstance(policy, ComposedPolicy)
    return policy


def _violation(policy: Policy, task: str, seeds: Sequence[int], disc: KeepOut) -> Violation:
    """Return how often episodes enter the disc, by the positions that were observed."""
    center = np.asarray(disc.center)
    entered = 0
    for rollout in replay(policy, task, seeds=seeds, n_envs=len(seeds)):
        distance = np.linalg.norm(rollout.obs["state"][:, :2] - center, axis=1)
        entered += bool((distance < disc.radius).any())
    return Violation(entered / len(seeds), wilson_interval(entered, len(seeds)), len(seeds))
