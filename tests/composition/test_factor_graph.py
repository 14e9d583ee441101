"""Card T10: a chain of pair factors, each on two entries of the action, as a product of parts."""

import math

import pytest
import torch

from genpolicy.composition import Part, product
from genpolicy.paths import KarrasPath, expand_t, grid
from genpolicy.sampling import make_corrector, make_rule, sample
from tests.oracles import GaussianDenoiser

PATH = KarrasPath(sigma_max=20.0)
N, STEP, WIDTH = 4, 0.7, 0.4
N_ROWS = 4000


class Difference:
    """The factor N(x_2 - x_1; step, width^2): it says nothing about the sum of the two entries."""

    path = PATH
    kind = "posterior_mean"

    def __call__(self, x_t, t, cond=None):
        sigma = expand_t(PATH.alpha_sigma(t)[1], x_t)
        apart = (x_t[..., 1] - x_t[..., 0])[..., None]
        # The noise of a difference has twice the variance of an entry's.
        gain = WIDTH**2 / (WIDTH**2 + 2.0 * sigma**2)
        clean = STEP + gain * (apart - STEP)
        middle = x_t.mean(-1, keepdim=True)
        return torch.cat([middle - 0.5 * clean, middle + 0.5 * clean], dim=-1)


class Noise:
    def draw(self, index, *, stream=0):
        generator = torch.Generator().manual_seed(1_000_003 * index + 1009 * stream)
        return torch.randn(N_ROWS, 1, N, generator=generator, dtype=torch.float64)


def part(inner, dims):
    return Part(inner=inner, horizon=1, action_dim=N, first=0, steps=1, dims=dims)


def test_t10_a_chain_of_pair_factors_is_the_gaussian_with_the_chains_precision():
    first = part(GaussianDenoiser(PATH, mean=0.0, std=1.0), (0,))
    pairs = [part(Difference(), (i, i + 1)) for i in range(N - 1)]
    chain = product([first, *pairs])
    times = grid(PATH, 60, "log_snr")
    noise = Noise()
    out = sample(
        chain,
        PATH.alpha_sigma(times[0])[1] / math.sqrt(2.0) * noise.draw(0),
        times,
        None,
        rule=make_rule("ddpm"),
        noise=noise,
        correct=make_corrector("hmc", {"n_steps": 12}),
    )[:, 0]
    precision = torch.zeros(N, N, dtype=torch.float64)
    precision[0, 0] = 1.0
    for i in range(N - 1):
        precision[i : i + 2, i : i + 2] += (
            torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64) / WIDTH**2
        )
    mean = STEP * torch.arange(N, dtype=torch.float64)
    torch.testing.assert_close(out.mean(0), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(torch.cov(out.T), torch.linalg.inv(precision), atol=0.15, rtol=0.1)
    apart = (out[:, 1:] - out[:, :-1]).var(0)
    assert apart.tolist() == pytest.approx([WIDTH**2] * (N - 1), rel=0.1)
