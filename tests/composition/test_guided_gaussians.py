"""Guidance by a quadratic cost of a Gaussian policy: closed forms of what each sampler does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import dawsn, erfi
from torch import Tensor

from genpolicy.composition.guided import CostGuided
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, grid
from genpolicy.sampling import RowNoise, ddim, ddpm, dpmpp_2m, sample
from tests.composition.guided_cases import FREE, M, Q, Quadratic, S, at, guided, states
from tests.oracles import GaussianDenoiser


@settings(max_examples=15, deadline=None)
@given(
    st.floats(-2, 2),
    st.floats(0.05, 2),
    st.floats(-2, 2),
    st.floats(0.01, 20),
    st.floats(0.05, 0.9),
)
def test_both_gradients_on_a_gaussian(m: float, s: float, q: float, scale: float, t: float):
    x = states(3)
    for path in (LinearPath(), CosinePath(), KarrasPath(sigma_max=5.0)):
        t = max(t, path.t_min)
        inner = GaussianDenoiser(path, m, s)
        time = at(t, 3)
        alpha, sigma = (value[:, None, None] for value in path.alpha_sigma(time))
        plain = inner(x, time)
        posterior = s**2 * sigma**2 / (alpha**2 * s**2 + sigma**2)
        settings_: dict[str, Any] = {"inner": inner, "cost": Quadratic(q), "scale": scale}
        through = CostGuided(**settings_, **FREE, gradient="through")(x, time, None)
        torch.testing.assert_close(through, plain - scale * posterior * (plain - q))
        constant = CostGuided(**settings_, **FREE, gradient="denoised")(x, time, None)
        torch.testing.assert_close(constant, plain - scale * (sigma / alpha) ** 2 * (plain - q))


def ode_ends(denoiser: CostGuided, *, n_steps: int = 150) -> tuple[float, float]:
    """Mean and std at the end of the ODE from N(0, sigma_max^2), which is affine in the state."""
    path = denoiser.path
    times = grid(path, n_steps, "log_snr").double()
    sigma = path.alpha_sigma(times[:1])[1].item()
    x = torch.tensor([0.0, sigma], dtype=torch.float64).reshape(2, 1, 1)
    low, high = sample(denoiser, x, times, None, rule=dpmpp_2m).flatten().tolist()
    return low, abs(high - low)


@pytest.mark.parametrize("scale", [0.5, 2.0, 8.0])
def test_through_along_the_ode_has_its_closed_form(scale: float):
    # Equation (5); the start at sigma_max 80 instead of infinity is worth 1e-2 in the mean, which
    # is pulled from 0 instead of m, and nothing in the std.
    path = KarrasPath(sigma_min=2e-3)
    mean, std = ode_ends(guided(path, scale=scale, gradient="through", **FREE))
    a = S * math.sqrt(scale / 2)
    assert std == pytest.approx(S * math.exp(-(a**2)), rel=2e-3)
    assert mean == pytest.approx(M + (Q - M) * 2 * a * dawsn(a), abs=6e-3)
    # The same from the actual start: z' = z/(2V) + scale S^4 z/(2V^2) + scale S^2 (m - q)/(2V).
    v = S**2 + 80.0**2
    begin = -M / math.sqrt(v) * math.exp(scale * S**4 / (2 * v))
    part = [erfi(S**2 * math.sqrt(scale / 2) * w) for w in (1 / S, v**-0.5)]
    drive = (Q - M) * math.sqrt(math.pi * scale / 2) * (part[0] - part[1])
    assert mean == pytest.approx(M + S * math.exp(-(a**2)) * (begin + drive), abs=1e-3)
    # What it misses: the target is wider.
    assert std < S / math.sqrt(1 + scale * S**2)


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize("start", [0.5, 1.0, 3.0])
def test_denoised_along_the_ode_has_its_closed_form(scale: float, start: float):
    # From level g on, with V = S^2 + sigma^2 and z = x - m:
    # z(0) = A S^2 + (z_g - A V_g)(S^2/V_g)^((1 + scale S^2)/2),  A = scale (m - q)/(1 - scale S^2).
    path = KarrasPath(sigma_min=2e-3, sigma_max=start)
    mean, std = ode_ends(guided(path, scale=scale, gradient="denoised", **FREE))
    v = S**2 + start**2
    power = (S**2 / v) ** (0.5 * (1 + scale * S**2))
    shift = scale * (M - Q) / (1 - scale * S**2)
    assert std == pytest.approx(start * power, rel=2e-3)
    assert mean == pytest.approx(M + shift * S**2 + (-M - shift * v) * power, abs=5e-3)


@dataclass(frozen=True)
class Ula:
    """Unadjusted Langevin at low levels; the fixed step suits the target's variance."""

    step_size: float
    n_steps: int = 6

    def __call__(
        self, x: Tensor, t: float, *, denoise: Any, path: Any, noise: Any, index: int
    ) -> Tensor:
        alpha, sigma = path.alpha_sigma(at(t, 1))
        if sigma > 0.3 * alpha:
            return x
        for k in range(self.n_steps):
            score = (alpha * denoise(x, x.new_full((len(x),), t)) - x) / sigma**2
            kick = noise.draw(index, stream=k + 1)
            x = x + self.step_size * score + math.sqrt(2 * self.step_size) * kick
        return x


@pytest.mark.parametrize("gradient", ["through", "denoised"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_corrections_reach_the_tilted_gaussian(gradient: Any, scale: float):
    # N((m/s^2 + g q)/(1/s^2 + g), 1/(1/s^2 + g)), with the default interval and limit.
    path = KarrasPath(sigma_min=0.02, sigma_max=20.0)
    tilt = guided(path, scale=scale, gradient=gradient)
    variance = 1 / (1 / S**2 + scale)
    noise = RowNoise(range(1500), (10, 1), dtype=torch.float64)
    x = sample(
        tilt,
        20.0 * noise.draw(0),
        grid(path, 40, "log_snr").double(),
        None,
        rule=ddpm,
        noise=noise,
        correct=Ula(0.2 * variance),
    )
    # 15000 entries: the tolerances are 4 standard errors. ULA widens the variance by 1/(1 - h/2v).
    assert x.mean().item() == pytest.approx((M / S**2 + scale * Q) * variance, abs=0.014)
    assert x.var().item() == pytest.approx(variance / 0.9, rel=0.046)
    assert "corrected" in tilt.target.unbiased


def test_few_steps_stay_near_the_target_at_any_scale():
    path = LinearPath()
    noise = RowNoise(range(500), (16, 2), dtype=torch.float64)
    for scale in (10.0, 100.0, 10000.0):
        tilt = CostGuided(inner=GaussianDenoiser(path, 0.0, 0.3), cost=Quadratic(0.5), scale=scale)
        x = sample(tilt, noise.draw(0), grid(path, 10, "uniform"), None, rule=ddim)
        target = 0.5 * scale / (scale + 1 / 0.3**2)
        assert x.mean().item() == pytest.approx(target, abs=0.1)
        assert x.std().item() < 0.3
