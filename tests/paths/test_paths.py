"""Analytic paths: ends, log-SNR, derivatives, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genpolicy.errors import UsageError
from genpolicy.paths import (
    CosinePath,
    KarrasPath,
    LinearPath,
    TabulatedPath,
    VPPath,
    expand_t,
    log_snr,
)

PATHS = {
    "linear": LinearPath(),
    "cosine": CosinePath(),
    "cosine-full": CosinePath(t_min=0.0, t_max=1.0, offset=0.02),
    "vp": VPPath(),
    "vp-constant": VPPath(beta_min=2.0, beta_max=2.0),
    "karras": KarrasPath(),
    "karras-policy": KarrasPath(sigma_min=0.02, rho=3.0),
    "ddpm": TabulatedPath(),
    "ddpm-linear": TabulatedPath(schedule="linear", n_levels=1000),
    "stable-diffusion": TabulatedPath(
        schedule="scaled_linear", n_levels=1000, beta_start=0.00085, beta_end=0.012
    ),
    "dql": TabulatedPath(schedule="dql_vp", n_levels=5),
    "given": TabulatedPath(betas=(0.1, 0.2, 0.3)),
    "one-level": TabulatedPath(betas=(0.9,)),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())


def inside(path, unit: float) -> torch.Tensor:
    """A time strictly inside the path, in float64."""
    low = max(path.t_min, 1e-4) if path.t_min < path.t_max else 0.5 * path.t_min
    return torch.tensor(low + unit * (path.t_max * (1 - 1e-6) - low), dtype=torch.float64)


@every_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_clean_end_is_exact(path, dtype):
    alpha, sigma = path.alpha_sigma(torch.zeros(3, dtype=dtype))
    assert alpha.tolist() == [1.0] * 3
    assert sigma.tolist() == [0.0] * 3


@every_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_shape_and_dtype_are_those_of_the_times(path, dtype, shape):
    t = torch.full(shape, 0.5 * (path.t_min + path.t_max), dtype=dtype)
    for value in (*path.alpha_sigma(t), *path.derivatives(t), path.t_of_log_snr(t)):
        assert value.shape == t.shape
        assert value.dtype == dtype


@every_path
def test_log_snr_falls_strictly_from_clean_to_noise(path):
    t = torch.linspace(1e-3, path.t_max, 500, dtype=torch.float64)
    assert bool((log_snr(path, t).diff() < 0).all())


@every_path
def test_formulas_are_finite_where_networks_are_evaluated(path):
    t = torch.linspace(path.t_min, path.t_max, 101, dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(t)
    assert bool(torch.isfinite(alpha).all() and torch.isfinite(sigma).all())
    assert bool((alpha >= 0).all() and (alpha <= 1).all() and (sigma >= 0).all())


@every_path
@settings(max_examples=25, deadline=None)
@given(unit=st.floats(0.0, 1.0))
def test_time_of_log_snr_inverts_log_snr(path, unit):
    t = inside(path, unit)
    assert path.t_of_log_snr(log_snr(path, t)).item() == pytest.approx(t.item(), abs=1e-9)


@every_path
def test_time_of_log_snr_inverts_log_snr_in_float32(path):
    t = torch.linspace(max(path.t_min, 0.01), 0.98 * path.t_max, 50)
    torch.testing.assert_close(path.t_of_log_snr(log_snr(path, t)), t, atol=2e-5, rtol=0)


@every_path
def test_extreme_log_snr_stays_within_the_ends_of_time(path):
    t = path.t_of_log_snr(torch.tensor([60.0, -14.0], dtype=torch.float64))
    assert 0.0 <= t[0].item() < 0.05
    assert t[1].item() > 0.5


@every_path
@settings(max_examples=15, deadline=None)
@given(unit=st.floats(0.01, 0.99))
def test_derivatives_are_those_of_alpha_and_sigma(path, unit):
    t = inside(path, unit)
    if isinstance(path, TabulatedPath):  # piecewise: stay clear of the levels
        t = (torch.floor(t * path.n_levels) + 0.5) / path.n_levels
    h = 1e-6
    ahead, behind = path.alpha_sigma(t + h), path.alpha_sigma(t - h)
    for derivative, a, b in zip(path.derivatives(t), ahead, behind, strict=True):
        assert derivative.item() == pytest.approx((a - b).item() / (2 * h), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["cosine", "vp", "ddpm", "dql", "given"])
def test_variance_preserving_paths_preserve_variance(name):
    alpha, sigma = PATHS[name].alpha_sigma(torch.linspace(0, 1, 200, dtype=torch.float64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), atol=1e-12, rtol=0)


def test_sigma_keeps_its_digits_next_to_the_clean_end():
    t = torch.tensor(1e-8, dtype=torch.float64)
    rate = math.pi / 2 / 1.008
    expected = math.sqrt(2 * rate * 1e-8 * math.tan(rate * 0.008))
    assert CosinePath().alpha_sigma(t)[1].item() == pytest.approx(expected, rel=1e-4)
    assert VPPath().alpha_sigma(t)[1].item() == pytest.approx(math.sqrt(0.1 * 1e-8), rel=1e-6)


def test_karras_times_are_the_edm_levels():
    def levels(path, n):
        t = torch.linspace(path.t_min, path.t_max, n, dtype=torch.float64)
        return path.alpha_sigma(t)[1].tolist()

    expected = [0.002, 0.169753, 2.515219, 17.527832, 80.0]
    assert levels(KarrasPath(), 5) == pytest.approx(expected, rel=3e-6)
    forty = levels(KarrasPath(), 40)
    some = [forty[i] for i in (1, 2, 10, 20, 38)]
    expected = [0.003677, 0.006437, 0.184594, 2.818392, 69.450946]
    assert some == pytest.approx(expected, abs=6e-7)
    eighty = levels(KarrasPath(sigma_min=0.02), 80)
    some = [eighty[i] for i in (1, 27, 54, 79 - 27, 79 - 54, 79 - 1)]
    expected = [0.024387, 1.114216, 14.091920, 12.014783, 0.885024, 75.206848]
    assert some == pytest.approx(expected, rel=2e-5)


def test_paths_are_values():
    assert LinearPath(t_max=0.9) == LinearPath(t_max=0.9)
    assert len({TabulatedPath(), TabulatedPath(), TabulatedPath(n_levels=20)}) == 2


def test_expand_t_shapes_rows_and_takes_the_dtype():
    like = torch.zeros(3, 4, 2)
    assert expand_t(torch.ones(3, dtype=torch.float64), like).shape == (3, 1, 1)
    assert expand_t(torch.ones(3, dtype=torch.float64), like).dtype == torch.float32
    assert expand_t(torch.tensor(2.0), like).shape == ()


@pytest.mark.parametrize("shape", [(2,), (3, 1), (1,)])
def test_expand_t_refuses_anything_but_one_value_per_row(shape):
    with pytest.raises(UsageError, match=r"one value per row, shape \(3,\)"):
        expand_t(torch.ones(shape), torch.zeros(3, 4, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearPath(t_min=0.5, t_max=0.5), "LinearPath: got t_min 0.5 and t_max 0.5"),
        (lambda: CosinePath(t_max=1.2), "CosinePath: got t_min"),
        (lambda: CosinePath(offset=-1.0), "offset is -1.0"),
        (lambda: VPPath(beta_min=0.0), "beta_min 0.0"),
        (lambda: VPPath(beta_max=float("nan")), "beta_max nan"),
        (lambda: VPPath(t_min=-0.1), "VPPath: got t_min"),
        (lambda: KarrasPath(sigma_min=90.0), "sigma_min 90.0"),
        (lambda: KarrasPath(rho=0.5), "rho"),
    ],
)
def test_values_that_make_no_path_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
