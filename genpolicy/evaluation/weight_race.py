"""Candidates of a weight search on the same seeds, side by side or one after the other.

See ``weight_search`` for the rules and the files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from genpolicy.composition.weights import LevelWeights
from genpolicy.evaluation.records import EvalResult
from genpolicy.evaluation.rollout import evaluate
from genpolicy.evaluation.statistics import paired_difference
from genpolicy.evaluation.task import EvaluationTask
from genpolicy.evaluation.weight_candidates import Candidate
from genpolicy.evaluation.weight_family import (
    Family,
    Point,
    point_from_json,
    point_text,
    point_to_json,
    suggest,
)
from genpolicy.evaluation.weight_results import WeightSearch
from genpolicy.files import write_json
from genpolicy.policies.composed import ComposedPolicy
from genpolicy.sampling import Sampler
from genpolicy.seeding import derive_seed

__all__ = ["Race", "Runner"]

_FEWEST = 10
"""Common episodes below which nothing is given up."""


@dataclass
class Runner:
    """A candidate while it is searched.

    Args:
        number: in the order of entry.
        point: its setting.
        policy: the composition.
        folder: of its files; None for none.
        is_protected: whether it is never given up.
        values: the metric of its episodes so far, in the order of the seeds.
        is_stopped: whether it was given up.
        results: its newest results by name, where there are no files.
    """

    number: int
    point: Point
    policy: ComposedPolicy
    folder: Path | None
    is_protected: bool
    values: list[float] = field(default_factory=list)
    is_stopped: bool = False
    results: dict[str, EvalResult] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean of its episodes so far."""
        return sum(self.values) / len(self.values)

    def note(self) -> None:
        """Write down how far it is."""
        if self.folder is None:
            return
        data = {
            "number": self.number,
            "point": point_to_json(self.point),
            "n_episodes": len(self.values),
            "stopped_after": len(self.values) if self.is_stopped else None,
        }
        write_json(self.folder / "trial.json", data)


@dataclass
class Race:
    """Runs candidates on growing prefixes of the seeds.

    Args:
        family: what is searched.
        compose: makes the policy of a point.
        task: where it runs.
        seeds: validation seeds, in order.
        metric: what is maximised.
        folder: of the search; None keeps everything in memory.
        batch: seeds between two looks.
        confidence: of all intervals, and of giving up a candidate over all looks at it.
        options: further arguments of ``evaluate``.
        bar: counts episodes.
        runners: the candidates, in the order they entered.
    """

    family: Family
    compose: Callable[[Point], ComposedPolicy]
    task: EvaluationTask
    seeds: list[int]
    metric: str
    folder: Path | None
    batch: int
    confidence: float
    options: Mapping[str, Any]
    bar: tqdm[Any]
    runners: list[Runner] = field(default_factory=list)

    @property
    def looks(self) -> list[int]:
        """Episodes after which candidates are compared; all of them at last."""
        return [*range(self.batch, len(self.seeds), self.batch), len(self.seeds)]

    def side_by_side(self, points: Sequence[Point]) -> None:
        """Run all candidates batch by batch, and go on with those that may still win."""
        for point in points:
            self._enter(point)
        for n in self.looks:
            active = [runner for runner in self.runners if not runner.is_stopped]
            for runner in active:
                self._extend(runner, n)
            leader = max(active, key=lambda r: r.mean)
            for runner in active:
                self._maybe_stop(runner, leader)

    def one_by_one(self, points: Sequence[Point], n_candidates: int, *, seed: int) -> None:
        """Run the given points, then proposals of the model, each against the best so far."""
        for number in range(n_candidates):
            point = points[number] if number < len(points) else self._proposal(number, seed)
            if point is None:
                return
            runner = self._enter(point)
            done = [r for r in self.runners[:-1] if not r.is_stopped]
            for n in self.looks:
                self._extend(runner, n)
                if done and self._maybe_stop(runner, max(done, key=lambda r: r.mean)):
                    break

    def finish(
        self, method: str, fresh: list[int], *, members: tuple[str, ...], sampler: Sampler | None
    ) -> WeightSearch:
        """Return the result, with the report on fresh seeds."""
        parents = {point: number for number, point in self.family.parents.items()}
        complete = [runner for runner in self.runners if not runner.is_stopped]
        # Of equals a member alone is preferred: it needs one network instead of several.
        best = max(complete, key=lambda r: (r.mean, r.point in parents, -r.number))
        is_rate = self.metric in self.task.rates
        candidates = tuple(
            Candidate(
                number=r.number,
                point=r.point,
                values=tuple(r.values),
                is_rate=is_rate,
                is_stopped=r.is_stopped,
                parent=parents.get(r.point),
                is_end=r.is_protected,
                confidence=self.confidence,
            )
            for r in self.runners
        )
        reported = [best, *(r for r in self.runners if r.point in parents and r is not best)]
        report: dict[int, EvalResult] = {}
        for runner in reported:
            report[runner.number] = self._evaluate(runner, fresh, "report")
            self.bar.update(len(fresh))
        return WeightSearch(
            task=self.task.name,
            metric=self.metric,
            is_rate=is_rate,
            operator=self.family.operator,
            method=method,
            members=members,
            seeds=tuple(self.seeds),
            candidates=candidates,
            best_number=best.number,
            validation=self._evaluate(best, self.seeds, "validation"),
            report=report,
            sampler=sampler,
            confidence=self.confidence,
        )

    def _enter(self, point: Point) -> Runner:
        number = len(self.runners)
        runner = Runner(
            number=number,
            point=point,
            policy=self.compose(point),
            folder=None if self.folder is None else self.folder / f"trial-{number:02d}",
            is_protected=point in self.family.ends,
        )
        self.runners.append(runner)
        return runner

    def _proposal(self, number: int, seed: int) -> Point | None:
        """Return the point of this number from an earlier run, or a new one."""
        if self.folder is not None:
            file = self.folder / f"trial-{number:02d}" / "trial.json"
            if file.exists():
                return point_from_json(json.loads(file.read_text(encoding="utf-8"))["point"])
        tried = [
            (r.point, self._value(r)) for r in self.runners if not isinstance(r.point, LevelWeights)
        ]
        return suggest(self.family, tried, seed=derive_seed(seed, "trial", number))

    def _value(self, runner: Runner) -> float:
        """Return a candidate's mean; for a stopped one, the best's plus the paired difference."""
        if not runner.is_stopped:
            return runner.mean
        best = max((r for r in self.runners if not r.is_stopped), key=lambda r: r.mean)
        n = len(runner.values)
        return best.mean + runner.mean - sum(best.values[:n]) / n

    def _extend(self, runner: Runner, n: int) -> None:
        """Run a candidate on the first ``n`` seeds."""
        if not runner.values:
            runner.note()
        result = self._evaluate(runner, self.seeds[:n], "validation")
        self.bar.update(n - len(runner.values))
        runner.values = result.values(self.metric)
        runner.note()

    def _evaluate(self, runner: Runner, seeds: Sequence[int], name: str) -> EvalResult:
        """Return a candidate's records of seeds, of which only the missing ones are run."""

        def run(wanted: Sequence[int], ledger: Path | None) -> EvalResult:
            return evaluate(
                runner.policy,
                self.task,
                seeds=wanted,
                ledger=ledger,
                resume=ledger is not None,
                progress=False,
                **self.options,
            )

        if runner.folder is not None:
            return run(seeds, runner.folder / f"{name}.jsonl")
        known = runner.results.get(name)
        done = () if known is None else known.records
        missing = seeds[len(done) :]
        if known is None or missing:
            new = run(missing, None)
            known = replace(
                new,
                records=(*done, *new.records),
                n_restarts=new.n_restarts + (0 if known is None else known.n_restarts),
            )
            runner.results[name] = known
        return known

    def _maybe_stop(self, runner: Runner, leader: Runner) -> bool:
        """Give a candidate up when it is worse than the leader beyond doubt, and say whether."""
        n = len(runner.values)
        if runner.is_protected or runner is leader or n < _FEWEST or n == len(self.seeds):
            return False
        n_looks = sum(1 for look in self.looks[:-1] if look >= _FEWEST)
        found = paired_difference(
            dict(enumerate(runner.values)),
            dict(enumerate(leader.values[:n])),
            is_rate=self.metric in self.task.rates,
            confidence=1.0 - (1.0 - self.confidence) / max(n_looks, 1),
        )
        if found.interval.is_known and found.interval.high < 0.0:
            runner.is_stopped = True
            runner.note()
            self.bar.update(len(self.seeds) - n)
            if not self.bar.disable:
                self.bar.write(
                    f"{point_text(runner.point)}: given up after {n} episodes "
                    f"({found.mean:+.3f} against {point_text(leader.point)})"
                )
        return runner.is_stopped
