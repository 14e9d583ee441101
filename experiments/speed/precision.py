"""What bfloat16, float32 in pieces of it, and torch instead of kernels do to actions and scores.

    python experiments/speed/precision.py

Differences from float32 kernels with the same seeds, over the range of the actions in the training
data, for 256 random observations within the data's range; and the scores of two shipped policies
with all of them on 100 starts. Writes precision.csv.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import genpolicy as gp
from genpolicy.evaluation.run_scores import stratified_interval
from genpolicy.ops import backend

HERE = Path(__file__).parent
POLICIES = ("pusht-flow", "pusht-diffusion", "pusht-consistency", "maze2d-umaze-flow")


VARIANTS = {
    "bf16": ("require", "bf16"),
    "bf16x3": ("require", "bf16x3"),
    "torch": ("off", "fp32"),
}
"""What is compared with compiled float32: who samples, and the precision of products."""


def in_variant(name: str, run: Callable[[str], Tensor]) -> Tensor:
    """Return what ``run`` returns for a precision with the right implementation."""
    mode, precision = VARIANTS.get(name, ("require", "fp32"))
    os.environ["GENPOLICY_EXT"] = mode
    try:
        return run(precision)
    finally:
        del os.environ["GENPOLICY_EXT"]


def row(what: str, **figures: object) -> dict[str, object]:
    """Return a row of the table."""
    return {"what": what, "mean": "", "p99": "", "max": "", "low": "", "high": "", **figures}


def errors(name: str) -> list[dict[str, object]]:
    """Return how far actions move."""
    policy = gp.load_policy(name)
    generator = torch.Generator().manual_seed(0)
    stats, obs = policy.normalizer.stats, {}
    for key, shape in policy.spec.obs_shapes.items():
        low, high = (torch.as_tensor(v) for v in (stats[key].minimum, stats[key].maximum))
        share = torch.rand(256, policy.spec.n_obs_steps, *shape, generator=generator)
        obs[key] = low + (high - low) * share
    span = torch.as_tensor(stats["action"].maximum - stats["action"].minimum)

    def actions(precision: str) -> Tensor:
        return policy.with_sampler(precision=precision).sample(obs, seeds=range(256))

    full, rows = in_variant("fp32", actions), []
    for variant in VARIANTS:
        error = ((full - in_variant(variant, actions)).abs() / span).flatten()
        figures = {"mean": error.mean(), "p99": error.quantile(0.99), "max": error.max()}
        text = {key: f"{value:.2e}" for key, value in figures.items()}
        rows.append(row(f"{name}, {variant}: action error over range", **text, n=256))
    return rows


def scores(name: str, task: str, metric: str) -> list[dict[str, object]]:
    """Return a policy's scores with all variants, and the paired differences."""
    policy = gp.load_policy(name)
    found = {}
    for variant in ("fp32", *VARIANTS):

        def score(precision: str) -> Tensor:
            seeds = range(100_000, 100_100)
            made = policy.with_sampler(precision=precision)
            return torch.tensor(gp.evaluate(made, task, seeds=seeds, n_envs=50).values(metric))

        found[variant] = in_variant(variant, score)
    figures = {f"{name}, {variant}: {metric}": values for variant, values in found.items()}
    for variant in VARIANTS:
        figures[f"{name}: {variant} minus fp32"] = found[variant] - found["fp32"]
    rows = []
    for what, values in figures.items():
        mean, interval = stratified_interval([values.numpy()])
        ends = {"low": f"{interval.low:.4f}", "high": f"{interval.high:.4f}"}
        largest = f"{values.abs().max():.4f}" if "minus" in what else ""
        rows.append(row(what, mean=f"{mean:.4f}", max=largest, **ends, n=100))
    return rows


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    print(backend())
    rows = [one for name in POLICIES for one in errors(name)]
    rows += scores("pusht-flow", "pusht", "max_reward")
    rows += scores("maze2d-umaze-flow", "maze2d-umaze", "d4rl_score")
    with open(HERE / "precision.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(*row.values(), sep="\t")


if __name__ == "__main__":
    main()
