"""Evaluating a checkpoint as `configs/evaluate.yaml` describes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genpolicy.evaluation.recorded_env import task_of_policy
from genpolicy.evaluation.records import EvalResult
from genpolicy.evaluation.rollout import evaluate
from genpolicy.evaluation.video import record_videos
from genpolicy.files import write_json
from genpolicy.policies import (
    DenoisingPolicy,
    GenerativePolicy,
    SelectedPolicy,
    load_critic,
    load_policy,
    read_card,
)
from genpolicy.policies.checkpoint import resolve_checkpoint
from genpolicy.policies.composition_checkpoint import is_composition

__all__ = ["evaluate_checkpoint"]


def evaluate_checkpoint(
    config: Mapping[str, Any], *, progress: bool = True
) -> tuple[EvalResult, Path]:
    """Evaluate what a resolved ``configs/evaluate.yaml`` describes.

    Args:
        config: plain containers.
        progress: whether to draw a progress bar where there is a terminal.

    Returns:
        The result and the folder with its ledger, summary and videos.

    Raises:
        GenpolicyError: as ``evaluate``.
    """
    policy = load_policy(config["checkpoint"], weights=config["weights"], device=config["device"])
    changes = {key: value for key, value in config["sampler"].items() if value is not None}
    if changes:
        policy = policy.with_sampler(**changes)
    policy = _selected(policy, config)
    task = config["task"] or policy.spec.task
    setting = task_of_policy(
        task,
        trained_on=policy.spec.task,
        env=_recorded_env(config["checkpoint"]),
        overrides=config["env"],
        allow_mismatch=bool(config["allow_env_mismatch"]),
    )
    folder = Path(config["out"]) if config["out"] else _default_folder(config, task)
    seeds = range(int(config["first_seed"]), int(config["first_seed"]) + int(config["n_episodes"]))
    result = evaluate(
        policy,
        setting,
        seeds=seeds,
        n_envs=int(config["n_envs"]),
        n_action_steps=config["n_action_steps"],
        workers=bool(config["workers"]),
        ledger=folder / "records.jsonl",
        resume=bool(config["resume"]),
        checkpoint=str(config["checkpoint"]),
        progress=progress,
    )
    write_json(folder / "result.json", result.to_json())
    if config["video"]:
        record_videos(
            policy,
            setting,
            seeds=seeds[: int(config["video"])],
            folder=folder / "videos",
            n_action_steps=config["n_action_steps"],
            expected=result.records,
        )
    return result, folder


def _recorded_env(checkpoint: Any) -> dict[str, Any]:
    """Return the settings of the environment that a checkpoint's data was recorded in."""
    if is_composition(resolve_checkpoint(checkpoint)):
        return {}
    return dict(read_card(checkpoint).dataset.get("env") or {})


def _selected(policy: DenoisingPolicy, config: Mapping[str, Any]) -> DenoisingPolicy:
    """Return the policy with its candidates chosen by a critic, where it acts with several."""
    card = policy.card if isinstance(policy, GenerativePolicy) else None
    trained = {} if card is None else dict(card.training.get("algorithm", {}))
    n, temperature = config["n_candidates"], config["temperature"]
    n = int(trained.get("n_candidates", 1) if n is None else n)
    temperature = float(trained.get("temperature", 0.0) if temperature is None else temperature)
    if n == 1:
        return policy
    where = config["critic_from"] or config["checkpoint"]
    critic = load_critic(str(where), device=config["device"])
    return SelectedPolicy(policy, critic, n_candidates=n, temperature=temperature)


def _default_folder(config: Mapping[str, Any], task: str) -> Path:
    checkpoint = Path(str(config["checkpoint"]))
    name = "-".join([checkpoint.name, task.replace("/", "-"), str(config["weights"])])
    if config["n_candidates"] is not None:
        name += f"-best-of-{config['n_candidates']}"
    home = checkpoint.parent if checkpoint.exists() and checkpoint.is_symlink() else checkpoint
    root = home if home.is_dir() else Path("runs")
    return root / "evaluations" / name
