"""Write the results table of the README from the csv files of the experiments.

python experiments/table.py [--check]
"""

import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
PRIMARY = {"maze2d_umaze": "d4rl_score", "pusht": "max_reward"}


def table() -> str:
    """Return the table in Markdown."""
    lines = [
        "| experiment | policy | seed or step | metric | mean | 95% interval | n |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for folder, metric in PRIMARY.items():
        file = ROOT / "experiments" / folder / "results.csv"
        if not file.exists():
            continue
        with open(file, encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                if row["metric"] == metric:
                    mean, low, high = (float(row[k]) for k in ("mean", "low", "high"))
                    lines.append(
                        f"| [{folder}](experiments/{folder}/) | {row['policy']} | {row['step']} | "
                        f"{metric} | {mean:.3g} | {low:.3g} to {high:.3g} | {row['n']} |"
                    )
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
