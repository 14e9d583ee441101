"""Implicit Q-learning: a critic that values only the data's actions, and a policy weighted by it.

::

    (1)  V, Q      see ``implicit_q_losses``: V is an expectile of Q over the data's actions
    (2)  policy    imitation weighted by min(exp((Q - V)/beta), max_weight)

The policy is a deterministic one (``denoiser=one_step``, ``sampler.init_scale=0``: weighted squared
error, the mean of the paper's Gaussian, which it is evaluated at) or a diffusion or flow policy
(weighted denoising loss; its minimum is the posterior mean of ``p exp((Q - V)/beta)``).

Differences from the paper: weights have mean 1 over a batch; one optimizer for critic and policy,
with one learning rate; no tanh on the mean, samples are clipped instead; dropout is the network's.

Source: arXiv 2110.06169.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from genpolicy.algorithms.common import (
    OptimizerSettings,
    configure_adamw,
    one_step_map,
    step_generator,
)
from genpolicy.algorithms.critics import check_selection, check_transitions, implicit_q_losses
from genpolicy.algorithms.frozen import FrozenTarget
from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import (
    Squared,
    TimeSampler,
    Weighting,
    advantage_weights,
    denoising_loss,
    mean_over_valid,
)
from genpolicy.policies import Critic, GenerativePolicy

__all__ = ["IQL"]


class IQL(LightningModule):
    """Trains a critic by implicit Q-learning and a policy by advantage-weighted imitation.

    Args:
        policy: the policy to train: deterministic, or with a denoiser of a posterior mean.
        critic: with a state value.
        optimizer: AdamW settings, of the policy and of the critic.
        seed: names the noise of every step.
        times: distribution of training noise levels, for a diffusion or flow policy.
        weighting: weight of a level's error, for a diffusion or flow policy.
        expectile: tau in (0, 1).
        beta: temperature in units of value, positive: 1/3 on locomotion, 0.1 on antmaze, 2 on
            kitchen and adroit (the paper's inverse temperatures 3, 10 and 0.5).
        max_weight: largest weight before division by the mean, above 1.
        target_rate: part of the critic that enters its average at every step, in (0, 1].
        n_candidates: chunks of which the critic chooses one to act.
        temperature: of that choice; 0 takes the best.

    Raises:
        UsageError: for values out of range, a critic without state value, or another policy.
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
        expectile: float = 0.7,
        beta: float = 1.0 / 3.0,
        max_weight: float = 100.0,
        target_rate: float = 0.005,
        n_candidates: int = 1,
        temperature: float = 0.0,
    ) -> None:
        super().__init__()
        check_selection("IQL", n_candidates, temperature)
        if not 0.0 < expectile < 1.0 or not beta > 0.0 or not max_weight > 1.0:
            raise UsageError(
                f"IQL: expectile is {expectile}, beta {beta} and max_weight {max_weight}, expected "
                "expectile in (0, 1), beta > 0 and max_weight > 1"
            )
        if critic.value is None:
            raise UsageError("IQL needs a critic with a state value; use critic=iql")
        if not isinstance(policy.denoiser, ParameterizedDenoiser):
            one_step_map(policy, who="IQL")
        self.policy, self.critic = policy, critic
        self.optimizer_settings, self.seed = optimizer, seed
        self.times, self.weighting = times, weighting
        self.expectile, self.beta, self.max_weight = expectile, beta, max_weight
        self.n_candidates, self.temperature = n_candidates, temperature
        self.critic_target = FrozenTarget(critic, decay=1.0 - target_rate)

    def loss(
        self, batch: Any, generator: torch.Generator, weights: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the imitation loss, weighted where weights are given, and named figures."""
        clean, cond, mask = self.policy.training_pair(batch)
        denoiser = self.policy.denoiser
        if isinstance(denoiser, ParameterizedDenoiser):
            return denoising_loss(
                denoiser,
                clean,
                cond,
                times=self.times,
                weighting=self.weighting,
                generator=generator,
                mask=mask,
                row_weights=weights,
            )
        start = torch.zeros_like(clean)
        error = denoiser(start, clean.new_full((len(clean),), denoiser.path.t_max), cond) - clean
        per_row = Squared()(error, mask)
        loss = mean_over_valid(per_row if weights is None else weights * per_row, mask)
        return loss, {"loss": loss.detach(), "error": mean_over_valid(per_row.detach(), mask)}

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step on the sum of critic's and policy's losses, after the target has moved."""
        check_transitions(batch, who="IQL")
        generator = step_generator(self, self.seed)
        if self.global_step > 0:
            self.critic_target.update(self.critic)
        value_loss, advantage, metrics = implicit_q_losses(
            self.critic, self.critic_target, batch, expectile=self.expectile
        )
        weights, clipped = advantage_weights(advantage, beta=self.beta, max_weight=self.max_weight)
        policy_loss, own = self.loss(batch, generator, weights)
        metrics |= {"policy_loss": own["loss"], "clipped_weights": clipped}
        return {"loss": value_loss + policy_loss, "metrics": metrics}

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up."""
        return configure_adamw(self, self.optimizer_settings)
