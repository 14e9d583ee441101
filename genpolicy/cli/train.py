"""`genpolicy train`: compose the configuration, train, say where the result is."""

from __future__ import annotations

from collections.abc import Sequence

from genpolicy.errors import UsageError

__all__ = ["HELP", "run"]

HELP = """\
usage: genpolicy train experiment=NAME [key=value ...]
       genpolicy train resume=RUN

Train a policy. Any entry of configs/train.yaml can be overridden:

  genpolicy train experiment=pusht_flow seed=1
  genpolicy train experiment=maze2d_umaze_diffusion trainer.max_steps=20000
  genpolicy train experiment=maze2d_umaze_iql online=default online.from=RUN    with interaction
  genpolicy train experiment=pusht_flow trainer=ddp trainer.accelerator=cpu trainer.devices=2
  genpolicy train resume=runs/pusht_flow/seed-1       continue a run that was stopped, exactly
  genpolicy train experiment=pusht_flow --show        print the resolved configuration and stop
"""


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0 or raises an error with its own exit code."""
    arguments = [a for a in argv if a != "--show"]
    flags = [a for a in arguments if a.startswith("-")]
    if flags:
        raise UsageError(f"unknown option {flags[0]!r}; see `genpolicy train --help`")
    resume_from = [a.removeprefix("resume=") for a in arguments if a.startswith("resume=")]
    if resume_from:
        if len(arguments) > 1:
            raise UsageError(
                "resume=RUN continues a run with its own configuration; got also "
                f"{[a for a in arguments if not a.startswith('resume=')]}"
            )
        from genpolicy.training import resume

        folder = resume(resume_from[0])
    else:
        from genpolicy.cli.compose_config import compose_config

        config = compose_config("train", arguments)
        if len(arguments) != len(argv):
            import yaml

            print(yaml.safe_dump(config, sort_keys=False), end="")
            return 0
        from genpolicy.training import train

        folder = train(config)
    print(f"trained policy: {folder / 'last'}")
    return 0
