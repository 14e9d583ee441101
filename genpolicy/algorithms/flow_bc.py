"""Behaviour cloning by conditional flow matching: predict the velocity from noise to actions.

Source: arXiv 2210.02747 (flow matching), 2302.00482 (conditional and optimal-transport couplings).
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from genpolicy.algorithms.common import (
    OptimizerSettings,
    configure_adamw,
    denoiser_of,
    step_generator,
)
from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.losses import Coupling, TimeSampler, flow_matching_loss
from genpolicy.policies import GenerativePolicy

__all__ = ["FlowBC"]


class FlowBC(LightningModule):
    """Trains a velocity network on windows of demonstrations.

    Args:
        policy: the policy to train; its denoiser predicts a velocity.
        optimizer: AdamW settings.
        seed: names the noise of every step.
        times: distribution of training times.
        coupling: how noise is paired with actions in a batch; None pairs independently.
    """

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        optimizer: OptimizerSettings,
        seed: int,
        times: TimeSampler,
        coupling: Coupling | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy
        denoiser_of(policy, ParameterizedDenoiser, who="FlowBC")
        self.optimizer_settings = optimizer
        self.seed = seed
        self.times = times
        self.coupling = coupling

    @property
    def denoiser(self) -> ParameterizedDenoiser:
        """The denoiser being trained."""
        return denoiser_of(self.policy, ParameterizedDenoiser, who="FlowBC")

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and named figures."""
        clean, cond, mask = self.policy.training_pair(batch)
        return flow_matching_loss(
            self.denoiser,
            clean,
            cond,
            times=self.times,
            coupling=self.coupling,
            generator=generator,
            mask=mask,
        )

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step of gradient descent on ``loss``."""
        loss, metrics = self.loss(batch, step_generator(self, self.seed))
        return {"loss": loss, "metrics": metrics}

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up."""
        return configure_adamw(self, self.optimizer_settings)
