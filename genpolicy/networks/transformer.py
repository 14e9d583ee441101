"""Diffusion Policy's transformer: action tokens that read time and observation tokens."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.networks.attention import Attention, FeedForward
from genpolicy.networks.checks import check_inputs, check_n_times, check_rate, check_sizes
from genpolicy.networks.embeddings import (
    SecondTime,
    TimeFeatures,
    Times,
    first_dtype,
    split_times,
    time_features,
)
from genpolicy.shapes import Chunk

__all__ = ["ChiTransformer"]


class ChiTransformer(nn.Module):
    """A pre-norm decoder over the actions whose memory is one time token and the observations.

    With ``causal``, action ``i`` sees actions up to ``i``, the time, and observations up to step
    ``i`` of the window::

        memory      time  obs 0  obs 1
        action 0      x     x
        action 1      x     x      x
        action 2      x     x      x

    Args:
        action_dim: entries of an action.
        horizon: actions in a chunk.
        n_obs_steps: observations that condition it.
        obs_dim: features of one observation.
        n_times: times per row, 1 or 2; the second is added to the time token through a branch
            that starts at zero.
        width: features of a token, even and divisible by ``n_heads``.
        n_layers: decoder layers.
        n_heads: attention heads.
        dropout: dropout of embeddings and residual branches in training, in [0, 1).
        attention_dropout: dropout of attention weights and hidden units in training, in [0, 1).
            Diffusion Policy uses 0.3, on Push-T 0.01.
        causal: mask as above; False lets everything see everything.
        time_features: see ``TimeEmbedding``.

    Raises:
        UsageError: for settings out of range.

    Source: arXiv 2303.04137, section 3.1 and its public code, with the observations through a
    two-layer network. Linear layers, positions start at N(0, 0.02^2), biases at 0.
    """

    sees_actions: Tensor
    sees_memory: Tensor

    def __init__(
        self,
        *,
        action_dim: int,
        horizon: int,
        n_obs_steps: int,
        obs_dim: int,
        n_times: int = 1,
        width: int = 256,
        n_layers: int = 8,
        n_heads: int = 4,
        dropout: float = 0.0,
        attention_dropout: float = 0.3,
        causal: bool = True,
        time_features: TimeFeatures = "sinusoidal",
    ) -> None:
        super().__init__()
        check_sizes("ChiTransformer", action_dim=action_dim, horizon=horizon, obs_dim=obs_dim)
        check_sizes("ChiTransformer", n_obs_steps=n_obs_steps, n_layers=n_layers)
        check_rate("ChiTransformer", dropout=dropout, attention_dropout=attention_dropout)
        check_n_times("ChiTransformer", n_times)
        self._chunk = (horizon, action_dim)
        self._cond = (n_obs_steps, obs_dim)
        self.time = _TimeToken(width=width, n_times=n_times, features=time_features)
        self.actions = nn.Linear(action_dim, width)
        self.obs = nn.Linear(obs_dim, width)
        self.action_positions = nn.Parameter(torch.zeros(horizon, width))
        self.memory_positions = nn.Parameter(torch.zeros(1 + n_obs_steps, width))
        self.memory = nn.Sequential(
            nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            [
                _Layer(width=width, n_heads=n_heads, dropout=dropout, inner=attention_dropout)
                for _ in range(n_layers)
            ]
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, action_dim)
        self.causal = causal
        action = torch.arange(horizon)[:, None]  # (horizon, 1)
        self.register_buffer("sees_actions", action >= torch.arange(horizon), persistent=False)
        # Entry 0 is the time, entry s the observation of step s - 1.
        entry = torch.arange(1 + n_obs_steps)
        self.register_buffer("sees_memory", action >= entry - 1, persistent=False)
        self._initialize()

    def _initialize(self) -> None:
        second = {id(m) for b in self.modules() if isinstance(b, SecondTime) for m in b.modules()}
        for module in self.modules():
            if isinstance(module, nn.Linear) and id(module) not in second:
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.action_positions, std=0.02)
        nn.init.normal_(self.memory_positions, std=0.02)

    def forward(
        self, x: Chunk, time: Times, obs: Float[Tensor, "batch n_obs_steps obs_dim"]
    ) -> Chunk:
        """Return a chunk of the shape of ``x``."""
        check_inputs("ChiTransformer", x, obs, chunk=self._chunk, cond=self._cond)
        observed = self.obs(obs)  # (batch, n_obs_steps, width)
        first = self.time(time).to(observed.dtype).unsqueeze(1)  # (batch, 1, width)
        memory = torch.cat([first, observed], dim=1)  # (batch, 1 + n_obs_steps, width)
        memory = self.memory(self.drop(memory + self.memory_positions))  # same shape
        h = self.drop(self.actions(x) + self.action_positions)  # (batch, horizon, width)
        sees_actions = self.sees_actions if self.causal else None  # (horizon, horizon)
        sees_memory = self.sees_memory if self.causal else None  # (horizon, 1 + n_obs_steps)
        for layer in self.layers:
            h = layer(h, memory, sees_actions, sees_memory)  # (batch, horizon, width)
        return self.out(self.norm(h))  # (batch, horizon, action)


class _TimeToken(nn.Module):
    """The features of the first time, plus a branch for the second that starts at zero."""

    def __init__(self, *, width: int, n_times: int, features: TimeFeatures) -> None:
        super().__init__()
        self.n_times = n_times
        self.features = time_features(features, dim=width)
        if n_times == 2:
            self.second = SecondTime(dim=width, hidden=width, out=width, activation="mish")

    def forward(self, time: Times) -> Float[Tensor, "batch width"]:
        times = split_times(time, self.n_times)  # n_times x (batch,)
        token = self.features(times[0])  # (batch, width)
        if self.n_times == 1:
            return token
        late = self.features(times[1]).to(first_dtype(self.second))
        return token + self.second(late)  # (batch, width)


class _Layer(nn.Module):
    """Self-attention, attention to the memory, feed-forward: normed, then added to the input."""

    def __init__(self, *, width: int, n_heads: int, dropout: float, inner: float) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.attend_self = Attention(width=width, n_heads=n_heads, dropout=inner)
        self.norm_memory = nn.LayerNorm(width)
        self.attend_memory = Attention(width=width, n_heads=n_heads, dropout=inner)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = FeedForward(width=width, dropout=inner)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        h: Float[Tensor, "batch horizon width"],
        memory: Float[Tensor, "batch m width"],
        sees_actions: Tensor | None,
        sees_memory: Tensor | None,
    ) -> Float[Tensor, "batch horizon width"]:
        read = self.attend_self(self.norm_self(h), allowed=sees_actions)
        h = h + self.drop(read)  # (batch, horizon, width)
        read = self.attend_memory(self.norm_memory(h), memory, sees_memory)
        h = h + self.drop(read)  # (batch, horizon, width)
        return h + self.drop(self.feed(self.norm_feed(h)))  # (batch, horizon, width)
