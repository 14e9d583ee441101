"""Embeddings of scalar inputs."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.errors import UsageError

__all__ = ["SinusoidalEmbedding", "TimeEmbedding"]


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a scalar at geometrically spaced frequencies.

    Args:
        dim: number of features, even and at least 4.
        max_period: period of the slowest feature over 2 pi; the fastest has 1.

    Source: arXiv 1706.03762, section 3.5, with sines first and cosines second.
    """

    frequencies: Tensor

    def __init__(self, *, dim: int, max_period: float = 10000.0) -> None:
        super().__init__()
        if dim < 4 or dim % 2:
            raise UsageError(f"SinusoidalEmbedding: dim is {dim}, expected an even number >= 4")
        exponents = torch.arange(dim // 2, dtype=torch.float64) / (dim // 2 - 1)
        frequencies = torch.exp(-math.log(max_period) * exponents).float()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, value: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """Return the features of ``value``, in float32."""
        angles = value.float().unsqueeze(-1) * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimeEmbedding(nn.Module):
    """A small network on the sinusoidal features of one or two times.

    The second time, where there is one, enters through a branch whose last layer starts at zero: a
    network with ``n_times=2`` that is given the weights of one with ``n_times=1`` computes the same
    function of the first time.

    Args:
        dim: sinusoidal features.
        hidden: width in between.
        out: features returned.
        n_times: 1 or 2.
    """

    def __init__(self, *, dim: int, hidden: int, out: int, n_times: int = 1) -> None:
        super().__init__()
        if n_times not in (1, 2):
            raise UsageError(f"TimeEmbedding: n_times is {n_times}, expected 1 or 2")
        self.n_times = n_times
        self.features = SinusoidalEmbedding(dim=dim)
        self.first = nn.Sequential(nn.Linear(dim, hidden), nn.Mish(), nn.Linear(hidden, out))
        if n_times == 2:
            last = nn.Linear(hidden, out)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.second = nn.Sequential(nn.Linear(dim, hidden), nn.Mish(), last)

    def forward(
        self, time: Float[Tensor, " batch"] | Float[Tensor, "batch n_times"]
    ) -> Float[Tensor, "batch out"]:
        """Return the embedding of ``(batch,)`` or ``(batch, n_times)`` times.

        Raises:
            UsageError: when the number of times is not ``n_times``.
        """
        times = time.unsqueeze(-1) if time.dim() == 1 else time
        if times.shape[-1] != self.n_times:
            raise UsageError(
                f"TimeEmbedding: got {times.shape[-1]} times per row, built for {self.n_times}"
            )
        embedded = self.first(self.features(times[:, 0]))
        return embedded + self.second(self.features(times[:, 1])) if self.n_times == 2 else embedded
