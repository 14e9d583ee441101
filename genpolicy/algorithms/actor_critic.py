"""What Diffusion-QL and Consistency-AC share: a policy that imitates and follows its critic.

::

    (1)  y = r + bootstrap min Q'(s', a'),   a' from the averaged policy's whole chain
    (2)  policy   imitation_weight imitation loss + eta improvement_loss(Q(s, a)),
                  a from the chain, with gradient

The algorithms differ in the imitation loss, which is ``loss`` of each.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from genpolicy.algorithms.common import (
    OptimizerSettings,
    configure_adamw,
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
from genpolicy.denoisers import FlowMapDenoiser, ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.policies import Critic, GenerativePolicy

__all__ = ["ImitatingActorCritic"]


class ImitatingActorCritic(LightningModule):
    """Trains a policy by imitation and by the gradient of a critic through its chain.

    Args:
        policy: the policy to train; its sampler is the chain that is differentiated.
        critic: twin critics.
        optimizer: AdamW settings, of the policy and of the critic.
        seed: names the noise of every step.
        eta: weight of the critic in (2), at least 0.
        imitation_weight: of the imitation loss in (2), at least 0; 0 for the value alone, online.
        max_q_backup: actions of which (1) takes the best, at least 1.
        normalize_targets: divide y by its standard deviation over the batch.
        target_rate: part of the critic that enters its average at every step, in (0, 1].
        policy_decay: of the policy's average, in [0, 1).
        policy_every: steps between its updates, at least 1.
        n_candidates: chunks of which the critic chooses one to act.
        temperature: of that choice, in units of value; 0 takes the best.

    Raises:
        UsageError: for values out of range.
    """

    imitation_figures: ClassVar[tuple[str, ...]] = ()
    """Names of figures of ``loss`` that are logged besides the loss."""

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        critic: Critic,
        optimizer: OptimizerSettings,
        seed: int,
        eta: float,
        imitation_weight: float,
        max_q_backup: int,
        target_rate: float,
        policy_decay: float,
        policy_every: int,
        n_candidates: int,
        temperature: float,
        normalize_targets: bool = False,
    ) -> None:
        super().__init__()
        check_selection(type(self).__name__, n_candidates, temperature)
        if min(eta, imitation_weight) < 0.0 or min(max_q_backup, policy_every) < 1:
            raise UsageError(
                f"{type(self).__name__}: eta is {eta}, imitation_weight {imitation_weight}, "
                f"max_q_backup {max_q_backup} and policy_every {policy_every}, expected at least "
                "0, 0, 1 and 1"
            )
        self.policy, self.critic = policy, critic
        self.optimizer_settings, self.seed = optimizer, seed
        self.eta, self.imitation_weight = eta, imitation_weight
        self.max_q_backup, self.policy_every = max_q_backup, policy_every
        self.n_candidates, self.temperature = n_candidates, temperature
        self.normalize_targets = normalize_targets
        self.critic_target = FrozenTarget(critic, decay=1.0 - target_rate)
        self.policy_target: FrozenTarget[Any] = FrozenTarget(self.denoiser, decay=policy_decay)

    @property
    @abstractmethod
    def denoiser(self) -> ParameterizedDenoiser | FlowMapDenoiser:
        """The denoiser being trained."""

    @abstractmethod
    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the policy's imitation loss and named figures, ``loss`` among them."""

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step on the sum of critic's and policy's losses, after the targets have moved."""
        check_transitions(batch, who=type(self).__name__)
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
        if self.imitation_weight > 0.0:
            imitation, own = self.loss(batch, generator)
            loss = loss + self.imitation_weight * imitation
            metrics["imitation_loss"] = own["loss"]
            metrics |= {name: own[name] for name in self.imitation_figures}
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
