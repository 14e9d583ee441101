"""`genpolicy evaluate`: roll a policy out on named seeds and print its score with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genpolicy.errors import UsageError

if TYPE_CHECKING:
    from genpolicy.policies import DenoisingPolicy

__all__ = ["HELP", "run"]

HELP = """\
usage: genpolicy evaluate checkpoint=PATH [task=NAME] [n_episodes=100] [n_envs=8] [key=value ...]

Roll a policy out, one record per seed in an append-only ledger, and print means with 95% intervals:

  genpolicy evaluate checkpoint=runs/pusht_flow/seed-1/last task=pusht n_episodes=100 n_envs=4
  genpolicy evaluate checkpoint=pusht-flow sampler.n_steps=4 video=3
  genpolicy evaluate checkpoint=runs/pusht_flow/seed-1 --resume     continue one that was stopped
  genpolicy evaluate checkpoint=runs/idql/last n_candidates=64      best of 64 by the run's critic

A policy of a data set that records its environment (robomimic's) is evaluated in that environment;
where this machine's differs, that is an error unless --allow-env-mismatch is given.
"""


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0 or raises an error with its own exit code."""
    from genpolicy.cli.compose_config import compose_config

    flags = {"--resume": "resume=true", "--allow-env-mismatch": "allow_env_mismatch=true"}
    unknown = [a for a in argv if a.startswith("-") and a not in flags]
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}; see `genpolicy evaluate --help`")
    config = compose_config("evaluate", [flags.get(a, a) for a in argv])
    result, folder = evaluate_checkpoint(config)
    print(result)
    print(f"records: {folder / 'records.jsonl'}")
    return 0


def evaluate_checkpoint(config: dict[str, Any]) -> tuple[Any, Path]:
    """Evaluate what a resolved ``configs/evaluate.yaml`` describes.

    Returns:
        The result and the folder with its ledger, summary and videos.
    """
    from genpolicy.evaluation import evaluate
    from genpolicy.evaluation.recorded_env import task_of_policy
    from genpolicy.evaluation.video import record_videos
    from genpolicy.files import write_json
    from genpolicy.policies import load_policy

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
    from genpolicy.policies import read_card
    from genpolicy.policies.checkpoint import resolve_checkpoint
    from genpolicy.policies.composition_checkpoint import is_composition

    if is_composition(resolve_checkpoint(checkpoint)):
        return {}
    return dict(read_card(checkpoint).dataset.get("env") or {})


def _selected(policy: DenoisingPolicy, config: dict[str, Any]) -> DenoisingPolicy:
    """Return the policy with its candidates chosen by a critic, where it acts with several."""
    from genpolicy.policies import GenerativePolicy, SelectedPolicy, load_critic

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


def _default_folder(config: dict[str, Any], task: str) -> Path:
    checkpoint = Path(str(config["checkpoint"]))
    name = "-".join([checkpoint.name, task.replace("/", "-"), str(config["weights"])])
    if config["n_candidates"] is not None:
        name += f"-best-of-{config['n_candidates']}"
    home = checkpoint.parent if checkpoint.exists() and checkpoint.is_symlink() else checkpoint
    root = home if home.is_dir() else Path("runs")
    return root / "evaluations" / name
