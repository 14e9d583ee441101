"""Encoders: normalized observations to one feature vector per time step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.errors import UsageError
from genpolicy.shapes import Obs

__all__ = ["LowDimEncoder"]


class LowDimEncoder(nn.Module):
    """Flattens and concatenates low-dimensional observations, in the order of their keys' names.

    Args:
        obs_shapes: shape of one observation by key.
        keys: keys to use; None uses all.
        out_dim: size of a learned linear projection; None concatenates only.

    Raises:
        UsageError: for a key that the observations do not have.
    """

    def __init__(
        self,
        *,
        obs_shapes: Mapping[str, tuple[int, ...]],
        keys: tuple[str, ...] | list[str] | None = None,
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.keys = tuple(sorted(obs_shapes if keys is None else keys))
        unknown = sorted(set(self.keys) - set(obs_shapes))
        if unknown or not self.keys:
            raise UsageError(
                f"LowDimEncoder: keys {unknown} are not among the observations {sorted(obs_shapes)}"
            )
        size = sum(int(torch.Size(obs_shapes[key]).numel()) for key in self.keys)
        self.projection = nn.Identity() if out_dim is None else nn.Linear(size, out_dim)
        self.obs_dim = size if out_dim is None else out_dim

    def forward(self, obs: Obs) -> Float[Tensor, "batch n_obs_steps obs_dim"]:
        """Return the features of each observation step."""
        return self.projection(torch.cat([obs[key].flatten(2) for key in self.keys], dim=-1))
