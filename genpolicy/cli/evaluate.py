"""`genpolicy evaluate`: roll a policy out on named seeds and print its score with an interval."""

from __future__ import annotations

from collections.abc import Sequence

from genpolicy.errors import UsageError

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
    from genpolicy.evaluation.of_checkpoint import evaluate_checkpoint

    flags = {"--resume": "resume=true", "--allow-env-mismatch": "allow_env_mismatch=true"}
    unknown = [a for a in argv if a.startswith("-") and a not in flags]
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}; see `genpolicy evaluate --help`")
    config = compose_config("evaluate", [flags.get(a, a) for a in argv])
    result, folder = evaluate_checkpoint(config)
    print(result)
    print(f"records: {folder / 'records.jsonl'}")
    return 0
