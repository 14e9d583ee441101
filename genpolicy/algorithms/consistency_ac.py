"""Consistency-AC: the policy of Diffusion-QL as a consistency policy, trained without a teacher.

::

    (1)  y = r + bootstrap min Q'(s', a'),   a' from the averaged policy
    (2)  policy   consistency training + eta improvement_loss(Q(s, a)),   a with gradient

The average of the policy is also the frozen target of consistency training. One or two network
evaluations give an action, in training as in acting. eta = 0 is Consistency-BC (``algorithm=
consistency_bc`` trains it without a critic).

Differences from the paper's code: those of ``diffusion_ql``; the network sees scaled inputs and the
logarithm of the noise level (the boundary is the same); one curriculum over the whole run, where
the code restarts it at every evaluation; re-noising to level s uses s for sqrt(s^2 - eps^2).

Source: arXiv 2309.16984 and its public code.
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
from genpolicy.denoisers import FlowMapDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import ConsistencyTraining, consistency_training_loss
from genpolicy.policies import Critic, GenerativePolicy

__all__ = ["ConsistencyAC"]


class ConsistencyAC(LightningModule):
    """Trains a consistency policy by consistency training and by the gradient of a critic.

    Args:
        policy: the policy to train; its denoiser is a flow map, its sampler what is differentiated.
        critic: twin critics.
        optimizer: AdamW settings, of the policy and of the critic.
        seed: names the noise of every step.
        settings: levels, weighting and distance of consistency training.
        eta: weight of the critic in (2), at least 0.
        max_q_backup: actions of which (1) takes the best, at least 1.
        normalize_targets: divide y by its standard deviation over the batch (an option of the
            paper's code; it changes the fixed point of the Bellman equation).
        target_rate: part of the critic that enters its average at every step, in (0, 1].
        policy_decay: of the policy's average, in [0, 1).
        policy_every: steps between its updates, at least 1.
        n_candidates: chunks of which the critic chooses one to act.
        temperature: of that choice, in units of value; 0 takes the best.

    Raises:
        UsageError: for values out of range, or a policy that is no flow map.
    """

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        critic: Critic,
        optimizer: OptimizerSettings,
        seed: int,
        settings: ConsistencyTraining,
        eta: float = 1.0,
        max_q_backup: int = 1,
        normalize_targets: bool = False,
        target_rate: float = 0.005,
        policy_decay: float = 0.995,
        policy_every: int = 5,
        n_candidates: int = 50,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        check_selection("ConsistencyAC", n_candidates, temperature)
        if eta < 0.0 or max_q_backup < 1 or policy_every < 1:
            raise UsageError(
                f"ConsistencyAC: eta is {eta}, max_q_backup {max_q_backup} and policy_every "
                f"{policy_every}, expected at least 0, 1 and 1"
            )
        self.policy, self.critic = policy, critic
        self.optimizer_settings, self.seed = optimizer, seed
        self.settings, self.normalize_targets = settings, normalize_targets
        self.eta, self.max_q_backup, self.policy_every = eta, max_q_backup, policy_every
        self.n_candidates, self.temperature = n_candidates, temperature
        self.critic_target = FrozenTarget(critic, decay=1.0 - target_rate)
        self.policy_target = FrozenTarget(self.denoiser, decay=policy_decay)

    @property
    def denoiser(self) -> FlowMapDenoiser:
        """The denoiser being trained."""
        return denoiser_of(self.policy, FlowMapDenoiser, who="ConsistencyAC")

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the policy's consistency loss and named figures."""
        clean, cond, mask = self.policy.training_pair(batch)
        attached = self._trainer is not None
        return consistency_training_loss(
            self.denoiser,
            self.policy_target.of(self.denoiser),
            clean,
            cond,
            step=self.global_step if attached else self.optimizer_settings.max_steps,
            generator=generator,
            settings=self.settings,
            mask=mask,
        )

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step on the sum of critic's and policy's losses, after the targets have moved."""
        check_transitions(batch, who="ConsistencyAC")
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
        loss, metrics = bellman_loss(
            self.critic, batch, following, normalize=self.normalize_targets
        )
        imitation, own = self.loss(batch, generator)
        loss = loss + imitation
        metrics |= {"imitation_loss": own["loss"], "n_levels": own["n_levels"]}
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
