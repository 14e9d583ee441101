r"""MCMC at one noise level: what makes the samples of a composition follow its target.

A sum of scores is the score of an annealed density pi_t at every level, but a reverse diffusion
that follows it does not pass through the pi_t. Moves that leave pi_t as it is, made at each level
the sampler reaches, bring the samples there. The score comes from the denoiser, and all moves are
leapfrog steps with unit normal momentum v, in units of the noise level::

    (1)  f = sigma score = (alpha D - x)/sigma
    (2)  v <- damping v + sqrt(1 - damping^2) z              v = z at the first step of a level
    (3)  v_half = v + e f(x)/2,  x' = x + sigma e v_half,  v' = v_half + e f(x')/2
    (4)  e = sqrt(2 step_size),  h = step_size sigma^2

With one leapfrog and no damping, (3) is the Langevin step ``x' = x + h score(x) + sqrt(2h) z``.
Never rejecting makes the moves cheaper and biased: on a density of variance s^2 they settle at

    (5)  s^2/(1 - h/(2 s^2)),  for h < 2 s^2, with any number of leapfrogs and any damping

which for one denoiser (s >= sigma) and ``step_size <= 0.1`` is at most 5.3 % too wide, and for a
product whose weights sum to W (s^2 >= sigma^2/W) at most 1/(1 - step_size W/2). The others accept a
proposal, row by row, where

    (6)  log u < log pi(x') - log pi(x) - (|v'|^2 - |v|^2)/2,   u uniform in (0, 1)

and otherwise keep x and turn v around. There is no density, only its score, so

    (7)  log pi(x') - log pi(x) = sum over leapfrogs x_a -> x_b = x_a + d of
                                  int_0^1 score(x_a + c d) . d dc

by Gauss-Lobatto quadrature with ``n_quadrature`` points, exact for polynomials of degree
2 n_quadrature - 2 as log pi: two points, the trapezoid rule, cost nothing and are exact for
Gaussians. For Langevin proposals (6) is the usual ratio with q(x|x') = N(x' + h score(x'), 2h).
The score of a network is not quite a gradient, and (6) holds as nearly as it is one.

A move spreads by sqrt(2 h) and h shrinks with sigma^2, so moves at levels far below the width of
the target do little; those at levels near it do the work. Use a grid that has many of them and ends
in a short step (``log_snr``), because the step to the clean end is not corrected. A product of two
equal Gaussians, sampled in 30 such steps of ``ddpm`` from sigma 5 to 0.02 with 12 or 13 evaluations
at every level, has a variance that is too small by 9.9 % (ula), 5.8 % (mala), 1.9 % (uhmc), 2.0 %
(hmc), for chunks of 1 to 112 entries alike, and by 48 % without correction. Between two modes three
of their widths apart, MALA with ``step_size`` 0.15 is off by 0.017 in total variation with two
points of (7), by 0.0002 with three.

Sources: arXiv 2302.11552 (predictor and annealed MCMC; there h is a multiple of beta of a level,
(7) has learned energies), Horowitz 1991 for the sign of v in (6). (5) is derived here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool
from numpy.polynomial.legendre import Legendre
from torch import Tensor

from genpolicy.errors import UsageError, check_options, nearest
from genpolicy.paths import Path
from genpolicy.paths.base import scalar_alpha_sigma
from genpolicy.sampling.loop import Denoise
from genpolicy.sampling.noise import NoiseSource
from genpolicy.shapes import Chunk

__all__ = [
    "CORRECTORS",
    "Hamiltonian",
    "Langevin",
    "MetropolisLangevin",
    "OnAccept",
    "UnderdampedHamiltonian",
    "make_corrector",
]

OnAccept: TypeAlias = Callable[[float, Bool[Tensor, " batch"]], None]
"""Told the time of the level and which rows were accepted, once per proposal."""


@dataclass(frozen=True, kw_only=True)
class _Moves:
    """What a corrector does at one level, by the names of its fields.

    ``n_quadrature`` None is never to reject.
    """

    n_steps: int
    step_size: float
    n_leapfrogs: int = 1
    damping: float = 0.0
    n_quadrature: int | None = None
    largest_step_size: float | None = None
    on_accept: OnAccept | None = None

    def check(self, owner: str) -> None:
        """Raise ``UsageError`` for values out of range."""
        for name, least in (("n_steps", 1), ("n_leapfrogs", 1), ("n_quadrature", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{owner}: {name} is {value}, expected at least {least}")
        if not 0.0 < self.step_size < math.inf:
            raise UsageError(
                f"{owner}: step_size is {self.step_size}, expected a positive number: the step in "
                "units of sigma^2 of the level"
            )
        if self.largest_step_size is not None and self.step_size > self.largest_step_size:
            raise UsageError(
                f"{owner}: step_size is {self.step_size}, expected at most largest_step_size = "
                f"{self.largest_step_size}: steps that are never rejected widen the samples; raise "
                "largest_step_size as well, or use 'mala' or 'hmc'"
            )
        if not 0.0 <= self.damping < 1.0:
            raise UsageError(f"{owner}: damping is {self.damping}, expected a value in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class _Corrector:
    """What the correctors share: where they act, the check of their settings, and the call."""

    levels: Sequence[float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        owner = type(self).__name__
        object.__setattr__(self, "levels", tuple(float(t) for t in self.levels))
        if len(self.levels) != 2 or not 0.0 <= self.levels[0] <= self.levels[1] <= 1.0:
            raise UsageError(
                f"{owner}: levels is {self.levels}, expected the smallest and the largest path "
                "time at which it acts, within [0, 1]"
            )
        self._moves.check(owner)

    @property
    def _moves(self) -> _Moves:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del values["levels"]
        return _Moves(**values)

    @property
    def nfe_per_level(self) -> int:
        """Network evaluations at a level where it acts."""
        moves = self._moves
        n_leapfrogs = moves.n_steps * moves.n_leapfrogs
        if moves.n_quadrature is None:
            return n_leapfrogs
        return 1 + n_leapfrogs * (moves.n_quadrature - 1)

    def __call__(
        self, x: Chunk, t: float, *, denoise: Denoise, path: Path, noise: NoiseSource, index: int
    ) -> Chunk:
        """Return the state after the moves at level ``t``.

        Args:
            x: state at ``t``; it is left as it is.
            t: time of the state; outside ``levels`` the state is returned as it came.
            denoise: the denoiser, whose score at ``t`` is followed.
            path: its path.
            noise: step ``i`` draws streams ``2i + 1`` (momentum) and ``2i + 2`` (acceptance).
            index: index of the draws.

        Raises:
            UsageError: where sigma is 0: the clean end has no score.

        Cost: ``nfe_per_level`` network evaluations.
        """
        if len(x) == 0 or not self.levels[0] <= t <= self.levels[1]:
            return x
        alpha, sigma = scalar_alpha_sigma(path, t)
        if sigma <= 0.0:
            raise UsageError(
                f"{type(self).__name__}: sigma is {sigma} at time {t}, where there is no score; "
                "correct at later times only, levels=(path.t_min, 1.0)"
            )
        time = x.new_full((len(x),), t)

        def force(state: Chunk) -> Chunk:
            return (alpha * denoise(state, time) - state) / sigma

        level = _Level(t=t, sigma=sigma, force=force)
        return _moved(self._moves, level, x, noise, index)


@dataclass(frozen=True, kw_only=True)
class Langevin(_Corrector):
    """Unadjusted Langevin steps (ULA): ``x <- x + h score(x) + sqrt(2h) z``, biased by (5).

    Args:
        n_steps: steps at every level, at least 1.
        step_size: h in units of sigma^2 of the level, in (0, ``largest_step_size``].
        levels: smallest and largest path time at which it acts, within [0, 1].
        largest_step_size: guards the bias (5); raise it to go further.

    Raises:
        UsageError: for values outside these ranges.

    Source: arXiv 2302.11552 section 4.2. Difference: h is not 2 beta of the level, which is far
        beyond what is stable at the noise end of a cosine schedule.

    Cost: ``n_steps`` network evaluations per level.
    """

    n_steps: int = 10
    step_size: float = 0.1
    largest_step_size: float = 0.1


@dataclass(frozen=True, kw_only=True)
class MetropolisLangevin(_Corrector):
    """Langevin proposals, each row accepted or not by (6) (MALA): no bias for Gaussians.

    Args:
        n_steps: proposals at every level, at least 1.
        step_size: h in units of sigma^2 of the level, positive. Acceptance falls with it, with the
            size of a chunk and with the total weight of a product; aim at 0.6 to 0.9. The default
            makes 0.95 of 32 entries for W = 1, 0.85 for W = 2.
        n_quadrature: points of (7) per proposal, at least 2; more than 2 for targets with modes.
        levels: smallest and largest path time at which it acts, within [0, 1].
        on_accept: told (time, accepted rows) after every proposal; None for nobody.

    Raises:
        UsageError: for values outside these ranges.

    Source: arXiv 2302.11552 section 4.2 and its appendix. Differences: (7) instead of an energy,
        and every row decides for itself.

    Cost: ``1 + n_steps (n_quadrature - 1)`` network evaluations per level.
    """

    n_steps: int = 10
    step_size: float = 0.2
    n_quadrature: int = 2
    on_accept: OnAccept | None = None


@dataclass(frozen=True, kw_only=True)
class UnderdampedHamiltonian(_Corrector):
    """Leapfrogs with a momentum that lives through a level, never rejected (UHMC); biased by (5).

    Args:
        n_steps: runs of leapfrogs at every level, at least 1.
        step_size: h of (4), that is e^2/2, of one leapfrog, in (0, ``largest_step_size``].
        n_leapfrogs: leapfrogs between two refreshments of the momentum, at least 1.
        damping: part of the momentum that a refreshment keeps, in [0, 1).
        levels: smallest and largest path time at which it acts, within [0, 1].
        largest_step_size: guards the bias (5); raise it to go further.

    Raises:
        UsageError: for values outside these ranges.

    Source: arXiv 2302.11552 section 4.2 (there a mass M: here M = 1/sigma); damping 0.5, three
        leapfrogs as in its code.

    Cost: ``n_steps n_leapfrogs`` network evaluations per level.
    """

    n_steps: int = 4
    step_size: float = 0.1
    n_leapfrogs: int = 3
    damping: float = 0.5
    largest_step_size: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Hamiltonian(_Corrector):
    """Runs of leapfrogs, each row accepted or not by (6) (HMC): no bias for Gaussians.

    Args:
        n_steps: proposals at every level, at least 1.
        step_size: h of (4), that is e^2/2, of one leapfrog, positive; the default accepts 0.96 of
            chunks of 32 entries for W = 1, 0.90 for W = 2, and 0.75 of 112 entries there.
        n_leapfrogs: leapfrogs per proposal, at least 1.
        damping: part of the momentum that a refreshment keeps, in [0, 1). A rejected row turns its
            momentum around, so much damping needs high acceptance.
        n_quadrature: points of (7) per leapfrog, at least 2; more than 2 for targets with modes.
        levels: smallest and largest path time at which it acts, within [0, 1].
        on_accept: told (time, accepted rows) after every proposal; None for nobody.

    Raises:
        UsageError: for values outside these ranges.

    Source: arXiv 2302.11552 section 4.2; Horowitz 1991 for damping with rejection, which needs the
        turned momentum.

    Cost: ``1 + n_steps n_leapfrogs (n_quadrature - 1)`` network evaluations per level.
    """

    n_steps: int = 4
    step_size: float = 0.1
    n_leapfrogs: int = 3
    damping: float = 0.5
    n_quadrature: int = 2
    on_accept: OnAccept | None = None


AnyCorrector: TypeAlias = Langevin | MetropolisLangevin | UnderdampedHamiltonian | Hamiltonian

CORRECTORS: Mapping[str, type[AnyCorrector]] = {
    "ula": Langevin,
    "mala": MetropolisLangevin,
    "uhmc": UnderdampedHamiltonian,
    "hmc": Hamiltonian,
}
"""The correctors by name."""


def make_corrector(name: str, options: Mapping[str, Any] | None = None) -> AnyCorrector:
    """Return a corrector by name.

    Args:
        name: a key of ``CORRECTORS``.
        options: its fields, for example ``{"n_steps": 20}``; None leaves all at their defaults.

    Raises:
        UsageError: for an unknown corrector, a setting that it does not have, or a bad value.
    """
    if name not in CORRECTORS:
        raise UsageError(f"corrector is {name!r}; {nearest(name, CORRECTORS)}")
    options = {} if options is None else options
    known = [field.name for field in dataclasses.fields(CORRECTORS[name])]
    check_options(f"corrector {name!r}", options, known)
    return CORRECTORS[name](**options)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Level:
    """Time and sigma of a level, and its force (1)."""

    t: float
    sigma: float
    force: Callable[[Chunk], Chunk]


def _moved(moves: _Moves, level: _Level, x: Chunk, noise: NoiseSource, index: int) -> Chunk:
    """Return the state after all moves at one level."""
    e = math.sqrt(2.0 * moves.step_size)
    keep, renew = moves.damping, math.sqrt(1.0 - moves.damping**2)
    nodes = None if moves.n_quadrature is None else _lobatto(moves.n_quadrature)
    force = level.force(x)
    v = noise.draw(index, stream=1)
    for step in range(moves.n_steps):
        if step > 0:
            v = keep * v + renew * noise.draw(index, stream=2 * step + 1)
        x_new, v_new, force_new = x, v, force
        log_ratio = 0.5 * _per_row(v.square())
        for leapfrog in range(moves.n_leapfrogs):
            half = v_new + 0.5 * e * force_new
            change = e * half  # in units of sigma
            start, x_new = x_new, x_new + level.sigma * change
            is_last = step == moves.n_steps - 1 and leapfrog == moves.n_leapfrogs - 1
            if nodes is None and is_last:
                return x_new  # nothing needs the force here
            force_end = level.force(x_new)
            if nodes is not None:
                gain = nodes[0][1] * (force_new + force_end)
                for place, weight in nodes[1:]:
                    gain = gain + weight * level.force(start + (place * level.sigma) * change)
                log_ratio = log_ratio + _per_row(gain * change)
            force_new = force_end
            v_new = half + 0.5 * e * force_new
        if nodes is None:
            x, v, force = x_new, v_new, force_new
            continue
        log_ratio = log_ratio - 0.5 * _per_row(v_new.square())
        # The distribution function of a normal makes it uniform. A proposal whose ratio is not a
        # number is rejected.
        normal = noise.draw(index, stream=2 * step + 2).flatten(1)[:, 0].double()
        accepted = (0.5 * torch.erfc(-math.sqrt(0.5) * normal)).log() < log_ratio
        if moves.on_accept is not None:
            moves.on_accept(level.t, accepted)
        rows = accepted.reshape(-1, 1, 1)
        x = torch.where(rows, x_new, x)
        v = torch.where(rows, v_new, -v)
        force = torch.where(rows, force_new, force)
    return x


def _per_row(values: Chunk) -> Tensor:
    """Return the sum of each row, in float64."""
    return values.double().flatten(1).sum(1)


@functools.cache
def _lobatto(n_points: int) -> tuple[tuple[float, float], ...]:
    """Return places in [0, 1] and weights of Gauss-Lobatto quadrature.

    The first entry stands for both ends; the places between follow.
    """
    basis = Legendre.basis(n_points - 1)
    scale = 1.0 / (n_points * (n_points - 1))
    inner = [float(place) for place in basis.deriv().roots()] if n_points > 2 else []
    weights = [scale / float(basis(place)) ** 2 for place in inner]
    places = [0.5 * (1.0 + place) for place in inner]
    return ((0.0, scale), *zip(places, weights, strict=True))
