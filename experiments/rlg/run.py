"""Guidance by a tuned policy, over its scale, beside policies tuned that far directly.

    python experiments/rlg/run.py [--episodes 100] [--runs runs/rlg] [--seeds 0 1 2]

maze2d-umaze without the goal as an observation: the base policy imitates a controller that drives
to random goals; the tuned one is the same with windows weighted by exp(advantage/beta) for the
sparse reward of the task's target. Guidance with scale w aims at the optimum for beta/w, which is
also trained directly. A training seed has its own data. Writes results.csv, gaps.csv and curve.png;
what exists in ``runs`` is used.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import genpolicy as gp
from genpolicy.cli.compose_config import compose_config
from genpolicy.evaluation import EvalResult
from genpolicy.evaluation.run_scores import stratified_interval
from genpolicy.generators.maze2d import make_maze2d
from genpolicy.training import resume, train

HERE = Path(__file__).parent
TASK, BETA = "maze2d-umaze", 8.0
SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
DIRECT = (2.0, 3.0)
COMMON = [
    "experiment=maze2d_umaze_flow",
    "policy.encoder.keys=[state]",
    "data.discount=0.99",
    "trainer.max_steps=5000",
    "save.every=5000",
    "trainer.n_threads=1",
]


def trained(name: str, overrides: list[str], runs: Path) -> gp.policies.DenoisingPolicy:
    """Train a policy unless it is there."""
    folder = runs / name
    if not (folder / "last").exists():
        if (folder / "state").exists():
            resume(folder, progress=False)
        else:
            settings = [*COMMON, f"run_dir={folder}", f"name={name}", *overrides]
            train(compose_config("train", settings), progress=False)
    return gp.load_policy(folder / "last")


def measured(policy: gp.policies.DenoisingPolicy, name: str, n: int, runs: Path) -> EvalResult:
    """Evaluate a policy on the report's seeds."""
    ledger = runs / "evaluations" / f"{name}.jsonl"
    ledger.parent.mkdir(parents=True, exist_ok=True)
    seeds = range(100_000, 100_000 + n)
    return gp.evaluate(policy, TASK, seeds=seeds, n_envs=50, ledger=ledger, resume=ledger.exists())


def policies(seed: int, runs: Path) -> dict[tuple[str, float], gp.policies.DenoisingPolicy]:
    """Return everything that is compared, by kind and scale, trained with one seed."""
    data = runs / "data.hdf5"
    if not data.exists():
        data.parent.mkdir(parents=True, exist_ok=True)
        make_maze2d(TASK, seed=seed, path=data, n_steps=200_000)
    where = [f"data.path={data.resolve()}", f"seed={seed}"]
    awr = ["algorithm=awr", *where]
    base = trained("base", where, runs)
    tuned = trained("tuned", [*awr, f"algorithm.beta={BETA}"], runs)
    found = {
        ("guidance", w): gp.compose.rl_guidance(base=base, tuned=tuned, scale=w) for w in SCALES
    }
    for w in DIRECT:
        overrides = [*awr, f"algorithm.beta={BETA / w}"]
        found["tuned at beta/w", w] = trained(f"direct-{w:g}", overrides, runs)
    return found


def main() -> None:
    """Train, evaluate, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--runs", type=Path, default=Path("runs/rlg"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[tuple[str, float], list[EvalResult]] = {}
    for seed in options.seeds:
        runs = options.runs / f"seed-{seed}"
        for (kind, scale), policy in policies(seed, runs).items():
            name = f"{kind}-{scale:g}".replace(" ", "-").replace("/", "-over-")
            result = measured(policy, name, options.episodes, runs)
            results.setdefault((kind, scale), []).append(result)
            print(seed, kind, scale, result.mean("d4rl_score"), flush=True)
    rows = [
        row(kind, scale, metric, found, options.seeds)
        for (kind, scale), found in results.items()
        for metric in ("d4rl_score", "success")
    ]
    gaps = [gap(results, w) for w in DIRECT]
    for file, content in (("results.csv", rows), ("gaps.csv", gaps)):
        with open(HERE / file, "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(content[0]))
            writer.writeheader()
            writer.writerows(content)
    draw(rows)


def row(
    kind: str, scale: float, metric: str, found: list[EvalResult], seeds: list[int]
) -> dict[str, object]:
    """Return one line of results.csv: a figure over the training seeds, and each seed's own."""
    mean, interval = stratified_interval([result.values(metric) for result in found])
    own = {f"seed_{s}": f"{r.mean(metric):.3f}" for s, r in zip(seeds, found, strict=True)}
    return {
        "policy": kind,
        "scale": scale,
        "metric": metric,
        "mean": f"{mean:.3f}",
        "low": f"{interval.low:.3f}",
        "high": f"{interval.high:.3f}",
        "n": sum(len(result.records) for result in found),
        **own,
    }


def gap(results: dict[tuple[str, float], list[EvalResult]], scale: float) -> dict[str, object]:
    """Return by how much guidance is above the policy tuned directly, paired by episode seed."""
    pairs = zip(results["guidance", scale], results["tuned at beta/w", scale], strict=True)
    differences = [np.subtract(a.values("d4rl_score"), b.values("d4rl_score")) for a, b in pairs]
    mean, interval = stratified_interval(differences)
    return {
        "scale": scale,
        "guidance_minus_direct": f"{mean:.3f}",
        "low": f"{interval.low:.3f}",
        "high": f"{interval.high:.3f}",
        "n": sum(len(d) for d in differences),
    }


def draw(rows: list[dict[str, object]]) -> None:
    """Draw the score over the scale."""
    figure = Figure(figsize=(5.0, 3.2), layout="constrained")
    axis = figure.subplots()
    for kind, style in (("guidance", "o-"), ("tuned at beta/w", "s")):
        own = [r for r in rows if r["policy"] == kind and r["metric"] == "d4rl_score"]
        x = [float(str(r["scale"])) for r in own]
        y = [float(str(r["mean"])) for r in own]
        low = [max(v - float(str(r["low"])), 0.0) for v, r in zip(y, own, strict=True)]
        high = [max(float(str(r["high"])) - v, 0.0) for v, r in zip(y, own, strict=True)]
        axis.errorbar(x, y, [low, high], fmt=style, capsize=2, label=kind)
    axis.set_xlabel("scale w")
    axis.set_ylabel("D4RL score")
    axis.legend()
    figure.savefig(HERE / "curve.png", dpi=120)


if __name__ == "__main__":
    main()
