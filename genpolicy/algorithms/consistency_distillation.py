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
    flow_map,
    posterior_mean,
    step_generator,
)
from genpolicy.algorithms.consistency_bc import FrozenTarget
from genpolicy.denoisers import FlowMapDenoiser
from genpolicy.errors import CheckpointError
from genpolicy.losses import ConsistencyDistillation as DistillationSettings
from genpolicy.losses import consistency_distillation_loss
from genpolicy.networks import load_teacher_weights
from genpolicy.policies import GenerativePolicy, load_policy

__all__ = ["ConsistencyDistillation"]


class ConsistencyDistillation(LightningModule):
    """Trains a flow map to the ends of a teacher's ODE trajectories.

    Args:
        policy: the student; its denoiser is a flow map.
        teacher: checkpoint of a trained diffusion or flow policy on the same data and windows.
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
        loaded = load_policy(teacher)
        student = flow_map(policy, who="ConsistencyDistillation")
        source = posterior_mean(loaded, who="ConsistencyDistillation's teacher")
        check_same_task(policy, loaded, teacher)
        if start_from_teacher:
            load_teacher_weights(policy.encoder, loaded.encoder.state_dict())
            load_teacher_weights(student.network, source.network.state_dict())
        self.policy = policy
        self.optimizer_settings = optimizer
        self.seed = seed
        self.settings = settings
        self.target = FrozenTarget(student, decay=target_decay)
        # Kept out of the module tree: the teacher is neither trained, averaged nor saved here.
        self._teacher: tuple[GenerativePolicy, ...] = (loaded,)

    @property
    def teacher(self) -> GenerativePolicy:
        """The frozen teacher, on the device of the student."""
        return self._teacher[0].to(self.device)

    @property
    def denoiser(self) -> FlowMapDenoiser:
        """The denoiser being trained."""
        return flow_map(self.policy, who="ConsistencyDistillation")

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and named figures."""
        clean, cond, mask = self.policy.training_pair(batch)
        teacher = self.teacher
        with torch.no_grad():
            teacher_cond = teacher.encode(batch["obs"])
        return consistency_distillation_loss(
            self.denoiser,
            self.target.of(self.denoiser),
            posterior_mean(teacher, who="ConsistencyDistillation's teacher"),
            clean,
            cond,
            generator=generator,
            settings=self.settings,
            mask=mask,
            teacher_cond=teacher_cond,
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


def check_same_task(student: GenerativePolicy, teacher: GenerativePolicy, where: str) -> None:
    """Refuse a teacher with other observations, windows or normalizer statistics.

    Raises:
        CheckpointError: naming what differs and in which checkpoint.
    """
    if student.spec != teacher.spec:
        raise CheckpointError(
            f"teacher {where} was trained for {teacher.spec}, the student for {student.spec}; "
            "train both on the same task with the same windows"
        )
    if student.normalizer.to_json() != teacher.normalizer.to_json():
        raise CheckpointError(
            f"teacher {where} has other normalizer statistics than this run's data; train both on "
            "the same data and split"
        )
