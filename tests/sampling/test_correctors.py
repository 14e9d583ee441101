"""Correctors: exact stationary moments, textbook acceptance, rows, cost, and the annealed targets.

On Gaussians the unadjusted correctors are affine in x and in the noise, so their moments are read
off impulses, exactly. The others are compared, draw by draw, with a plain implementation that knows
the log-density and evaluates everything anew; moments by chance are few, with their errors stated.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genpolicy.denoisers import Kind
from genpolicy.errors import UsageError
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, Path, expand_t, grid
from genpolicy.sampling import (
    CORRECTORS,
    Corrector,
    Hamiltonian,
    Langevin,
    MetropolisLangevin,
    RowNoise,
    UnderdampedHamiltonian,
    ddim,
    ddpm,
    make_corrector,
    sample,
    sde,
)
from tests.oracles import GaussianDenoiser, MixtureDenoiser

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
    object.__setattr__(corrector, "on_accept", lambda t, rows: seen.append((t, rows)))
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


GAUSSIANS = SumOfScores(
    (GaussianDenoiser(PATH, -1.0, 0.5), GaussianDenoiser(PATH, 1.0, 0.2)), (0.7, 1.1)
)


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


# --- rows, state and cost -------------------------------------------------------------------------

SHORT = {
    "ula": Langevin(n_steps=3),
    "mala": MetropolisLangevin(n_steps=4, step_size=0.6),
    "uhmc": UnderdampedHamiltonian(n_steps=2),
    "hmc": Hamiltonian(n_steps=3, step_size=0.5, damping=0.5),
}


@dataclass(frozen=True)
class TwoPoints:
    """The posterior mean of entries that are -1 or 1, elementwise."""

    path: Path
    kind: ClassVar[Kind] = "posterior_mean"

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        alpha, sigma = (expand_t(v, x_t) for v in self.path.alpha_sigma(t))
        return torch.tanh(alpha / sigma**2 * x_t)


@pytest.mark.parametrize("name", CORRECTORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_does_not_depend_on_the_rows_beside_it(name, dtype):
    modes = TwoPoints(CosinePath())
    rates = []

    def run(seeds):
        noise = RowNoise(list(seeds), (5, 3), dtype=dtype)
        correct = SHORT[name]
        if name in ("mala", "hmc"):
            correct = make_corrector(
                name,
                {"n_steps": 4, "step_size": 0.5, "on_accept": lambda t, rows: rates.append(rows)},
            )
        times = grid(modes.path, 6)
        return sample(modes, noise.draw(0), times, None, rule=ddpm, noise=noise, correct=correct)

    together = run(range(40))
    assert together.dtype == dtype
    if rates:
        assert 0.1 < torch.stack(rates).double().mean().item() < 0.95
    for row in (3, 17):
        assert torch.equal(run([row]), together[[row]])
    assert torch.equal(run([25, 0, 39]), together[[25, 0, 39]])


@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_rejection_leaves_a_row_as_it_was(name):
    seen = []
    correct = make_corrector(
        name, {"n_steps": 1, "step_size": 0.7, "on_accept": lambda t, rows: seen.append(rows)}
    )
    x = 0.5 * Chance(500, (3, 2)).draw(0)
    before = x.clone()
    out = at_level(correct, GAUSSIANS, x, noise=Chance(500, (3, 2)))
    accepted = seen[0]
    assert 0 < accepted.sum() < 500
    assert torch.equal(out[~accepted], before[~accepted])
    assert (out != before).flatten(1).all(1).equal(accepted)
    assert torch.equal(x, before)
    # steps that leave the stable range are all rejected, and rejected again
    wild = make_corrector(name, {"n_steps": 5, "step_size": 1e6})
    assert torch.equal(at_level(wild, GAUSSIANS, x, noise=Chance(500, (3, 2))), before)


@pytest.mark.parametrize("name", ["mala", "hmc"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_proposals_where_the_network_is_not_finite_are_rejected(name, value):
    class Holed(GaussianDenoiser):
        def __call__(self, x_t, t, cond=None):
            out = super().__call__(x_t, t, cond)
            return torch.where(x_t > 0.5, value, out)

    x = torch.linspace(0.0, 0.5, 500, dtype=torch.float64).reshape(-1, 1, 1)
    out = at_level(SHORT[name], Holed(PATH, 0.0, 0.5), x, noise=Chance(500))
    assert bool((out <= 0.5).all())
    assert not torch.equal(out, x)


@pytest.mark.parametrize("name", CORRECTORS)
def test_arguments_are_left_as_they_are(name):
    x = Chance(20).draw(0)
    before = x.clone()
    out = at_level(SHORT[name], GAUSSIANS, x, noise=Chance(20))
    assert torch.equal(x, before)
    assert not torch.equal(out, x)
    assert torch.equal(at_level(SHORT[name], GAUSSIANS, x, noise=Chance(20)), out)
    empty = torch.zeros(0, 4, 2)
    assert at_level(SHORT[name], GAUSSIANS, empty, noise=RowNoise([], (4, 2))).shape == (0, 4, 2)


@pytest.mark.parametrize(
    ("correct", "nfe"),
    [
        (Langevin(n_steps=7), 7),
        (MetropolisLangevin(n_steps=7), 8),
        (MetropolisLangevin(n_steps=7, n_quadrature=4), 22),
        (UnderdampedHamiltonian(n_steps=2, n_leapfrogs=3), 6),
        (Hamiltonian(n_steps=2, n_leapfrogs=3), 7),
        (Hamiltonian(n_steps=2, n_leapfrogs=3, n_quadrature=3), 13),
    ],
)
def test_scores_are_evaluated_once(correct, nfe):
    """And every draw has its own stream, above the 0 of the sampler."""
    times, streams = [], []

    class Spy(GaussianDenoiser):
        def __call__(self, x_t, t, cond=None):
            times.append(t)
            return super().__call__(x_t, t, cond)

    class Listed(Chance):
        def draw(self, index, *, stream=0):
            streams.append((index, stream))
            return super().draw(index, stream=stream)

    x = Chance(4).draw(0)
    at_level(correct, Spy(PATH), x, t=0.25, noise=Listed(4), index=9)
    assert len(times) == nfe == correct.nfe_per_level
    assert all(t.tolist() == [0.25] * 4 for t in times)
    assert len(set(streams)) == len(streams)
    assert all(index == 9 and stream >= 1 for index, stream in streams)


def test_the_score_is_that_of_the_level_reached():
    asked = []

    class Spy(GaussianDenoiser):
        def __call__(self, x_t, t, cond=None):
            asked.append(t[0].item())
            return super().__call__(x_t, t, cond)

    noise = RowNoise([1, 2], (4, 2), dtype=torch.float64)
    levels = [0.9, 0.6, 0.3, 0.1, 0.0]
    run = functools.partial(sample, Spy(PATH), noise.draw(0), levels, None, rule=ddim, noise=noise)
    run(correct=Langevin(n_steps=2))
    assert asked == [0.9, 0.6, 0.6, 0.6, 0.3, 0.3, 0.3, 0.1, 0.1, 0.1]
    asked.clear()
    run(correct=Langevin(n_steps=2, levels=(0.2, 0.5)))
    assert asked == [0.9, 0.6, 0.3, 0.3, 0.3, 0.1]


def test_momentum_does_not_outlive_a_level():
    x = Chance(50).draw(0)
    runs = [
        at_level(
            UnderdampedHamiltonian(n_steps=n_steps, damping=damping),
            GAUSSIANS,
            x,
            noise=Chance(50),
        )
        for n_steps in (1, 2)
        for damping in (0.0, 0.9)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[2], runs[3])


def test_one_leapfrog_is_a_langevin_step():
    x = Chance(50).draw(0)
    leapfrog = UnderdampedHamiltonian(n_steps=5, n_leapfrogs=1, damping=0.0)
    out = at_level(Langevin(n_steps=5), GAUSSIANS, x, noise=Chance(50))
    assert torch.equal(at_level(leapfrog, GAUSSIANS, x, noise=Chance(50)), out)
    h, time, noise = 0.1 * HALF**2, x.new_full((50,), HALF), Chance(50)
    for step in range(5):
        score = (0.5 * GAUSSIANS(x, time) - x) / HALF**2
        x = x + h * score + math.sqrt(2 * h) * noise.draw(1, stream=2 * step + 1)
    torch.testing.assert_close(out, x, rtol=0, atol=1e-12)


# --- settings -------------------------------------------------------------------------------------


def test_correctors_by_name():
    assert make_corrector("ula") == Langevin()
    built = make_corrector("hmc", {"n_steps": 2, "levels": [0.1, 0.8]})
    assert built == Hamiltonian(n_steps=2, levels=(0.1, 0.8))
    for name in CORRECTORS:
        assert isinstance(make_corrector(name), Corrector)
        assert hash(make_corrector(name)) == hash(make_corrector(name))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mal", {}, "corrector is 'mal'; did you mean 'mala'"),
        ("ula", {"step": 0.1}, "corrector 'ula' has no option 'step'; did you mean .*'step_size'"),
        ("ula", {"damping": 0.1}, "has no option 'damping'; valid names: largest_step_size"),
        ("ula", {"step_size": 0.2}, "at most largest_step_size = 0.1:.*or use 'mala' or 'hmc'"),
        ("uhmc", {"step_size": 0.2}, "UnderdampedHamiltonian: step_size is 0.2"),
        ("mala", {"step_size": 0.0}, "step_size is 0.0, expected a positive number"),
        ("mala", {"step_size": math.nan}, "step_size is nan, expected a positive number"),
        ("mala", {"step_size": math.inf}, "step_size is inf, expected a positive number"),
        ("mala", {"n_steps": 0}, "MetropolisLangevin: n_steps is 0, expected at least 1"),
        ("mala", {"n_quadrature": 1}, "n_quadrature is 1, expected at least 2"),
        ("hmc", {"n_leapfrogs": 0}, "n_leapfrogs is 0, expected at least 1"),
        ("hmc", {"damping": 1.0}, r"damping is 1.0, expected a value in \[0, 1\)"),
        ("hmc", {"damping": -0.1}, "damping is -0.1"),
        ("hmc", {"levels": (0.8, 0.1)}, r"levels is \(0.8, 0.1\), expected the smallest"),
        ("hmc", {"levels": (0.5,)}, r"levels is \(0.5,\)"),
        ("hmc", {"levels": (0.5, 1.5)}, r"within \[0, 1\]"),
    ],
)
def test_wrong_settings_are_refused(name, options, message):
    with pytest.raises(UsageError, match=message):
        make_corrector(name, options)


def test_the_clean_end_has_no_score():
    x = Chance(3).draw(0)
    with pytest.raises(UsageError, match=r"sigma is 0\.0 at time 0.0, where there is no score"):
        at_level(Langevin(), GAUSSIANS, x, t=0.0, noise=Chance(3))
    spared = Langevin(levels=(0.01, 1.0))
    assert at_level(spared, GAUSSIANS, x, t=0.0, noise=Chance(3)) is x
