"""Sampling rules: published moments, identities, convergence order, refusals."""

import functools
import itertools
import math

import pytest
import torch

from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.paths import (
    CosinePath,
    KarrasPath,
    LinearPath,
    TabulatedPath,
    VPPath,
    grid,
)
from genpolicy.sampling import (
    RULES,
    check_rule,
    ddim,
    ddpm,
    dpmpp_2m,
    euler,
    heun,
    kinds_of,
    make_rule,
    midpoint,
    plan,
    renoise,
    sample,
)
from tests.oracles import GaussianDenoiser, GaussianFlowMap, gaussian_ode, sample_moments

PATHS = {
    "linear": LinearPath(),
    "cosine": CosinePath(),
    "vp": VPPath(),
    "karras": KarrasPath(),
    "ddpm": TabulatedPath(),
    "dql": TabulatedPath(schedule="dql_vp", n_levels=10),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
DETERMINISTIC = [ddim, euler, heun, midpoint, dpmpp_2m]


def levels(path, t: float) -> tuple[float, float]:
    alpha, sigma = path.alpha_sigma(torch.tensor(t, dtype=torch.float64))
    return alpha.item(), sigma.item()


# --- published moments: data N(0.5, 0.2^2), no clipping -------------------------------------------


@pytest.mark.parametrize(
    ("n", "std"),
    [
        (5, 0.093615),
        (10, 0.129229),
        (20, 0.153046),
        (50, 0.174907),
        (100, 0.185367),
    ],
)
def test_ddpm_on_squared_cosine(n, std):
    path = TabulatedPath(n_levels=n)
    moments = sample_moments(GaussianDenoiser(path), grid(path, n, "levels"), ddpm)
    assert moments == pytest.approx((0.5, std), abs=2e-6)


@pytest.mark.parametrize(
    ("n", "std"), [(2, 0.024331), (5, 0.071491), (10, 0.111678), (50, 0.16702)]
)
def test_ddpm_on_the_schedule_of_diffusion_ql(n, std):
    path = TabulatedPath(schedule="dql_vp", n_levels=n)
    times = grid(path, n, "levels")
    moments = sample_moments(GaussianDenoiser(path), times, ddpm, init_std=1.0)
    assert moments == pytest.approx((0.49987, std), abs=2e-6)


@pytest.mark.parametrize(
    ("n", "mean", "std"),
    [
        (5, 0.48272, 0.118409),
        (10, 0.48941, 0.151480),
        (20, 0.49461, 0.173220),
        (50, 0.49854, 0.187867),
        (100, 0.49995, 0.193073),
    ],
)
def test_ddim_on_the_leading_grid(n, mean, std):
    path = TabulatedPath()
    times = grid(path, n, "leading")
    moments = sample_moments(GaussianDenoiser(path), times, ddim, init_std=1.0)
    assert moments[0] == pytest.approx(mean, abs=6e-6)
    assert moments[1] == pytest.approx(std, abs=6e-7)


def test_one_ddim_step_on_the_leading_grid_returns_the_noise():
    path = TabulatedPath()
    times = grid(path, 1, "leading")
    _, std = sample_moments(GaussianDenoiser(path), times, ddim, init_std=1.0)
    assert std == pytest.approx(0.985, abs=5e-4)


@pytest.mark.parametrize(
    ("rule", "table"),
    [
        (
            euler,
            {1: 0, 2: 0.038462, 5: 0.113881, 10: 0.154175, 20: 0.176003, 40: 0.2 - 0.012331}
            | {100: 0.194979},
        ),
        (midpoint, {1: 0.076923, 2: 0.154267, 5: 0.197648, 10: 0.199676, 20: 0.2 - 4.34e-5}),
    ],
)
def test_flow_rules_on_the_straight_line(rule, table):
    path = LinearPath()
    for n, std in table.items():
        moments = sample_moments(GaussianDenoiser(path), grid(path, n), rule)
        assert moments == pytest.approx((0.5, std), abs=6e-7)


@pytest.mark.parametrize(
    ("n", "mean", "std"),
    [(1, 0.498750, 0.200009), (2, 0.499876, 0.200010), (5, 0.500000, 0.200010)],
)
def test_multistep_consistency_with_an_exact_flow_map(n, mean, std):
    path = KarrasPath()
    options = {} if n == 1 else {"sigma_end": 2.0}
    times = grid(path, n, "sigma", options=options)
    oracle = GaussianFlowMap(path, t_end=path.t_min)
    moments = sample_moments(oracle, times, renoise)
    assert moments == pytest.approx((mean, std), abs=1e-6)


# --- what every rule has to satisfy ---------------------------------------------------------------


def step_times(path) -> list[tuple[float, float, float | None]]:
    times = grid(path, 5).tolist()
    return [
        (t, s, times[i - 1] if i else None) for i, (t, s) in enumerate(itertools.pairwise(times))
    ]


@every_path
@pytest.mark.parametrize("rule", DETERMINISTIC)
def test_deterministic_rules_move_a_known_pair_along_the_path(path, rule):
    """Where denoised and implied noise are constant, x_s = alpha_s clean + sigma_s noise."""
    for t, s, t_prev in step_times(path):
        coeffs = rule(path, t, s, t_prev)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(path, t), levels(path, s)
        on_clean = coeffs.c_x * alpha_t + coeffs.c_denoised + coeffs.c_prev
        assert on_clean == pytest.approx(alpha_s, abs=1e-12)
        assert coeffs.c_x * sigma_t == pytest.approx(sigma_s, abs=1e-12)
        assert coeffs.c_noise == 0.0
        if coeffs.stage is not None:
            stage = coeffs.stage
            alpha_m, sigma_m = levels(path, stage.time)
            assert stage.c_x * alpha_t + stage.c_denoised == pytest.approx(alpha_m, abs=1e-12)
            assert stage.c_x * sigma_t == pytest.approx(sigma_m, abs=1e-12)


@every_path
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_stochastic_rules_have_the_noise_of_the_next_level(path, eta):
    for t, s, t_prev in step_times(path):
        coeffs = ddim(path, t, s, t_prev, eta=eta)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(path, t), levels(path, s)
        assert coeffs.c_x * alpha_t + coeffs.c_denoised == pytest.approx(alpha_s, abs=1e-12)
        total = (coeffs.c_x * sigma_t) ** 2 + coeffs.c_noise**2
        assert total == pytest.approx(sigma_s**2, abs=1e-12)


@every_path
@pytest.mark.parametrize("name", RULES)
def test_a_step_to_the_clean_end_adds_no_noise(path, name):
    t = path.t_min + 0.3 * (path.t_max - path.t_min)
    coeffs = RULES[name](path, t, 0.0, path.t_max)
    assert coeffs.c_noise == 0.0
    if coeffs.stage is None:
        assert (coeffs.c_x, coeffs.c_denoised, coeffs.c_prev) == (0.0, 1.0, 0.0)


# --- identities with independently written formulas -----------------------------------------------


@pytest.mark.parametrize("name", ["ddpm", "dql"])
def test_eta_one_is_the_posterior_of_ddpm(name):
    path = PATHS[name]
    betas = path.beta_table()
    products = [1.0, *itertools.accumulate((1 - b for b in betas), lambda a, b: a * b)]
    for k in range(1, path.n_levels):
        before, now, beta = products[k], products[k + 1], betas[k]
        coeffs = ddpm(path, path.time_of_level(k), path.time_of_level(k - 1), None)
        assert coeffs.c_denoised == pytest.approx(math.sqrt(before) * beta / (1 - now))
        c_x = math.sqrt(1 - beta) * (1 - before) / (1 - now)
        assert coeffs.c_x == pytest.approx(c_x, rel=1e-7, abs=1e-12)
        variance = beta * (1 - before) / (1 - now)
        assert coeffs.c_noise**2 == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("eta", [0.2, 0.7])
def test_eta_is_that_of_the_ddim_paper(eta):
    path = CosinePath()
    for t, s in itertools.pairwise(grid(path, 6).tolist()[:-1]):
        now, after = levels(path, t)[0] ** 2, levels(path, s)[0] ** 2
        expected = eta * math.sqrt((1 - after) / (1 - now)) * math.sqrt(1 - now / after)
        assert ddim(path, t, s, None, eta=eta).c_noise == pytest.approx(expected)


class _Velocity(torch.nn.Module):
    def forward(self, x, time, obs):
        return torch.sin(2 * x) + time.reshape(-1, 1, 1) / 1000.0


def flow() -> tuple[ParameterizedDenoiser, torch.Tensor]:
    denoiser = ParameterizedDenoiser(network=_Velocity(), path=LinearPath(), predicts="velocity")
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return denoiser, x


@pytest.mark.parametrize("rule", [euler, midpoint, heun, ddim])
def test_flow_rules_integrate_the_velocity(rule):
    denoiser, x = flow()
    times = torch.tensor([1.0, 0.7, 0.45, 0.2], dtype=torch.float64)
    ours = sample(denoiser, x, times, None, rule=rule)

    def velocity(state, t):
        return denoiser.network(state, torch.full((4,), 1000.0 * t, dtype=torch.float64), None)

    for t, s in itertools.pairwise(times.tolist()):
        first = velocity(x, t)
        if rule is midpoint:
            x = x + (s - t) * velocity(x + 0.5 * (s - t) * first, 0.5 * (t + s))
        elif rule is heun:
            x = x + 0.5 * (s - t) * (first + velocity(x + (s - t) * first, s))
        else:
            x = x + (s - t) * first
    torch.testing.assert_close(ours, x, atol=1e-12, rtol=1e-12)


def test_heun_on_the_karras_path_is_the_edm_sampler():
    path = KarrasPath()
    oracle = GaussianDenoiser(path, mean=0.3, std=0.5)
    times = grid(path, 8, "karras")
    x = 80 * torch.randn(5, 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = sample(oracle, x, times, None, rule=heun)
    sigmas = path.alpha_sigma(times)[1].tolist()

    def denoised(state, sigma):
        return 0.3 + 0.25 / (0.25 + sigma**2) * (state - 0.3)

    for sigma, after in itertools.pairwise(sigmas):
        slope = (x - denoised(x, sigma)) / sigma
        there = x + (after - sigma) * slope
        if after > 0:
            slope = 0.5 * slope + 0.5 * (there - denoised(there, after)) / after
        x = x + (after - sigma) * slope
    torch.testing.assert_close(ours, x, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    "path", [VPPath(), CosinePath(), LinearPath(t_min=0.01, t_max=0.99), KarrasPath()]
)
def test_dpmpp_2m_is_the_published_update(path):
    oracle = GaussianDenoiser(path, mean=0.3, std=0.5)
    times = grid(path, 6, "log_snr")
    x = torch.randn(5, 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = sample(oracle, x, times, None, rule=dpmpp_2m)
    old, last = None, None
    for t, s in itertools.pairwise(times.tolist()):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(path, t), levels(path, s)
        denoised = oracle(x, torch.full((5,), t, dtype=torch.float64))
        if s == 0.0:
            x = denoised
            break
        h = math.log(alpha_s / sigma_s) - math.log(alpha_t / sigma_t)
        mixed = denoised
        if old is not None:
            ratio = last / h
            mixed = (1 + 1 / (2 * ratio)) * denoised - 1 / (2 * ratio) * old
        x = sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * mixed
        old, last = denoised, h
    torch.testing.assert_close(ours, x, atol=1e-12, rtol=1e-12)


def test_one_consistency_step_is_the_flow_map():
    oracle = GaussianFlowMap(KarrasPath(), t_end=KarrasPath().t_min)
    x = 80 * torch.randn(3, 2, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = oracle(x, torch.ones(3, dtype=torch.float64))
    for rule in (renoise, ddim, ddpm, euler, heun, dpmpp_2m):
        assert torch.equal(sample(oracle, x, [1.0, 0.0], None, rule=rule), expected)


# --- convergence ----------------------------------------------------------------------------------


def _error(path, rule, n) -> float:
    """Error of the state at the last of n + 1 times, equally spaced in log-SNR or in t."""
    low = path.t_min + 0.1 * (path.t_max - path.t_min)
    high = path.t_min + 0.9 * (path.t_max - path.t_min)
    times = torch.linspace(high, low, n + 1, dtype=torch.float64)
    oracle = GaussianDenoiser(path, mean=0.5, std=0.4)
    x = torch.tensor([[[-1.0]], [[2.0]]], dtype=torch.float64) * levels(path, high)[1]
    reached = sample(oracle, x, times, None, rule=rule)
    start, end = times[0].expand(2), times[-1].expand(2)
    exact = gaussian_ode(path, x, start, end, mean=0.5, std=0.4)
    return (reached - exact).abs().max().item()


@pytest.mark.parametrize("name", ["linear", "cosine", "vp", "karras"])
@pytest.mark.parametrize(
    ("rule", "order"), [(ddim, 1), (euler, 1), (dpmpp_2m, 2), (heun, 2), (midpoint, 2)]
)
def test_convergence_order(name, rule, order):
    errors = [_error(PATHS[name], rule, n) for n in (30, 60)]
    measured = math.log2(errors[0] / errors[1])
    assert measured > order - 0.25
    if rule is not midpoint:  # on Gaussian data it does better than its order
        assert measured < order + 0.5


# --- names and kinds ------------------------------------------------------------------------------


def test_rules_by_name():
    assert make_rule("heun") is heun
    bound = make_rule("ddim", {"eta": 0.5})
    path = VPPath()
    assert bound(path, 0.5, 0.4, None) == ddim(path, 0.5, 0.4, None, eta=0.5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dppm", {}, "did you mean 'ddpm'"),
        ("ddim", {"etta": 1.0}, "did you mean 'eta'"),
        ("heun", {"eta": 1.0}, "rule 'heun' has no option 'eta'"),
    ],
)
def test_unknown_rules_and_options_are_refused(name, options, message):
    with pytest.raises(UsageError, match=message):
        make_rule(name, options)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_outside_its_range_is_refused(eta):
    with pytest.raises(UsageError, match="eta is"):
        ddim(VPPath(), 0.5, 0.4, None, eta=eta)


@pytest.mark.parametrize("name", RULES)
def test_rules_fit_one_kind_of_denoiser(name):
    rule = RULES[name]
    fits = "flow_map" if name == "renoise" else "posterior_mean"
    other = "posterior_mean" if name == "renoise" else "flow_map"
    assert kinds_of(rule) == (fits,)
    steps = plan(rule, VPPath(), (1.0, 0.5, 0.0))
    check_rule(rule, fits, steps)
    with pytest.raises(UsageError, match=f"rule '{name}' does not fit .* '{other}'"):
        check_rule(rule, other, steps)


def test_settings_do_not_hide_the_kind_of_a_rule():
    rule = functools.partial(ddim, eta=0.5)
    with pytest.raises(UsageError, match="rule 'ddim' does not fit"):
        sample(GaussianFlowMap(VPPath()), torch.ones(1, 1, 1), [1.0, 0.5, 0.0], None, rule=rule)


def test_a_rule_of_ones_own_fits_both():
    def own(path, t, s, t_prev):
        return ddim(path, t, s, t_prev)

    steps = plan(own, VPPath(), (1.0, 0.5, 0.0))
    check_rule(own, "flow_map", steps)
    check_rule(own, "posterior_mean", steps)


def test_a_midpoint_step_is_no_single_evaluation_of_a_flow_map():
    with pytest.raises(UsageError, match="rule 'midpoint' does not fit"):
        sample(GaussianFlowMap(VPPath()), torch.ones(1, 1, 1), [1.0, 0.0], None, rule=midpoint)
