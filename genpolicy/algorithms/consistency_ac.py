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
from torch import Tensor

from genpolicy.algorithms.actor_critic import ImitatingActorCritic
from genpolicy.algorithms.common import OptimizerSettings, denoiser_of
from genpolicy.denoisers import FlowMapDenoiser
from genpolicy.losses import ConsistencyTraining, consistency_training_loss
from genpolicy.policies import Critic, GenerativePolicy

__all__ = ["ConsistencyAC"]


class ConsistencyAC(ImitatingActorCritic):
    """Trains a consistency policy by consistency training and by the gradient of a critic.

    Args:
        policy: the policy to train; its denoiser is a flow map, its sampler what is differentiated.
        critic: twin critics.
        optimizer: AdamW settings, of the policy and of the critic.
        seed: names the noise of every step.
        settings: levels, weighting and distance of consistency training.
        eta: weight of the critic in (2), at least 0.
        imitation_weight: of the imitation loss in (2), at least 0; 0 for the value alone, online.
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

    imitation_figures = ("n_levels",)

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        critic: Critic,
        optimizer: OptimizerSettings,
        seed: int,
        settings: ConsistencyTraining,
        eta: float = 1.0,
        imitation_weight: float = 1.0,
        max_q_backup: int = 1,
        normalize_targets: bool = False,
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
            normalize_targets=normalize_targets,
            target_rate=target_rate,
            policy_decay=policy_decay,
            policy_every=policy_every,
            n_candidates=n_candidates,
            temperature=temperature,
        )
        self.settings = settings

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
