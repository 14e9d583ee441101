"""A state value: one number for what was observed."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.networks.checks import check_sizes

__all__ = ["ValueNetwork"]


class ValueNetwork(nn.Module):
    """A two-layer perceptron from observed features to a number.

    Args:
        n_obs_steps: observations it sees.
        obs_dim: features of each.
        width: hidden units.
    """

    def __init__(self, *, n_obs_steps: int, obs_dim: int, width: int = 256) -> None:
        super().__init__()
        check_sizes("ValueNetwork", n_obs_steps=n_obs_steps, obs_dim=obs_dim, width=width)
        self.layers = nn.Sequential(
            nn.Linear(n_obs_steps * obs_dim, width),
            nn.Mish(),
            nn.Linear(width, width),
            nn.Mish(),
            nn.Linear(width, 1),
        )
        # It starts at 0, so that the first advantages are the returns themselves.
        nn.init.zeros_(self.layers[-1].weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.layers[-1].bias)  # pyright: ignore[reportArgumentType]

    def forward(
        self, features: Float[Tensor, "batch n_obs_steps obs_dim"]
    ) -> Float[Tensor, " batch"]:
        """Return one value per row."""
        return self.layers(features.flatten(1).to(torch.float32)).squeeze(-1)
