"""Write results.csv of an experiment from evaluation results.

    python experiments/collect.py experiments/pusht flow@30000=runs/.../result.json ...

A label is NAME or NAME@STEP; one row per label, task and metric. A label that is given more than
once on a task stands for several training seeds: their mean, with the interval of
``stratified_interval``, which resamples episodes within each training seed, or Wilson's of all
episodes for rates. The first argument may also name another csv file than results.csv.
"""

import csv
import re
import sys
from pathlib import Path

from genpolicy.evaluation import EvalResult, read_ledger
from genpolicy.evaluation.records import format_seeds
from genpolicy.evaluation.run_scores import stratified_interval
from genpolicy.evaluation.statistics import wilson_interval

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
    grouped = {}
    for pair in pairs:
        label, _, path = pair.partition("=")
        result = load(Path(path))
        grouped.setdefault((label, result.task), []).append(result)
    rows = []
    for (label, task), results in grouped.items():
        name, _, step = label.partition("@")
        family = re.split("[-/]", task)[0]
        for metric in METRICS[family]:
            mean, interval = results[0].mean(metric), results[0].interval(metric)
            if len(results) > 1:
                groups = [[record.metrics[metric] for record in r.records] for r in results]
                mean, interval = stratified_interval(groups)
                if metric in results[0].rates:  # resampled, episodes that all succeed show no doubt
                    pooled = [value for group in groups for value in group]
                    interval = wilson_interval(sum(v > 0.5 for v in pooled), len(pooled))
            several = {"training_seeds": len(results)} if len(grouped) < len(pairs) else {}
            rows.append(
                {
                    "policy": name,
                    "step": step,
                    "task": task,
                    "metric": metric,
                    "mean": f"{mean:.4f}",
                    "low": f"{interval.low:.4f}",
                    "high": f"{interval.high:.4f}",
                    "n": sum(len(r.records) for r in results),
                    **several,
                    "seeds": format_seeds(results[0].seeds),
                    "versions": " ".join(
                        f"{k}={v}"
                        for k, v in {**results[0].simulators, **results[0].versions}.items()
                    ),
                }
                | ({"caveats": "; ".join(results[0].caveats)} if family == "d4rl" else {})
            )
    target = Path(folder) if folder.endswith(".csv") else Path(folder) / "results.csv"
    with open(target, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows: {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
