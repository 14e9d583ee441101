"""A residual multilayer perceptron: the fast network for low-dimensional observations."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.errors import UsageError
from genpolicy.networks.embeddings import TimeEmbedding
from genpolicy.shapes import Chunk

__all__ = ["ResidualMLP"]


class ResidualMLP(nn.Module):
    """Embeds actions, time and observations as a sum, then applies pre-norm residual blocks.

    Almost all of its time is in a few large matrix products; SiLU is used because Mish costs ten
    times as much on a CPU, and dropout is off by default because drawing its mask there costs as
    much as a matrix product.

    Args:
        action_dim: entries of an action.
        horizon: actions in a chunk.
        n_obs_steps: observations that condition it.
        obs_dim: features of one observation.
        n_times: times per row, 1 or 2.
        width: features of the residual stream.
        n_blocks: residual blocks.
        expansion: hidden units of a block over ``width``.
        dropout: probability of dropping a hidden unit of a block in training, in [0, 1).
        time_dim: sinusoidal time features.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        horizon: int,
        n_obs_steps: int,
        obs_dim: int,
        n_times: int = 1,
        width: int = 512,
        n_blocks: int = 3,
        expansion: int = 2,
        dropout: float = 0.0,
        time_dim: int = 64,
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0 or n_blocks < 1 or width < 1 or expansion < 1:
            raise UsageError(
                f"ResidualMLP: got width {width}, n_blocks {n_blocks}, expansion {expansion}, "
                f"dropout {dropout}; expected positive sizes and dropout in [0, 1)"
            )
        self.actions = nn.Linear(horizon * action_dim, width)
        self.obs = nn.Linear(n_obs_steps * obs_dim, width, bias=False)
        self.time = TimeEmbedding(dim=time_dim, hidden=width, out=width, n_times=n_times)
        self.blocks = nn.ModuleList(
            [_Block(width=width, hidden=expansion * width, dropout=dropout) for _ in range(n_blocks)]
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, horizon * action_dim)

    def forward(
        self,
        x: Chunk,
        time: Float[Tensor, " batch"] | Float[Tensor, "batch n_times"],
        obs: Float[Tensor, "batch n_obs_steps obs_dim"],
    ) -> Chunk:
        """Return a chunk of the shape of ``x``."""
        h = self.actions(x.flatten(1)) + self.obs(obs.flatten(1))  # (batch, width)
        h = h + self.time(time).to(h.dtype)
        for block in self.blocks:
            h = block(h)
        return self.out(self.norm(h)).reshape(x.shape)


class _Block(nn.Module):
    """Layer norm, linear, SiLU, dropout, linear, added to the input."""

    def __init__(self, *, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = dropout

    def forward(self, h: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        hidden = F.silu(self.up(self.norm(h)))  # (batch, hidden)
        if self.dropout > 0.0:
            hidden = F.dropout(hidden, self.dropout, self.training)
        return h + self.down(hidden)
