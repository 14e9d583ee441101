"""A critic steers a policy that it was not trained with.

    python experiments/offline_rl/steer.py BASE CRITIC [--episodes 100]

BASE is a flow policy of chunks of 16 actions that imitates the controller (the base policy of
experiments/rlg), CRITIC a run of IQL on single steps of the same data. Writes steer.csv.
"""

import argparse
import csv
from pathlib import Path

import torch

import genpolicy as gp

HERE = Path(__file__).parent
CANDIDATES = (4, 16)
SCALES = (1.0, 10.0, 100.0)


def main():
    """Evaluate the base alone, the best of its samples, and guided samples."""
    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("critic")
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base, critic = gp.load_policy(options.base), gp.policies.load_critic(options.critic)
    base.rows_per_block = 50
    cases = {"base alone": base}
    cases |= {f"best of {n}": gp.compose.best_of(base, critic, n=n) for n in CANDIDATES}
    cases |= {
        f"guided, scale {scale:g}": gp.compose.value_guided(base, critic, scale=scale)
        for scale in SCALES
    }
    rows = []
    for name, policy in cases.items():
        seeds = range(1000, 1000 + options.episodes)
        result = gp.evaluate(policy, "maze2d-umaze", seeds=seeds, n_envs=50, progress=False)
        interval = result.interval("d4rl_score")
        rows.append(
            {
                "policy": name,
                "metric": "d4rl_score",
                "mean": f"{result.mean('d4rl_score'):.2f}",
                "low": f"{interval.low:.2f}",
                "high": f"{interval.high:.2f}",
                "n": len(result.records),
                "evaluations_per_chunk": policy.nfe,
            }
        )
        print(rows[-1], flush=True)
    with open(HERE / "steer.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
