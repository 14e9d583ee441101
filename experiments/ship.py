"""Copy a trained policy into checkpoints/ under a name, with its card.

    python experiments/ship.py NAME CHECKPOINT RESULT.json EXPERIMENT "what it is" "command"

The sampler and the number of executed actions are those of the evaluation, so that the shipped
policy acts as it was measured.
"""

import dataclasses
import json
import sys
from pathlib import Path

from genpolicy.evaluation import EvalResult
from genpolicy.evaluation.records import format_seeds
from genpolicy.policies import load_policy
from genpolicy.policies.checkpoint import save

ROOT = Path(__file__).resolve().parents[1]


def main(
    name: str, checkpoint: str, result_file: str, experiment: str, description: str, command: str
) -> None:
    """Write ``checkpoints/NAME``."""
    content = json.loads(Path(result_file).read_text(encoding="utf-8"))
    result = EvalResult.from_json(content)
    sampler = {k: v for k, v in content["policy"]["sampler"].items() if k != "type"}
    policy = load_policy(checkpoint).with_sampler(**sampler)
    spec = dataclasses.replace(policy.card.spec, n_action_steps=content["n_action_steps"])
    policy.card = dataclasses.replace(policy.card, spec=spec)
    folder = save(policy, ROOT / "checkpoints" / name)
    step = content["checkpoint"]["step"]
    lines = [
        f"# {name}",
        "",
        f"{description} Averaged weights of step {step}. Trained with",
        "",
        f"    {command}",
        "",
        f"{len(result.records)} episodes of {result.task}, seeds {format_seeds(result.seeds)}:",
        "",
        "| metric | mean | 95% interval |",
        "| --- | --- | --- |",
    ]
    wanted = ("d4rl_score", "max_reward", "max_coverage", "final_coverage", "success")
    for metric in wanted:
        if metric in result.records[0].metrics:
            low, high = result.interval(metric).low, result.interval(metric).high
            lines.append(f"| {metric} | {result.mean(metric):.3f} | {low:.3f} to {high:.3f} |")
    versions = {**result.simulators, **result.versions}
    lines += [
        "",
        "Versions: " + " ".join(f"{k}={v}" for k, v in versions.items()) + ".",
        f"Others: [experiments/{experiment}](../../experiments/{experiment}/).",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
