"""Searching the weights of a composition by rollouts, and reporting the winner on fresh seeds.

All candidates meet the same validation seeds in the same order, and with them the same noise, so
that they are compared by paired differences. After each batch of seeds a candidate is given up
when its difference to the leader of that moment is negative beyond doubt: the upper end of its
interval is below 0, at a confidence that is shared between the looks (Bonferroni). The members
alone, and the ends of a range, are never given up. The winner and the members alone then run on
seeds that had no part in the choice, see ``weight_results`` for how that is read.

Files of a search, from which it is continued and, once finished, read again without a rollout::

    search.json                    what is searched; another search refuses the folder
    trial-03/trial.json            the candidate: point, episodes so far, whether it was stopped
    trial-03/validation.jsonl      its ledger on the validation seeds
    trial-03/report.jsonl          its ledger on the report seeds
    result.json, curve.png         the result
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tqdm import tqdm

from genpolicy.composition.weights import LevelWeights
from genpolicy.errors import DataError, UsageError, nearest
from genpolicy.evaluation.identity import identify_policy, plain_settings
from genpolicy.evaluation.task import EvaluationTask
from genpolicy.evaluation.weight_family import (
    Family,
    Point,
    SearchedOperator,
    point_to_json,
)
from genpolicy.evaluation.weight_race import Race
from genpolicy.evaluation.weight_results import WeightSearch
from genpolicy.files import RunLock, write_json
from genpolicy.policies.composed import ComposedPolicy, MemberOf
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.sampling import Sampler

__all__ = ["WeightSearch", "search_weights"]

Method: TypeAlias = Literal["grid", "bayes"]
_METHODS = ("grid", "bayes")


def search_weights(
    members: Sequence[DenoisingPolicy | MemberOf],
    task: str | EvaluationTask,
    *,
    seeds: Sequence[int],
    report_seeds: Sequence[int],
    operator: SearchedOperator = "mean",
    bounds: tuple[float, float] | None = None,
    method: Method = "grid",
    n_trials: int = 11,
    starts: Sequence[Sequence[float] | LevelWeights] = (),
    metric: str | None = None,
    out: str | Path | None = None,
    sampler: Sampler | None = None,
    corrector: str | None = None,
    corrector_options: Mapping[str, Any] | None = None,
    n_particles: int | None = None,
    reference: int = 0,
    n_envs: int = 8,
    n_action_steps: int | None = None,
    workers: bool = False,
    batch: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> WeightSearch:
    """Find the weights with the highest score, and compare them with the members on fresh seeds.

    Args:
        members: policies; for ``rl_guidance`` base and tuned, for ``negation`` keep and avoid.
        task: name of a task of ``genpolicy.envs``, or a task of your own.
        seeds: distinct validation seeds, on which the weights are chosen.
        report_seeds: distinct seeds of the report, none of them in ``seeds``.
        operator: ``"mean"`` (weights), ``"rl_guidance"`` (scale) or ``"negation"`` (strength).
        bounds: range of the scale (None is 0 to 2) or strength (None is 0 to 1).
        method: ``"grid"``, or ``"bayes"``: a Gaussian process with expected improvement (Optuna).
        n_trials: candidates, ends included; a grid over the weights of more than two members has at
            most as many, one over a scale adds the members where they are not on it.
        starts: more candidates: weights, one number, or a schedule of weights such as
            ``estimate_weights`` gives. They come on top of ``n_trials``.
        metric: what to maximise; None is the task's primary metric.
        out: folder that is continued, see the module; None keeps nothing.
        sampler: of every candidate, members alone included; None is that of the reference. Where
            the members know different noise levels, all run on the times that all of them know.
        corrector: see ``ComposedPolicy``.
        corrector_options: see ``ComposedPolicy``.
        n_particles: see ``ComposedPolicy``.
        reference: number of the member whose path and units are used.
        n_envs: environments stepped together; changes no record.
        n_action_steps: actions executed per chunk; None for the policy's own.
        workers: run every environment in a process of its own.
        batch: validation seeds between two looks.
        confidence: of all intervals, and of giving up a candidate over all looks at it.
        seed: of the proposals of ``"bayes"``.
        progress: draw a progress bar where there is a terminal.

    Returns:
        Candidates, the best of them, and the report. Members alone run as the composition with
        weight 1 on them: the same sampler, times, seeds and noise.

    Raises:
        UsageError: for seeds that overlap or repeat, an unknown operator, method or metric, too few
            trials, or a folder of another search.
        GenpolicyError: as ``evaluate``.

    Cost: at most ``n_trials`` times ``len(seeds)`` episodes, less what was given up, and one
    episode per report seed for the best and each member alone.
    """
    _check(method, batch, confidence, n_trials)
    wanted, fresh = _disjoint(seeds, report_seeds)
    family = Family(operator=operator, n_members=len(members), bounds=bounds)
    given = [family.checked(point) for point in starts]
    setting = EvaluationTask.named(task) if isinstance(task, str) else task

    def compose(point: Point, sampler: Sampler | None) -> ComposedPolicy:
        return ComposedPolicy(
            members,
            family.operator_at(point),
            sampler=sampler,
            corrector=corrector,
            corrector_options=corrector_options,
            n_particles=n_particles,
            reference=reference,
        )

    whole = compose(family.inside, sampler)
    chosen = sampler
    if any(compose(point, sampler).path != whole.path for point in family.parents.values()):
        times = whole.sampler.times_on(whole.path)
        chosen = replace(whole.sampler, times=times, n_steps=len(times) - 1)
    points = family.grid(n_trials) if method == "grid" else family.ends
    points = list(dict.fromkeys([*points, *given]))
    n_candidates = len(points) if method == "grid" else max(n_trials + len(given), len(points))
    settings = {
        "task": setting.name,
        "environment": plain_settings(setting.settings),
        "seeds": wanted,
        "report_seeds": fresh,
        "operator": operator,
        "bounds": None if family.bounds is None else list(family.bounds),
        "method": method,
        "n_trials": n_trials,
        "starts": [point_to_json(point) for point in given],
        "metric": setting.primary if metric is None else metric,
        "n_action_steps": n_action_steps,
        "batch": batch,
        "confidence": confidence,
        "seed": seed,
        "composition": identify_policy(compose(family.inside, chosen)).to_json(),
    }
    folder = None if out is None else Path(out)
    with (
        nullcontext() if folder is None else RunLock(folder),
        tqdm(
            total=n_candidates * len(wanted) + (1 + len(family.parents)) * len(fresh),
            desc=f"{setting.name} weights",
            unit="episode",
            dynamic_ncols=True,
            disable=None if progress else True,
        ) as bar,
    ):
        if folder is not None:
            _claim(folder, settings)
        race = Race(
            family=family,
            compose=lambda point: compose(point, chosen),
            task=setting,
            seeds=wanted,
            metric=settings["metric"],
            folder=folder,
            batch=batch,
            confidence=confidence,
            options={"n_envs": n_envs, "n_action_steps": n_action_steps, "workers": workers},
            bar=bar,
        )
        if method == "grid":
            race.side_by_side(points)
        else:
            race.one_by_one(points, n_candidates, seed=seed)
        names = tuple(_name(member) for member in members)
        search = race.finish(method, fresh, members=names, sampler=chosen)
        if folder is not None:
            write_json(folder / "result.json", search.to_json())
            search.plot(folder / "curve.png")
    return search


def _check(method: str, batch: int, confidence: float, n_trials: int) -> None:
    if method not in _METHODS:
        raise UsageError(f"search_weights: unknown method {method!r}; {nearest(method, _METHODS)}")
    if batch < 1 or n_trials < 2 or not 0.0 < confidence < 1.0:
        raise UsageError(
            f"search_weights: batch is {batch}, n_trials {n_trials} and confidence {confidence}, "
            "expected at least 1, at least 2, and a number between 0 and 1"
        )


def _disjoint(seeds: Sequence[int], report: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return both lists of seeds.

    Raises:
        UsageError: when one is empty or repeats a seed, or they share one.
    """
    found = [int(s) for s in seeds], [int(s) for s in report]
    for name, values in zip(("seeds", "report_seeds"), found, strict=True):
        if not values or len(set(values)) != len(values) or min(values) < 0:
            raise UsageError(
                f"search_weights: {name} are {len(values)} numbers, {len(set(values))} of them "
                "distinct; expected at least one, distinct, none below 0"
            )
    common = sorted(set(found[0]) & set(found[1]))
    if common:
        raise UsageError(
            f"search_weights: seeds and report_seeds share {common[:5]}"
            f"{' and more' if len(common) > 5 else ''}; the report needs seeds that had no part in "
            "the choice"
        )
    return found


def _name(member: DenoisingPolicy | MemberOf) -> str:
    policy = member.policy if isinstance(member, MemberOf) else member
    return identify_policy(policy).describe()


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down what is searched, or check that the folder is of the same search."""
    file = folder / "search.json"
    plain = json.loads(json.dumps(settings))
    if not file.exists():
        write_json(file, plain)
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}); choose another folder") from error
    changed = [name for name in plain if before.get(name) != plain[name]]
    if changed:
        raise UsageError(
            f"{folder} is of another weight search: "
            + "; ".join(f"its {n} is {before.get(n)!r}, this one's {plain[n]!r}" for n in changed)[
                :600
            ]
            + "; choose another folder"
        )
