"""FQL: a flow policy of the data, and a one-step policy that is distilled from it and follows Q.

::

    (1)  y = r + bootstrap agg Q'(s', a'),    a' = clip(mu(s', z)), z ~ N(0, I), agg: see critic
    (2)  flow      conditional flow matching on the data
    (3)  mu        distillation mean |mu(s, z) - ode(s, z)|^2 - Q(s, clip(mu(s, z))) / mean |Q|

with ode the flow's Euler steps from the same z, clipped at the end. The gradient of Q never passes
through the ODE. (3) limits the squared Wasserstein distance to the data's policy. The policy that
is saved is the one-step one.

Differences from the paper's code: the weight of (3) is on the normalized Q throughout, which the
authors recommend for new tasks (``normalize_q`` false is their D4RL setting); (2) and mu see the
features of one encoder.

Source: arXiv 2502.02538 and its public code.
"""

from __future__ import annotations

import copy
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
from genpolicy.algorithms.critics import bellman_loss, check_transitions, value_of_next
from genpolicy.algorithms.frozen import FrozenTarget, held
from genpolicy.denoisers import FlowMapDenoiser, ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import draw_noise, flow_matching_loss
from genpolicy.paths import LinearPath
from genpolicy.policies import Critic, GenerativePolicy
from genpolicy.sampling import Sampler, sample

__all__ = ["FQL"]


class FQL(LightningModule):
    """Trains a flow of the data and a one-step policy from noise to actions.

    Args:
        policy: the one-step policy (``denoiser=one_step``, on the linear path).
        critic: twin critics; published with ``aggregate`` mean, layer norms, four layers of 512.
        optimizer: AdamW settings, of everything.
        seed: names the noise of every step.
        alpha: weight of the distillation in (3), positive; 3 to 30000 without normalized Q, 0.03 to
            10 with it.
        n_flow_steps: Euler steps of the flow, at least 1.
        normalize_q: divide the policy's Q by its mean size.
        target_rate: part of the critic that enters its average at every step, in (0, 1].

    Raises:
        UsageError: for values out of range, or a policy that is no one-step map on LinearPath.
    """

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        critic: Critic,
        optimizer: OptimizerSettings,
        seed: int,
        alpha: float = 10.0,
        n_flow_steps: int = 10,
        normalize_q: bool = True,
        target_rate: float = 0.005,
    ) -> None:
        super().__init__()
        student = one_step_map(policy, who="FQL")
        if student.path != LinearPath() or policy.sampler.init_scale != 1.0:
            raise UsageError(
                f"FQL: the path is {student.path} and init_scale {policy.sampler.init_scale}, "
                "expected LinearPath from t = 0 to 1 and init_scale 1; use path=linear "
                "sampler=one_step"
            )
        if not alpha > 0.0 or n_flow_steps < 1:
            raise UsageError(
                f"FQL: alpha is {alpha} and n_flow_steps {n_flow_steps}, expected above 0 and at "
                "least 1"
            )
        self.policy, self.critic = policy, critic
        self.optimizer_settings, self.seed = optimizer, seed
        self.alpha, self.normalize_q = alpha, normalize_q
        self.flow = ParameterizedDenoiser(
            network=copy.deepcopy(student.network),
            path=student.path,
            predicts="velocity",
            time_scale=student.time_scale,
        )
        self.times = Sampler(rule="euler", n_steps=n_flow_steps).times_on(student.path)
        self.euler = Sampler(rule="euler").bound_rule
        self.critic_target = FrozenTarget(critic, decay=1.0 - target_rate)

    @property
    def denoiser(self) -> FlowMapDenoiser:
        """The one-step map being trained."""
        return one_step_map(self.policy, who="FQL")

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the flow's imitation loss (2) and named figures."""
        clean, cond, mask = self.policy.training_pair(batch)
        return flow_matching_loss(self.flow, clean, cond, generator=generator, mask=mask)

    def policy_losses(
        self, batch: Any, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return both terms of (3) without their weight: distillation, and the value's."""
        policy = self.policy
        cond = policy.encode(batch["obs"])
        assert cond is not None
        noise = draw_noise(
            cond.new_empty(len(cond), policy.spec.horizon, policy.spec.action_dim), generator
        )
        with torch.no_grad():
            goal = self._clip(sample(self.flow, noise, self.times, cond, rule=self.euler))
            features = self.critic.features(batch["obs"])
        chunk = self.denoiser(noise, noise.new_full((len(noise),), 1.0), cond)
        distance = (chunk - goal).square().mean()
        with held(self.critic):
            # As published: the mean of the critics, whatever aggregate the target takes.
            values = self.critic.q_values(features, self._clip(chunk)).mean(0)
        raised = -values.mean()
        if self.normalize_q:
            raised = raised / values.detach().abs().mean().clamp(min=1e-6)
        return distance, raised, {"distance": distance.detach(), "policy_q": values.detach().mean()}

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step on the sum of all losses, after the target has moved."""
        check_transitions(batch, who="FQL")
        generator = step_generator(self, self.seed)
        if self.global_step > 0:
            self.critic_target.update(self.critic)
        slow = self.critic_target.of(self.critic)
        following = value_of_next(slow, self.policy, self.denoiser, batch, generator)
        loss, metrics = bellman_loss(self.critic, batch, following)
        flow_loss, own = self.loss(batch, generator)
        distance, raised, figures = self.policy_losses(batch, generator)
        metrics |= {"flow_loss": own["loss"], **figures}
        return {"loss": loss + flow_loss + self.alpha * distance + raised, "metrics": metrics}

    def _clip(self, chunk: Tensor) -> Tensor:
        bounds = self.policy.bounds
        return chunk if bounds is None else chunk.clamp(*bounds)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up."""
        return configure_adamw(self, self.optimizer_settings)
