"""Exact answers for Gaussian data: what every sampler, loss and composition is measured against.

For clean actions ~ N(mean, std^2), independent entries, on any path::

    (1)  p(x_t) = N(alpha mean, V_t),     V_t = alpha^2 std^2 + sigma^2
    (2)  E[clean | x_t] = mean + alpha std^2/V_t (x_t - alpha mean)
    (3)  ODE trajectory:  x_s = alpha_s mean + sqrt(V_s/V_t) (x_t - alpha_t mean)
    (4)  flow map:        f(x_t, t) = x_end/alpha_end

For a mixture of such Gaussians, with weights w_k and r_k the posterior of component k at x_t::

    (5)  p(x_t) = sum_k w_k N(alpha mean_k, V_k,t),   E[clean | x_t] = sum_k r_k E_k[clean | x_t]

``mean`` and ``std`` are numbers or tensors that broadcast against ``(batch, horizon, action)``.
Everything is elementwise, so row ``i`` of an answer does not depend on the other rows at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genpolicy.denoisers import Denoiser, Kind
from genpolicy.paths import Path, expand_t
from genpolicy.sampling import Rule, sample


def levels(path: Path, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma shaped like rows of ``like``."""
    alpha, sigma = path.alpha_sigma(t)
    return expand_t(alpha, like), expand_t(sigma, like)


@dataclass(frozen=True)
class GaussianDenoiser:
    """The exact posterior mean (2)."""

    path: Path
    mean: Any = 0.5
    std: Any = 0.2
    kind: ClassVar[Kind] = "posterior_mean"

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        alpha, sigma = levels(self.path, t, x_t)
        spread = alpha**2 * self.std**2 + sigma**2
        return self.mean + alpha * self.std**2 / spread * (x_t - alpha * self.mean)

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return log p(x_t) of (1), one number per row."""
        alpha, sigma = levels(self.path, t, x_t)
        spread = alpha**2 * self.std**2 + sigma**2
        each = -0.5 * ((x_t - alpha * self.mean) ** 2 / spread + (2 * torch.pi * spread).log())
        return each.expand_as(x_t).flatten(1).sum(1)

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the gradient of ``log_prob``."""
        alpha, sigma = levels(self.path, t, x_t)
        return -(x_t - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2)


@dataclass(frozen=True)
class MixtureDenoiser:
    """The exact posterior mean (5) of a mixture of Gaussians over whole chunks.

    Args:
        path: path of the inputs.
        means: one per component, each a number or a tensor ``(horizon, action)``.
        stds: one per component, of the same kinds.
        weights: one per component, positive; they are normalized here.
    """

    path: Path
    means: tuple[Any, ...]
    stds: tuple[Any, ...]
    weights: tuple[float, ...]
    kind: ClassVar[Kind] = "posterior_mean"

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        chances = self._log_joint(x_t, t).softmax(0)
        each = torch.stack([part(x_t, t) for part in self._parts()])
        return (chances.reshape(*chances.shape, *(1,) * (x_t.ndim - 1)) * each).sum(0)

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return log p(x_t) of (5), one number per row."""
        return self._log_joint(x_t, t).logsumexp(0)

    def _parts(self) -> list[GaussianDenoiser]:
        return [
            GaussianDenoiser(self.path, mean, std)
            for mean, std in zip(self.means, self.stds, strict=True)
        ]

    def _log_joint(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return log w_k p_k(x_t), of shape ``(component, batch)``."""
        total = sum(self.weights)
        logs = [
            part.log_prob(x_t, t) + math.log(weight / total)
            for part, weight in zip(self._parts(), self.weights, strict=True)
        ]
        return torch.stack(logs)


def gaussian_ode(path: Path, x_t: Tensor, t: Tensor, s: Tensor, *, mean: Any, std: Any) -> Tensor:
    """Return the exact state (3) at ``s`` of the trajectory through ``x_t``."""
    alpha_t, sigma_t = levels(path, t, x_t)
    alpha_s, sigma_s = levels(path, s, x_t)
    ratio = (alpha_s**2 * std**2 + sigma_s**2) / (alpha_t**2 * std**2 + sigma_t**2)
    return alpha_s * mean + ratio**0.5 * (x_t - alpha_t * mean)


@dataclass(frozen=True)
class GaussianFlowMap:
    """The exact flow map (4); with ``jump`` also the exact trajectory function (3)."""

    path: Path
    mean: Any = 0.5
    std: Any = 0.2
    t_end: float = 0.0
    kind: ClassVar[Kind] = "flow_map"

    def jump(self, x_t: Tensor, t: Tensor, s: Tensor, cond: Tensor | None = None) -> Tensor:
        return gaussian_ode(self.path, x_t, t, s, mean=self.mean, std=self.std)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        end = torch.full_like(t, self.t_end)
        return self.jump(x_t, t, end, cond) / levels(self.path, end, x_t)[0]


@dataclass(frozen=True)
class _Impulses:
    """Noise that is 1 in one row per index and 0 elsewhere: it reads off a linear response."""

    n_rows: int

    def draw(self, index: int, *, stream: int = 0) -> Tensor:
        noise = torch.zeros(self.n_rows, 1, 1, dtype=torch.float64)
        noise[index + 1] = 1.0
        return noise


def sample_moments(
    denoiser: Denoiser,
    times: Tensor,
    rule: Rule,
    *,
    init_std: float | None = None,
    run: Callable[..., Tensor] = sample,
    **options: Any,
) -> tuple[float, float]:
    """Return the exact mean and std of the samples of an affine denoiser.

    The sampler is run once on impulses: row 0 has no noise at all, row ``i + 1`` has a single 1 in
    the ``i``-th noise. The last state is affine in them, so its mean is row 0 and its variance the
    sum of squared differences.

    Args:
        denoiser: affine in x_t, with scalar mean and std.
        times: of the sampler.
        rule: sampling rule.
        init_std: std of the initial state; None is sigma(times[0]).
        run: ``sample``, or something with its arguments.
        options: further arguments of ``run``.
    """
    noise = _Impulses(n_rows=len(times) + 1)
    start = denoiser.path.alpha_sigma(times[0])[1].item() if init_std is None else init_std
    out = run(denoiser, start * noise.draw(0), times, None, rule=rule, noise=noise, **options)
    rows = out.flatten()
    return rows[0].item(), (rows[1:] - rows[0]).square().sum().sqrt().item()
