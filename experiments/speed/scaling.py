"""How the compiled loop scales in batch, width, steps, members and threads; and steps alone.

    python experiments/speed/scaling.py

Around a batch of 16 rows, 3 layers of 256, 20 DDPM steps and one member, one of them is changed at
a time; the torch loop of the same policy takes turns with it in one process. Networks without a
program (a small DiT) are timed with their steps in torch and compiled. Writes scaling.csv and
scaling.png; `over_native` is the time of the torch loop over that of the compiled operators.
"""

from __future__ import annotations

import functools
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from mlp import ACTION, OBS, PEAK, measure, policy
from table import save
from torch import Tensor

import genpolicy as gp
from genpolicy.ops import backend
from genpolicy.policies.compiled import compiled_sampler

HERE = Path(__file__).parent
USUAL = {"batch": 16, "width": 256, "steps": 20, "members": 1, "threads": 1}
AXES = {
    "batch": (1, 4, 16, 64, 256, 1024, 4096),
    "width": (32, 64, 128, 256, 512, 1024),
    "steps": (1, 2, 5, 20, 50),
    "members": (1, 2, 3, 4),
}
SECONDS = 1.5


def contenders(batch: int, width: int, steps: int, members: int) -> dict[str, Callable]:
    """Return the compiled loop and the torch loop of one policy."""
    made = [policy(steps, seed, width=width) for seed in range(members)]
    whole = made[0] if members == 1 else gp.compose.mean(made, [1.0 / members] * members)
    obs, seeds = torch.rand(batch, 1, OBS) * 2.0 - 1.0, list(range(batch))
    run, arguments = torch.ops.genpolicy.mlp_sample.default, compiled_sampler(whole).arguments
    inputs, keys = obs.reshape(batch, OBS), torch.arange(batch)
    return {
        "native": lambda: run(inputs, keys, *arguments),
        "torch": lambda: whole.sample_block({"state": obs}, seeds),
    }


def in_torch(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a call that uses no compiled operator."""

    def call() -> Tensor:
        os.environ["GENPOLICY_EXT"] = "off"
        try:
            return run()
        finally:
            os.environ["GENPOLICY_EXT"] = "require"

    return call


def row(axis: str, value: int, times: dict[str, list[float]], macs: int) -> dict[str, object]:
    """Return a row of the table."""
    native, other = (statistics.median(times[name]) for name in ("native", "torch"))
    peak = statistics.median(times[PEAK]) if macs else None
    return {
        "axis": axis,
        "value": value,
        "native_us": f"{1e6 * native:.1f}",
        "torch_us": f"{1e6 * other:.1f}",
        "over_native": f"{other / native:.2f}",
        "share_of_peak": f"{peak / native:.3f}" if peak else "",
    }


def scaling() -> list[dict[str, object]]:
    """Return the rows of all axes, then those of two threads."""
    import genpolicy_ext

    rows: list[dict[str, object]] = []
    grid = [(axis, value) for axis, values in AXES.items() for value in values]
    for axis, value in [*grid, *(("threads, batch " + str(n), 2) for n in (1, 16, 256, 4096))]:
        case = {**USUAL, axis: value}
        if axis.startswith("threads"):
            case = {**USUAL, "threads": value, "batch": int(axis.split()[-1])}
        torch.set_num_threads(case["threads"])
        sizes = (case["batch"], case["width"], case["steps"], case["members"])
        found = contenders(*sizes)
        found["torch"] = in_torch(found["torch"])
        width = case["width"]
        macs = (2 * ACTION * width + 2 * width * width) * case["batch"] * case["steps"]
        macs = macs * case["members"] // case["threads"]
        turns = round(2 * macs / genpolicy_ext.multiply_adds(1))
        found[PEAK] = functools.partial(genpolicy_ext.multiply_adds, turns)
        with torch.inference_mode():
            times = measure(found, SECONDS)
        rows.append(row(axis, value, times, macs))
        print(*rows[-1].values(), sep="\t", flush=True)
    torch.set_num_threads(1)
    return rows


def steps_alone() -> list[dict[str, object]]:
    """Return what compiled steps save where the network is evaluated in torch."""
    rows: list[dict[str, object]] = []
    dit = {"_target_": "genpolicy.networks.DiT", "width": 32, "n_layers": 2, "n_heads": 2}
    for name, network in (("DiT, width 32", dit), ("no network at all", dit)):
        made = policy(USUAL["steps"], network=network)
        made.rows_per_block = 8
        obs, seeds = {"state": torch.rand(8, 1, OBS)}, list(range(8))
        if name.startswith("no"):
            zeros = torch.zeros(8, 1, ACTION)
            made.denoiser.network.forward = lambda *_, given=zeros, **__: given

        def run(made=made, obs=obs, seeds=seeds) -> Tensor:
            return made.sample(obs, seeds=seeds)

        times = measure({"native": run, "torch": in_torch(run)}, 2 * SECONDS)
        rows.append(row(f"steps of {name}", USUAL["steps"], times, 0))
        print(*rows[-1].values(), sep="\t", flush=True)
    return rows


def plot(rows: list[dict[str, object]], file: Path) -> None:
    """Draw the times over each axis."""
    figure, axes = plt.subplots(1, len(AXES), figsize=(3.2 * len(AXES), 3.0))
    for axis, name in zip(axes, AXES, strict=True):
        own = [r for r in rows if r["axis"] == name]
        for key, label in (("torch_us", "torch loop"), ("native_us", "compiled loop")):
            times = [float(str(r[key])) for r in own]
            axis.plot([r["value"] for r in own], times, "o-", label=label)
        axis.set(xscale="log", yscale="log", xlabel=name)
    axes[0].set_ylabel("microseconds a call")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=160)


def main() -> None:
    """Measure and write."""
    os.environ["GENPOLICY_EXT"] = "require"
    torch.set_num_threads(1)
    print(backend())
    rows = scaling() + steps_alone()
    save(HERE / "scaling.csv", rows)
    plot(rows, HERE / "scaling.png")


if __name__ == "__main__":
    main()
