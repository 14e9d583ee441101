"""Write the results table of the README from the csv files of the experiments.

python experiments/table.py [--check]
"""

import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
PRIMARY = {
    "d4rl": "d4rl_score",
    "maze2d_umaze": "d4rl_score",
    "offline_rl": "d4rl_score",
    "online": "d4rl_score",
    "pusht": "max_reward",
    "robomimic": "success",
}


def rows_of(folder: str, name: str = "results.csv") -> list[dict[str, str]]:
    """Return the rows of an experiment's csv file; none where it has none yet."""
    file = ROOT / "experiments" / folder / name
    if not file.exists():
        return []
    with open(file, encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def composed() -> list[tuple[str, str, str, str, str, str, str, str]]:
    """Return what the table shows of compositions: folder to number of episodes."""
    found = []
    for row in rows_of("gpc", "verdicts.csv"):
        name, weight = f"best mean, {row['group']}", f"weights {row['chosen_weight_of_first']}"
        gap = f"{row['metric']} minus the better member's"
        figures = row["best_minus_better_member"], row["low"], row["high"], row["episodes"]
        found.append(("gpc", name, weight, gap, *figures))
    for row in rows_of("rlg"):
        if row["metric"] == "d4rl_score":
            figures = row["metric"], row["mean"], row["low"], row["high"], row["n"]
            found.append(("rlg", row["policy"], f"w = {float(row['scale']):g}", *figures))
    for row in rows_of("poco"):
        if row["gradient"] == "through" and float(row["scale"]) in (0.0, 1e3, 1e4):
            scale = f"scale {float(row['scale']):g}"
            rate = row["violation_rate"], row["violation_low"], row["violation_high"], row["n"]
            score = row["d4rl_score"], row["score_low"], row["score_high"], row["n"]
            found.append(("poco", "flow, kept out", scale, "violation_rate", *rate))
            found.append(("poco", "flow, kept out", scale, "d4rl_score", *score))
    return found


def table() -> str:
    """Return the table in Markdown."""
    lines = [
        "| experiment | policy | seed, step or setting | metric | mean | 95% interval | n |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for folder, metric in PRIMARY.items():
        for row in rows_of(folder):
            if row["metric"] == metric:
                mean, low, high = (float(row[k]) for k in ("mean", "low", "high"))
                mark = " †" if row.get("caveats") else ""
                name = row["policy"]
                if folder == "d4rl":
                    name = f"{row['task'].removeprefix('d4rl/')}, {name}"
                lines.append(
                    f"| [{folder}](experiments/{folder}/) | {name} | {row['step']} | {metric} | "
                    f"{mean:.3g}{mark} | {low:.3g} to {high:.3g} | {row['n']} |"
                )
    for folder, policy, setting, metric, mean, low, high, n in composed():
        lines.append(
            f"| [{folder}](experiments/{folder}/) | {policy} | {setting} | {metric} | "
            f"{float(mean):.3g} | {float(low):.3g} to {float(high):.3g} | {n} |"
        )
    if any(" † |" in line for line in lines):
        lines += ["", "† NOT comparable with published scores: another simulator or other data, as"]
        lines += ["`caveats` in the csv file says."]
    return "\n".join(lines)


def main() -> int:
    """Write the table, or with ``--check`` say whether it is up to date."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    new = f"{head}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"
    if "--check" in sys.argv[1:]:
        print("up to date" if new == text else "stale: run python experiments/table.py")
        return int(new != text)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
