"""What the conditional U-Net costs on one core: compiled loop, torch, and reading its weights once.

    python experiments/speed/unet.py

The network of Diffusion Policy on states (256, 512, 1024 channels, 16 actions of 7 numbers, 2
observations of 23), untrained: 66 million parameters. Contenders run in one process and take
turns; medians. Writes unet.csv; `ratio` is the time over that of what `over` names, at the same
batch size.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from table import save
from torch import Tensor, nn

from genpolicy.data.normalizer import FieldStats, Normalizer
from genpolicy.ops import backend, peak_gflops
from genpolicy.policies import GenerativePolicy, build_policy
from genpolicy.policies.compiled import compiled_sampler
from genpolicy.shapes import TaskSpec

HERE = Path(__file__).parent
ACTION, HORIZON, N_OBS, OBS = 7, 16, 2, 23
DIMS = (256, 512, 1024)


def make_policy(*, n_steps: int) -> GenerativePolicy:
    """Return an untrained policy."""
    spec = TaskSpec(
        task="speed",
        obs_shapes={"state": (OBS,)},
        action_dim=ACTION,
        horizon=HORIZON,
        n_obs_steps=N_OBS,
        n_action_steps=8,
    )
    rng = np.random.default_rng(0)

    def stats(n: int) -> FieldStats:
        return FieldStats.of(rng.uniform(-1.0, 1.0, (100, n)).astype(np.float32), "min_max")

    config = {
        "encoder": {"_target_": "genpolicy.networks.LowDimEncoder"},
        "network": {"_target_": "genpolicy.networks.ConditionalUnet1D", "dims": DIMS},
        "path": {"_target_": "genpolicy.paths.CosinePath"},
        "denoiser": {"_target_": "genpolicy.denoisers.ParameterizedDenoiser", "predicts": "v"},
        "sampler": {"_target_": "genpolicy.sampling.Sampler", "rule": "ddim", "n_steps": n_steps},
    }
    torch.manual_seed(0)
    normalizer = Normalizer(action=stats(ACTION), obs={"state": stats(OBS)})
    return build_policy(config, spec=spec, normalizer=normalizer).eval().requires_grad_(False)


def in_precisions(policy: GenerativePolicy) -> tuple[GenerativePolicy, GenerativePolicy]:
    """Return the policy with products in bfloat16, and with float32 in three pieces."""
    low, pieces = (policy.with_sampler(precision=name) for name in ("bf16", "bf16x3"))
    return low, pieces


def compiled_call(
    policy: GenerativePolicy, obs: Tensor, *, on_small_pages: bool = False
) -> Callable[[], Tensor]:
    """Return the compiled loop of a batch, without the policy around it."""
    found = compiled_sampler(policy)
    assert not found.reason, found.reason
    inputs, seeds = obs.flatten(1).contiguous(), torch.arange(len(obs))
    run = torch.ops.genpolicy.mlp_sample.default
    *parts, weights, chunk = found.arguments
    if on_small_pages:
        weights = weights.clone()
    return lambda: run(inputs, seeds, *parts, weights, chunk)


def torch_evaluation(network: nn.Module, batch: int) -> Callable[[], Tensor]:
    """Return one evaluation of the network in torch."""
    x, t = torch.randn(batch, HORIZON, ACTION), torch.full((batch,), 500.0)
    cond = torch.randn(batch, N_OBS, OBS)
    return lambda: network(x, t, cond)


def torch_loop(policy: GenerativePolicy, obs: Tensor) -> Callable[[], Tensor]:
    """Return the torch loop of a batch."""
    block, seeds = {"state": obs}, list(range(len(obs)))
    return lambda: policy.sample_block(block, seeds)


def medians(
    contenders: dict[str, Callable[[], object]], *, turns: int, least: float = 0.02
) -> dict[str, float]:
    """Return the median time of each in milliseconds; they take turns of ``least`` seconds.

    The time is the thread's on its processor, which leaves out other processes on the same core.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for run in contenders.values():
            run()
        for _ in range(turns):
            for name, run in contenders.items():
                run()  # what the others left in the caches is theirs to pay
                begin = time.perf_counter()
                while True:
                    start = time.thread_time()
                    run()
                    times[name].append(1e3 * (time.thread_time() - start))
                    if time.perf_counter() - begin > least:
                        break
    return {name: statistics.median(values) for name, values in times.items()}


def row(what: str, batch: int, ms: float, over: str, base: float) -> dict[str, object]:
    """Return a row of the table."""
    numbers = {"median_ms": f"{ms:.2f}", "over": over, "ratio": f"{ms / base:.3f}"}
    return {"what": what, "batch": batch, **numbers}


def evaluations(batch: int, *, turns: int) -> list[dict[str, object]]:
    """Return one evaluation: compiled (noise and the observations' part included) and in torch."""
    full = make_policy(n_steps=1)
    low, pieces = in_precisions(full)
    obs = torch.rand(batch, N_OBS, OBS)
    weights = {
        name: compiled_sampler(one).arguments[3] for name, one in (("fp32", full), ("bf16", low))
    }
    contenders = {
        "torch": torch_evaluation(full.denoiser.network, batch),
        "fp32": compiled_call(full, obs),
        "bf16": compiled_call(low, obs),
        "bf16x3": compiled_call(pieces, obs),
        "small pages": compiled_call(full, obs, on_small_pages=True),
        # A sum of float32 numbers is bound by memory; bfloat16 is read as such words.
        "read fp32": weights["fp32"].sum,
        "read bf16": weights["bf16"].view(torch.float32).sum,
    }
    ms = medians(contenders, turns=turns)
    return [
        row("evaluation, torch", batch, ms["torch"], "compiled fp32", ms["fp32"]),
        row("evaluation, compiled fp32", batch, ms["fp32"], "reading its weights", ms["read fp32"]),
        row("evaluation, compiled bf16", batch, ms["bf16"], "compiled fp32", ms["fp32"]),
        row("evaluation, compiled bf16", batch, ms["bf16"], "reading its weights", ms["read bf16"]),
        row("evaluation, compiled bf16x3", batch, ms["bf16x3"], "compiled fp32", ms["fp32"]),
        row(
            "evaluation, fp32 on small pages", batch, ms["small pages"], "compiled fp32", ms["fp32"]
        ),
        row("reading the weights, fp32", batch, ms["read fp32"], "compiled fp32", ms["fp32"]),
    ]


def chunks(batch: int, *, turns: int) -> list[dict[str, object]]:
    """Return whole chunks by DDIM with 10 steps."""
    full = make_policy(n_steps=10)
    low, pieces = in_precisions(full)
    obs = torch.rand(batch, N_OBS, OBS)
    contenders: dict[str, Callable[[], object]] = {
        "torch": torch_loop(full, obs),
        "fp32": compiled_call(full, obs),
        "bf16": compiled_call(low, obs),
        "bf16x3": compiled_call(pieces, obs),
    }
    ms = medians(contenders, turns=turns)
    return [
        row("DDIM-10, torch", batch, ms["torch"], "compiled fp32", ms["fp32"]),
        row("DDIM-10, compiled fp32", batch, ms["fp32"], "compiled fp32", ms["fp32"]),
        row("DDIM-10, compiled bf16", batch, ms["bf16"], "compiled fp32", ms["fp32"]),
        row("DDIM-10, compiled bf16x3", batch, ms["bf16x3"], "compiled fp32", ms["fp32"]),
    ]


def errors() -> list[dict[str, object]]:
    """Return how far bfloat16, and float32 in pieces, move actions of DDIM-10, over their range."""
    full = make_policy(n_steps=10)
    obs, seeds = {"state": 2.0 * torch.rand(64, N_OBS, OBS) - 1.0}, range(64)
    exact = full.sample(obs, seeds=seeds)
    stats, rows = full.normalizer.stats["action"], []
    for other in in_precisions(full):
        error = (other.sample(obs, seeds=seeds) - exact).abs()
        share = (error / torch.as_tensor(stats.maximum - stats.minimum)).flatten()
        found = {"mean": share.mean(), "p99": share.quantile(0.99), "max": share.max()}
        rows += [
            {
                "what": f"{other.sampler.precision}, error of actions, {name}",
                "batch": 64,
                "median_ms": "",
                "over": "range of the actions",
                "ratio": f"{float(value):.2e}",
            }
            for name, value in found.items()
        ]
    return rows


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    print(backend(), f"{peak_gflops():.0f} GFLOP/s")
    rows = evaluations(1, turns=15) + chunks(1, turns=5)
    for batch, turns in ((16, 5), (64, 3)):
        rows += evaluations(batch, turns=turns)
    rows += chunks(16, turns=3) + errors()
    save(HERE / "unet.csv", rows)
    for one in rows:
        print(*one.values(), sep="\t")


if __name__ == "__main__":
    main()
