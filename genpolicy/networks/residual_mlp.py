"""A residual multilayer perceptron: the fast network for low-dimensional observations."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.errors import UsageError, nearest
from genpolicy.networks.checks import check_inputs, check_rate, check_sizes
from genpolicy.networks.embeddings import TimeEmbedding, TimeFeatures, Times
from genpolicy.shapes import Chunk

__all__ = ["Conditioning", "ResidualMLP"]

Conditioning: TypeAlias = Literal["input", "film"]


class ResidualMLP(nn.Module):
    """Embeds actions, time and observations once, then applies pre-norm residual blocks.

    Almost all of its time is in a few large matrix products. SiLU is used because Mish costs
    several times as much on a CPU, and dropout is off by default because drawing its mask there
    costs as much as a matrix product.

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
        time_dim: time features, even and at least 4.
        time_features: see ``TimeEmbedding``.
        conditioning: ``"input"`` adds the embeddings of time and observations to that of the
            actions, which is a linear layer on the three concatenated. ``"film"`` keeps them out
            of the residual stream; each block scales and shifts its normalized input by them. A
            step of training then takes 1.4 times as long at the default sizes.
        layer_norm: normalize the input of each block and of the output layer.

    Raises:
        UsageError: for settings out of range.
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
        time_features: TimeFeatures = "sinusoidal",
        conditioning: Conditioning = "input",
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        check_sizes("ResidualMLP", action_dim=action_dim, horizon=horizon, n_obs_steps=n_obs_steps)
        check_sizes("ResidualMLP", obs_dim=obs_dim, width=width, n_blocks=n_blocks)
        check_sizes("ResidualMLP", expansion=expansion)
        check_rate("ResidualMLP", dropout=dropout)
        if conditioning not in get_args(Conditioning):
            raise UsageError(
                f"ResidualMLP: conditioning is {conditioning!r}; "
                f"{nearest(conditioning, get_args(Conditioning))}"
            )
        self._chunk = (horizon, action_dim)
        self._cond = (n_obs_steps, obs_dim)
        self.actions = nn.Linear(horizon * action_dim, width)
        self.obs = nn.Linear(n_obs_steps * obs_dim, width, bias=False)
        self.time = TimeEmbedding(
            dim=time_dim,
            hidden=width,
            out=width,
            n_times=n_times,
            features=time_features,
            activation="mish",
        )
        # The scales and shifts of all blocks in one matrix product.
        self.film = nn.Linear(width, n_blocks * 2 * width) if conditioning == "film" else None
        self.blocks = nn.ModuleList(
            [
                _Block(width=width, hidden=expansion * width, dropout=dropout, norm=layer_norm)
                for _ in range(n_blocks)
            ]
        )
        self.norm = nn.LayerNorm(width) if layer_norm else nn.Identity()
        self.out = nn.Linear(width, horizon * action_dim)

    def forward(
        self, x: Chunk, time: Times, obs: Float[Tensor, "batch n_obs_steps obs_dim"]
    ) -> Chunk:
        """Return a chunk of the shape of ``x``."""
        check_inputs("ResidualMLP", x, obs, chunk=self._chunk, cond=self._cond)
        h = self.actions(x.flatten(1))  # (batch, width)
        given = self.obs(obs.flatten(1)) + self.time(time).to(h.dtype)  # (batch, width)
        if self.film is None:
            h = h + given  # (batch, width)
            for block in self.blocks:
                h = block(h)  # (batch, width)
        else:
            film = self.film(F.silu(given))  # (batch, n_blocks * 2 * width)
            for block, one in zip(self.blocks, film.chunk(len(self.blocks), dim=1), strict=True):
                h = block(h, one)  # (batch, width)
        return self.out(self.norm(h)).reshape(x.shape)  # (batch, horizon, action)


class _Block(nn.Module):
    """Layer norm, modulation, linear, SiLU, dropout, linear, added to the input."""

    def __init__(self, *, width: int, hidden: int, dropout: float, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = dropout

    def forward(
        self, h: Float[Tensor, "batch width"], film: Float[Tensor, "batch 2*width"] | None = None
    ) -> Float[Tensor, "batch width"]:
        normed = self.norm(h)  # (batch, width)
        if film is not None:
            scale, shift = film.chunk(2, dim=1)  # (batch, width) each
            normed = normed * (1.0 + scale) + shift  # (batch, width)
        hidden = F.silu(self.up(normed))  # (batch, hidden)
        if self.dropout > 0.0:
            hidden = F.dropout(hidden, self.dropout, self.training)  # (batch, hidden)
        return h + self.down(hidden)  # (batch, width)
