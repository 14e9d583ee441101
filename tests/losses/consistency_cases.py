"""Gaussian data, its exact denoiser, and an affine flow map."""

import math

import torch
from torch import nn

from genpolicy.denoisers import FlowMapDenoiser, ParameterizedDenoiser
from genpolicy.paths import KarrasPath, LinearPath, Path, expand_t

MEAN, VARIANCE = 0.5, 0.04
KARRAS = KarrasPath(sigma_min=0.002, sigma_max=80.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian_data(batch: int, seed: int = 9, dtype=torch.float64) -> torch.Tensor:
    draw = torch.randn(batch, 4, 2, generator=generator(seed), dtype=dtype)
    return MEAN + math.sqrt(VARIANCE) * draw


class ExactDenoiser:
    """E[clean | x_t] for actions that are N(MEAN, VARIANCE) in every entry."""

    kind = "posterior_mean"

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, x_t, t, cond):
        alpha, sigma = (expand_t(v, x_t) for v in self.path.alpha_sigma(t))
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        return MEAN + gain * (x_t - alpha * MEAN)


class AffineFlowMap(nn.Module):
    """One affine function of the state per noise level; level 0 is fixed to ``x/alpha``."""

    kind = "flow_map"

    def __init__(self, path: Path, times: torch.Tensor) -> None:
        super().__init__()
        self.path, self.t_end = path, float(times[0])
        alpha, sigma = path.alpha_sigma(times)
        self.times, self.alpha = times, alpha
        self.scale = (alpha**2 * VARIANCE + sigma**2).sqrt()
        self.slope = nn.Parameter(torch.zeros(len(times), dtype=torch.float64))
        self.offset = nn.Parameter(torch.zeros(len(times), dtype=torch.float64))

    def set_slopes(self, slopes: torch.Tensor) -> "AffineFlowMap":
        """Become ``f_i = MEAN + slopes[i] (x - alpha_i MEAN)``."""
        with torch.no_grad():
            self.slope.copy_(slopes * self.scale)
            self.offset.copy_(MEAN - slopes * self.alpha * MEAN)
        return self

    def slopes(self) -> torch.Tensor:
        return (self.slope / self.scale).detach()

    def forward(self, x_t, t, cond):
        level = (t[:, None] - self.times).abs().argmin(dim=1)
        inner = expand_t(self.offset[level], x_t) + x_t * expand_t(
            (self.slope / self.scale)[level], x_t
        )
        first = x_t / self.alpha[0]
        return torch.where(expand_t((level == 0).to(x_t), x_t) > 0, first, inner)


class TinyNetwork(nn.Module):
    """A network that mixes all entries of a chunk, so that padding could leak."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(12, 16), nn.Linear(16, 8)
        with torch.no_grad():
            for k, p in enumerate(self.parameters()):
                p.copy_(0.3 * torch.randn(p.shape, generator=generator(10 * seed + k)))

    def forward(self, x, time, obs):
        flat = torch.cat([x.flatten(1), obs.flatten(1), time[:, None] / 1000.0], dim=1)
        return self.out(torch.tanh(self.hidden(flat))).view_as(x)


def flow_map(path: Path, boundary: str, seed: int = 1) -> FlowMapDenoiser:
    return FlowMapDenoiser(network=TinyNetwork(seed).double(), path=path, boundary=boundary)


def velocity_teacher() -> ParameterizedDenoiser:
    return ParameterizedDenoiser(
        network=TinyNetwork(7).double(), path=LinearPath(), predicts="velocity"
    )
