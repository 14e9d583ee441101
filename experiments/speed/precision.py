"""What products in bfloat16 do to actions and scores of the shipped policies.

    python experiments/speed/precision.py

Differences between `sampler.precision=bf16` and float32 with the same seeds, over the range of the
actions in the training data, for 256 random observations within the data's range; and the score of
pusht-flow with both on 100 starts. Writes precision.csv.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch

import genpolicy as gp
from genpolicy.evaluation.run_scores import stratified_interval
from genpolicy.ops import backend

HERE = Path(__file__).parent
POLICIES = ("pusht-flow", "pusht-diffusion", "pusht-consistency", "maze2d-umaze-flow")


def errors(name: str) -> dict[str, object]:
    """Return how far actions move."""
    policy = gp.load_policy(name)
    generator = torch.Generator().manual_seed(0)
    stats, obs = policy.normalizer.stats, {}
    for key, shape in policy.spec.obs_shapes.items():
        low, high = (torch.as_tensor(v) for v in (stats[key].minimum, stats[key].maximum))
        share = torch.rand(256, policy.spec.n_obs_steps, *shape, generator=generator)
        obs[key] = low + (high - low) * share
    span = torch.as_tensor(stats["action"].maximum - stats["action"].minimum)
    full = policy.sample(obs, seeds=range(256))
    low = policy.with_sampler(precision="bf16").sample(obs, seeds=range(256))
    error = ((full - low).abs() / span).flatten()
    return {
        "what": f"{name}: action error over range",
        "mean": f"{error.mean():.2e}",
        "p99": f"{error.quantile(0.99):.2e}",
        "max": f"{error.max():.2e}",
        "low": "",
        "high": "",
        "n": 256,
    }


def score() -> list[dict[str, object]]:
    """Return the scores of pusht-flow with both, and the paired difference."""
    policy = gp.load_policy("pusht-flow")
    seeds = range(100_000, 100_100)
    found = [
        gp.evaluate(policy.with_sampler(precision=p), "pusht", seeds=seeds, n_envs=50)
        for p in ("fp32", "bf16")
    ]
    rows = []
    for precision, result in zip(("fp32", "bf16"), found, strict=True):
        interval = result.interval("max_reward")
        mean = result.mean("max_reward")
        rows.append((f"pusht-flow, {precision}: max_reward", mean, interval.low, interval.high))
    full, low = (torch.tensor(r.values("max_reward")) for r in found)
    mean, interval = stratified_interval([(low - full).numpy()])
    rows.append(("pusht-flow: bf16 minus fp32", mean, interval.low, interval.high))
    return [
        {
            "what": what,
            "mean": f"{mean:.4f}",
            "p99": "",
            "max": "",
            "low": f"{low:.4f}",
            "high": f"{high:.4f}",
            "n": 100,
        }
        for what, mean, low, high in rows
    ]


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    print(backend())
    rows = [errors(name) for name in POLICIES] + score()
    with open(HERE / "precision.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(*row.values(), sep="\t")


if __name__ == "__main__":
    main()
