"""Behaviour cloning with a diffusion policy: predict what was mixed into the actions.

Source: arXiv 2303.04137 (Diffusion Policy); any path and prediction type of the library.
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
    imitation_loss,
    step_generator,
)
from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.losses import TimeSampler, Weighting
from genpolicy.policies import GenerativePolicy

__all__ = ["DiffusionBC"]


class DiffusionBC(LightningModule):
    """Trains a denoiser on windows of demonstrations.

    Args:
        policy: the policy to train; its denoiser predicts a posterior mean.
        optimizer: AdamW settings.
        seed: names the noise of every step.
        times: distribution of training noise levels.
        weighting: weight of a level's error.
    """

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        optimizer: OptimizerSettings,
        seed: int,
        times: TimeSampler,
        weighting: Weighting,
    ) -> None:
        super().__init__()
        self.policy = policy
        denoiser_of(policy, ParameterizedDenoiser, who="DiffusionBC")
        self.optimizer_settings = optimizer
        self.seed = seed
        self.times = times
        self.weighting = weighting

    @property
    def denoiser(self) -> ParameterizedDenoiser:
        """The denoiser being trained."""
        return denoiser_of(self.policy, ParameterizedDenoiser, who="DiffusionBC")

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and named figures."""
        return imitation_loss(self, batch, generator)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step of gradient descent on ``loss``."""
        loss, metrics = self.loss(batch, step_generator(self, self.seed))
        return {"loss": loss, "metrics": metrics}

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up."""
        return configure_adamw(self, self.optimizer_settings)
