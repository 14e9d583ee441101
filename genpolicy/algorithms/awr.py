"""Advantage-weighted regression: tune a diffusion or flow policy on data with returns.

With the return R of a window's data from its current step on, and a baseline V of the observation::

    (1)  A = R - V(obs),     V: regression of R on obs, in the same run
    (2)  w = min(exp(A/beta), max_weight), divided by its mean over the batch
    (3)  loss = mean of w times the denoising loss of the row

The minimum of (3) is the posterior mean of ``p(action | obs) exp(Q/beta)``, normalized, with p the
policy of the data (but for windows whose weight was cut) and::

    (4)  Q(obs, action) = beta log E[ exp(A/beta) | obs, action ]

Where the observation and the actions decide the return, Q is A, this is the optimum of
``E[A] - beta KL(. | p)``, and RL guidance by a scale w between a policy trained without weights and
this one aims at what this algorithm gives for ``beta/w``. Where they do not, Q also likes actions
whose return varies, the more the smaller beta is, and the two differ. V changes no minimum: it
depends on the observation alone. Returns end with the episode, whatever ended it.

Source: arXiv 1910.00177 (equation 9); 2006.09359 for the same as a policy update.
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
    step_generator,
)
from genpolicy.algorithms.frozen import check_same_task
from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import TimeSampler, Weighting, advantage_weights, denoising_loss
from genpolicy.networks import ValueNetwork, load_teacher_weights
from genpolicy.policies import GenerativePolicy, load_policy

__all__ = ["AWR"]


class AWR(LightningModule):
    """Trains a denoiser on windows weighted by their advantage.

    Args:
        policy: the policy to train; its denoiser predicts a posterior mean.
        optimizer: AdamW settings, of the policy and of the baseline.
        seed: names the noise of every step.
        times: distribution of training noise levels.
        weighting: weight of a level's error.
        beta: temperature in units of return, positive; smaller follows the returns more.
        max_weight: largest weight before they are divided by their mean, above 1.
        value_warmup: steps in which the baseline is fitted and all windows count alike.
        value_width: hidden units of the baseline.
        init_from: checkpoint whose encoder and network are started from; None starts anew.

    Raises:
        UsageError: for values outside these ranges, or when ``init_from`` is a composition or its
            network predicts something else or on another path.
        CheckpointError: when ``init_from`` has another network, other windows or statistics.
    """

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        optimizer: OptimizerSettings,
        seed: int,
        times: TimeSampler,
        weighting: Weighting,
        beta: float,
        max_weight: float = 20.0,
        value_warmup: int = 500,
        value_width: int = 256,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        denoiser_of(policy, ParameterizedDenoiser, who="AWR")
        if not beta > 0.0 or not max_weight > 1.0 or value_warmup < 0:
            raise UsageError(
                f"AWR: beta is {beta}, max_weight {max_weight} and value_warmup {value_warmup}, "
                "expected beta > 0, max_weight > 1 and value_warmup >= 0"
            )
        if init_from is not None:
            _start_from(init_from, policy)
        self.policy = policy
        self.optimizer_settings = optimizer
        self.seed = seed
        self.times, self.weighting = times, weighting
        self.beta, self.max_weight, self.value_warmup = beta, max_weight, value_warmup
        encoder: Any = policy.encoder
        self.value = ValueNetwork(
            n_obs_steps=policy.spec.n_obs_steps, obs_dim=encoder.obs_dim, width=value_width
        )

    @property
    def denoiser(self) -> ParameterizedDenoiser:
        """The denoiser being trained."""
        return denoiser_of(self.policy, ParameterizedDenoiser, who="AWR")

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the policy's loss (3) and named figures; the baseline's loss is no part of it.

        Raises:
            UsageError: when the batch has no returns.
        """
        policy_loss, _, metrics = self._losses(batch, generator)
        return policy_loss, metrics

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step of gradient descent on the sum of (3) and the baseline's loss."""
        generator = step_generator(self, self.seed)
        policy_loss, value_loss, metrics = self._losses(batch, generator)
        return {"loss": policy_loss + value_loss, "metrics": metrics}

    def _losses(
        self, batch: Any, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return (3), the baseline's mean squared error in units of beta, and named figures."""
        if "returns" not in batch:
            raise UsageError(
                "AWR: the windows come without returns; set data.discount, for example to 0.99, "
                "and use data with rewards"
            )
        clean, cond, mask = self.policy.training_pair(batch)
        assert cond is not None
        advantage = batch["returns"] - self.value(cond.detach())
        value_loss = (advantage / self.beta).square().mean()
        weights, clipped = advantage_weights(
            advantage.detach(), beta=self.beta, max_weight=self.max_weight
        )
        if self.global_step < self.value_warmup:
            weights = torch.ones_like(weights)
        loss, metrics = denoising_loss(
            self.denoiser,
            clean,
            cond,
            times=self.times,
            weighting=self.weighting,
            generator=generator,
            mask=mask,
            row_weights=weights,
        )
        metrics |= {
            "value_loss": value_loss.detach(),
            "advantage_std": advantage.detach().std(),
            "clipped_weights": clipped,
            "effective_rows": weights.sum().square() / weights.square().sum() / len(weights),
        }
        return loss, value_loss, metrics

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up."""
        return configure_adamw(self, self.optimizer_settings)


def _start_from(checkpoint: str, policy: GenerativePolicy) -> None:
    """Copy encoder and network of a checkpoint that means the same by its network's output."""
    base = load_policy(checkpoint)
    if not isinstance(base, GenerativePolicy):
        raise UsageError(f"AWR: {checkpoint} is a composition; start from one of its members")
    check_same_task(policy, base, checkpoint)
    had, wanted = (denoiser_of(p, ParameterizedDenoiser, who="AWR") for p in (base, policy))
    for name in ("path", "predicts", "precondition", "sigma_data", "time_scale", "time_shift"):
        if getattr(had, name) != getattr(wanted, name):
            raise UsageError(
                f"AWR: {checkpoint} was trained with {name} {getattr(had, name)}, this run has "
                f"{getattr(wanted, name)}; choose the path and denoiser of the checkpoint"
            )
    load_teacher_weights(policy.encoder, base.encoder.state_dict())
    load_teacher_weights(policy.denoiser.network, base.denoiser.network.state_dict())
