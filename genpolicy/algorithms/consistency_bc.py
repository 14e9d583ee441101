"""Behaviour cloning with a consistency policy trained from data alone (consistency training).

Source: arXiv 2303.01469 (consistency models), 2309.16984 (Consistency-BC), 2310.14189.
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
from genpolicy.algorithms.frozen import FrozenTarget
from genpolicy.denoisers import FlowMapDenoiser
from genpolicy.losses import ConsistencyTraining, consistency_training_loss
from genpolicy.policies import GenerativePolicy

__all__ = ["ConsistencyBC"]


class ConsistencyBC(LightningModule):
    """Trains a flow map without a teacher.

    Args:
        policy: the policy to train; its denoiser is a flow map.
        optimizer: AdamW settings.
        seed: names the noise of every step.
        settings: levels, weighting and distance.
        target_decay: averaging of the frozen target per step, in [0, 1); 0 uses the student itself.
    """

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        optimizer: OptimizerSettings,
        seed: int,
        settings: ConsistencyTraining,
        target_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.optimizer_settings = optimizer
        self.seed = seed
        self.settings = settings
        self.target = FrozenTarget(self.denoiser, decay=target_decay)

    @property
    def denoiser(self) -> FlowMapDenoiser:
        """The denoiser being trained."""
        return denoiser_of(self.policy, FlowMapDenoiser, who="ConsistencyBC")

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and named figures."""
        clean, cond, mask = self.policy.training_pair(batch)
        return consistency_training_loss(
            self.denoiser,
            self.target.of(self.denoiser),
            clean,
            cond,
            step=self.optimizer_settings.max_steps if not self._attached() else self.global_step,
            generator=generator,
            settings=self.settings,
            mask=mask,
        )

    def _attached(self) -> bool:
        return self._trainer is not None

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step of gradient descent on ``loss``, after the target has moved to the last step's.

        The target moves here and not at the end of the step, so that what is saved at the end of a
        step does not depend on the order of the hooks.
        """
        if self.global_step > 0:
            self.target.update(self.denoiser)
        loss, metrics = self.loss(batch, step_generator(self, self.seed))
        return {"loss": loss, "metrics": metrics}

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up."""
        return configure_adamw(self.policy, self.optimizer_settings)
