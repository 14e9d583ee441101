"""Correctors: exact stationary moments, textbook acceptance, and the annealed targets.

On Gaussians the unadjusted correctors are affine in x and in the noise, so their moments are read
off impulses, exactly. The others are compared, draw by draw, with a plain implementation that knows
the log-density and evaluates everything anew; moments by chance are few, with their errors stated.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genpolicy.paths import KarrasPath, grid
from genpolicy.sampling import (
    Hamiltonian,
    Langevin,
    MetropolisLangevin,
    UnderdampedHamiltonian,
    ddim,
    ddpm,
    sample,
    sde,
)
from tests.oracles import GaussianDenoiser, MixtureDenoiser
from tests.sampling.correcting import (
    GAUSSIANS,
    HALF,
    PATH,
    Chance,
    Impulses,
    SumOfScores,
    at_level,
    moments,
    settled,
)

# --- one level: moments ---------------------------------------------------------------------------

POINT = GaussianDenoiser(PATH, mean=0.0, std=0.0)  # p(x_t) = N(0, 0.25) at HALF


@pytest.mark.parametrize(
    ("h", "variance"), [(0.05, 0.2778), (0.1, 0.3125), (0.2, 0.4167), (0.4, 1.25)]
)
def test_langevin_settles_at_a_wider_variance(h, variance):
    step_size = h / HALF**2
    ula = Langevin(n_steps=80, step_size=step_size, largest_step_size=2.0)
    noise = Impulses(n_rows=100)
    mean, found = moments(at_level(ula, POINT, torch.full((100, 1, 1), 3.0).double(), noise=noise))
    assert found == pytest.approx(variance, abs=5e-5)
    assert found == pytest.approx(settled(step_size, 0.25), rel=1e-12)
    assert mean == pytest.approx(3.0 * (1.0 - h / 0.25) ** 80, abs=1e-12)


@pytest.mark.parametrize("step_size", [0.1, 0.8, 1.6])
@pytest.mark.parametrize(("n_leapfrogs", "damping"), [(1, 0.0), (3, 0.5), (2, 0.9)])
def test_leapfrogs_without_rejection_settle_where_langevin_does(step_size, n_leapfrogs, damping):
    uhmc = UnderdampedHamiltonian(
        n_steps=250,
        step_size=step_size,
        n_leapfrogs=n_leapfrogs,
        damping=damping,
        largest_step_size=2.0,
    )
    start = torch.zeros(300, 1, 1, dtype=torch.float64)
    found = moments(at_level(uhmc, POINT, start, noise=Impulses(n_rows=300)))
    assert found == (0.0, pytest.approx(settled(step_size, 0.25), rel=1e-9))


@pytest.mark.parametrize(
    ("corrector", "acceptance"),
    [
        (MetropolisLangevin(n_steps=40, step_size=0.8), 0.84),
        (Hamiltonian(n_steps=30, step_size=0.8, n_leapfrogs=1, damping=0.9), 0.84),
        (Hamiltonian(n_steps=30, step_size=0.8, n_leapfrogs=2, damping=0.0), 0.936),
    ],
)
def test_rejection_removes_the_bias(corrector, acceptance):
    # The error of 1e5 draws is 0.0011. Unadjusted steps settle at 0.4167 here; momenta that are not
    # turned around on rejection miss as well.
    seen = []
    corrector = replace(corrector, on_accept=lambda t, rows: seen.append((t, rows)))
    n_rows = 100_000
    start = HALF * Chance(n_rows).draw(0)
    out = at_level(corrector, POINT, start, noise=Chance(n_rows))
    assert out.var().item() == pytest.approx(0.25, abs=0.004)
    rates = [rows.double().mean().item() for _, rows in seen]
    assert len(rates) == corrector.n_steps
    assert rates[0] == pytest.approx(acceptance, abs=0.01)
    assert rates[-1] == pytest.approx(acceptance, abs=0.01)
    assert {t for t, _ in seen} == {HALF}


MODES = MixtureDenoiser(PATH, means=(-1.5, 1.5), stds=(0.0, 0.0), weights=(0.25, 0.75))


@pytest.mark.parametrize("n_leapfrogs", [1, 3])
def test_more_points_find_the_weights_of_modes(n_leapfrogs):
    """At HALF the modes lie three of their widths apart: 0.2834 of the mass is below 0."""
    n_rows = 50_000
    is_right = torch.arange(n_rows).reshape(-1, 1, 1) % 4 > 0
    start = torch.where(is_right, 0.75, -0.75) + HALF * Chance(n_rows).draw(0)
    found = {}
    for n_quadrature in (2, 3, 4):
        hmc = Hamiltonian(
            n_steps=18 // n_leapfrogs,
            step_size=0.6,
            n_leapfrogs=n_leapfrogs,
            n_quadrature=n_quadrature,
        )
        out = at_level(hmc, MODES, start, noise=Chance(n_rows))
        found[n_quadrature] = (out < 0).double().mean().item()
    assert (start < 0).double().mean().item() == pytest.approx(0.2834, abs=0.004)
    assert found[2] > 0.31
    assert found[3] == pytest.approx(0.2834, abs=0.006)
    assert found[4] == pytest.approx(0.2834, abs=0.006)


# --- one level: every decision --------------------------------------------------------------------


def textbook(denoiser, x, *, t, noise, index, n_steps, step_size, n_leapfrogs, damping, log_accept):
    """Return x and the accepted rows of Hamiltonian Monte Carlo with nothing remembered."""
    alpha, sigma = (
        v.item() for v in denoiser.path.alpha_sigma(torch.tensor(t, dtype=torch.float64))
    )
    time = x.new_full((len(x),), t)
    d = math.sqrt(2.0 * step_size) * sigma

    def score(x):
        return (alpha * denoiser(x, time) - x) / sigma**2

    v, decisions = noise.draw(index, stream=1), []
    for step in range(n_steps):
        if step > 0:
            fresh = noise.draw(index, stream=2 * step + 1)
            v = damping * v + math.sqrt(1.0 - damping**2) * fresh
        y, w = x, v
        for _ in range(n_leapfrogs):
            w = w + 0.5 * d * score(y)
            y = y + d * w
            w = w + 0.5 * d * score(y)
        chance = torch.special.ndtr(noise.draw(index, stream=2 * step + 2)[:, 0, 0])
        ratio = log_accept(x, v, y, w, score, d**2 / 2.0, lambda x: denoiser.log_prob(x, time))
        rows = chance.log() < ratio
        decisions.append(rows)
        x = torch.where(rows[:, None, None], y, x)
        v = torch.where(rows[:, None, None], w, -v)
    return x, torch.stack(decisions)


def sums(x):
    return x.square().flatten(1).sum(1)


def by_momenta(x, v, y, w, score, h, log_prob):
    return log_prob(y) - log_prob(x) - 0.5 * (sums(w) - sums(v))


def by_proposals(x, v, y, w, score, h, log_prob, *, spread=None, reverse=None):
    """The ratio of MALA; other arguments are two mistakes seen in public code."""
    spread = 4.0 * h if spread is None else spread
    forth = -sums(y - x - h * score(x)) / spread
    back = -sums(x - y - h * score(y if reverse is None else x)) / spread
    return log_prob(y) - log_prob(x) + back - forth


@pytest.mark.parametrize(("n_leapfrogs", "damping"), [(1, 0.0), (3, 0.0), (2, 0.8)])
def test_every_row_decides_as_in_the_textbook(n_leapfrogs, damping):
    seen = []
    hmc = Hamiltonian(
        n_steps=6,
        step_size=0.3,
        n_leapfrogs=n_leapfrogs,
        damping=damping,
        on_accept=lambda t, rows: seen.append(rows),
    )
    noise = Chance(3000, (3, 2))
    x = 0.5 * noise.draw(0)
    expected, decisions = textbook(
        GAUSSIANS,
        x,
        t=HALF,
        noise=noise,
        index=4,
        n_steps=6,
        step_size=0.3,
        n_leapfrogs=n_leapfrogs,
        damping=damping,
        log_accept=by_momenta,
    )
    out = at_level(hmc, GAUSSIANS, x, noise=noise, index=4)
    assert torch.equal(torch.stack(seen), decisions)
    assert 0.1 < decisions.double().mean().item() < 0.99
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)


def test_langevin_proposals_decide_by_the_reverse_proposal():
    noise = Chance(3000, (3, 2))
    x = 0.5 * noise.draw(0)
    h = 0.3 * HALF**2
    seen = []
    mala = MetropolisLangevin(n_steps=6, step_size=0.3, on_accept=lambda t, rows: seen.append(rows))
    out = at_level(mala, GAUSSIANS, x, noise=noise)
    plan = dict(t=HALF, noise=noise, index=1, n_steps=6, step_size=0.3, n_leapfrogs=1, damping=0.0)
    expected, decisions = textbook(GAUSSIANS, x, log_accept=by_proposals, **plan)
    assert torch.equal(torch.stack(seen), decisions)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    for mistake in ({"spread": 2.0 * h**2}, {"reverse": "at the forward mean"}):
        wrong = functools.partial(by_proposals, **mistake)
        _, others = textbook(GAUSSIANS, x, log_accept=wrong, **plan)
        assert (others != decisions).double().mean().item() > 0.02
    same = Hamiltonian(n_steps=6, step_size=0.3, n_leapfrogs=1, damping=0.0)
    assert torch.equal(at_level(same, GAUSSIANS, x, noise=noise), out)


def test_many_points_decide_as_the_density_does():
    seen = []
    hmc = Hamiltonian(
        n_steps=3,
        step_size=0.5,
        n_leapfrogs=2,
        damping=0.0,
        n_quadrature=12,
        on_accept=lambda t, rows: seen.append(rows),
    )
    noise = Chance(3000)
    x = noise.draw(0)
    expected, decisions = textbook(
        MODES,
        x,
        t=HALF,
        noise=noise,
        index=1,
        n_steps=3,
        step_size=0.5,
        n_leapfrogs=2,
        damping=0.0,
        log_accept=by_momenta,
    )
    torch.testing.assert_close(at_level(hmc, MODES, x, noise=noise), expected, rtol=0, atol=1e-9)
    assert torch.equal(torch.stack(seen), decisions)


numbers = st.floats(-2.0, 2.0)
widths = st.floats(0.05, 1.5)
portions = st.floats(0.2, 2.0)


@settings(max_examples=25, deadline=None)
@given(
    members=st.lists(st.tuples(numbers, widths, portions), min_size=1, max_size=3),
    step_size=st.floats(0.02, 0.3),
    t=st.floats(0.05, 0.95),
    n_leapfrogs=st.integers(1, 3),
)
def test_any_sum_of_gaussians_is_kept(members, step_size, t, n_leapfrogs):
    parts = tuple(GaussianDenoiser(PATH, mean, std) for mean, std, _ in members)
    both = SumOfScores(parts, tuple(w for _, _, w in members))
    precision = sum(w / ((1 - t) ** 2 * s**2 + t**2) for _, s, w in members)
    tilt = sum(w * (1 - t) * m / ((1 - t) ** 2 * s**2 + t**2) for m, s, w in members)
    target, variance = tilt / precision, 1.0 / precision
    # unadjusted: (5) is kept, and the mean nears that of the target by the factor of one step
    wide = settled(step_size, variance, sigma=t)
    noise = Impulses(n_rows=20)
    start = target + 1.0 + math.sqrt(wide) * noise.draw(0)
    ula = Langevin(n_steps=5, step_size=step_size, largest_step_size=1.0)
    mean, found = moments(at_level(ula, both, start, t=t, noise=noise))
    assert found == pytest.approx(wide, rel=1e-9)
    shrink = 1.0 - step_size * t**2 / variance
    assert mean - target == pytest.approx(shrink**5, abs=1e-9)
    # with rejection: every decision is that of the density
    seen = []
    hmc = Hamiltonian(
        n_steps=2,
        step_size=step_size,
        n_leapfrogs=n_leapfrogs,
        damping=0.5,
        on_accept=lambda t, rows: seen.append(rows),
    )
    noise = Chance(50, (2, 2))
    x = target + math.sqrt(variance) * noise.draw(0)
    expected, decisions = textbook(
        both,
        x,
        t=t,
        noise=noise,
        index=1,
        n_steps=2,
        step_size=step_size,
        n_leapfrogs=n_leapfrogs,
        damping=0.5,
        log_accept=by_momenta,
    )
    torch.testing.assert_close(
        at_level(hmc, both, x, t=t, noise=noise), expected, rtol=0, atol=1e-8
    )
    assert torch.equal(torch.stack(seen), decisions)


# --- annealed targets, in the loop ----------------------------------------------------------------

ANNEALED = KarrasPath(sigma_min=0.02, sigma_max=5.0)


def gaussians(weights, *members):
    return SumOfScores(tuple(GaussianDenoiser(ANNEALED, *m) for m in members), weights)


PRODUCT = gaussians((1.0, 1.0), (-1.0, 0.5), (1.0, 0.5))
CONVEX = gaussians((0.5, 0.5), (-1.0, 1.0), (1.0, 0.25))
CONJUNCTION = gaussians((-1.0, 1.5, 0.5), (0.0, 1.0), (1.0, 0.5), (-0.5, 0.5))
# precision 1 + 2 (1/0.25 - 1) = 7, mean (1.5 - 0.25)/0.25/7
CONJUNCTION_TARGET = (5.0 / 7.0, 1.0 / 7.0)


def annealed_moments(denoiser, n_steps, rule, correct=None):
    """Return exact mean and variance of what ``sample`` makes of an affine denoiser."""
    times = grid(ANNEALED, n_steps, "log_snr")
    noise = Impulses(n_rows=2 + n_steps * (1 + (0 if correct is None else correct.n_steps)))
    start = 5.0 * sum(denoiser.weights) ** -0.5 * noise.draw(0)
    return moments(sample(denoiser, start, times, None, rule=rule, noise=noise, correct=correct))


@pytest.mark.parametrize(
    ("rule", "n_steps", "variance"),
    [(ddim, 300, 0.0), (sde, 300, 0.0833), (functools.partial(sde, churn=10.0), 1000, 0.1190)],
)
def test_a_product_without_correction_misses(rule, n_steps, variance):
    mean, found = annealed_moments(PRODUCT, n_steps, rule)
    assert mean == pytest.approx(0.0, abs=1e-6)
    assert found == pytest.approx(variance, rel=0.04, abs=2e-3)


ULA = Langevin(n_steps=60)
UHMC = UnderdampedHamiltonian(n_steps=10)


@pytest.mark.parametrize("correct", [ULA, UHMC])
@pytest.mark.parametrize(
    ("denoiser", "target"),
    [(PRODUCT, (0.0, 0.125)), (CONVEX, (0.8824, 0.1176)), (CONJUNCTION, CONJUNCTION_TARGET)],
)
def test_unadjusted_correctors_reach_the_target(denoiser, target, correct):
    mean, variance = annealed_moments(denoiser, 30, ddpm, correct)
    assert mean == pytest.approx(target[0], abs=0.02)
    assert variance == pytest.approx(target[1], rel=0.03)


@pytest.mark.parametrize(
    "correct",
    [
        MetropolisLangevin(n_steps=12, step_size=0.5),
        Hamiltonian(n_steps=4, step_size=0.2, damping=0.5),
    ],
)
@pytest.mark.parametrize(
    ("denoiser", "target"),
    [(PRODUCT, (0.0, 0.125)), (CONVEX, (0.8824, 0.1176)), (CONJUNCTION, CONJUNCTION_TARGET)],
)
def test_rejecting_correctors_reach_the_target(denoiser, target, correct):
    # Errors of 8000 draws: 0.004 of a mean, 1.6 % of a variance.
    noise = Chance(8000)
    start = 5.0 * sum(denoiser.weights) ** -0.5 * noise.draw(0)
    times = grid(ANNEALED, 30, "log_snr")
    out = sample(denoiser, start, times, None, rule=ddpm, noise=noise, correct=correct)
    assert out.mean().item() == pytest.approx(target[0], abs=0.02)
    assert out.var().item() == pytest.approx(target[1], rel=0.05)


def test_without_correction_unequal_widths_miss():
    """What the correctors of the two tests above repair."""
    mean, variance = annealed_moments(CONVEX, 500, sde)
    assert mean == pytest.approx(0.600, abs=0.01)
    assert variance == pytest.approx(0.185, rel=0.02)
    mean, variance = annealed_moments(CONJUNCTION, 500, sde)
    assert variance < 0.8 * CONJUNCTION_TARGET[1]
