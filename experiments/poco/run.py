"""What does keeping a policy out of a disc cost? The scale of the cost, swept.

    python experiments/poco/run.py [--episodes 100]

The shipped flow policy of maze2d-umaze, guided by the depth inside a disc that lies on the way of
two episodes in three. Nothing is trained. Writes results.csv and curve.png.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import genpolicy as gp
from genpolicy.composition import KeepOut, PointMass
from genpolicy.evaluation import replay
from genpolicy.evaluation.statistics import bootstrap_interval, wilson_interval

HERE = Path(__file__).parent
DISC = KeepOut(center=(0.65, 2.0), radius=0.2, margin=0.1, positions=PointMass())
SCALES = (0.0, 1e2, 3e2, 1e3, 3e3, 1e4, 1e5)
INTERVAL = (-4.0, float("inf"))


def measure(scale: float, gradient: str, n_episodes: int) -> dict[str, object]:
    """Return violation rate, score and clipped entries of one scale."""
    policy = gp.compose.with_cost(
        gp.load_policy("maze2d-umaze-flow"),
        cost=DISC,
        scale=scale,
        options={"interval": INTERVAL, "gradient": gradient},
    )
    entered, scores, depths = 0, [], []
    seeds = range(200_000, 200_000 + n_episodes)
    for rollout in replay(policy, "maze2d-umaze", seeds=seeds, n_envs=50):
        distance = np.linalg.norm(rollout.obs["state"][:, :2] - np.array(DISC.center), axis=1)
        depth = float(np.clip(DISC.radius - distance, 0, None).max())
        entered += depth > 0
        depths.append(depth)
        scores.append(rollout.record.metrics["d4rl_score"])
    rate, score = wilson_interval(entered, n_episodes), bootstrap_interval(scores)
    return {
        "gradient": gradient,
        "scale": scale,
        "violation_rate": f"{entered / n_episodes:.3f}",
        "violation_low": f"{rate.low:.3f}",
        "violation_high": f"{rate.high:.3f}",
        "mean_depth_m": f"{np.mean(depths):.4f}",
        "d4rl_score": f"{np.mean(scores):.1f}",
        "score_low": f"{score.low:.1f}",
        "score_high": f"{score.high:.1f}",
        "n": n_episodes,
    }


def draw(rows: list[dict[str, object]]) -> None:
    """Draw violation rate and score over the scale."""
    figure = Figure(figsize=(7.0, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for gradient in ("through", "denoised"):
        own = [r for r in rows if r["gradient"] == gradient or r["scale"] == 0.0]
        x = [max(float(str(r["scale"])), 30.0) for r in own]
        for axis, name, low, high in (
            (left, "violation_rate", "violation_low", "violation_high"),
            (right, "d4rl_score", "score_low", "score_high"),
        ):
            y = [float(str(r[name])) for r in own]
            error = [
                [v - float(str(r[low])) for v, r in zip(y, own, strict=True)],
                [float(str(r[high])) - v for v, r in zip(y, own, strict=True)],
            ]
            axis.errorbar(x, y, yerror(error), marker="o", label=gradient, capsize=2)
            axis.set_xscale("log")
            axis.set_xlabel("scale (leftmost: none)")
            axis.set_ylabel(name.replace("_", " "))
    left.legend()
    figure.savefig(HERE / "curve.png", dpi=120)


def yerror(error: list[list[float]]) -> np.ndarray:
    """Return error bars that are not negative by rounding."""
    return np.clip(np.array(error), 0, None)


def main() -> None:
    """Sweep the scale with both kinds of gradient."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for gradient in ("through", "denoised"):
        for scale in SCALES if gradient == "through" else SCALES[1:]:
            rows.append(measure(scale, gradient, options.episodes))
            print(rows[-1], flush=True)
    with open(HERE / "results.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw(rows)


if __name__ == "__main__":
    main()
