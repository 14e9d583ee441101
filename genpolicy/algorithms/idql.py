"""IDQL: a diffusion or flow policy of the data, and an implicit critic that chooses its samples.

The policy imitates all data alike, and the critic is that of implicit Q-learning; neither sees the
other while they are trained. The policy acts by taking the best of N samples.

Source: arXiv 2304.10573 (algorithms 1 and 2), with the argmax for the draw by expectile weights, as
in its published D4RL results by "IDQL-Max".
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
from genpolicy.algorithms.critics import check_selection, check_transitions, implicit_q_losses
from genpolicy.algorithms.frozen import FrozenTarget
from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import TimeSampler, Weighting
from genpolicy.policies import Critic, GenerativePolicy

__all__ = ["IDQL"]


class IDQL(LightningModule):
    """Trains a generative policy of the data and a critic that chooses among its samples.

    Args:
        policy: the policy to train; its denoiser predicts a posterior mean.
        critic: with a state value.
        optimizer: AdamW settings, of the policy and of the critic.
        seed: names the noise of every step.
        times: distribution of training noise levels.
        weighting: weight of a level's error.
        expectile: tau in (0, 1).
        target_rate: part of the critic that enters its average at every step, in (0, 1].
        n_candidates: N, chunks of which the critic chooses one to act.
        temperature: of that choice; 0 takes the best.

    Raises:
        UsageError: for values out of range, or a critic without state value.
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
        target_rate: float = 0.005,
        n_candidates: int = 64,
        temperature: float = 0.0,
    ) -> None:
        super().__init__()
        check_selection("IDQL", n_candidates, temperature)
        denoiser_of(policy, ParameterizedDenoiser, who="IDQL")
        if not 0.0 < expectile < 1.0:
            raise UsageError(f"IDQL: expectile is {expectile}, expected a value in (0, 1)")
        if critic.value is None:
            raise UsageError("IDQL needs a critic with a state value; use critic=iql")
        self.policy, self.critic = policy, critic
        self.optimizer_settings, self.seed = optimizer, seed
        self.times, self.weighting, self.expectile = times, weighting, expectile
        self.n_candidates, self.temperature = n_candidates, temperature
        self.critic_target = FrozenTarget(critic, decay=1.0 - target_rate)

    @property
    def denoiser(self) -> ParameterizedDenoiser:
        """The denoiser being trained."""
        return denoiser_of(self.policy, ParameterizedDenoiser, who="IDQL")

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the policy's imitation loss and named figures."""
        return imitation_loss(self, batch, generator)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step on the sum of critic's and policy's losses, after the target has moved."""
        check_transitions(batch, who="IDQL")
        generator = step_generator(self, self.seed)
        if self.global_step > 0:
            self.critic_target.update(self.critic)
        value_loss, _, metrics = implicit_q_losses(
            self.critic, self.critic_target, batch, expectile=self.expectile
        )
        policy_loss, own = self.loss(batch, generator)
        metrics["policy_loss"] = own["loss"]
        return {"loss": value_loss + policy_loss, "metrics": metrics}

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up."""
        return configure_adamw(self, self.optimizer_settings)
