"""Does a mean of two policies beat the better one? A weight search for each pair of policies.

    python experiments/gpc/run.py [CASE ...] [--runs runs/gpc]

Members, their mean at 11 weights, and the members alone run with the same sampler, noise and seeds:
weights are chosen on 60 validation seeds, and the best is compared with the members alone on 200
others. Rewrites results.csv (the report) and curve.csv (every weight) from all finished cases.
"""

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import torch

import genpolicy as gp
from genpolicy.evaluation.weight_results import WeightSearch
from genpolicy.sampling import Sampler

HERE = Path(__file__).parent
PUSHT = Sampler(rule="ddim", n_steps=10, init_scale=0.5)
MAZE = Sampler(rule="ddim", n_steps=10)


@dataclass(frozen=True)
class Case:
    """A pair of policies.

    Args:
        members: checkpoints below ``--runs``, or shipped names.
        task: where they act.
        sampler: of all.
        question: what the pair is an example of.
    """

    members: tuple[str, str]
    task: str
    sampler: Sampler
    question: str


CASES = {
    "kinds": Case(
        ("pusht-flow", "pusht-diffusion"), "pusht", PUSHT, "two strong, flow + diffusion"
    ),
    "weak": Case(
        ("pusht-flow", "flow/checkpoints/step-00005000"),
        "pusht",
        PUSHT,
        "strong + weak (step 5000)",
    ),
    "halves": Case(
        ("half-a/last", "half-b/last"), "pusht", PUSHT, "two halves of the demonstrations"
    ),
    "maze2d": Case(
        ("maze2d-umaze-flow", "maze2d-umaze-diffusion"), "maze2d-umaze", MAZE, "two strong, maze2d"
    ),
}


def load(name: str, runs: Path) -> gp.policies.DenoisingPolicy:
    """Load a checkpoint below ``runs``, or a shipped policy."""
    return gp.load_policy(runs / name if (runs / name).exists() else name)


def main() -> None:
    """Run the cases that are named, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--runs", type=Path, default=Path("runs/gpc"))
    parser.add_argument("--validation", type=int, default=60)
    parser.add_argument("--report", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.cases:
        case = CASES[name]
        search = gp.compose.search_weights(
            [load(member, options.runs) for member in case.members],
            case.task,
            seeds=range(300_000, 300_000 + options.validation),
            report_seeds=range(100_000, 100_000 + options.report),
            n_trials=11,
            sampler=case.sampler,
            out=options.runs / "searches" / name,
            n_envs=50,
            batch=20,
        )
        print(f"\n== {name}: {case.question}\n{search}", flush=True)
        search.plot(HERE / f"{name}.png")
    collect(options.runs / "searches")


def collect(folder: Path) -> None:
    """Write the two csv files from every finished search."""
    import json

    report, curve = [], []
    for name, case in CASES.items():
        file = folder / name / "result.json"
        if not file.exists():
            continue
        search = WeightSearch.from_json(json.loads(file.read_text(encoding="utf-8")))
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
        report += [{"case": name, "question": case.question, **row} for row in report_rows(search)]
    for file, rows in (("results.csv", report), ("curve.csv", curve)):
        with open(HERE / file, "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


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
