"""Score the policies that regenerated data was made with: their episodes are in the data.

    python experiments/d4rl/behavior.py FILE ...

Appends to experiments/d4rl/results.csv a row for each policy of each medium-expert file, over its
complete episodes: the behavior that imitation of the file is measured by, in the same simulator.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np

from genpolicy.data.registry import load_dataset
from genpolicy.envs import env_entry
from genpolicy.evaluation.statistics import bootstrap_interval

TARGET = Path(__file__).parent / "results.csv"


def rows_of(file: str) -> list[dict[str, str]]:
    """Return the rows of one file."""
    task = f"d4rl/{Path(file).stem}"
    episodes = load_dataset(task, file)
    details, entry = episodes.source.details, env_entry(task)
    names = str(details["recipe"]).split(",")
    part = (episodes.episode_ends - 1) * len(names) // episodes.n_steps
    cut = np.append(np.flatnonzero(np.diff(part)), episodes.n_episodes - 1)  # the last of each part
    whole = np.ones(episodes.n_episodes, bool)
    ended = episodes.terminated[episodes.episode_ends[cut] - 1]
    whole[cut] = ended | (episodes.lengths[cut] == entry.max_steps)
    returns = episodes.returns
    assert returns is not None
    rows = []
    for k, name in enumerate(names):
        scores = [entry.score(float(r)) for r in returns[whole & (part == k)]]
        interval = bootstrap_interval(scores)
        rows.append(
            {
                "policy": f"behavior {name}",
                "step": "",
                "task": task,
                "metric": "d4rl_score",
                "mean": f"{np.mean(scores):.4f}",
                "low": f"{interval.low:.4f}",
                "high": f"{interval.high:.4f}",
                "n": str(len(scores)),
                "seeds": f"of the data, seed {details['seed']}",
                "versions": " ".join(
                    f"{k}={v}" for k, v in json.loads(details["versions"]).items()
                ),
                "caveats": entry.note,
            }
        )
    return rows


def main(*files: str) -> None:
    """Append the rows of the files."""
    rows = [row for file in files for row in rows_of(file)]
    is_new = not TARGET.exists()
    with open(TARGET, "a", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows more: {TARGET}")


if __name__ == "__main__":
    main(*sys.argv[1:])
