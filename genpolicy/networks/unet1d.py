"""Diffusion Policy's convolutional network along the horizon."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.errors import UsageError
from genpolicy.networks.checks import check_inputs, check_sizes
from genpolicy.networks.embeddings import TimeEmbedding, TimeFeatures, Times
from genpolicy.shapes import Chunk

__all__ = ["ConditionalUnet1D"]


class ConditionalUnet1D(nn.Module):
    """A U-Net over the horizon; time and observations scale and shift every residual block.

    Each level halves the horizon on the way down and doubles it on the way up::

        horizon      T  --down--> T/2 --down--> T/4 --mid--> T/4 --up--> T/2 --up--> T
        channels    256          512          1024         1024        512        256

    Args:
        action_dim: entries of an action.
        horizon: actions in a chunk, divisible by ``2 ** (len(dims) - 1)``.
        n_obs_steps: observations that condition it.
        obs_dim: features of one observation.
        n_times: times per row, 1 or 2.
        dims: channels of the levels, each divisible by ``n_groups``. Diffusion Policy uses
            (256, 512, 1024) on states and (512, 1024, 2048) on images.
        kernel_size: odd width of the convolutions.
        n_groups: groups of the group norms.
        time_dim: features of the time, before and after their network; 256 on states, 128 on
            images.
        time_features: see ``TimeEmbedding``.
        film_scale: the condition scales and shifts (True) or only shifts (False).

    Raises:
        UsageError: for settings out of range, with the nearest horizons that would do.

    Source: arXiv 2303.04137, section 3.1 and appendix A; the network of arXiv 2205.09991 with FiLM
    (arXiv 1709.07871). As in the public code, the finest level has no skip connection.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        horizon: int,
        n_obs_steps: int,
        obs_dim: int,
        n_times: int = 1,
        dims: Sequence[int] = (256, 512, 1024),
        kernel_size: int = 5,
        n_groups: int = 8,
        time_dim: int = 256,
        time_features: TimeFeatures = "sinusoidal",
        film_scale: bool = True,
    ) -> None:
        super().__init__()
        _check_settings(horizon=horizon, dims=dims, kernel_size=kernel_size, n_groups=n_groups)
        check_sizes("ConditionalUnet1D", action_dim=action_dim, n_obs_steps=n_obs_steps)
        check_sizes("ConditionalUnet1D", obs_dim=obs_dim)
        self._chunk = (horizon, action_dim)
        self._cond = (n_obs_steps, obs_dim)
        self.time = TimeEmbedding(
            dim=time_dim,
            hidden=4 * time_dim,
            out=time_dim,
            n_times=n_times,
            features=time_features,
        )
        n_cond = time_dim + n_obs_steps * obs_dim

        def block(n_in: int, n_out: int) -> FilmBlock:
            return FilmBlock(
                n_in=n_in,
                n_out=n_out,
                n_cond=n_cond,
                kernel_size=kernel_size,
                n_groups=n_groups,
                film_scale=film_scale,
            )

        self.activation = nn.Mish()
        self.down = nn.ModuleList()
        for i, (n_in, n_out) in enumerate(zip((action_dim, *dims[:-1]), dims, strict=True)):
            last = i == len(dims) - 1
            shrink = nn.Identity() if last else nn.Conv1d(n_out, n_out, 3, stride=2, padding=1)
            self.down.append(nn.ModuleList([block(n_in, n_out), block(n_out, n_out), shrink]))
        self.middle = nn.ModuleList([block(dims[-1], dims[-1]), block(dims[-1], dims[-1])])
        self.up = nn.ModuleList()
        for n_out, n_in in reversed(list(pairwise(dims))):
            grow = nn.ConvTranspose1d(n_out, n_out, 4, stride=2, padding=1)
            self.up.append(nn.ModuleList([block(2 * n_in, n_out), block(n_out, n_out), grow]))
        self.out = nn.Sequential(
            ConvNormMish(n_in=dims[0], n_out=dims[0], kernel_size=kernel_size, n_groups=n_groups),
            nn.Conv1d(dims[0], action_dim, 1),
        )

    def forward(
        self, x: Chunk, time: Times, obs: Float[Tensor, "batch n_obs_steps obs_dim"]
    ) -> Chunk:
        """Return a chunk of the shape of ``x``."""
        check_inputs("ConditionalUnet1D", x, obs, chunk=self._chunk, cond=self._cond)
        flat = obs.flatten(1)  # (batch, n_obs_steps * obs_dim)
        cond = torch.cat([self.time(time).to(flat.dtype), flat], dim=-1)  # (batch, n_cond)
        cond = self.activation(cond)  # once here instead of in every block
        h = rearrange(x, "batch horizon action -> batch action horizon")
        skips: list[Tensor] = []
        for first, second, shrink in self.down:  # pyright: ignore[reportGeneralTypeIssues]
            h = second(first(h, cond), cond)  # (batch, dims[i], horizon / 2**i)
            skips.append(h)
            h = shrink(h)  # (batch, dims[i], horizon / 2**(i+1)), the last level keeps its length
        for one in self.middle:
            h = one(h, cond)  # (batch, dims[-1], horizon / 2**(n_levels-1))
        for first, second, grow in self.up:  # pyright: ignore[reportGeneralTypeIssues]
            h = torch.cat([h, skips.pop()], dim=1)  # (batch, 2 * dims[i+1], horizon / 2**(i+1))
            h = second(first(h, cond), cond)  # (batch, dims[i], horizon / 2**(i+1))
            h = grow(h)  # (batch, dims[i], horizon / 2**i)
        out = self.out(h)  # (batch, action, horizon)
        return rearrange(out, "batch action horizon -> batch horizon action")


class ConvNormMish(nn.Sequential):
    """Convolution that keeps the length, group norm, Mish.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        kernel_size: odd width of the convolution.
        n_groups: groups of the norm.
    """

    def __init__(self, *, n_in: int, n_out: int, kernel_size: int, n_groups: int) -> None:
        super().__init__(
            nn.Conv1d(n_in, n_out, kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(n_groups, n_out),
            nn.Mish(),
        )


class FilmBlock(nn.Module):
    """Two convolutions with the condition in between, added to the input.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        n_cond: numbers of the condition.
        kernel_size: odd width of the convolutions.
        n_groups: groups of the norms.
        film_scale: the condition scales and shifts, or only shifts.
    """

    def __init__(
        self,
        *,
        n_in: int,
        n_out: int,
        n_cond: int,
        kernel_size: int,
        n_groups: int,
        film_scale: bool,
    ) -> None:
        super().__init__()
        self.first = ConvNormMish(
            n_in=n_in, n_out=n_out, kernel_size=kernel_size, n_groups=n_groups
        )
        self.second = ConvNormMish(
            n_in=n_out, n_out=n_out, kernel_size=kernel_size, n_groups=n_groups
        )
        self.film_scale = film_scale
        self.film = nn.Linear(n_cond, 2 * n_out if film_scale else n_out)
        self.skip = nn.Identity() if n_in == n_out else nn.Conv1d(n_in, n_out, 1)

    def forward(
        self, h: Float[Tensor, "batch n_in length"], cond: Float[Tensor, "batch n_cond"]
    ) -> Float[Tensor, "batch n_out length"]:
        """Return the channels of the level, of the length of ``h``."""
        out = self.first(h)  # (batch, n_out, length)
        film = self.film(cond).unsqueeze(-1)  # (batch, 2 * n_out or n_out, 1)
        if self.film_scale:
            scale, shift = film.chunk(2, dim=1)  # (batch, n_out, 1) each
            out = scale * out + shift  # (batch, n_out, length)
        else:
            out = out + film  # (batch, n_out, length)
        return self.second(out) + self.skip(h)  # (batch, n_out, length)


def _check_settings(*, horizon: int, dims: Sequence[int], kernel_size: int, n_groups: int) -> None:
    check_sizes("ConditionalUnet1D", horizon=horizon, kernel_size=kernel_size, n_groups=n_groups)
    if not dims or any(dim < 1 or dim % n_groups for dim in dims):
        raise UsageError(
            f"ConditionalUnet1D: dims are {tuple(dims)}, expected at least one level, each "
            f"divisible by n_groups={n_groups}"
        )
    if kernel_size % 2 == 0:
        raise UsageError(f"ConditionalUnet1D: kernel_size is {kernel_size}, expected an odd number")
    factor = 2 ** (len(dims) - 1)
    if horizon % factor:
        below = horizon // factor * factor
        legal = f"{below} or {below + factor}" if below else f"{factor}"
        raise UsageError(
            f"ConditionalUnet1D: horizon is {horizon}, but {len(dims)} levels need one divisible "
            f"by {factor}; use horizon {legal}, or fewer levels in dims"
        )
