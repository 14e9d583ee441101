r"""Weighted particles: samples of exactly the density a composition is meant to sample.

Consecutive rows of the batch form groups. The rows of one group run the same sampler side by side,
each carries a weight w for how far the sampler is from the target, and where the weights of a group
become too unequal its rows are drawn anew from themselves. With many rows and small steps the rows
of a group follow the target whatever the amount of noise of the rule.

**Sums of scores.** In variance-exploding coordinates (state y = x/alpha, level sigma/alpha, called
sigma here) a composition with the score S = sum_i w_i s_i is meant to pass through pi_sigma, the
product of p_i,sigma^w_i. Each p_i solves the heat equation, so with v = sigma^2::

    (1)  d log pi/dv  = (div S + sum_i w_i |s_i|^2)/2
    (2)  a reverse diffusion that follows S, with any churn, moves mass as (div S + |S|^2)/2 would
    (3)  d log w      = (|S|^2 - sum_i w_i |s_i|^2)/2 |dv| = rate |d ln sigma|
    (4)  step t -> s:   (rate_t + rate_s)/2 ln(sigma_t/sigma_s)
    (5)  step to the clean end:      rate_t/2
    (6)  step from alpha = 0:        rate_s/2

``rate`` is that of ``Weighable.weigh``. (5) is (3) in its form in v with the scores of time t: they
stay finite, so the rate vanishes like v and the infinite ln sigma costs nothing. (6) is its mirror
image: members whose weights sum to 1 agree at high levels, and the rate vanishes like 1/v. (4) ends
in a rate that the next evaluation brings, so the weight of a state is known only once the denoiser
has seen it; what is drawn anew are then the states one step on, which inherit it.

**Tilts.** For p exp(-scale cost) let psi_t(x_t) = exp(potential) be what the guide believes the
tilt will be, D the plain and D_g the guided denoised action, z the noise of the step::

    (7)  w_s/w_t = psi_s(x_s)/psi_t(x_t) N(x_s; plain step)/N(x_s; guided step)
    (8)  log of the last factor: (|z|^2 - |z + delta|^2)/2,  delta = c_denoised (D_g - D)/c_noise
    (9)  c_noise delta is reduced to c_noise^2 grad log psi_t where it is larger

with psi = exp(-scale cost) at the clean end, so the psi of all other times cancel: they only decide
when rows are drawn anew. Any delta is right in (7); (9) is the same for small steps of churn 1, and
keeps the weights of long steps alike. (8) needs noise, so the first step, the last one and
deterministic rules run unguided, where it is 0. A tilt of a sum of scores has both (3) and (7).

Sources: Feynman-Kac correctors, arXiv 2503.02819, for (3); twisted diffusion sampler, arXiv
2306.17775 algorithm 1, for (7); (4) to (6) and (9) are derived here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.composition.members import Member, Weighable, check_members, weigh_member
from genpolicy.composition.resampling import by_group, draw_rows, effective_size, gather
from genpolicy.denoisers import (
    Kind,
    SamplerClass,
    Step,
    Target,
    TrackingDenoiser,
    as_tracking,
    target_of,
)
from genpolicy.errors import UsageError
from genpolicy.paths import Path
from genpolicy.paths.base import scalar_alpha_sigma
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["ParticleCarry", "Particles", "Tilted"]

_NOTE = (
    "particles that get no noise collapse with the rule, and a corrector of a guided step counts "
    "its tilt twice"
)


@runtime_checkable
class Tilted(Protocol):
    """A guide towards ``p(x) exp(potential(x))``; its carry is that of ``inner``."""

    @property
    def inner(self) -> Member:
        """What is guided."""
        ...

    def parts(
        self, x_t: Chunk, t: Time, cond: Cond, carry: Any
    ) -> tuple[Chunk, Chunk, Float[Tensor, " batch"], Any]:
        """Return the plain and the guided denoised actions, the potential of (7), and the carry.

        The first two are one tensor at levels where the guide does not act; psi counts as 1 there.
        """
        ...

    def potential(self, denoised: Chunk) -> Float[Tensor, " batch"]:
        """Return the log of the tilt, ``-scale cost``, at clean actions; -inf forbids them."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleCarry:
    """What ``Particles`` remembers along a run.

    Args:
        inner: carry of the composition.
        log_weight: log-weights without psi.
        log_psi: log of psi at the last evaluation.
        rate: rate (3) at the last evaluation.
        before: ln sigma and rate of the evaluation before; None on the first step.
        pull: plain and guided denoised actions of a guided step; None on an unguided one.
        is_guided: whether the step that comes is guided.
        n_evaluations: evaluations since the last step.
    """

    inner: Any
    log_weight: Float[Tensor, " batch"]
    log_psi: Float[Tensor, " batch"]
    rate: Float[Tensor, " batch"]
    before: tuple[float, Float[Tensor, " batch"]] | None = None
    pull: tuple[Chunk, Chunk] | None = None
    is_guided: bool = False
    n_evaluations: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Particles:
    """A composition run as groups of weighted particles; the outermost wrapper of a denoiser.

    Use a rule with noise and one evaluation per step (``ddpm``, or ``sde`` with churn near 1): only
    fresh noise tells copies apart. Under a deterministic rule the weights are as valid, but where
    the rule collapses a composition no row is where the target is.

    Start from ``N(0, sigma_max^2/W)`` where the weights of the scores sum to W, which is what the
    product of the members is at high levels: ``Sampler(init_scale=W**-0.5)``.

    All rows of a group have to have the same condition, bounds and known entries, and known entries
    best the same noise. The rows of a group are exchangeable; groups do not depend on each other.

    Args:
        inner: ``Weighable`` (a sum of scores), ``Tilted`` (a cost), or a tilt of a sum.
        n_particles: rows of one group, at least 1; the bias is of order 1/n_particles.
        uniform: a function of the number of the step that returns one number in [0, 1) per group,
            the same for the same number. Number ``i`` is asked for after step ``i``.
        resample_below: draw a group anew where its effective size falls below this fraction of
            ``n_particles``, in [0, 1]; 0 is never, except at the end.
        on_ess: called with the time and the effective size of every group, ``(groups,)``, once per
            evaluation and once at the end.

    Raises:
        UsageError: for numbers outside these ranges, a flow map, or hidden weights.

    Cost: one evaluation of ``inner`` per row and step; two of its members where a tilt's inner
        denoiser is ``Weighable``.
    """

    inner: Member
    n_particles: int
    uniform: Callable[[int], Float[Tensor, " groups"]]
    resample_below: float = 0.5
    on_ess: Callable[[float, Float[Tensor, " groups"]], None] | None = None

    def __post_init__(self) -> None:
        check_members("Particles", [self.inner])
        if _is_unfollowed(self.inner):
            raise UsageError(
                "Particles: a guide or a sum of scores lies inside something that does not pass "
                "its weights on; put sums outside on_path and mixtures, and one guide around all"
            )
        if self.n_particles < 1:
            raise UsageError(f"Particles: n_particles is {self.n_particles}, expected at least 1")
        if not 0.0 <= self.resample_below <= 1.0:
            raise UsageError(
                f"Particles: resample_below is {self.resample_below}, expected a fraction in [0, 1]"
            )

    @property
    def path(self) -> Path:
        """Path of the inputs."""
        return self.inner.path

    @property
    def kind(self) -> Kind:
        """What the output means."""
        return self.inner.kind

    @property
    def target(self) -> Target | None:
        """Target of ``inner``, reached by particles; None for a trained denoiser.

        What ``inner`` refuses is accepted, but for rules without noise, under which all particles
        collapse together. Correctors of a tilt are refused: they would count psi twice.
        """
        found = target_of(self.inner)
        if found is None:
            return None
        is_tilt = isinstance(self.inner, Tilted)
        reached = dict.fromkeys((*found.unbiased, "particles"))
        refused: list[SamplerClass] = ["ode"] if "ode" in found.refused else []
        if is_tilt:
            refused.append("corrected")
            reached.pop("corrected", None)
        return dataclasses.replace(
            found,
            unbiased=tuple(reached),
            refused=tuple(refused),
            remedy="use rule='sde' without a corrector" if refused else found.remedy,
            note=_NOTE if refused else found.note,
        )

    @property
    def _tracked(self) -> TrackingDenoiser:
        return as_tracking(self.inner)

    def start(self, x_init: Chunk, cond: Cond) -> ParticleCarry:
        """Return the carry of a run with equal weights.

        Raises:
            UsageError: when the rows are no whole number of groups, or the conditions of a group
                differ.
        """
        if len(x_init) % self.n_particles != 0 or len(x_init) == 0:
            raise UsageError(
                f"Particles: got {len(x_init)} rows for groups of {self.n_particles}, expected a "
                "multiple; repeat every condition n_particles times"
            )
        if cond is not None:
            groups = cond.reshape(-1, self.n_particles, *cond.shape[1:])
            if not torch.equal(groups, groups[:, :1].expand_as(groups)):
                raise UsageError(
                    "Particles: the rows of a group have different conditions, expected one per "
                    "group; use cond.repeat_interleave(n_particles, dim=0)"
                )
        zeros = x_init.new_zeros(len(x_init), dtype=torch.float64)
        return ParticleCarry(
            inner=self._tracked.start(x_init, cond), log_weight=zeros, log_psi=zeros, rate=zeros
        )

    def denoise(
        self, x_t: Chunk, t: Time, cond: Cond, carry: ParticleCarry
    ) -> tuple[Chunk, ParticleCarry]:
        """Return the denoised actions of the composition and what they mean for the weights."""
        inner = self.inner
        if isinstance(inner, Tilted):
            rate = torch.zeros_like(carry.rate)
            if isinstance(inner.inner, Weighable):
                _, rate, _ = inner.inner.weigh(x_t, t, cond, carry.inner)
            plain, guided, log_psi, after = inner.parts(x_t, t, cond, carry.inner)
            if guided is plain:
                log_psi = torch.zeros_like(carry.rate)
        else:
            plain, rate, after = weigh_member(inner, x_t, t, cond, carry.inner)
            guided, log_psi = plain, torch.zeros_like(carry.rate)
        is_pulled = carry.is_guided and isinstance(inner, Tilted)
        seen = dataclasses.replace(
            carry,
            inner=after,
            log_psi=log_psi.detach().double(),
            rate=rate.detach().double(),
            pull=(plain, guided) if is_pulled else None,
            n_evaluations=carry.n_evaluations + 1,
        )
        return guided if is_pulled else plain, seen

    def shape_noise(self, noise: Chunk, carry: ParticleCarry) -> Chunk:
        """Return the noise as the composition shapes it."""
        return self._tracked.shape_noise(noise, carry.inner)

    def advance(self, carry: ParticleCarry, step: Step) -> tuple[Chunk, ParticleCarry]:
        """Return the rows to go on with, drawn anew where the weights call for it, and the carry.

        Raises:
            UsageError: for a rule with two evaluations or a memory, one that adds noise to some of
                its steps only, or a tilt whose run does not end at the clean end.
            NumericsError: when all weights of a group are 0, or one is not a number.
        """
        c_x = self._check(carry, step)
        level = _log_level(self.path, step.t)
        log_weight = carry.log_weight + _increment(carry.before, (level, carry.rate))
        groups = by_group(log_weight + carry.log_psi, self.n_particles, step.t)
        sizes = effective_size(groups)
        if self.on_ess is not None:
            self.on_ess(step.t, sizes)
        ratio = torch.zeros_like(log_weight)
        if carry.pull is not None:
            pulled, ratio = _pulled(self.path, carry.pull, step, c_x)
            step = dataclasses.replace(step, x_s=pulled)
        x_s, inner = self._tracked.advance(carry.inner, step)
        if step.index == step.n_steps - 1:
            return self._finish(dataclasses.replace(carry, inner=inner), step, x_s, log_weight)

        low = sizes < self.resample_below * self.n_particles
        after = dataclasses.replace(
            carry,
            inner=inner,
            before=(level, carry.rate),
            log_weight=log_weight + ratio,
            pull=None,
            is_guided=step.c_noise != 0.0 and step.index + 2 < step.n_steps,
            n_evaluations=0,
        )
        if not bool(low.any()):
            return x_s, after
        rows = draw_rows(groups, self.uniform(step.index).to(groups), low)
        reset = low.repeat_interleave(self.n_particles)
        fresh = ratio + torch.where(reset, -carry.log_psi, log_weight)
        after = dataclasses.replace(
            after,
            inner=gather(inner, rows),
            before=(level, carry.rate[rows]),
            log_weight=fresh[rows],
        )
        return x_s[rows], after

    def _check(self, carry: ParticleCarry, step: Step) -> float:
        """Return the factor of the state in the step; only one value of it fits a plain rule."""
        alpha_t, sigma_t = scalar_alpha_sigma(self.path, step.t)
        alpha_s, sigma_s = scalar_alpha_sigma(self.path, step.s)
        c_x = math.sqrt(max(sigma_s**2 - step.c_noise**2, 0.0)) / sigma_t
        fits = abs(step.c_denoised - (alpha_s - alpha_t * c_x)) < 1e-6
        if carry.n_evaluations != 1 or not fits:
            raise UsageError(
                "Particles: the rule evaluates twice per step or remembers the step before, which "
                "weights cannot follow; use rule='sde', 'ddpm' or 'ddim'"
            )
        if carry.pull is not None and (step.c_noise == 0.0 or step.noise is None):
            raise UsageError(
                f"Particles: step {step.index} is guided and adds no noise, after one that does; "
                "use a rule that adds noise to every step but the last, for example 'sde'"
            )
        return c_x

    def _finish(
        self, carry: ParticleCarry, step: Step, x_s: Chunk, log_weight: Float[Tensor, " batch"]
    ) -> tuple[Chunk, ParticleCarry]:
        """Return equally weighted rows at the end of the run."""
        alpha_t, sigma_t = scalar_alpha_sigma(self.path, step.t)
        alpha_s, sigma_s = scalar_alpha_sigma(self.path, step.s)
        left = (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2
        log_weight = log_weight + 0.5 * (1.0 - left) * carry.rate
        if isinstance(self.inner, Tilted):
            if sigma_s != 0.0:
                raise UsageError(
                    f"Particles: the run ends at time {step.s}, where the cost of clean actions is "
                    "not known; end it at 0"
                )
            log_weight = log_weight + self.inner.potential(x_s).detach().double()
        groups = by_group(log_weight, self.n_particles, step.s)
        if self.on_ess is not None:
            self.on_ess(step.s, effective_size(groups))
        everyone = torch.ones_like(groups[:, 0], dtype=torch.bool)
        rows = draw_rows(groups, self.uniform(step.index).to(groups), everyone)
        none, inner = torch.zeros_like(log_weight), gather(carry.inner, rows)
        return x_s[rows], ParticleCarry(inner=inner, log_weight=none, log_psi=none, rate=none)


def _log_level(path: Path, t: float) -> float:
    alpha, sigma = scalar_alpha_sigma(path, t)
    return math.log(sigma / alpha) if alpha > 0.0 else math.inf


def _increment(before: tuple[float, Tensor] | None, now: tuple[float, Tensor]) -> Tensor | float:
    """Return (4), or (6) where the step came from alpha = 0."""
    if before is None:
        return 0.0
    if math.isinf(before[0]):
        return 0.5 * now[1]
    return 0.5 * (before[0] - now[0]) * (before[1] + now[1])


def _pulled(
    path: Path, pull: tuple[Chunk, Chunk], step: Step, c_x: float
) -> tuple[Chunk, Float[Tensor, " batch"]]:
    """Return the state after the step with the pull (9), and the log-weight (8) that it has."""
    plain, guided = pull
    noise = cast(Tensor, step.noise)
    used = step.denoised
    # The loop limits the guided prediction; the plain one meets the same limit.
    plain = torch.where(guided > used, torch.minimum(plain, used), plain)
    plain = torch.where(guided < used, torch.maximum(plain, used), plain)
    # Known entries are the same in both kernels.
    expected = c_x * step.x_t + step.c_denoised * used + step.c_noise * noise
    is_drawn = (step.x_s - expected).abs() <= 1e-3 * step.c_noise + 1e-5 * expected.abs()
    made = torch.where(is_drawn, (used - plain) * (step.c_denoised / step.c_noise), 0.0)
    alpha_t, sigma_t = scalar_alpha_sigma(path, step.t)
    alpha_s, _ = scalar_alpha_sigma(path, step.s)
    factor = (step.c_noise * alpha_t / sigma_t) ** 2 / (step.c_denoised * alpha_s)
    delta = min(1.0, factor) * made
    each = -delta.double() * (noise.double() + 0.5 * delta.double())
    return step.x_s + step.c_noise * (delta - made), each.flatten(1).sum(1)


def _is_unfollowed(member: object, *, is_top: bool = True) -> bool:
    """Return whether something below has weights that do not reach the top."""
    passes_on = isinstance(member, Weighable) or (is_top and isinstance(member, Tilted))
    for found in (getattr(member, "inner", None), *getattr(member, "members", ())):
        if isinstance(found, Tilted) or (isinstance(found, Weighable) and not passes_on):
            return True
        if found is not None and _is_unfollowed(found, is_top=False):
            return True
    return False
