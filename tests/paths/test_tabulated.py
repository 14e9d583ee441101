"""Beta tables: published constants, agreement with continuous paths and diffusers."""

import math

import pytest
import torch

from genpolicy.errors import UsageError
from genpolicy.paths import CosinePath, TabulatedPath, VPPath, log_snr
from tests.unchecked import unchecked


def abar(path: TabulatedPath) -> torch.Tensor:
    t = torch.tensor([path.time_of_level(k) for k in range(path.n_levels)], dtype=torch.float64)
    return path.alpha_sigma(t)[0] ** 2


def posterior_variance(path: TabulatedPath, k: int) -> float:
    products = [1.0, *abar(path).tolist()]
    return path.beta_table()[k] * (1 - products[k]) / (1 - products[k + 1])


def test_squared_cosine_constants():
    path = TabulatedPath()
    betas, products = path.beta_table(), abar(path)
    table = {
        0: (0.00063128, 0.99936872),
        1: (0.00111694, 0.99825249),
        9: (0.00503329, 0.97209274),
        24: (0.01288316, 0.84701216),
        49: (0.03059312, 0.49384359),
        74: (0.07157810, 0.1442721),
        90: (0.18875144, 0.019544376),
        98: (0.74993928, 0.00024285723),
        99: (0.99900000, 2.4285723e-07),
    }
    for k, (beta, product) in table.items():
        assert betas[k] == pytest.approx(beta, abs=6e-9)
        assert products[k].item() == pytest.approx(product, rel=1e-7)
    some = [posterior_variance(path, k) for k in (0, 1, 50, 99)]
    assert some == pytest.approx([0.0, 0.000403, 0.030604, 0.998758], abs=6e-7)
    twenty = abar(TabulatedPath(n_levels=20))[[0, 9, 18, 19]].tolist()
    assert twenty == pytest.approx([0.992007, 0.493844, 0.006060, 6.06e-06], rel=1e-4)
    assert TabulatedPath(n_levels=64).beta_table()[0] == pytest.approx(0.00119955, rel=1e-5)
    assert TabulatedPath(n_levels=256).beta_table()[0] == pytest.approx(0.00018883, rel=1e-4)


def test_linear_constants():
    hundred = abar(TabulatedPath(schedule="linear", n_levels=100))[-1].item()
    thousand = abar(TabulatedPath(schedule="linear", n_levels=1000))[-1].item()
    assert hundred == pytest.approx(0.363563, rel=2e-6)
    assert thousand == pytest.approx(4.0358e-5, rel=2e-5)


def test_dql_constants():
    assert TabulatedPath(schedule="dql_vp", n_levels=2).beta_table() == pytest.approx(
        (0.724040, 0.976774), abs=6e-7
    )
    first = TabulatedPath(schedule="dql_vp", n_levels=10).beta_table()[:3]
    assert first == pytest.approx((0.057764, 0.146577, 0.227018), abs=6e-7)
    for n in (2, 5, 10, 50):
        last = abar(TabulatedPath(schedule="dql_vp", n_levels=n))[-1].item()
        assert last == pytest.approx(0.006409333, rel=1e-6)


def test_dql_levels_are_the_continuous_vp_path():
    path = TabulatedPath(schedule="dql_vp", n_levels=7)
    t = torch.arange(1, 8, dtype=torch.float64) / 7
    expected = VPPath(beta_min=0.1, beta_max=10.0).alpha_sigma(t)
    torch.testing.assert_close(path.alpha_sigma(t), expected, atol=1e-13, rtol=1e-12)


def test_squared_cosine_levels_are_the_continuous_cosine_path_up_to_the_cap():
    t = torch.arange(1, 100, dtype=torch.float64) / 100
    ours = TabulatedPath().alpha_sigma(t)
    torch.testing.assert_close(ours, CosinePath().alpha_sigma(t), atol=1e-12, rtol=1e-9)


def test_one_level_more_keeps_the_smallest_noise_loss():
    """Least loss of a noise network on N(m, 0.04): abar v/(abar v + 1 - abar)."""
    signal = 0.04 * abar(TabulatedPath())
    loss = signal / (signal + 1 - signal / 0.04)
    assert loss[[0, 49]].tolist() == pytest.approx([0.984454, 0.037561], abs=6e-7)
    assert loss.mean().item() == pytest.approx(0.155380, abs=6e-7)


@pytest.mark.parametrize("n_levels", [10, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_time_of_a_level_gives_that_level_in_any_precision(n_levels, dtype):
    path = TabulatedPath(n_levels=n_levels)
    t = torch.tensor([path.time_of_level(k) for k in range(n_levels)], dtype=dtype)
    products = torch.cumprod(1 - torch.tensor(path.beta_table(), dtype=torch.float64), 0)
    alpha, sigma = path.alpha_sigma(t)
    torch.testing.assert_close(alpha, products.sqrt().to(dtype), atol=0, rtol=3e-7)
    torch.testing.assert_close(sigma, (1 - products).sqrt().to(dtype), atol=0, rtol=3e-7)


def test_log_snr_is_linear_between_levels():
    path = TabulatedPath(betas=(0.1, 0.5, 0.9))
    t = torch.tensor([1 / 3, 1 / 2, 2 / 3, 3 / 4, 1.0], dtype=torch.float64)
    level = log_snr(path, t)
    assert level[1].item() == pytest.approx((level[0] + level[2]).item() / 2)
    assert level[3].item() == pytest.approx(0.75 * level[2].item() + 0.25 * level[4].item())


def test_log_snr_below_the_last_level_maps_to_the_noise_end():
    path = TabulatedPath(n_levels=10)
    assert path.t_of_log_snr(torch.tensor([-50.0])).item() == 1.0


def test_given_betas_replace_the_schedule():
    path = TabulatedPath(betas=[0.1, 0.2])
    assert (path.schedule, path.n_levels, path.betas) == ("betas", 2, (0.1, 0.2))
    assert TabulatedPath(schedule=path.schedule, n_levels=2, betas=path.betas) == path
    assert path.t_min == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "squaredcos"}, "did you mean 'squaredcos_cap_v2'"),
        ({"schedule": "betas"}, r"needs betas=\(...\)"),
        ({"beta_start": 0.1}, "takes no beta_start"),
        ({"n_levels": 0}, "n_levels is 0"),
        ({"betas": (0.1, 1.0)}, "beta at level 1 is 1.0"),
        ({"betas": ()}, "n_levels is 0"),
        ({"betas": (math.nan,)}, "beta at level 0 is nan"),
        ({"schedule": "linear", "beta_end": 1.5}, r"expected a value in \(0, 1\)"),
        ({"schedule": "scaled_linear", "beta_start": -0.1}, "expected positive"),
    ],
)
def test_tables_that_make_no_path_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        unchecked(TabulatedPath)(**settings)


def test_levels_outside_the_table_are_refused():
    with pytest.raises(UsageError, match="level is 100, expected 0 to 99"):
        TabulatedPath().time_of_level(100)


def test_tables_work_with_gradients_after_inference_mode():
    path = TabulatedPath(n_levels=37)
    with torch.inference_mode():
        path.alpha_sigma(torch.rand(3))
    weight = torch.ones(3, requires_grad=True)
    (path.alpha_sigma(torch.rand(3))[0] * weight).sum().backward()
    assert weight.grad is not None
