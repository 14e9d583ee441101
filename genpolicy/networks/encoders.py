"""Encoders: normalized observations to one feature vector per time step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.errors import UsageError, nearest
from genpolicy.networks.checks import check_sizes
from genpolicy.shapes import Obs

__all__ = ["LowDimEncoder", "choose_keys"]

_WAVES = (torch.sin, torch.cos)


class LowDimEncoder(nn.Module):
    """Flattens and concatenates low-dimensional observations, in the order of their keys' names.

    Args:
        obs_shapes: shape of one observation by key.
        keys: keys to use; None uses all.
        out_dim: size of a learned projection; None concatenates only.
        hidden_dim: hidden units of that projection, with Mish; None makes it linear.
        n_frequencies: adds ``sin`` and ``cos`` of ``2^k pi x`` for k below this number to every
            entry x; networks resolve fine differences of their inputs late without. 0 adds none.
        optional_keys: observations that may be absent: a row of them that holds NaN is read as
            zeros, and each of them gets a feature that says whether it is there. Such a policy is
            its own policy without condition, which guidance by conditions needs.
        drop_rate: probability with which a row of an optional key is left out in training.

    Raises:
        UsageError: for a key that the observations do not have, for an image (three axes) that was
            not asked for by name, for ``hidden_dim`` without ``out_dim``, and for numbers outside
            their range.

    Source: arXiv 2006.10739 for the frequencies; 2207.12598 for leaving conditions out.
    """

    def __init__(
        self,
        *,
        obs_shapes: Mapping[str, tuple[int, ...]],
        keys: Sequence[str] | None = None,
        out_dim: int | None = None,
        hidden_dim: int | None = None,
        n_frequencies: int = 0,
        optional_keys: Sequence[str] = (),
        drop_rate: float = 0.1,
    ) -> None:
        super().__init__()
        if n_frequencies < 0:
            raise UsageError(
                f"LowDimEncoder: n_frequencies is {n_frequencies}, expected at least 0"
            )
        if not 0.0 <= drop_rate < 1.0:
            raise UsageError(f"LowDimEncoder: drop_rate is {drop_rate}, expected a value in [0, 1)")
        self.n_frequencies = n_frequencies
        self.keys = choose_keys("LowDimEncoder", obs_shapes, keys)
        images = [key for key in self.keys if len(obs_shapes[key]) == 3]
        if images and keys is None:
            raise UsageError(
                f"LowDimEncoder: observations {images} are images; use ImageEncoder, or name the "
                "others in keys"
            )
        size = sum(torch.Size(obs_shapes[key]).numel() for key in self.keys)
        size *= 1 + 2 * n_frequencies
        self.drop_rate = drop_rate
        self.optional_keys = tuple(optional_keys)
        unknown = sorted(set(self.optional_keys) - set(self.keys))
        if unknown:
            raise UsageError(
                f"LowDimEncoder: optional_keys has {unknown}; {nearest(unknown[0], self.keys)}"
            )
        size += len(self.optional_keys)
        self.projection = _projection(size, out_dim, hidden_dim)
        self.obs_dim = size if out_dim is None else out_dim

    def forward(self, obs: Obs) -> Float[Tensor, "batch n_obs_steps obs_dim"]:
        """Return the features of each observation step."""
        parts: list[Tensor] = []
        flags: list[Tensor] = []
        for key in self.keys:
            value = obs[key].flatten(2)  # (batch, n_obs_steps, size of key)
            if key in self.optional_keys:
                value, is_there = self._without_absent(value)
                flags.append(is_there)
            parts.append(value)
        features = torch.cat(parts, dim=-1)
        angles = features * math.pi
        waves = [wave(2.0**k * angles) for k in range(self.n_frequencies) for wave in _WAVES]
        return self.projection(torch.cat([features, *waves, *flags], dim=-1))

    def _without_absent(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return a key's values, zeros where absent, and one flag per row and step."""
        absent = value.isnan().flatten(1).any(1)
        if self.training:
            absent = absent | (torch.rand(len(value), device=value.device) < self.drop_rate)
        kept = torch.where(absent[:, None, None], torch.zeros_like(value), value)
        flag = (~absent).to(value.dtype)[:, None, None].expand(-1, value.shape[1], 1)
        return kept, flag


def choose_keys(
    who: str, obs_shapes: Mapping[str, tuple[int, ...]], keys: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the sorted keys that an encoder uses.

    Args:
        who: name of the encoder, for messages.
        obs_shapes: shape of one observation by key.
        keys: keys to use; None uses all.

    Raises:
        UsageError: for a key that the observations do not have, or no key at all.
    """
    chosen = tuple(sorted(set(obs_shapes if keys is None else keys)))
    if not chosen:
        raise UsageError(f"{who}: got no keys; expected some of {sorted(obs_shapes)}, or None")
    for key in chosen:
        if key not in obs_shapes:
            raise UsageError(f"{who}: there is no observation {key!r}; {nearest(key, obs_shapes)}")
    return chosen


def _projection(size: int, out_dim: int | None, hidden_dim: int | None) -> nn.Module:
    if out_dim is None:
        if hidden_dim is not None:
            raise UsageError(
                f"LowDimEncoder: hidden_dim is {hidden_dim} but out_dim is None; give both, or "
                "neither to concatenate only"
            )
        return nn.Identity()
    check_sizes("LowDimEncoder", out_dim=out_dim)
    if hidden_dim is None:
        return nn.Linear(size, out_dim)
    check_sizes("LowDimEncoder", hidden_dim=hidden_dim)
    return nn.Sequential(nn.Linear(size, hidden_dim), nn.Mish(), nn.Linear(hidden_dim, out_dim))
