"""TD3+BC and ReBRAC: a deterministic policy that raises its value and stays near the data.

::

    (1)  a' = clip(pi_target(s') + clip(e, -limit, limit)),   e ~ N(0, std^2)
    (2)  y  = r + bootstrap (min Q'(s', a') - critic_penalty |a' - a'_data|^2)
    (3)  policy   -q_weight mean Q_1(s, pi(s)) / mean |Q_1|  +  actor_penalty |pi(s) - a|^2

every ``policy_delay`` steps for the policy. TD3+BC: ``critic_penalty`` 0, ``actor_penalty`` 1,
``q_weight`` 2.5. ReBRAC: both penalties per task, layer norms in the critics, deeper networks,
larger batches. Squares are sums over the executed actions in (2), as published, and means in (3).

Differences from the papers: no tanh on the policy's output, which is clipped where it is valued and
run; one optimizer for both; (2) has no penalty where the data's next action is unknown.

Source: arXiv 2106.06860 (TD3+BC), arXiv 2305.09836 (ReBRAC), arXiv 1802.09477 (TD3).
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
from genpolicy.algorithms.critics import bellman_loss, check_transitions, improve
from genpolicy.algorithms.frozen import FrozenTarget
from genpolicy.denoisers import FlowMapDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import Squared, draw_noise, mean_over_valid
from genpolicy.policies import Critic, GenerativePolicy
from genpolicy.shapes import Chunk, Cond

__all__ = ["ReBRAC"]


class ReBRAC(LightningModule):
    """Trains a deterministic policy and its critics.

    Args:
        policy: a one-step policy from noise of size 0 (``sampler.init_scale=0``).
        critic: twin critics.
        optimizer: AdamW settings, of the policy and of the critic.
        seed: names the noise of every step.
        q_weight: of the normalized value in (3), positive.
        actor_penalty: of the distance to the data's actions in (3), at least 0.
        critic_penalty: of the distance to the data's next actions in (2), at least 0.
        policy_delay: steps of the critic per step of the policy, at least 1.
        noise_std: in (1), normalized units, at least 0.
        noise_limit: in (1), positive.
        target_rate: part that enters the averages of policy and critic at every step, in (0, 1].

    Raises:
        UsageError: for values out of range, or another policy.
    """

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        critic: Critic,
        optimizer: OptimizerSettings,
        seed: int,
        q_weight: float = 2.5,
        actor_penalty: float = 1.0,
        critic_penalty: float = 0.0,
        policy_delay: int = 2,
        noise_std: float = 0.2,
        noise_limit: float = 0.5,
        target_rate: float = 0.005,
    ) -> None:
        super().__init__()
        one_step_map(policy, who="ReBRAC")
        if policy.sampler.init_scale != 0.0:
            raise UsageError(
                f"ReBRAC trains a deterministic policy, got sampler.init_scale "
                f"{policy.sampler.init_scale}; set policy.sampler.init_scale=0"
            )
        if min(q_weight, noise_limit) <= 0.0 or min(actor_penalty, critic_penalty, noise_std) < 0.0:
            raise UsageError(
                f"ReBRAC: q_weight {q_weight}, noise_limit {noise_limit}, actor_penalty "
                f"{actor_penalty}, critic_penalty {critic_penalty}, noise_std {noise_std}, "
                "expected the first two above 0 and the others at least 0"
            )
        if policy_delay < 1:
            raise UsageError(f"ReBRAC: policy_delay is {policy_delay}, expected at least 1")
        self.policy, self.critic = policy, critic
        self.optimizer_settings, self.seed = optimizer, seed
        self.q_weight, self.policy_delay = q_weight, policy_delay
        self.actor_penalty, self.critic_penalty = actor_penalty, critic_penalty
        self.noise_std, self.noise_limit = noise_std, noise_limit
        self.critic_target = FrozenTarget(critic, decay=1.0 - target_rate)
        self.policy_target = FrozenTarget(self.denoiser, decay=1.0 - target_rate)

    @property
    def denoiser(self) -> FlowMapDenoiser:
        """The map being trained."""
        return one_step_map(self.policy, who="ReBRAC")

    def actions(self, denoiser: FlowMapDenoiser, cond: Cond) -> Chunk:
        """Return the deterministic chunk of each row, before clipping."""
        assert cond is not None
        spec = self.policy.spec
        start = cond.new_zeros(len(cond), spec.horizon, spec.action_dim)
        return denoiser(start, cond.new_full((len(cond),), denoiser.path.t_max), cond)

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean squared distance to the data's actions, and named figures."""
        clean, cond, mask = self.policy.training_pair(batch)
        error = self.actions(self.denoiser, cond) - clean
        loss = mean_over_valid(Squared()(error, mask), mask)
        return loss, {"loss": loss.detach()}

    @torch.no_grad()
    def next_value(self, batch: Any, generator: torch.Generator) -> Tensor:
        """Return the value of (1) less its penalty, for each row."""
        policy, critic = self.policy, self.critic_target.of(self.critic)
        chunk = self.actions(self.policy_target.of(self.denoiser), policy.encode(batch["next_obs"]))
        noise = self.noise_std * draw_noise(chunk, generator)
        chunk = self._clip(chunk + noise.clamp(-self.noise_limit, self.noise_limit))
        value = critic.one(critic.q_values(critic.features(batch["next_obs"]), chunk))
        if self.critic_penalty == 0.0:
            return value
        seen = policy.normalizer.normalize_action(batch["next_action"])
        square = (chunk - seen).square() * batch["next_mask"].unsqueeze(-1)
        return value - self.critic_penalty * square[:, policy.spec.executed].sum(dim=(1, 2))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step of the critics and, when it is due, of the policy, after the targets moved."""
        check_transitions(batch, who="ReBRAC")
        generator = step_generator(self, self.seed)
        if self.global_step > 0:
            self.critic_target.update(self.critic)
            self.policy_target.update(self.denoiser)
        loss, metrics = bellman_loss(self.critic, batch, self.next_value(batch, generator))
        if self.global_step % self.policy_delay == 0:
            distance, _ = self.loss(batch, generator)
            chunk = self._clip(self.actions(self.denoiser, self.policy.encode(batch["obs"])))
            raised = improve(self.critic, batch, chunk, None)
            loss = loss + self.q_weight * raised + self.actor_penalty * distance
            metrics["policy_distance"] = distance.detach()
        return {"loss": loss, "metrics": metrics}

    def _clip(self, chunk: Chunk) -> Chunk:
        bounds = self.policy.bounds
        return chunk if bounds is None else chunk.clamp(*bounds)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up."""
        return configure_adamw(self, self.optimizer_settings)
