"""Diffusion policies of other libraries beside ours, networks of the same size, DDIM-10, one chunk.

    python experiments/speed/peers.py lerobot|robomimic

Needs the library (lerobot 0.4.4, praxis-robomimic 0.5.0) in the same environment. All are
untrained: channels of 256, 512 and 1024, 16 actions of 7 numbers, 2 observations of 23. What is
timed is the denoising loop alone, without queues and processors: LeRobot's `conditional_sample`,
robomimic's `_get_action_trajectory`, our `policy.sample`. Contenders take turns; medians. Writes
peers_NAME.csv.
"""

from __future__ import annotations

import importlib.metadata
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
from table import save
from torch import Tensor
from unet import ACTION, DIMS, HORIZON, N_OBS, OBS, make_policy, medians

HERE = Path(__file__).parent
STEPS = 10


def declare_torchvision() -> None:
    """Declare operators that a torchvision built for another torch looks for; none is called."""
    if "+cpu" in torch.__version__:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_kept"] = library


def lerobot_loop() -> tuple[Callable[[Tensor], object], int]:
    """Return LeRobot's loop with its own configuration of this size, and its parameters."""
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
    model = DiffusionModel(config).eval().requires_grad_(False)

    def sample(obs: Tensor) -> object:
        return model.conditional_sample(len(obs), global_cond=obs.flatten(1))

    return sample, sum(p.numel() for p in model.unet.parameters())


def robomimic_loop() -> tuple[Callable[[Tensor], object], int]:
    """Return robomimic's loop with its standard configuration, and its parameters."""
    from robomimic.algo import algo_factory
    from robomimic.config import config_factory
    from robomimic.utils.obs_utils import initialize_obs_utils_with_config

    config = config_factory("diffusion_policy")
    with config.unlocked():
        config.algo.ddpm.enabled, config.algo.ddim.enabled = False, True
        config.algo.ddim.num_inference_timesteps = STEPS
        config.algo.optim_params.policy.num_train_batches = 1  # for a schedule that nothing uses
        config.algo.optim_params.policy.num_epochs = 1
        config.observation.modalities.obs.low_dim = ["state"]
    initialize_obs_utils_with_config(config)
    algo = algo_factory("diffusion_policy", config, {"state": [OBS]}, ACTION, torch.device("cpu"))
    algo.set_eval()

    def sample(obs: Tensor) -> object:
        return algo._get_action_trajectory({"state": obs})

    network = algo.ema_nets["policy"]["noise_pred_net"]
    return sample, sum(p.numel() for p in network.parameters())


PEERS = {"lerobot": (lerobot_loop, "lerobot"), "robomimic": (robomimic_loop, "praxis-robomimic")}


def main(name: str) -> None:
    """Measure one peer and write."""
    torch.set_num_threads(1)
    declare_torchvision()
    loop, package = PEERS[name]
    theirs, size = loop()
    ours = make_policy(n_steps=STEPS)
    low = ours.with_sampler(precision="bf16")
    own = sum(p.numel() for p in ours.denoiser.parameters())
    rows = []
    for batch, turns in ((1, 7), (16, 3)):
        obs, seeds = torch.rand(batch, N_OBS, OBS), range(batch)
        ms = medians(
            {
                name: lambda o=obs: theirs(o),
                "genpolicy, float32": lambda o=obs, s=seeds: ours.sample({"state": o}, seeds=s),
                "genpolicy, bfloat16": lambda o=obs, s=seeds: low.sample({"state": o}, seeds=s),
            },
            turns=turns,
        )
        for what, value in ms.items():
            rows.append(
                {
                    "what": what,
                    "batch": batch,
                    "median_ms": f"{value:.2f}",
                    f"{name}_over_this": f"{ms[name] / value:.2f}",
                    "parameters": size if what == name else own,
                    "peer": f"{package} {importlib.metadata.version(package)}",
                    "torch": torch.__version__,
                }
            )
            print(*rows[-1].values(), sep="\t", flush=True)
    save(HERE / f"peers_{name}.csv", rows)


if __name__ == "__main__":
    main(sys.argv[1])
