"""What does composing two policies cost beside evaluating both?

    python experiments/compose_cost/run.py

One chunk for 8 and for 64 rows of the shipped Push-T flow and diffusion policies, 10 steps each,
against their mean on the same rows: medians of alternating rounds in one process, one thread, in
torch and with the compiled operators (make ext). Writes results.csv.
"""

import csv
import os
import statistics
import time
from pathlib import Path

import torch

import genpolicy as gp

HERE = Path(__file__).parent
N_ROUNDS, BATCHES = 60, (8, 64)


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    sampler = gp.compose.Sampler(rule="ddim", n_steps=10)
    flow, diffusion = (gp.load_policy(n) for n in ("pusht-flow", "pusht-diffusion"))
    alone = [
        gp.compose.mean([flow, diffusion], weights, sampler=sampler)
        for weights in ([1.0, 0.0], [0.0, 1.0])
    ]
    both = gp.compose.mean([flow, diffusion], [0.5, 0.5], sampler=sampler)
    rows = []
    for n_rows in BATCHES:
        generator = torch.Generator().manual_seed(0)
        obs = {
            key: 512 * torch.rand(n_rows, both.spec.n_obs_steps, *shape, generator=generator)
            for key, shape in both.spec.obs_shapes.items()
        }
        for mode, name in (("off", "torch"), ("require", "compiled")):
            os.environ["GENPOLICY_EXT"] = mode
            ratios = sorted(ratio_of((*alone, both), obs, n_rows) for _ in range(N_ROUNDS))
            rows.append(
                {
                    "composition": "mean of pusht-flow and pusht-diffusion",
                    "operators": name,
                    "ratio_to_sum_of_members": f"{statistics.median(ratios):.3f}",
                    "low": f"{ratios[N_ROUNDS // 4]:.3f}",
                    "high": f"{ratios[3 * N_ROUNDS // 4]:.3f}",
                    "rounds": N_ROUNDS,
                    "rows": n_rows,
                    "torch": torch.__version__,
                }
            )
            print(rows[-1])
    with open(HERE / "results.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def ratio_of(policies, obs, n_rows: int) -> float:
    """Return the time of the last policy over the sum of those of the others."""
    spent = []
    for policy in policies:
        policy.sample(obs, seeds=range(n_rows))  # fills the caches with its own weights
        begin = time.perf_counter()
        policy.sample(obs, seeds=range(n_rows))
        spent.append(time.perf_counter() - begin)
    return spent[-1] / sum(spent[:-1])


if __name__ == "__main__":
    main()
