"""Densities, noise and shortcuts for the tests of correctors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from genpolicy.denoisers import Kind
from genpolicy.paths import LinearPath, Path, expand_t
from tests.oracles import GaussianDenoiser

PATH = LinearPath()
HALF = 0.5  # on the linear path alpha = sigma = 1/2 here


@dataclass(frozen=True)
class SumOfScores:
    """The score ``sum_i w_i s_i`` of exact members, and the annealed density it belongs to."""

    members: tuple[Any, ...]
    weights: tuple[float, ...]
    kind: ClassVar[Kind] = "posterior_mean"

    @property
    def path(self) -> Path:
        return self.members[0].path

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        alpha = expand_t(self.path.alpha_sigma(t)[0], x_t)
        parts = [w * m(x_t, t) for w, m in zip(self.weights, self.members, strict=True)]
        return sum(parts) + (1.0 - sum(self.weights)) * x_t / alpha

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        return sum(w * m.log_prob(x_t, t) for w, m in zip(self.weights, self.members, strict=True))


@dataclass
class Impulses:
    """Noise that is 1 in one row per draw and 0 elsewhere: it reads off a linear response."""

    n_rows: int
    seen: dict[tuple[int, int], int] = field(default_factory=dict)

    def draw(self, index: int, *, stream: int = 0) -> Tensor:
        noise = torch.zeros(self.n_rows, 1, 1, dtype=torch.float64)
        noise[self.seen.setdefault((index, stream), 1 + len(self.seen))] = 1.0
        return noise


@dataclass(frozen=True)
class Chance:
    """Noise for many rows, faster than ``RowNoise``; rows depend on each other's number."""

    n_rows: int
    shape: tuple[int, int] = (1, 1)

    def draw(self, index: int, *, stream: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * index + stream)
        return torch.randn(self.n_rows, *self.shape, generator=generator, dtype=torch.float64)


def at_level(corrector, denoiser, x, *, t=HALF, noise, index=1):
    """Run a corrector on its own."""
    return corrector(
        x, t, denoise=lambda x, t: denoiser(x, t), path=denoiser.path, noise=noise, index=index
    )


def moments(rows: Tensor) -> tuple[float, float]:
    """Return mean and variance of an affine function of impulses."""
    rows = rows.flatten()
    return rows[0].item(), (rows[1:] - rows[0]).square().sum().item()


def settled(step_size: float, variance: float, sigma: float = HALF) -> float:
    """Return (5)."""
    return variance / (1.0 - step_size * sigma**2 / (2.0 * variance))


GAUSSIANS = SumOfScores(
    (GaussianDenoiser(PATH, -1.0, 0.5), GaussianDenoiser(PATH, 1.0, 0.2)), (0.7, 1.1)
)
