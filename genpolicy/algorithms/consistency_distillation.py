"""Distil any teacher of the library into a consistency policy that acts in one or two evaluations.

Source: arXiv 2303.01469 (consistency distillation), 2310.02279 (trajectory models),
2405.07503 (Consistency Policy).
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
from genpolicy.algorithms.frozen import FrozenTarget, Teacher
from genpolicy.denoisers import FlowMapDenoiser
from genpolicy.losses import ConsistencyDistillation as DistillationSettings
from genpolicy.losses import consistency_distillation_loss
from genpolicy.policies import GenerativePolicy

__all__ = ["ConsistencyDistillation"]


class ConsistencyDistillation(LightningModule):
    """Trains a flow map to the ends of a teacher's ODE trajectories.

    Args:
        policy: the student; its denoiser is a flow map.
        teacher: checkpoint of a trained diffusion or flow policy, or of a composition of such, on
            the same data and windows.
        optimizer: AdamW settings.
        seed: names the noise of every step.
        settings: levels, jump, solver, weighting and distance.
        target_decay: averaging of the frozen target per step, in [0, 1); 0 uses the student itself.
        start_from_teacher: copy the teacher's encoder and network into the student first.
    """

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        teacher: str,
        optimizer: OptimizerSettings,
        seed: int,
        settings: DistillationSettings,
        target_decay: float = 0.0,
        start_from_teacher: bool = True,
    ) -> None:
        super().__init__()
        student = denoiser_of(policy, FlowMapDenoiser, who="ConsistencyDistillation")
        self.teacher = Teacher(teacher, student=policy, who="ConsistencyDistillation")
        if start_from_teacher:
            self.teacher.start(policy)
        self.policy = policy
        self.optimizer_settings = optimizer
        self.seed = seed
        self.settings = settings
        self.target = FrozenTarget(student, decay=target_decay)

    @property
    def denoiser(self) -> FlowMapDenoiser:
        """The denoiser being trained."""
        return denoiser_of(self.policy, FlowMapDenoiser, who="ConsistencyDistillation")

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and named figures."""
        clean, cond, mask = self.policy.training_pair(batch)
        teacher = self.teacher.bind(batch["obs"], device=self.device)
        return consistency_distillation_loss(
            self.denoiser,
            self.target.of(self.denoiser),
            teacher,
            clean,
            cond,
            generator=generator,
            settings=self.settings,
            mask=mask,
        )

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
