"""What the tests of mixtures and superpositions share."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from genpolicy.composition.superposed import (
    Superposed,
)
from genpolicy.denoisers import Denoiser, TrackingDenoiser
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, grid
from genpolicy.paths.base import scalar_alpha_sigma
from genpolicy.sampling import ddpm, sample
from tests.oracles import GaussianDenoiser

F64 = torch.float64
VE = KarrasPath(sigma_min=0.002, sigma_max=20.0)
PATHS = {"ve": VE, "linear": LinearPath(), "cosine": CosinePath()}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())


@dataclass(frozen=True)
class BatchNoise:
    """Noise of a whole batch at once: faster than one generator per row."""

    shape: tuple[int, int, int]

    def draw(self, index: int, *, stream: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1000 * stream + index)
        return torch.randn(self.shape, generator=generator, dtype=F64)


@dataclass
class Recorder:
    """A superposition that shows its carries: the last before the clean end, and all weights."""

    inner: Superposed
    x: Any = None
    t: float = 1.0
    carry: Any = None
    weights: list[torch.Tensor] = field(default_factory=list)

    @property
    def path(self):
        return self.inner.path

    @property
    def kind(self):
        return self.inner.kind

    @property
    def target(self):
        return self.inner.target

    def start(self, x_init, cond):
        return self.inner.start(x_init, cond)

    def denoise(self, x_t, t, cond, carry):
        self.weights.append(self.inner.weights(carry))
        return self.inner.denoise(x_t, t, cond, carry)

    def shape_noise(self, noise, carry):
        return self.inner.shape_noise(noise, carry)

    def advance(self, carry, step):
        x_s, after = self.inner.advance(carry, step)
        if step.index < step.n_steps - 1:
            self.x, self.t, self.carry = x_s, step.s, after
        return x_s, after

    def tracked(self) -> torch.Tensor:
        """Differences of log q between the first two members, at the last noisy state."""
        return self.carry.log_q[:, 0] - self.carry.log_q[:, 1]

    def true(self) -> torch.Tensor:
        """The same differences, as they are."""
        t = torch.full((len(self.x),), self.t, dtype=F64)
        logs = [member.log_prob(self.x, t) for member in self.inner.members]
        return logs[0] - logs[1]


def run(
    denoiser: Denoiser | TrackingDenoiser,
    n_steps: int,
    shape: tuple[int, int, int],
    rule: Any = ddpm,
    **options: Any,
) -> torch.Tensor:
    path = denoiser.path
    times = grid(path, n_steps, "log_snr" if isinstance(path, KarrasPath) else "uniform")
    noise = BatchNoise(shape)
    start = scalar_alpha_sigma(path, times[0].item())[1] * noise.draw(0)
    return sample(denoiser, start, times, None, rule=rule, noise=noise, **options)


def at(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=F64)


def pair(path, std_1: float = 0.5, std_2: float = 0.5) -> list[GaussianDenoiser]:
    return [
        GaussianDenoiser(path, at(1.5, 0.0), std_1),
        GaussianDenoiser(path, at(-1.5, 0.0), std_2),
    ]


def shares(x: torch.Tensor, *centres: float) -> list[float]:
    return [((x - centre).abs() < 0.5).double().mean().item() for centre in centres]


# --- the oracle itself ----------------------------------------------------------------------------
