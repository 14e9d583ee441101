"""A scalar network whose gradient is the output: the bottleneck diffusion of EDA.

::

    (1)  g(x) = v . h_L,   h_0 = A x + c(time, obs),   h_(l+1) = h_l + D_l silu(U_l h_l + b_l)
    (2)  output = -dg/dx = -A' d_0,   d_L = v,   d_l = d_(l+1) + U_l' (silu'(z_l) * (D_l' d_(l+1)))

(2) is written out rather than left to automatic differentiation: it runs in inference mode, can be
exported and compiled, and training needs no second backward graph. As a noise prediction on a path
with sigma(t), (2) makes ``g/sigma`` the logarithm of the density of x_t, up to a constant that
depends on time and observation alone; the scalar has no bias for that reason.

Source: arXiv 2407.09024 (section 3.1), there with layer norms and dropout; its scalar is the sum of
a network's outputs and ``-sigma`` times its gradient the noise, here the gradient itself is, which
is as large at every level.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.networks.checks import check_inputs, check_sizes
from genpolicy.networks.embeddings import TimeEmbedding, TimeFeatures, Times
from genpolicy.shapes import Chunk

__all__ = ["EnergyMLP"]


class EnergyMLP(nn.Module):
    """A residual perceptron to a scalar (1), and minus its gradient (2).

    Args:
        action_dim: entries of an action.
        horizon: actions in a chunk.
        n_obs_steps: observations that condition it.
        obs_dim: features of one observation.
        n_times: times per row, 1 or 2.
        width: features of the residual stream.
        n_blocks: residual blocks.
        expansion: hidden units of a block over ``width``.
        time_dim: time features, even and at least 4.
        time_features: see ``TimeEmbedding``.

    Raises:
        UsageError: for sizes that are not positive.

    Cost: about two forward passes of a network of this size.
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
        n_blocks: int = 3,
        expansion: int = 4,
        time_dim: int = 32,
        time_features: TimeFeatures = "sinusoidal",
    ) -> None:
        super().__init__()
        check_sizes("EnergyMLP", action_dim=action_dim, horizon=horizon, n_obs_steps=n_obs_steps)
        check_sizes("EnergyMLP", obs_dim=obs_dim, width=width, n_blocks=n_blocks)
        check_sizes("EnergyMLP", expansion=expansion)
        self._chunk = (horizon, action_dim)
        self._cond = (n_obs_steps, obs_dim)
        self.actions = nn.Linear(horizon * action_dim, width, bias=False)
        self.obs = nn.Linear(n_obs_steps * obs_dim, width, bias=False)
        self.time = TimeEmbedding(
            dim=time_dim, hidden=width, out=width, n_times=n_times, features=time_features
        )
        hidden = expansion * width
        self.up = nn.ModuleList([nn.Linear(width, hidden) for _ in range(n_blocks)])
        self.down = nn.ModuleList([nn.Linear(hidden, width, bias=False) for _ in range(n_blocks)])
        self.out = nn.Linear(width, 1, bias=False)

    def energy(
        self, x: Chunk, time: Times, obs: Float[Tensor, "batch n_obs_steps obs_dim"]
    ) -> Float[Tensor, " batch"]:
        """Return g (1) of each row."""
        return self.out(self._states(x, time, obs)[1]).squeeze(-1)

    def forward(
        self, x: Chunk, time: Times, obs: Float[Tensor, "batch n_obs_steps obs_dim"]
    ) -> Chunk:
        """Return minus the gradient of ``energy`` (2), of the shape of ``x``."""
        inner, last = self._states(x, time, obs)
        d = self.out.weight.expand_as(last)  # (batch, width)
        blocks: list[Any] = list(zip(self.up, self.down, inner, strict=True))
        for up, down, z in reversed(blocks):
            gate = torch.sigmoid(z)
            slope = gate * (1.0 + z * (1.0 - gate))  # (batch, hidden)
            into = F.linear(d, down.weight.t())  # (batch, hidden)
            d = d + F.linear(slope * into, up.weight.t())  # (batch, width)
        return -F.linear(d, self.actions.weight.t()).reshape(x.shape)

    def _states(self, x: Chunk, time: Times, obs: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return z_l of every block, and h_L."""
        check_inputs("EnergyMLP", x, obs, chunk=self._chunk, cond=self._cond)
        h = self.actions(x.flatten(1))  # (batch, width)
        h = h + self.obs(obs.flatten(1)) + self.time(time).to(h.dtype)  # (batch, width)
        inner: list[Tensor] = []
        for up, down in zip(self.up, self.down, strict=True):
            z = up(h)  # (batch, hidden)
            inner.append(z)
            h = h + down(F.silu(z))  # (batch, width)
        return inner, h
