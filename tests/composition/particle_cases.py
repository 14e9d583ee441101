"""Gaussian compositions, runs of particles on them, and what infinitely many particles would do."""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from genpolicy.composition.particles import Particles
from genpolicy.composition.sums import conjunction, mean, product, rl_guidance
from genpolicy.denoisers import Target, as_tracking
from genpolicy.paths import KarrasPath, expand_t, grid
from genpolicy.sampling import sample, sde
from tests.oracles import GaussianDenoiser

VE = KarrasPath(sigma_min=0.02, sigma_max=20.0)


def gaussian(mean, std, path=VE):
    return GaussianDenoiser(path, mean=mean, std=std)


def uniforms(n_groups, seed=0):
    def uniform(index):
        generator = torch.Generator().manual_seed(10_000 + 1000 * seed + index)
        return torch.rand(n_groups, dtype=torch.float64, generator=generator)

    return uniform


@dataclass(frozen=True)
class Draws:
    """Noise of many rows, quickly; rows are not independent of the batch."""

    n_rows: int
    seed: int = 0
    shape: tuple[int, int] = (1, 1)

    def draw(self, index, *, stream=0):
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        return torch.randn(self.n_rows, *self.shape, dtype=torch.float64, generator=generator)


@dataclass(frozen=True)
class Bowl:
    """A tilt exp(-scale (x - centre)^2/2), guided in a way that is right in sign only."""

    inner: Any
    centre: float = 1.5
    scale: float = 3.0
    kind: ClassVar[Any] = "posterior_mean"
    target: ClassVar[Any] = Target(
        operator="bowl", density="p exp(-c)", total_weight=None, unbiased=("corrected",)
    )

    @property
    def path(self):
        return self.inner.path

    def start(self, x_init, cond):
        return as_tracking(self.inner).start(x_init, cond)

    def denoise(self, x_t, t, cond, carry):
        _, guided, _, after = self.parts(x_t, t, cond, carry)
        return guided, after

    def shape_noise(self, noise, carry):
        return as_tracking(self.inner).shape_noise(noise, carry)

    def advance(self, carry, step):
        return as_tracking(self.inner).advance(carry, step)

    def parts(self, x_t, t, cond, carry):
        plain, carry = as_tracking(self.inner).denoise(x_t, t, cond, carry)
        alpha, sigma = (expand_t(value, x_t) for value in self.path.alpha_sigma(t))
        level = (sigma / alpha).square()
        guided = plain - self.scale * level / (1.0 + level) * (plain - self.centre)
        return plain, guided, self.potential(plain), carry

    def potential(self, denoised):
        return -0.5 * self.scale * (denoised - self.centre).square().flatten(1).sum(1)

    def of(self, mu, variance):
        """Return the moments of a tilted Gaussian."""
        precision = 1.0 / variance + self.scale
        return (mu / variance + self.scale * self.centre) / precision, 1.0 / precision


def run(
    inner, *, rule=sde, churn=None, n_steps=30, n=50_000, n_groups=1, total=1.0, seed=0, **options
):
    """Return the samples, groups in rows, and the effective sizes of each evaluation."""
    sizes = []
    crowd = Particles(
        inner=inner,
        n_particles=n,
        uniform=uniforms(n_groups, seed),
        on_ess=lambda t, size: sizes.append(size),
    )
    rule = rule if churn is None else functools.partial(sde, churn=churn)
    noise = Draws(n * n_groups, seed)
    times = grid(inner.path, n_steps, "log_snr")
    start = total**-0.5 * inner.path.alpha_sigma(times[0])[1].item()
    out = sample(crowd, start * noise.draw(0), times, None, rule=rule, noise=noise, **options)
    return out.reshape(n_groups, n), torch.stack(sizes)


def moments(rows):
    return rows.mean().item(), rows.var().item()


def annealed(inner):
    """Return the moments of the product of the members at the first level."""
    level = inner.path.sigma_max
    precisions = [
        weight / (member.std**2 + level**2)
        for weight, member in zip(inner.weights, inner.members, strict=True)
    ]
    pulls = [p * member.mean for p, member in zip(precisions, inner.members, strict=True)]
    return sum(pulls) / sum(precisions), 1.0 / sum(precisions)


def limit(inner, *, churn, n_steps, total=1.0, start=None):
    """Return mean and variance of infinitely many weighted rows; ``inner.path`` has alpha = 1.

    The law at a level is N(mu, variance) times exp(factor * rate), the rate a quadratic function.
    It starts from N(0, sigma_max^2/total) where ``start`` gives no other moments.
    """
    times = grid(inner.path, n_steps, "log_snr")
    levels = inner.path.alpha_sigma(times)[1].tolist()
    logs = [math.log(level) for level in levels[:-1]]
    steps = [a - b for a, b in itertools.pairwise(logs)]
    factors = [0.5 * (a + b) for a, b in zip([0.0, *steps], [*steps, 1.0], strict=True)]
    values = []
    for x in (-1.0, 0.0, 1.0):
        state = torch.full((n_steps, 1, 1), x, dtype=torch.float64)
        denoised, rate, _ = inner.weigh(state, times[:-1], None, inner.start(state, None))
        values.append((denoised.flatten(), rate))
    (_, left), (bias, centre), (ahead, right) = values
    bend, tilt = (0.5 * (right + left) - centre).tolist(), (0.5 * (right - left)).tolist()
    slope, bias = (ahead - bias).tolist(), bias.tolist()
    mu, variance = (0.0, levels[0] ** 2 / total) if start is None else start
    for i, (before, after) in enumerate(itertools.pairwise(levels)):
        precision = 1.0 / variance - 2.0 * factors[i] * bend[i]
        mu = (mu / variance + factors[i] * tilt[i]) / precision
        keep = (after / before) ** (1.0 + churn)
        gain = keep + (1.0 - keep) * slope[i]
        mu = gain * mu + (1.0 - keep) * bias[i]
        variance = gain**2 / precision + after**2 * (1.0 - (after / before) ** (2.0 * churn))
    return mu, variance


PRECISION = 1.0 + 1.5 * (1.0 / 0.36 - 1.0)
CASES = {
    "T3": (product([gaussian(-1, 0.5), gaussian(1, 0.5)]), 2.0, (0.0, 0.125)),
    "W": (product([gaussian(-1, 0.5), gaussian(1, 0.5)], [0.4, 0.4]), 0.8, (0.0, 0.3125)),
    "T2b": (mean([gaussian(-1, 1.0), gaussian(1, 0.25)], [0.5, 0.5]), 1.0, (0.8824, 0.1176)),
    "T7": (rl_guidance(gaussian(0, 1.0), gaussian(1, 0.5), scale=2.0), 1.0, (1.1429, 0.1429)),
    "T6": (rl_guidance(gaussian(0, 1.0), gaussian(0.5, 1.0), scale=2.0), 1.0, (1.0, 1.0)),
    "T4": (
        conjunction(gaussian(0, 1.0), [gaussian(-0.5, 0.6), gaussian(1, 0.6)], scale=[1.0, 0.5]),
        1.0,
        (0.0, 1.0 / PRECISION),
    ),
}
