"""What every algorithm needs and none should spell differently: optimizer, schedule, streams."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.autograd.graph import increment_version

from genpolicy.denoisers import Denoiser, FlowMapDenoiser, ParameterizedDenoiser, TrajectoryDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import TimeSampler, Weighting, denoising_loss
from genpolicy.networks import weight_decay_groups
from genpolicy.policies import GenerativePolicy
from genpolicy.sampling import DrawnNoise
from genpolicy.seeding import generator_from
from genpolicy.shapes import Chunk, Cond

__all__ = [
    "OptimizerSettings",
    "configure_adamw",
    "denoiser_of",
    "draw_chunks",
    "imitation_loss",
    "learning_rate_factor",
    "one_step_map",
    "step_generator",
]


DenoiserT = TypeVar("DenoiserT", ParameterizedDenoiser, FlowMapDenoiser, TrajectoryDenoiser)

_KINDS: Mapping[type, tuple[str, str]] = {
    ParameterizedDenoiser: (
        "a denoiser that predicts a posterior mean",
        "denoiser=velocity, v, noise, clean or edm",
    ),
    FlowMapDenoiser: ("a flow map", "denoiser=flow_map or flow_map_linear"),
    TrajectoryDenoiser: ("a trajectory map", "denoiser=trajectory"),
}
"""What an error calls each kind of denoiser, and the options that build one."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW with linear warm-up and a cosine or constant schedule.

    Args:
        max_steps: optimizer steps of the whole run, at least 1.
        lr: peak learning rate.
        betas: Adam's decay rates.
        eps: added to Adam's denominator.
        weight_decay: decoupled decay of matrix weights; biases and norms are not decayed.
        warmup_steps: steps over which the rate rises linearly from 0.
        schedule: ``"cosine"`` falls to 0 at ``max_steps``; ``"constant"`` stays.
    """

    max_steps: int
    lr: float = 1e-4
    betas: tuple[float, float] = (0.95, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-6
    warmup_steps: int = 500
    schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        if self.max_steps < 1 or self.lr <= 0:
            raise UsageError(
                f"optimizer: max_steps is {self.max_steps} and lr {self.lr}, expected both positive"
            )
        if self.schedule not in ("cosine", "constant"):
            raise UsageError(f"optimizer: schedule {self.schedule!r} is not 'cosine' or 'constant'")
        object.__setattr__(self, "betas", tuple(self.betas))


def learning_rate_factor(step: int, settings: OptimizerSettings) -> float:
    """Return the fraction of the peak rate used at optimizer step ``step`` (from 0)."""
    warmup = min(settings.warmup_steps, settings.max_steps // 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, settings.max_steps - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def configure_adamw(module: torch.nn.Module, settings: OptimizerSettings) -> dict[str, Any]:
    """Return Lightning's optimizer dictionary for the trainable parameters of ``module``."""
    optimizer = torch.optim.AdamW(
        weight_decay_groups(module, settings.weight_decay),
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )
    optimizer.register_step_post_hook(_count_versions)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, settings)
    )
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
    }


def _count_versions(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Count the step in the versions of the weights, which fused optimizers leave as they were.

    Programs of compiled policies are written again where a version differs.
    """
    increment_version([p for group in optimizer.param_groups for p in group["params"]])


def denoiser_of(policy: GenerativePolicy, kind: type[DenoiserT], *, who: str) -> DenoiserT:
    """Return the policy's denoiser, which has to be of the kind that an algorithm trains.

    Args:
        policy: the policy.
        kind: class of denoiser.
        who: named in the error.

    Raises:
        UsageError: when it is of another class, with the options that fit.
    """
    if not isinstance(policy.denoiser, kind):
        wanted, options = _KINDS[kind]
        got = type(policy.denoiser).__name__
        raise UsageError(f"{who} needs {wanted}, got {got}; use {options}")
    if getattr(policy.denoiser, "boundary", None) == "none":
        raise UsageError(f"{who} needs a flow map with a boundary, got none; use {_KINDS[kind][1]}")
    return policy.denoiser


def one_step_map(policy: GenerativePolicy, *, who: str) -> FlowMapDenoiser:
    """Return the policy's denoiser, which has to be a map from noise to actions in one step.

    Raises:
        UsageError: when it is another, with the options that fit.
    """
    found = policy.denoiser
    if not isinstance(found, FlowMapDenoiser) or found.boundary != "none":
        raise UsageError(
            f"{who} needs a one-step policy, got {type(found).__name__}; use denoiser=one_step "
            "sampler=one_step"
        )
    return found


class _Imitates(Protocol):
    """An algorithm that trains a posterior mean on the data's actions."""

    policy: GenerativePolicy
    times: TimeSampler
    weighting: Weighting

    @property
    def denoiser(self) -> ParameterizedDenoiser: ...


def imitation_loss(
    algorithm: _Imitates, batch: Any, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the denoising loss of a batch and named figures, see ``denoising_loss``.

    Args:
        algorithm: gives policy, denoiser, noise levels and their weights.
        batch: windows or transitions.
        generator: of levels and noise.
    """
    clean, cond, mask = algorithm.policy.training_pair(batch)
    return denoising_loss(
        algorithm.denoiser,
        clean,
        cond,
        times=algorithm.times,
        weighting=algorithm.weighting,
        generator=generator,
        mask=mask,
    )


def draw_chunks(
    policy: GenerativePolicy, denoiser: Denoiser, cond: Cond, generator: torch.Generator
) -> Chunk:
    """Sample one normalized chunk per row as the policy does, with gradients through all steps.

    Args:
        policy: gives sampler, bounds and sizes.
        denoiser: the policy's own, or an average of it.
        cond: conditions, one row per chunk.
        generator: of the noise.

    Cost: ``policy.nfe`` evaluations of the denoiser.
    """
    assert cond is not None
    spec = policy.spec
    shape = (len(cond), spec.horizon, spec.action_dim)
    return policy.sampler.run(
        denoiser,
        cond,
        seeds=(),
        horizon=spec.horizon,
        action_dim=spec.action_dim,
        bounds=policy.bounds,
        noise=DrawnNoise(generator, shape, device=cond.device, dtype=cond.dtype),
    )


def step_generator(module: LightningModule, seed: int) -> torch.Generator:
    """Return the generator of the current training step: a function of seed, step and rank.

    Nothing has to be restored on resume: step ``k`` draws the same numbers whenever it runs.
    """
    return generator_from(
        seed, "loss", module.global_step, module.global_rank, device=module.device
    )
