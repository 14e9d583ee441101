"""Diffusion-QL: a diffusion policy that imitates the data and follows a critic through its chain.

::

    (1)  y = r + bootstrap min Q'(s', a'),   a' from the averaged policy's whole chain
    (2)  policy   imitation loss + eta improvement_loss(Q(s, a)),   a from the chain, with gradient

With ``max_q_backup`` > 1, (1) takes for each critic the largest of so many a', and then the min of
the critics. The policy acts by drawing one of ``n_candidates`` by softmax of their values.

Differences from the paper's code: one optimizer for critic and policy (the policy follows the
critic of before the step); averages start at the first step; gradients of policy and critic are
clipped at ``trainer.gradient_clip_val``, apart.

Source: arXiv 2208.06193 and its public code.
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
    draw_chunks,
    step_generator,
)
from genpolicy.algorithms.critics import (
    bellman_loss,
    check_selection,
    check_transitions,
    improve,
    value_of_next,
)
from genpolicy.algorithms.frozen import FrozenTarget
from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import TimeSampler, Weighting, denoising_loss
from genpolicy.policies import Critic, GenerativePolicy

__all__ = ["DiffusionQL"]


class DiffusionQL(LightningModule):
    """Trains a diffusion (or flow) policy by imitation and by the gradient of a critic.

    Args:
        policy: the policy to train; its sampler is the chain that is differentiated.
        critic: twin critics.
        optimizer: AdamW settings, of the policy and of the critic.
        seed: names the noise of every step.
        times: distribution of training noise levels.
        weighting: weight of a level's error.
        eta: weight of the critic in (2), at least 0; 0 is imitation.
        max_q_backup: actions of which (1) takes the best, at least 1; 10 on antmaze.
        target_rate: part of the critic that enters its average at every step, in (0, 1].
        policy_decay: of the policy's average, in [0, 1).
        policy_every: steps between its updates, at least 1.
        n_candidates: chunks of which the critic chooses one to act.
        temperature: of that choice, in units of value; 0 takes the best.

    Raises:
        UsageError: for values out of range, or a policy without posterior mean.
    """

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        critic: Critic,
        optimizer: OptimizerSettings,
        seed: int,
        times: TimeSampler,
        weighting: Weighting,
        eta: float = 1.0,
        max_q_backup: int = 1,
        target_rate: float = 0.005,
        policy_decay: float = 0.995,
        policy_every: int = 5,
        n_candidates: int = 50,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        check_selection("DiffusionQL", n_candidates, temperature)
        if eta < 0.0 or max_q_backup < 1 or policy_every < 1:
            raise UsageError(
                f"DiffusionQL: eta is {eta}, max_q_backup {max_q_backup} and policy_every "
                f"{policy_every}, expected at least 0, 1 and 1"
            )
        self.policy, self.critic = policy, critic
        self.optimizer_settings, self.seed = optimizer, seed
        self.times, self.weighting = times, weighting
        self.eta, self.max_q_backup, self.policy_every = eta, max_q_backup, policy_every
        self.n_candidates, self.temperature = n_candidates, temperature
        self.critic_target = FrozenTarget(critic, decay=1.0 - target_rate)
        self.policy_target = FrozenTarget(self.denoiser, decay=policy_decay)

    @property
    def denoiser(self) -> ParameterizedDenoiser:
        """The denoiser being trained."""
        return denoiser_of(self.policy, ParameterizedDenoiser, who="DiffusionQL")

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the policy's imitation loss and named figures."""
        clean, cond, mask = self.policy.training_pair(batch)
        return denoising_loss(
            self.denoiser,
            clean,
            cond,
            times=self.times,
            weighting=self.weighting,
            generator=generator,
            mask=mask,
        )

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step on the sum of critic's and policy's losses, after the targets have moved."""
        check_transitions(batch, who="DiffusionQL")
        generator = step_generator(self, self.seed)
        if self.global_step > 0:
            self.critic_target.update(self.critic)
            if self.global_step % self.policy_every == 0:
                self.policy_target.update(self.denoiser)
        following = value_of_next(
            self.critic_target.of(self.critic),
            self.policy,
            self.policy_target.of(self.denoiser),
            batch,
            generator,
            n_actions=self.max_q_backup,
        )
        loss, metrics = bellman_loss(self.critic, batch, following)
        imitation, own = self.loss(batch, generator)
        loss = loss + imitation
        metrics["imitation_loss"] = own["loss"]
        if self.eta > 0.0:
            cond = self.policy.encode(batch["obs"])
            chunk = draw_chunks(self.policy, self.denoiser, cond, generator)
            raised = improve(self.critic, batch, chunk, generator)
            loss = loss + self.eta * raised
            metrics["improvement"] = -raised.detach()
        return {"loss": loss, "metrics": metrics}

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up."""
        return configure_adamw(self, self.optimizer_settings)
