"""Correctors: rows, rejected proposals, arguments, cost, levels and settings."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from genpolicy.denoisers import Kind
from genpolicy.errors import UsageError
from genpolicy.paths import CosinePath, Path, expand_t, grid
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
)
from tests.oracles import GaussianDenoiser
from tests.sampling.correcting import (
    GAUSSIANS,
    HALF,
    PATH,
    Chance,
    at_level,
)

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
