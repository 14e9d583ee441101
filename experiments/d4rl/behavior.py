"""Score the policies that regenerated data is made with, in the simulator that it is made in.

    python experiments/d4rl/behavior.py POLICIES OUT [N_EPISODES]

One result.json each below OUT: the medium and the expert of hopper, halfcheetah and walker2d, with
actions drawn as in the data.
"""

import sys
from pathlib import Path

from genpolicy.d4rl_tasks import D4RL_TASKS
from genpolicy.evaluation import evaluate
from genpolicy.files import write_json
from genpolicy.generators import ActorPolicy


def main(policies: str, out: str, n_episodes: str = "100") -> None:
    """Evaluate the policies of the medium-expert recipes."""
    for robot in ("hopper", "halfcheetah", "walker2d"):
        task = f"d4rl/{robot}-medium-expert"
        for name, actor in zip(("medium", "expert"), D4RL_TASKS[task].recipe, strict=True):
            folder = Path(out) / f"{robot}-{name}"
            if (folder / "result.json").exists():
                continue
            policy = ActorPolicy(task=task, path=Path(policies) / f"{actor}.npz")
            seeds = range(100_000, 100_000 + int(n_episodes))
            result = evaluate(policy, task, seeds=seeds, n_envs=10)
            write_json(folder / "result.json", result.to_json())
            print(f"{task} {name}: {result.mean():.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
