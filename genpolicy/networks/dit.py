"""A diffusion transformer over the actions, conditioned by adaptive layer norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.networks.attention import Attention, FeedForward
from genpolicy.networks.checks import check_inputs, check_rate, check_sizes
from genpolicy.networks.embeddings import SinusoidalEmbedding, TimeEmbedding, TimeFeatures, Times
from genpolicy.shapes import Chunk

__all__ = ["DiT"]


class DiT(nn.Module):
    """A transformer over the actions; time and observations modulate and gate every block.

    The layers that produce shifts, scales and gates start at zero, and so does the output layer:
    every block starts as the identity and a new network returns exactly 0. The first optimizer step
    therefore changes the output layer alone; gradients reach everything else from the second on.

    Args:
        action_dim: entries of an action.
        horizon: actions in a chunk.
        n_obs_steps: observations that condition it.
        obs_dim: features of one observation.
        n_times: times per row, 1 or 2.
        width: features of a token, even and divisible by ``n_heads``.
        n_layers: blocks.
        n_heads: attention heads.
        dropout: dropout of attention weights and hidden units in training, in [0, 1).
        time_dim: time features, even and at least 4.
        time_features: see ``TimeEmbedding``.

    Raises:
        UsageError: for settings out of range.

    Source: arXiv 2212.09748, section 3.2 (adaLN-Zero) and its public code for the initialization:
    Xavier-uniform linear layers, N(0, 0.02^2) in the time embedding. Positions are sinusoidal.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        action_dim: int,
        horizon: int,
        n_obs_steps: int,
        obs_dim: int,
        n_times: int = 1,
        width: int = 256,
        n_layers: int = 6,
        n_heads: int = 4,
        dropout: float = 0.0,
        time_dim: int = 256,
        time_features: TimeFeatures = "sinusoidal",
    ) -> None:
        super().__init__()
        check_sizes("DiT", action_dim=action_dim, horizon=horizon, n_obs_steps=n_obs_steps)
        check_sizes("DiT", obs_dim=obs_dim, n_layers=n_layers)
        check_rate("DiT", dropout=dropout)
        self._chunk = (horizon, action_dim)
        self._cond = (n_obs_steps, obs_dim)
        self.actions = nn.Linear(action_dim, width)
        self.obs = nn.Linear(n_obs_steps * obs_dim, width)
        self.blocks = nn.ModuleList(
            [_Block(width=width, n_heads=n_heads, dropout=dropout) for _ in range(n_layers)]
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, action_dim)
        self._initialize()
        # Built after the initialization above, which must not touch the branch of a second time.
        self.time = TimeEmbedding(
            dim=time_dim,
            hidden=width,
            out=width,
            n_times=n_times,
            features=time_features,
            activation="silu",
        )
        for module in self.time.first:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        positions = SinusoidalEmbedding(dim=width)(torch.arange(horizon, dtype=torch.float32))
        self.register_buffer("positions", positions, persistent=False)

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            nn.init.zeros_(block.get_submodule("modulation").get_parameter("weight"))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.out.weight)

    def forward(
        self, x: Chunk, time: Times, obs: Float[Tensor, "batch n_obs_steps obs_dim"]
    ) -> Chunk:
        """Return a chunk of the shape of ``x``."""
        check_inputs("DiT", x, obs, chunk=self._chunk, cond=self._cond)
        given = self.obs(obs.flatten(1))  # (batch, width)
        given = F.silu(given + self.time(time).to(given.dtype))  # (batch, width)
        h = self.actions(x)  # (batch, horizon, width)
        h = h + self.positions.to(h.dtype)  # (batch, horizon, width)
        for block in self.blocks:
            h = block(h, given)  # (batch, horizon, width)
        shift, scale = (
            self.modulation(given).unsqueeze(1).chunk(2, dim=-1)
        )  # (batch, 1, width) each
        return self.out(self.norm(h) * (1.0 + scale) + shift)  # (batch, horizon, action)


class _Block(nn.Module):
    """Self-attention and feed-forward, each shifted, scaled and gated by the condition."""

    def __init__(self, *, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attend = nn.LayerNorm(width, elementwise_affine=False)
        self.attend = Attention(width=width, n_heads=n_heads, dropout=dropout)
        self.norm_feed = nn.LayerNorm(width, elementwise_affine=False)
        self.feed = FeedForward(width=width, dropout=dropout)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(
        self, h: Float[Tensor, "batch horizon width"], given: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch horizon width"]:
        six = self.modulation(given).unsqueeze(1).chunk(6, dim=-1)  # (batch, 1, width) each
        shift, scale, gate = six[:3]
        h = h + gate * self.attend(self.norm_attend(h) * (1.0 + scale) + shift)
        shift, scale, gate = six[3:]
        return h + gate * self.feed(self.norm_feed(h) * (1.0 + scale) + shift)
