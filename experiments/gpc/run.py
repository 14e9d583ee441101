"""Does a mean of two policies beat the better one? A weight search for each pair of policies.

    python experiments/gpc/run.py [CASE ...] [--runs runs/gpc]

Members, their mean at 11 weights, and the members alone run with the same sampler, noise and seeds:
weights are chosen on 60 validation seeds, and the best is compared with the members alone on 200
others. On robosuite, where a step of the simulator costs much more, 5 weights (0.25 apart), 10
validation and 100 report seeds. Writes results.csv (the report), curve.csv (every weight) and
verdicts.csv (over training seeds) from all finished cases; rows of others stay as they are.
"""

import argparse
import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import genpolicy as gp
from genpolicy.evaluation.run_scores import stratified_interval
from genpolicy.evaluation.task import EvaluationTask
from genpolicy.evaluation.weight_results import WeightSearch
from genpolicy.sampling import Sampler

HERE = Path(__file__).parent
PUSHT = Sampler(rule="ddim", n_steps=10, init_scale=0.5)
MAZE = Sampler(rule="ddim", n_steps=10)
SIX = {"quaternions": "rotation_6d"}
ROBOSUITE = {
    "flow-diffusion": ("flow/last", "diffusion/last", "two strong, flow + diffusion"),
    "strong-weak": ("flow/last", "flow-weak", "strong + weak (an early checkpoint)"),
    "near-far": ("near/last", "far/last", "data of one grasp strategy each"),
}


@dataclass(frozen=True)
class Case:
    """A pair of policies.

    Args:
        members: checkpoints below ``--runs``, or shipped names.
        task: where they act.
        sampler: of all.
        question: what the pair is an example of.
        settings: how the environment differs from the task's standard.
        n_trials: weights on the grid.
        n_validation: seeds that the weight is chosen on.
        n_report: seeds of the report.
    """

    members: tuple[str, str]
    task: str
    sampler: Sampler
    question: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    n_trials: int = 11
    n_validation: int = 60
    n_report: int = 200


CASES = {
    "kinds": Case(
        ("pusht-flow", "pusht-diffusion"), "pusht", PUSHT, "two strong, flow + diffusion"
    ),
    **{
        f"kinds-{seed}": Case(
            (f"flow-{seed}/last", f"diffusion-{seed}/last"),
            "pusht",
            PUSHT,
            f"two strong, training seed {seed} (15,000 steps)",
        )
        for seed in (1, 2)
    },
    "weak": Case(
        ("pusht-flow", "flow/checkpoints/step-00005000"),
        "pusht",
        PUSHT,
        "strong + weak (step 5000)",
    ),
    "halves": Case(
        ("half-a/last", "half-b/last"), "pusht", PUSHT, "two halves of the demonstrations"
    ),
    "modality": Case(("pusht-flow", "pixels/last"), "pusht-all", PUSHT, "keypoints + image"),
    "state": Case(("pusht-flow", "state/last"), "pusht-all", PUSHT, "keypoints + poses"),
    "goals": Case(
        ("pusht-flow", "shifted-same-units/last"), "pusht", PUSHT, "data with another goal"
    ),
    "goals-there": Case(
        ("pusht-flow", "shifted-same-units/last"),
        "pusht",
        PUSHT,
        "the same, acting at the other goal",
        {"goal_pose": (356.0, 356.0, math.pi / 4)},
    ),
    **{
        f"maze2d-{seed}": Case(
            (f"maze2d-{seed}/flow/last", f"maze2d-{seed}/diffusion/last"),
            "maze2d-umaze",
            MAZE,
            f"two strong, flow + diffusion, training seed {seed}",
        )
        for seed in (0, 1, 2)
    },
    **{
        f"{task}-{pair}": Case(
            (f"{task}/{first}", f"{task}/{second}"),
            f"robomimic/{task}",
            PUSHT,
            question,
            SIX,
            n_trials=5,
            n_validation=10,
            n_report=100,
        )
        for task in ("lift", "can", "square")
        for pair, (first, second, question) in ROBOSUITE.items()
    },
}

GROUPS = {
    "kinds": ("kinds", "kinds-1", "kinds-2"),
    "weak": ("weak",),
    "halves": ("halves",),
    "modality": ("modality",),
    "state": ("state",),
    "goals": ("goals",),
    "goals-there": ("goals-there",),
    "maze2d": ("maze2d-0", "maze2d-1", "maze2d-2"),
    **{
        f"{task}-{pair}": (f"{task}-{pair}",)
        for task in ("lift", "can", "square")
        for pair in ROBOSUITE
    },
}
"""Cases that ask the same of other training seeds: one verdict for each group."""


def load(name: str, runs: Path) -> gp.policies.DenoisingPolicy:
    """Load a checkpoint below ``runs``, or a shipped policy."""
    return gp.load_policy(runs / name if (runs / name).exists() else name)


def main() -> None:
    """Run the cases that are named, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--runs", type=Path, default=Path("runs/gpc"))
    parser.add_argument("--validation", type=int, default=None)
    parser.add_argument("--report", type=int, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.cases:
        case = CASES[name]
        search = gp.compose.search_weights(
            [load(member, options.runs) for member in case.members],
            EvaluationTask.named(case.task, **case.settings),
            seeds=range(300_000, 300_000 + (options.validation or case.n_validation)),
            report_seeds=range(100_000, 100_000 + (options.report or case.n_report)),
            n_trials=case.n_trials,
            sampler=case.sampler,
            out=options.runs / "searches" / name,
            n_envs=3 if case.settings == SIX else 50,
            n_action_steps=4 if case.settings == SIX else None,
            batch=10 if case.settings == SIX else 20,
        )
        print(f"\n== {name}: {case.question}\n{search}", flush=True)
        search.plot(HERE / f"{name}.png")
    collect(options.runs / "searches")


def collect(folder: Path) -> None:
    """Write the csv files from every finished search."""
    found: dict[str, WeightSearch] = {}
    for name in CASES:
        file = folder / name / "result.json"
        if file.exists():
            found[name] = WeightSearch.from_json(json.loads(file.read_text(encoding="utf-8")))
    report, curve = [], []
    for name, search in found.items():
        for candidate in search.candidates:
            interval = candidate.interval
            curve.append(
                {
                    "case": name,
                    "weight_of_first": candidate.numbers[0],
                    "mean": f"{candidate.mean:.4f}",
                    "low": f"{interval.low:.4f}",
                    "high": f"{interval.high:.4f}",
                    "n": len(candidate.values),
                    "stopped_early": candidate.is_stopped,
                }
            )
        question = CASES[name].question
        report += [{"case": name, "question": question, **row} for row in report_rows(search)]
    verdicts = []
    for group, names in GROUPS.items():
        searches = [found[name] for name in names if name in found]
        if searches:
            verdicts.append({"group": group, **verdict(searches)})
    for file, rows in (("results.csv", report), ("curve.csv", curve), ("verdicts.csv", verdicts)):
        rows = with_others(HERE / file, rows)
        with open(HERE / file, "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def with_others(file: Path, rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return rows, and those in a file that are of other cases or groups, in the order of CASES."""
    name = next(iter(rows[0]))
    new = {row[name] for row in rows}
    if file.exists():
        with open(file, newline="", encoding="utf-8") as handle:
            rows = [*(row for row in csv.DictReader(handle) if row[name] not in new), *rows]
    order = list(CASES if name == "case" else GROUPS)
    return sorted(rows, key=lambda row: order.index(str(row[name])))


def verdict(searches: list[WeightSearch]) -> dict[str, object]:
    """Return the chosen weights minus the better member of each training seed, on report seeds."""
    gaps = []
    for search in searches:
        best = search.report[search.best_number].values(search.metric)
        parent = search.report[search.better_parent.number].values(search.metric)
        gaps.append(np.subtract(best, parent))
    mean, interval = stratified_interval(gaps)
    decided = "beats it" if interval.low > 0 else "is worse" if interval.high < 0 else "does not"
    if not any(gap.any() for gap in gaps):
        decided = "the member alone was chosen"
    return {
        "training_seeds": len(searches),
        "episodes": sum(len(gap) for gap in gaps),
        "chosen_weight_of_first": " ".join(f"{s.best.numbers[0]:g}" for s in searches),
        "metric": searches[0].metric,
        "best_minus_better_member": f"{mean:.4f}",
        "low": f"{interval.low:.4f}",
        "high": f"{interval.high:.4f}",
        "verdict": decided,
    }


def report_rows(search: WeightSearch) -> list[dict[str, object]]:
    """Return one row per reported candidate, on the seeds that had no part in the choice."""
    rows = []
    for number, result in search.report.items():
        candidate = search.candidates[number]
        interval = result.interval(search.metric)
        gap = search.differences.get(number)
        rows.append(
            {
                "policy": f"member {candidate.parent} alone"
                if candidate.parent is not None
                else "best mean",
                "is_best": number == search.best_number,
                "weight_of_first": candidate.numbers[0],
                "metric": search.metric,
                "mean": f"{result.mean(search.metric):.4f}",
                "low": f"{interval.low:.4f}",
                "high": f"{interval.high:.4f}",
                "n": len(result.records),
                "best_minus_it": "" if gap is None else f"{gap.mean:.4f}",
                "diff_low": "" if gap is None else f"{gap.interval.low:.4f}",
                "diff_high": "" if gap is None else f"{gap.interval.high:.4f}",
            }
        )
    return rows


if __name__ == "__main__":
    main()
