"""How much memory does each simulator in a process of its own take?

    python experiments/simulator_workers/run.py [TASK ...]

Starts the workers of `genpolicy evaluate workers=true`, runs 20 steps in each, and reads from the
kernel what they hold: `rss` with shared pages counted in full, `pss` with every shared page divided
among its users, which is what one more worker costs. Linux only; CASES names the tasks.
"""

import argparse
import csv
import os
from pathlib import Path

import numpy as np

from genpolicy.envs.registry import env_entry, make_vector_env

HERE = Path(__file__).parent
CASES = (
    "maze2d-umaze",
    "pusht",
    "robomimic/lift",
    "robomimic/can",
    "robomimic/square",
    "robomimic/transport",
    "robomimic/lift-image",
)


def memory_of(pid: int) -> tuple[float, float]:
    """Return rss and pss of a process in MB."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        words = line.split()
        if words[0] in ("Rss:", "Pss:"):
            found[words[0]] = int(words[1]) / 1024
    return found["Rss:"], found["Pss:"]


def measure(task: str, n_workers: int) -> dict[str, object]:
    """Return the row of a task."""
    with make_vector_env(task, n_workers, workers=True) as slots:
        slots.reset(range(n_workers), range(n_workers))
        actions = np.zeros((n_workers, *slots.action_space.shape), np.float32)
        for _ in range(20):
            slots.step(actions, np.ones(n_workers, bool))
        each = [memory_of(process.pid) for process in slots._env.processes]
    rss, pss = np.mean(each, axis=0)
    versions = " ".join(f"{name}={value}" for name, value in env_entry(task).versions().items())
    return {
        "task": task,
        "workers": n_workers,
        "rss_mb": f"{rss:.0f}",
        "pss_mb": f"{pss:.0f}",
        "versions": versions,
    }


def main() -> None:
    """Measure and write results.csv beside this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="*", default=list(CASES))
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    for task in options.tasks:
        rows.append(measure(task, options.workers))
        print(rows[-1], flush=True)
    with open(HERE / "results.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
