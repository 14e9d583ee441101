"""The multilayer perceptron of Diffusion-QL."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.networks.checks import check_inputs, check_sizes
from genpolicy.networks.embeddings import (
    Activation,
    TimeEmbedding,
    TimeFeatures,
    Times,
    activation_layer,
)
from genpolicy.shapes import Chunk

__all__ = ["MLP"]


class MLP(nn.Module):
    """Concatenates actions, time features and observations; hidden layers; one linear output.

    Args:
        action_dim: entries of an action.
        horizon: actions in a chunk.
        n_obs_steps: observations that condition it.
        obs_dim: features of one observation.
        n_times: times per row, 1 or 2.
        width: units of a hidden layer.
        n_layers: hidden layers.
        time_dim: time features, even and at least 4.
        time_features: see ``TimeEmbedding``.
        activation: of the hidden layers: ``"mish"``, ``"silu"``, ``"relu"`` or ``"gelu"``.

    Raises:
        UsageError: for sizes that are not positive, or an unknown activation.

    Source: arXiv 2208.06193 and its public code (16 time features, 3 layers of 256).
    """

    def __init__(
        self,
        *,
        action_dim: int,
        horizon: int,
        n_obs_steps: int,
        obs_dim: int,
        n_times: int = 1,
        width: int = 256,
        n_layers: int = 3,
        time_dim: int = 16,
        time_features: TimeFeatures = "sinusoidal",
        activation: Activation = "mish",
    ) -> None:
        super().__init__()
        check_sizes("MLP", action_dim=action_dim, horizon=horizon, n_obs_steps=n_obs_steps)
        check_sizes("MLP", obs_dim=obs_dim, width=width, n_layers=n_layers)
        self._chunk = (horizon, action_dim)
        self._cond = (n_obs_steps, obs_dim)
        self.time = TimeEmbedding(
            dim=time_dim,
            hidden=2 * time_dim,
            out=time_dim,
            n_times=n_times,
            features=time_features,
        )
        n_in = horizon * action_dim + time_dim + n_obs_steps * obs_dim
        sizes = [n_in] + [width] * n_layers
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), activation_layer(activation)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], horizon * action_dim))

    def forward(
        self, x: Chunk, time: Times, obs: Float[Tensor, "batch n_obs_steps obs_dim"]
    ) -> Chunk:
        """Return a chunk of the shape of ``x``."""
        check_inputs("MLP", x, obs, chunk=self._chunk, cond=self._cond)
        parts = [
            x.flatten(1),  # (batch, horizon * action)
            self.time(time).to(x.dtype),  # (batch, time_dim)
            obs.flatten(1),  # (batch, n_obs_steps * obs_dim)
        ]
        out = self.layers(torch.cat(parts, dim=-1))  # (batch, horizon * action)
        return out.reshape(x.shape)  # (batch, horizon, action)
