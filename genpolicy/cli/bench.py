"""`genpolicy bench`: how fast a policy acts, by backend and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["HELP", "run"]

HELP = """\
usage: genpolicy bench policy=NAME [batch=1,16,256] [backend=reference,native] [key=value ...]

Time a policy on random observations: torch as it is (reference), its networks through torch.compile
(compile), and the compiled operators (native). Prints and writes a table, a plot and a JSON file.

  genpolicy bench policy=pusht-flow
  genpolicy bench policy=pusht-flow batch=1,16,256,4096 backend=reference,compile,native threads=1
  genpolicy bench policy=runs/pusht_flow/seed-1/last sampler.n_steps=4 sampler.precision=bf16
"""


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0 or raises an error with its own exit code."""
    import torch

    from genpolicy.cli.compose_config import compose_config
    from genpolicy.evaluation.bench import bench, plot_bench
    from genpolicy.evaluation.plot_style import png
    from genpolicy.files import write_json
    from genpolicy.policies import load_policy

    # A comma separates values here, not the runs of a sweep.
    config = compose_config("bench", [_listed(argument) for argument in argv])
    policy = load_policy(config["policy"], device=config["device"])
    changes = {key: value for key, value in config["sampler"].items() if value is not None}
    if changes:
        policy = policy.with_sampler(**changes)
    if config["threads"] is not None:
        torch.set_num_threads(int(config["threads"]))
    result = bench(
        policy,
        batch_sizes=[int(size) for size in config["batch"]],
        backends=[str(name) for name in config["backend"]],
        seconds=float(config["seconds"]),
    )
    print(result)
    default = Path("runs") / "bench" / Path(str(config["policy"])).name
    folder = Path(config["out"]) if config["out"] else default
    write_json(folder / "bench.json", {"policy": str(config["policy"]), **result.to_json()})
    (folder / "bench.png").write_bytes(png(plot_bench(result)))
    print(f"\n{folder / 'bench.json'}, {folder / 'bench.png'}")
    return 0


def _listed(argument: str) -> str:
    """Return ``batch=1,16`` as ``batch=[1,16]``."""
    key, sign, value = argument.partition("=")
    if key in ("batch", "backend") and sign and not value.startswith("["):
        return f"{key}=[{value}]"
    return argument
