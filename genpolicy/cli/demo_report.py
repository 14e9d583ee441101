"""The demo's evaluation and its report: what a newcomer should see of three policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from genpolicy.evaluation import EvalResult, evaluate, measure_latency, replay
from genpolicy.policies import ComposedPolicy, Policy, load_policy

if TYPE_CHECKING:
    from genpolicy.cli.demo_compose import DemoCompositions
    from genpolicy.evaluation.page import Block, Section

__all__ = ["LEARNED", "evaluate_all", "write_demo_report"]

LEARNED = ("diffusion", "flow", "consistency")
_N_DRAWN = 16


def evaluate_all(
    config: Mapping[str, Any], out: Path
) -> tuple[dict[str, EvalResult], dict[str, Policy]]:
    """Evaluate the trained policies, the data-collecting controller and a random policy.

    Each has its ledger in ``out/evaluations``; episodes found there are not repeated.

    Args:
        config: resolved ``configs/demo.yaml``.
        out: the demo's folder.

    Returns:
        Results and policies, by name.
    """
    from genpolicy.generators import ControllerPolicy, RandomPolicy

    task = config["task"]
    policies: dict[str, Policy] = {n: load_policy(out / "runs" / n / "last") for n in LEARNED}
    policies["controller"] = ControllerPolicy(task=task)
    policies["random"] = RandomPolicy(task=task)
    checkpoints = {name: out / "runs" / name / "last" for name in LEARNED}
    return evaluate_each(config, policies, out / "evaluations", checkpoints), policies


def evaluate_each(
    config: Mapping[str, Any],
    policies: Mapping[str, Policy],
    folder: Path,
    checkpoints: Mapping[str, Path],
) -> dict[str, EvalResult]:
    """Evaluate policies on the demo's seeds, each with a ledger in ``folder`` that is continued."""
    first = int(config["first_seed"])
    results = {}
    for name, policy in policies.items():
        ledger = folder / f"{name.replace(', ', '-').replace(' ', '-')}.jsonl"
        print(f"evaluate {name}", flush=True)
        results[name] = evaluate(
            policy,
            config["task"],
            seeds=range(first, first + int(config["n_episodes"])),
            n_envs=int(config["n_envs"]),
            ledger=ledger,
            resume=ledger.exists(),
            checkpoint=checkpoints.get(name),
        )
    return results


def write_demo_report(
    config: Mapping[str, Any],
    out: Path,
    *,
    data: Path,
    results: Mapping[str, EvalResult],
    policies: Mapping[str, Policy],
    composed: DemoCompositions,
) -> Path:
    """Write ``out/report.html`` and return its path."""
    from genpolicy.evaluation.page import Code, Section, Text, write_report
    from genpolicy.evaluation.plots import draw_intervals, draw_trajectories
    from genpolicy.evaluation.report import (
        comparison_table,
        drawn,
        latency_table,
        result_facts,
        results_table,
    )

    task, metric = config["task"], "d4rl_score"
    seeds = [r.seed for r in results["flow"].records]
    paths = _paths(task, policies, seeds[:_N_DRAWN])
    rows = [(name, r.mean(metric), r.interval(metric)) for name, r in results.items()]
    sections: list[Section] = [
        Section(
            "Scores",
            [
                results_table(
                    results,
                    metrics=[metric, "success", "time_to_goal"],
                    caption="The same episode seeds for all; means with 95% intervals.",
                ),
                drawn(lambda theme: draw_intervals(rows, xlabel=metric, theme=theme), metric),
                comparison_table(results, "controller", metric=metric),
                result_facts(results["flow"]),
            ],
        ),
        Section(
            "Rollouts",
            [
                drawn(
                    lambda theme: draw_trajectories(_layout(task), paths, theme=theme),
                    "paths of episodes over the maze",
                    f"The first {min(_N_DRAWN, len(seeds))} episodes of each policy.",
                )
            ],
        ),
        Section("Composition", _composition_blocks(config, composed, policies, seeds)),
        Section(
            "Learning",
            [
                _learning_picture(out, "train/loss", "training loss"),
                _learning_picture(out, "val/loss", "validation loss"),
                Text(
                    "The losses measure different things (noise and velocity against actions, maps "
                    "against each other) and none of them has 0 as its minimum: compare a curve "
                    "with itself only."
                ),
            ],
        ),
        Section("Actions", _action_blocks(task, policies, seeds)),
        Section(
            "Latency",
            [latency_table({n: _latency(policies[n]) for n in LEARNED})],
        ),
        Section("Commands", [Code(_commands(config, out, data))]),
    ]
    return write_report(
        out / "report.html",
        f"genpolicy demo: {task}",
        sections,
        subtitle=f"{len(seeds)} episodes per policy, trained on {config['n_data_steps']} steps",
    )


def _composition_blocks(
    config: Mapping[str, Any],
    composed: DemoCompositions,
    policies: Mapping[str, Policy],
    seeds: Sequence[int],
) -> list[Block]:
    """Return what was composed, how the weight was chosen, and the paths beside the parents'."""
    from genpolicy.cli.demo_compose import KEPT_OUT, MEAN, kept_out_disc
    from genpolicy.evaluation.page import Code, Table, Text
    from genpolicy.evaluation.plots import draw_trajectories
    from genpolicy.evaluation.report import drawn

    disc = kept_out_disc(config)
    shown = {n: policies[n] for n in ("flow", "diffusion")} | composed.policies
    paths = _paths(config["task"], shown, seeds[:_N_DRAWN])
    weights = ", ".join(f"{w:g}" for w in composed.weights)
    rows = [
        [name, f"{v.rate:.2f}", f"{v.interval.low:.2f} to {v.interval.high:.2f}", v.n]
        for name, v in composed.violations.items()
    ]
    kept_out = composed.policies[KEPT_OUT]
    return [
        Text(
            f"'{MEAN}' adds the scores of the flow and the diffusion policy with the weights "
            f"{weights}: the best of those that were tried and use both. '{KEPT_OUT}' is the same "
            "policy with a cost for entering the disc, added while it denoises; nothing was "
            "trained for it."
        ),
        drawn(
            lambda theme: draw_trajectories(
                _layout(config["task"]), paths, disc=(disc.center, disc.radius), theme=theme
            ),
            "paths of the parents and of their compositions",
            f"The first {min(_N_DRAWN, len(seeds))} episodes of each; the disc is to be avoided.",
        ),
        Table(
            ["policy", "entered the disc", "95% interval", "episodes"],
            rows,
            caption="Share of the episodes that enter the disc.",
        ),
        Code(str(composed.search)),
        Code(str(kept_out.explain()) if isinstance(kept_out, ComposedPolicy) else ""),
    ]


def _layout(task: str) -> Any:
    from genpolicy.envs import maze_layout

    return maze_layout(task)


def _paths(
    task: str, policies: Mapping[str, Policy], seeds: Sequence[int]
) -> dict[str, list[tuple[np.ndarray, bool]]]:
    return {
        name: [
            (rollout.obs["state"][:, :2], bool(rollout.record.metrics["success"]))
            for rollout in replay(policy, task, seeds=seeds, n_envs=len(seeds))
        ]
        for name, policy in policies.items()
    }


def _learning_picture(out: Path, key: str, label: str) -> Block:
    from genpolicy.evaluation.plots import draw_learning_curves
    from genpolicy.evaluation.report import drawn

    curves = _curves(out, key)
    return drawn(
        lambda theme: draw_learning_curves(curves, ylabel=label, log_y=True, theme=theme), label
    )


def _curves(out: Path, key: str) -> dict[str, Any]:
    from genpolicy.evaluation.plots import Curve
    from genpolicy.training.run_folder import RunFolder

    curves = {}
    for name in LEARNED:
        lines = RunFolder(out / "runs" / name).read_metrics()
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            steps, values = zip(*points, strict=True)
            curves[name] = Curve(steps=steps, values=values)
    return curves


def _observation(task: str, seed: int) -> dict[str, torch.Tensor]:
    """Return the first observation of an episode as one row of one step."""
    from genpolicy.envs import make_env

    env = make_env(task)
    try:
        obs, _ = env.reset(seed=seed)
    finally:
        env.close()
    return {key: torch.as_tensor(value)[None, None] for key, value in obs.items()}


def _action_blocks(task: str, policies: Mapping[str, Policy], seeds: Sequence[int]) -> list[Block]:
    """Return pictures of sampled first actions and of sampled chunks at the starts of episodes."""
    from genpolicy.evaluation.action_plots import draw_action_distributions, draw_chunk_fan
    from genpolicy.evaluation.probe import sample_chunks
    from genpolicy.evaluation.report import drawn

    panels: dict[str, dict[str, np.ndarray]] = {}
    fans: dict[str, np.ndarray] = {}
    for seed in seeds[:3]:
        obs = _observation(task, seed)
        row = {}
        for name in LEARNED:
            policy = policies[name]
            chunks = sample_chunks(policy, obs, n=200)
            row[name] = chunks[:, policy.spec.executed.start]
            fans.setdefault(name, chunks[:40])
        panels[f"start of seed {seed}"] = row
    limits = np.array([[-1.1, -1.1], [1.1, 1.1]])
    executed = policies["flow"].spec.executed
    return [
        drawn(
            lambda theme: draw_action_distributions(
                panels, names=("force 1", "force 2"), limits=limits, theme=theme
            ),
            "first executed actions",
            "200 samples of the first executed action at three starts.",
        ),
        drawn(
            lambda theme: draw_chunk_fan(
                fans, executed=executed, names=("force 1", "force 2"), theme=theme
            ),
            "sampled chunks over time",
            f"40 sampled chunks at the start of seed {seeds[0]}.",
        ),
    ]


def _latency(policy: Policy) -> Any:
    return measure_latency(policy, policy.spec.blank_obs(1), batch_sizes=(1, 64))


def _commands(config: Mapping[str, Any], out: Path, data: Path) -> str:
    task, seed = config["task"], config["seed"]
    lines = [f"genpolicy data make {task} n={config['n_data_steps']} seed={seed} path={data}"]
    for name in LEARNED:
        run = out / "runs" / name
        teacher = f" algorithm.teacher={out / 'runs' / 'flow' / 'last'}"
        lines += [
            f"genpolicy train experiment=maze2d_umaze_{name} seed={seed} data.path={data} "
            f"run_dir={run}" + (teacher if name == "consistency" else ""),
            f"genpolicy evaluate checkpoint={run / 'last'} first_seed={config['first_seed']} "
            f"n_episodes={config['n_episodes']}",
        ]
    return "\n".join(lines)
