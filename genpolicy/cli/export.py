"""`genpolicy export`: a policy's whole sampler as one program, checked against the policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["HELP", "run"]

HELP = """\
usage: genpolicy export checkpoint=NAME [format=torch|onnx] [out=FILE] [key=value ...]

Write observations -> actions, all steps of the sampler included, as one torch.export or ONNX
program with a free batch size. Its inputs are the observations in physical units and standard
normal noise; a JSON file beside it has their names and shapes. The program is compared with the
policy before it is kept.

  genpolicy export checkpoint=pusht-flow                       writes pusht-flow.pt2
  genpolicy export checkpoint=pusht-flow format=onnx out=robot/policy.onnx
  genpolicy export checkpoint=runs/pusht_flow/seed-1/last sampler.n_steps=4
"""


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0 or raises an error with its own exit code."""
    from genpolicy.cli.compose_config import compose_config
    from genpolicy.policies import load_policy
    from genpolicy.policies.export import export_policy

    config = compose_config("export", list(argv))
    policy = load_policy(config["checkpoint"], weights=config["weights"])
    changes = {key: value for key, value in config["sampler"].items() if value is not None}
    if changes:
        policy = policy.with_sampler(**changes)
    name = Path(str(config["checkpoint"])).name
    out = Path(config["out"] or name)
    found = export_policy(policy, out, format=config["format"], name=name)
    file = found["file"]
    print(f"{file}: as the policy to {found['largest_difference']:.1e} of the actions' range")
    print(f"{file}.json: inputs and outputs")
    return 0
