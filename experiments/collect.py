"""Write results.csv of an experiment from evaluation results.

    python experiments/collect.py experiments/pusht flow@30000=runs/.../result.json ...

A label is NAME or NAME@STEP; one row per label and metric. The first argument may also name another
csv file than results.csv.
"""

import csv
import re
import sys
from pathlib import Path

from genpolicy.evaluation import EvalResult, read_ledger
from genpolicy.evaluation.records import format_seeds

METRICS = {
    "d4rl": ("d4rl_score", "success"),
    "maze2d": ("d4rl_score", "success"),
    "pusht": ("max_reward", "max_coverage", "final_coverage", "success"),
    "robomimic": ("success", "time_to_success"),
}


def load(path: Path) -> EvalResult:
    """Read a result.json, or a ledger."""
    import json

    if path.suffix == ".jsonl":
        return read_ledger(path).result()
    return EvalResult.from_json(json.loads(path.read_text(encoding="utf-8")))


def main(folder: str, *pairs: str) -> None:
    """Collect the results named by ``label=path``."""
    rows = []
    for pair in pairs:
        label, _, path = pair.partition("=")
        name, _, step = label.partition("@")
        result = load(Path(path))
        family = re.split("[-/]", result.task)[0]
        for metric in METRICS[family]:
            interval = result.interval(metric)
            rows.append(
                {
                    "policy": name,
                    "step": step,
                    "task": result.task,
                    "metric": metric,
                    "mean": f"{result.mean(metric):.4f}",
                    "low": f"{interval.low:.4f}",
                    "high": f"{interval.high:.4f}",
                    "n": len(result.records),
                    "seeds": format_seeds(result.seeds),
                    "versions": " ".join(
                        f"{k}={v}" for k, v in {**result.simulators, **result.versions}.items()
                    ),
                }
                | ({"caveats": "; ".join(result.caveats)} if family == "d4rl" else {})
            )
    target = Path(folder) if folder.endswith(".csv") else Path(folder) / "results.csv"
    with open(target, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows: {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
