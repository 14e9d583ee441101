"""LeRobot's DiffusionPolicy beside ours on a network of the same size: DDIM-10, one chunk.

    python experiments/speed/peers.py

Needs lerobot (0.4.4 was measured) in the same environment. Both are untrained: channels of 256, 512
and 1024, 16 actions of 7 numbers, 2 observations of 23. What is timed is the denoising loop alone,
without queues and processors: LeRobot's `conditional_sample`, our `policy.sample`. Contenders take
turns; medians. Writes peers.csv.
"""

from __future__ import annotations

import csv
import importlib.metadata
import sys
import types
from pathlib import Path

import torch
from unet import ACTION, DIMS, HORIZON, N_OBS, OBS, make_policy, medians

HERE = Path(__file__).parent
STEPS = 10


def lerobot_model() -> torch.nn.Module:
    """Return LeRobot's model with its own configuration of this size."""
    if "+cpu" in torch.__version__:
        # A torchvision for another torch: its operators are declared, and none is called.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_kept"] = library
    import lerobot

    # Its policies package imports every policy and what they need; only one is wanted.
    package = types.ModuleType("lerobot.policies")
    package.__path__ = [str(Path(lerobot.__file__).parent / "policies")]
    sys.modules["lerobot.policies"] = package
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel

    config = DiffusionConfig(
        n_obs_steps=N_OBS,
        horizon=HORIZON,
        down_dims=DIMS,
        noise_scheduler_type="DDIM",
        num_inference_steps=STEPS,
        device="cpu",
        input_features={
            "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(OBS,)),
        },
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(ACTION,))},
    )
    return DiffusionModel(config).eval().requires_grad_(False)


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    theirs, ours = lerobot_model(), make_policy(n_steps=STEPS)
    low = ours.with_sampler(precision="bf16")
    sizes = {
        "lerobot": sum(p.numel() for p in theirs.unet.parameters()),
        "genpolicy": sum(p.numel() for p in ours.denoiser.parameters()),
    }
    rows = []
    for batch, turns in ((1, 7), (16, 3)):
        obs = torch.rand(batch, N_OBS, OBS)
        cond, seeds = obs.flatten(1), range(batch)
        ms = medians(
            {
                "lerobot": lambda b=batch, c=cond: theirs.conditional_sample(b, global_cond=c),
                "genpolicy, float32": lambda o=obs, s=seeds: ours.sample({"state": o}, seeds=s),
                "genpolicy, bfloat16": lambda o=obs, s=seeds: low.sample({"state": o}, seeds=s),
            },
            turns=turns,
        )
        for name, value in ms.items():
            rows.append(
                {
                    "what": name,
                    "batch": batch,
                    "median_ms": f"{value:.2f}",
                    "lerobot_over_this": f"{ms['lerobot'] / value:.2f}",
                    "parameters": sizes[name.split(",")[0]],
                    "lerobot": importlib.metadata.version("lerobot"),
                    "torch": torch.__version__,
                }
            )
            print(*rows[-1].values(), sep="\t", flush=True)
    with open(HERE / "peers.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
