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
from torch import Tensor

from genpolicy.algorithms.actor_critic import ImitatingActorCritic
from genpolicy.algorithms.common import OptimizerSettings, denoiser_of, imitation_loss
from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.losses import TimeSampler, Weighting
from genpolicy.policies import Critic, GenerativePolicy

__all__ = ["DiffusionQL"]


class DiffusionQL(ImitatingActorCritic):
    """Trains a diffusion (or flow) policy by imitation and by the gradient of a critic.

    Args:
        policy: the policy to train; its sampler is the chain that is differentiated.
        critic: twin critics.
        optimizer: AdamW settings, of the policy and of the critic.
        seed: names the noise of every step.
        times: distribution of training noise levels.
        weighting: weight of a level's error.
        eta: weight of the critic in (2), at least 0; 0 is imitation.
        imitation_weight: of the imitation loss in (2), at least 0; 0 for the value alone, online.
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
        imitation_weight: float = 1.0,
        max_q_backup: int = 1,
        target_rate: float = 0.005,
        policy_decay: float = 0.995,
        policy_every: int = 5,
        n_candidates: int = 50,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(
            policy=policy,
            critic=critic,
            optimizer=optimizer,
            seed=seed,
            eta=eta,
            imitation_weight=imitation_weight,
            max_q_backup=max_q_backup,
            target_rate=target_rate,
            policy_decay=policy_decay,
            policy_every=policy_every,
            n_candidates=n_candidates,
            temperature=temperature,
        )
        self.times, self.weighting = times, weighting

    @property
    def denoiser(self) -> ParameterizedDenoiser:
        """The denoiser being trained."""
        return denoiser_of(self.policy, ParameterizedDenoiser, who="DiffusionQL")

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the policy's imitation loss and named figures."""
        return imitation_loss(self, batch, generator)
