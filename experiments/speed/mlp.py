"""How long a whole DDPM loop takes for a small network: compiled operators against others.

    python experiments/speed/mlp.py [--batch 1 16 256 4096] [--steps 5 20 100] [--threads 1]

The network is the one of Diffusion-QL (observations 17, actions 6, time 16, three layers of 256
with Mish). All contenders run in one process and take turns; medians. Writes results.csv, mlp.png.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from diffusers import DDPMScheduler
from table import save
from torch import Tensor, nn

from genpolicy.data.normalizer import FieldStats, Normalizer
from genpolicy.ops import backend
from genpolicy.policies import build_policy
from genpolicy.policies.compiled import compiled_sampler
from genpolicy.shapes import TaskSpec

TURN = 0.02
PEAK = "multiply-adds on registers"
HERE = Path(__file__).parent
OBS, ACTION, WIDTH = 17, 6, 256
MACS = ACTION * WIDTH + 2 * WIDTH * WIDTH + WIDTH * ACTION
"""Multiplications per row and step that are left when observations and time leave the loop."""


def policy(n_steps: int, seed: int = 1, *, width: int = WIDTH, network: dict | None = None):
    """Return an untrained policy (the time of a call does not depend on its weights).

    Args:
        n_steps: of the DDPM sampler.
        seed: of the weights.
        width: of the MLP.
        network: the configuration of another network.
    """
    spec = TaskSpec(
        task="speed",
        obs_shapes={"state": (OBS,)},
        action_dim=ACTION,
        horizon=1,
        n_obs_steps=1,
        n_action_steps=1,
    )
    values = torch.rand(64, OBS, generator=torch.Generator().manual_seed(0)).numpy() * 2.0 - 1.0
    stats = {"action": FieldStats.of(values[:, :ACTION], "min_max")}
    obs = {"state": FieldStats.of(values, "min_max")}
    normalizer = Normalizer(action=stats["action"], obs=obs)
    config = {
        "encoder": {"_target_": "genpolicy.networks.LowDimEncoder"},
        "network": {"_target_": "genpolicy.networks.MLP", "width": width, "n_layers": 3},
        "path": {"_target_": "genpolicy.paths.CosinePath", "t_max": 0.99},
        "denoiser": {"_target_": "genpolicy.denoisers.ParameterizedDenoiser", "predicts": "noise"},
        "sampler": {"_target_": "genpolicy.sampling.Sampler", "rule": "ddpm", "n_steps": n_steps},
    }
    if network is not None:
        config["network"] = network
    torch.manual_seed(seed)
    return build_policy(config, spec=spec, normalizer=normalizer).eval()


def diffusers_loop(network: nn.Module, obs: Tensor, n_steps: int) -> Callable[[], Tensor]:
    """Return diffusers' loop with its DDPM scheduler."""
    scheduler = DDPMScheduler(
        num_train_timesteps=n_steps, beta_schedule="squaredcos_cap_v2", clip_sample=True
    )
    scheduler.set_timesteps(n_steps)
    generator = torch.Generator().manual_seed(0)

    def run() -> Tensor:
        x = torch.randn(len(obs), 1, ACTION, generator=generator)
        for t in scheduler.timesteps:
            noise = network(x, t.expand(len(obs)).float(), obs)
            x = scheduler.step(noise, t, x, generator=generator).prev_sample
        return x

    return run


def hoisted_loop(network: nn.Module, obs: Tensor, n_steps: int) -> Callable[[], Tensor]:
    """Return the best loop that plain torch allows: observations and time outside of it."""
    first, *hidden, last = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    n_time = first.in_features - ACTION - OBS
    on_x, on_time, on_obs = first.weight.detach().split([ACTION, n_time, OBS], dim=1)
    times = torch.arange(n_steps, 0, -1).float() * (1000.0 / n_steps)
    table = (network.time(times) @ on_time.T + first.bias).detach()
    weights = [(layer.weight.detach(), layer.bias.detach()) for layer in [*hidden, last]]
    scheduler = DDPMScheduler(num_train_timesteps=n_steps, beta_schedule="squaredcos_cap_v2")
    bars = scheduler.alphas_cumprod.flip(0).tolist()
    factors = []
    for k, bar in enumerate(bars):
        after = bars[k + 1] if k + 1 < n_steps else 1.0
        alpha = bar / after
        var = (1.0 - after) / (1.0 - bar) * (1.0 - alpha)
        keep = alpha**0.5 * (1.0 - after) / (1.0 - bar)
        clean = after**0.5 * (1.0 - alpha) / (1.0 - bar)
        factors.append((bar**-0.5, -((1.0 / bar - 1.0) ** 0.5), keep, clean, var**0.5))

    def body(x: Tensor, noise: Tensor, given: Tensor) -> Tensor:
        for k, (on_state, on_noise, keep, clean, spread) in enumerate(factors):
            h = nn.functional.mish(x @ on_x.T + (given + table[k]))
            for weight, bias in weights[:-1]:
                h = nn.functional.mish(nn.functional.linear(h, weight, bias))
            predicted = nn.functional.linear(h, *weights[-1])
            denoised = (on_state * x + on_noise * predicted).clamp(-1.0, 1.0)
            x = keep * x + clean * denoised + spread * noise[k]
        return x

    def prepare() -> tuple[Tensor, Tensor, Tensor]:
        noise = torch.randn(n_steps + 1, len(obs), ACTION)
        return noise[0], noise[1:], obs[:, 0] @ on_obs.T

    def run(step: Callable[..., Tensor] = body) -> Tensor:
        return step(*prepare())

    run.body = body
    return run


def contenders(batch: int, n_steps: int) -> dict[str, Callable[[], object]]:
    """Return what takes turns; ``PEAK`` is as many multiply-adds as those of ``native``."""
    import genpolicy_ext

    made = policy(n_steps)
    obs = torch.rand(batch, 1, OBS) * 2.0 - 1.0
    seeds = list(range(batch))
    run = torch.ops.genpolicy.mlp_sample.default
    keys, inputs = torch.tensor(seeds), obs.reshape(batch, OBS)
    plain = compiled_sampler(made).arguments
    low = compiled_sampler(made.with_sampler(precision="bf16")).arguments
    pieces = compiled_sampler(made.with_sampler(precision="bf16x3")).arguments
    turns = round(2 * MACS * batch * n_steps / genpolicy_ext.multiply_adds(1))
    other = policy(n_steps, 2)
    import genpolicy as gp

    both = compiled_sampler(gp.compose.mean([made, other], weights=[0.5, 0.5])).arguments
    hoisted = hoisted_loop(made.denoiser.network, obs, n_steps)
    found: dict[str, Callable[[], object]] = {
        PEAK: lambda: genpolicy_ext.multiply_adds(turns),
        "native": lambda: run(inputs, keys, *plain),
        "native, policy.sample": lambda: made.sample({"state": obs}, seeds=seeds),
        "native bf16": lambda: run(inputs, keys, *low),
        "native bf16x3": lambda: run(inputs, keys, *pieces),
        "native, two members": lambda: run(inputs, keys, *both),
        "diffusers": diffusers_loop(made.denoiser.network, obs, n_steps),
        "torch, hoisted": hoisted,
    }
    if n_steps <= 20:
        compiled = torch.compile(hoisted.body, dynamic=False)
        found["torch.compile, hoisted"] = lambda: hoisted(compiled)
    return found


def measure(found: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Return the times of each contender's calls, taken in turns of some milliseconds.

    In a turn of one call, each would find the caches full of another's weights. With one thread
    the time is that of its processor, which leaves out what other processes do on the same core.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in found}
    for run in found.values():
        run()
    end = time.perf_counter() + seconds
    n_turns = 0
    while time.perf_counter() < end or n_turns < 5:
        n_turns += 1
        for name, run in found.items():
            run()
            stop = time.perf_counter() + TURN
            while True:
                start = clock()
                run()
                times[name].append(clock() - start)
                if time.perf_counter() > stop:
                    break
    return times


def main() -> None:
    """Measure, and write the table and the plot."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 16, 256, 4096])
    parser.add_argument("--steps", type=int, nargs="*", default=[5, 20, 100])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path, default=HERE / "results.csv")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    now = backend()
    if now.name != "compiled":
        raise SystemExit(f"{now.reason}; {now.remedy}")
    import genpolicy_ext

    reading = genpolicy_ext.read_gbytes(4 * MACS)
    print(f"{now.isa}: one core reads the weights at {reading:.0f} GB/s")
    rows = []
    for batch in options.batch:
        for n_steps in options.steps:
            torch.compiler.reset()
            found = contenders(batch, n_steps)
            with torch.inference_mode():
                times = measure(found, options.seconds)
            native = statistics.median(times["native"])
            work = 2.0 * MACS * batch * n_steps / 1e9
            peak = work / statistics.median(times[PEAK])
            for name, values in times.items():
                median = statistics.median(values)
                members = 2 if "two" in name else 1
                rate = work * members / median
                rows.append(
                    {
                        "threads": options.threads,
                        "batch": batch,
                        "steps": n_steps,
                        "contender": name,
                        "over_native": f"{median / native:.2f}",
                        "share_of_peak": f"{rate / peak / options.threads:.3f}",
                        "median_us": f"{median * 1e6:.1f}",
                        "p99_us": f"{sorted(values)[int(0.99 * (len(values) - 1))] * 1e6:.1f}",
                        "n": len(values),
                        "peak_gflops": f"{peak:.0f}",
                        "isa": now.isa,
                        "weights_gbytes": f"{reading:.0f}",
                    }
                )
                print(*rows[-1].values(), sep="\t", flush=True)
    save(options.out, rows)
    if options.threads == 1:
        plot(rows, options.out.with_name("mlp.png"))


def plot(rows: list[dict], file: Path) -> None:
    """Draw how many times as long the others take."""
    steps = sorted({row["steps"] for row in rows})
    figure, axes = plt.subplots(1, len(steps), figsize=(3.6 * len(steps), 3.2), squeeze=False)
    for axis, n_steps in zip(axes[0], steps, strict=True):
        for name in dict.fromkeys(row["contender"] for row in rows):
            own = [r for r in rows if r["contender"] == name and r["steps"] == n_steps]
            if own and name != "native":
                ratios = [float(r["over_native"]) for r in own]
                axis.plot([r["batch"] for r in own], ratios, "o-", label=name)
        axis.axhline(1.0, color="0.4", linewidth=0.8)
        axis.set(xscale="log", yscale="log", title=f"{n_steps} steps", xlabel="batch")
    axes[0, 0].set_ylabel("time over that of native")
    axes[0, 0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(file, dpi=160)


if __name__ == "__main__":
    main()
