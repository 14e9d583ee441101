"""Ensembles of models of a task's dynamics, forward and in reverse.

::

    (1)  forward   s' - s, r ~ N(mean_k(s, a), std_k(s, a)^2)   and the probability of the end
    (2)  reverse   s - s' ~ N(mean_k(s', a), std_k(s', a)^2)
    (3)  loss      mean over models k and rows of  sum (y - mean_k)^2/(2 std_k^2) + log std_k

Both see features of observations and actions in the normalizer's units, which are hence the same
for both. Standard deviations lie in [exp(-5), exp(1)] of these units.

Source: arXiv 1805.12114 (ensembles of Gaussian models), 2005.13239 (MOPO), 2404.04682 (reverse).
    All members see the same batches and all are used: none is set aside by a held-out loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.networks.checks import check_sizes
from genpolicy.networks.stacked import StackedMLP

__all__ = ["DynamicsEnsemble", "Imagined"]

_LOG_STD = (-5.0, 1.0)


class Imagined(NamedTuple):
    """What an ensemble says follows from observations and actions, one row each.

    Args:
        obs: features ``(batch, obs_dim)``.
        reward: ``(batch,)``; 0 where the ensemble predicts none.
        ends: probability that the task is over, ``(batch,)``.
        spread: largest norm of a member's standard deviations, ``(batch,)``.
    """

    obs: Tensor
    reward: Tensor
    ends: Tensor
    spread: Tensor


class DynamicsEnsemble(nn.Module):
    """Several Gaussian models of the change of features, (1) or (2).

    Args:
        obs_dim: features of an observation.
        action_dim: entries of an action.
        outcomes: also predict the reward and whether the task is over.
        n_models: members.
        width: hidden units of a layer.
        n_layers: hidden layers, with SiLU.

    Raises:
        UsageError: for sizes that are not positive.
    """

    def __init__(
        self,
        *,
        obs_dim: int,
        action_dim: int,
        outcomes: bool,
        n_models: int = 7,
        width: int = 200,
        n_layers: int = 4,
    ) -> None:
        super().__init__()
        check_sizes("DynamicsEnsemble", obs_dim=obs_dim, action_dim=action_dim)
        check_sizes("DynamicsEnsemble", n_models=n_models, width=width, n_layers=n_layers)
        self.obs_dim, self.outcomes, self.n_models = obs_dim, outcomes, n_models
        self._n_gaussian = obs_dim + int(outcomes)
        n_out = 2 * self._n_gaussian + int(outcomes)
        sizes = [obs_dim + action_dim] + [width] * n_layers + [n_out]
        self.models = StackedMLP(n_models, sizes, "silu")

    def forward(
        self, obs: Float[Tensor, "batch obs_dim"], action: Float[Tensor, "batch action"]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return mean and log standard deviation of changes (and rewards), and logits of the end.

        Returns:
            Two tensors ``(models, batch, obs_dim [+ 1])``, and ``(models, batch)`` or None.
        """
        out = self.models(torch.cat([obs, action], dim=-1))
        mean, raw, logits = out.split(
            [self._n_gaussian, self._n_gaussian, int(self.outcomes)], dim=-1
        )
        low, high = _LOG_STD
        log_std = low + 0.5 * (high - low) * (torch.tanh(raw) + 1.0)
        return mean, log_std, logits.squeeze(-1) if self.outcomes else None

    def loss(
        self,
        obs: Tensor,
        action: Tensor,
        after: Tensor,
        *,
        reward: Tensor | None = None,
        terminated: Tensor | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return (3), with the cross entropy of the end added, and the mean squared error.

        Args:
            obs: features ``(batch, obs_dim)``; for a reverse model those after the step.
            action: normalized ``(batch, action)``.
            after: features to predict; for a reverse model those before the step.
            reward: ``(batch,)``, where outcomes are predicted.
            terminated: ``(batch,)`` bool, where outcomes are predicted.
        """
        mean, log_std, logits = self(obs, action)
        target = after - obs
        if self.outcomes:
            assert reward is not None
            target = torch.cat([target, reward[:, None]], dim=-1)
        error = target - mean
        loss = (0.5 * (error * torch.exp(-log_std)).square() + log_std).sum(-1).mean()
        if logits is not None:
            assert terminated is not None
            over = terminated.to(logits.dtype).expand_as(logits)
            loss = loss + F.binary_cross_entropy_with_logits(logits, over)
        return loss, error.detach().square().mean()

    def next_obs(self, obs: Tensor, action: Tensor) -> Float[Tensor, "batch obs_dim"]:
        """Return the mean of all members' means: features after (or before) the step."""
        mean, _, _ = self(obs, action)
        return obs + mean[..., : self.obs_dim].mean(0)

    @torch.no_grad()
    def imagine(self, obs: Tensor, action: Tensor, generator: torch.Generator) -> Imagined:
        """Draw what follows: from one member per row, chosen at random.

        Args:
            obs: features ``(batch, obs_dim)``.
            action: normalized ``(batch, action)``.
            generator: of members and noise.
        """
        mean, log_std, logits = self(obs, action)
        rows = torch.arange(len(obs), device=obs.device)
        member = torch.randint(
            self.n_models, (len(obs),), generator=generator, device=generator.device
        ).to(obs.device)
        noise = torch.randn(mean.shape[1:], generator=generator, device=generator.device)
        drawn = mean[member, rows] + torch.exp(log_std[member, rows]) * noise.to(obs.device)
        zeros = obs.new_zeros(len(obs))
        return Imagined(
            obs=obs + drawn[:, : self.obs_dim],
            reward=drawn[:, self.obs_dim] if self.outcomes else zeros,
            ends=torch.sigmoid(logits[member, rows]) if logits is not None else zeros,
            spread=torch.exp(log_std).norm(dim=-1).amax(0),
        )
