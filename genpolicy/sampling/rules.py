r"""Sampling rules: how the next state mixes the current one, the denoised action and noise.

A rule is a pure function of a path and two or three times. It returns the factors of

    (1)  x_s = c_x x_t + c_denoised D_t + c_previous D_prev + c_noise noise

With ``eps = (x_t - alpha_t D_t)/sigma_t``, the noise that D_t implies, all rules here are ways of
stepping ``dx = D dalpha + eps dsigma``, which is the probability-flow ODE of every path::

    (2)  ddim      n = eta sigma_s sqrt(1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)
                   keep = sqrt(sigma_s^2 - n^2)
                   c_x = keep/sigma_t,  c_denoised = alpha_s - alpha_t keep/sigma_t,  c_noise = n
    (3)  heun      ddim to s, evaluate there, and step with the means of both D and both eps
    (4)  midpoint  ddim to (t + s)/2, evaluate there, and step with that D and eps
    (5)  dpmpp_2m  ddim with D_t + (D_t - D_prev) h/(2 h_prev),  h = step of log(alpha/sigma)
    (6)  renoise   c_x = 0, c_denoised = alpha_s, c_noise = noise_scale sigma_s
    (7)  sde       as (2) with keep = sigma_s r^churn,  n = sigma_s sqrt(1 - r^(2 churn)),
                   r = alpha_t sigma_s / (alpha_s sigma_t)

On LinearPath, ddim, heun and midpoint are the Euler, Heun and midpoint rules of a velocity field;
on KarrasPath, ddim and heun are the Euler and Heun samplers of EDM.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from genpolicy.denoisers import Kind
from genpolicy.errors import UsageError, check_options, nearest
from genpolicy.paths import Path
from genpolicy.paths.base import scalar_alpha_sigma

__all__ = [
    "RULES",
    "Coeffs",
    "Rule",
    "Stage",
    "check_rule",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "euler",
    "heun",
    "kinds_of",
    "make_rule",
    "midpoint",
    "renoise",
    "sde",
]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A second evaluation inside a step: at ``c_x x_t + c_denoised D_t`` and the given time.

    Args:
        time: where it is made, in ``[path.t_min, path.t_max]``.
        c_x: factor of the state.
        c_denoised: factor of the first denoised action.
        weight: the step then uses ``(1 - weight) D_t + weight D_stage`` for D_t.
    """

    time: float
    c_x: float
    c_denoised: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class Coeffs:
    """Factors (1) of one step, in float64.

    Args:
        c_x: of the state.
        c_denoised: of the denoised action.
        c_prev: of the previous step's denoised action; 0 where there is a ``stage``.
        c_noise: of fresh standard normal noise.
        stage: a second evaluation, or None.
    """

    c_x: float
    c_denoised: float
    c_prev: float = 0.0
    c_noise: float = 0.0
    stage: Stage | None = None


@runtime_checkable
class Rule(Protocol):
    """A sampling rule; settings such as ``eta`` are bound with ``functools.partial``."""

    def __call__(self, path: Path, t: float, s: float, t_prev: float | None, /) -> Coeffs:
        """Return the factors of the step from ``t`` to ``s < t``.

        Args:
            path: path of the denoiser.
            t: time of the state.
            s: time of the next state; at 0 the step returns the clean end.
            t_prev: time of the previous step's evaluation; None on the first step.
        """
        ...


def ddim(path: Path, t: float, s: float, t_prev: float | None, *, eta: float = 0.0) -> Coeffs:
    """Return the DDIM step (2), deterministic for ``eta = 0``.

    Args:
        path: path of the denoiser.
        t: time of the state.
        s: time of the next state.
        t_prev: not used.
        eta: amount of fresh noise, in [0, 1]; 1 is the posterior of DDPM, on any path.

    Raises:
        UsageError: for ``eta`` outside [0, 1].

    Source: arXiv 2010.02502 equations 12 and 16, there for variance-preserving paths.
    """
    if not 0.0 <= eta <= 1.0:
        raise UsageError(f"ddim: eta is {eta}, expected a value in [0, 1]")
    alpha_t, sigma_t = scalar_alpha_sigma(path, t)
    alpha_s, sigma_s = scalar_alpha_sigma(path, s)
    ratio = alpha_t * sigma_s / (alpha_s * sigma_t)
    c_noise = eta * sigma_s * math.sqrt(max(1.0 - ratio**2, 0.0))
    keep = math.sqrt(max(sigma_s**2 - c_noise**2, 0.0)) / sigma_t
    return Coeffs(c_x=keep, c_denoised=alpha_s - alpha_t * keep, c_noise=c_noise)


def ddpm(path: Path, t: float, s: float, t_prev: float | None) -> Coeffs:
    """Return the ancestral step of DDPM: ``ddim`` with ``eta = 1``.

    Source: arXiv 2006.11239 equation 7, the posterior variance ("fixed small").
    """
    return ddim(path, t, s, t_prev, eta=1.0)


def sde(path: Path, t: float, s: float, t_prev: float | None, *, churn: float = 1.0) -> Coeffs:
    """Return the step (7) of the reverse SDE with ``churn`` times the forward process's noise.

    In variance-exploding coordinates (state y = x/alpha, level sigma) it is the exact step, for a
    constant denoised action, of

        dy = -(1 + churn) sigma score(y) dsigma + sqrt(2 churn sigma |dsigma|) noise,  dsigma < 0,

    whose marginals are those of the probability-flow ODE for every ``churn``: 0 is ``ddim``, 1 is
    ``ddpm``, larger values forget the state faster and correct more of what a composed score gets
    wrong.

    Args:
        path: path of the denoiser.
        t: time of the state.
        s: time of the next state.
        t_prev: not used.
        churn: amount of noise, at least 0.

    Raises:
        UsageError: for a negative ``churn``.

    Source: arXiv 2011.13456 section 4.3 for the family; the exponential step is ours.
    """
    if not 0.0 <= churn < math.inf:
        raise UsageError(f"sde: churn is {churn}, expected a finite value of at least 0")
    alpha_t, sigma_t = scalar_alpha_sigma(path, t)
    alpha_s, sigma_s = scalar_alpha_sigma(path, s)
    ratio = alpha_t * sigma_s / (alpha_s * sigma_t)
    # At alpha_t = 0 the power of 0 is right: the state holds nothing that is worth keeping.
    keep = sigma_s * ratio**churn / sigma_t
    c_noise = sigma_s * math.sqrt(max(1.0 - ratio ** (2.0 * churn), 0.0))
    return Coeffs(c_x=keep, c_denoised=alpha_s - alpha_t * keep, c_noise=c_noise)


def euler(path: Path, t: float, s: float, t_prev: float | None) -> Coeffs:
    """Return the Euler step of the probability-flow ODE: ``ddim`` with ``eta = 0``.

    On LinearPath it is ``x + (s - t) velocity``. On other paths it steps in alpha and sigma, not in
    t, so that it does not depend on how the path measures time.
    """
    return ddim(path, t, s, t_prev)


def heun(path: Path, t: float, s: float, t_prev: float | None) -> Coeffs:
    """Return the Heun step (3); where sigma_s is 0, eps is undefined and the step is ``ddim``.

    That last step is of first order, so it should be a short one: grids ``karras`` and ``log_snr``
    end with one, ``uniform`` does not (there ``midpoint`` is better).

    Source: arXiv 2206.00364 algorithm 1 without churn, there for alpha = 1.

    Cost: 2 network evaluations, 1 for a step to the clean end.
    """
    first = ddim(path, t, s, t_prev)
    alpha_t, sigma_t = scalar_alpha_sigma(path, t)
    alpha_s, sigma_s = scalar_alpha_sigma(path, s)
    if sigma_s <= 0.0:
        return first
    return _two_stages(
        first,
        at=(s, alpha_s, sigma_s),
        start=(alpha_t, sigma_t),
        change=(alpha_s - alpha_t, sigma_s - sigma_t),
        share=0.5,
    )


def midpoint(path: Path, t: float, s: float, t_prev: float | None) -> Coeffs:
    """Return the midpoint step (4); where the middle is below ``t_min`` the step is ``ddim``.

    Cost: 2 network evaluations.
    """
    middle = 0.5 * (t + s)
    if middle < path.t_min:
        return ddim(path, t, s, t_prev)
    alpha_t, sigma_t = scalar_alpha_sigma(path, t)
    alpha_s, sigma_s = scalar_alpha_sigma(path, s)
    return _two_stages(
        ddim(path, t, middle, t_prev),
        at=(middle, *scalar_alpha_sigma(path, middle)),
        start=(alpha_t, sigma_t),
        change=(alpha_s - alpha_t, sigma_s - sigma_t),
        share=1.0,
    )


def dpmpp_2m(path: Path, t: float, s: float, t_prev: float | None) -> Coeffs:
    """Return the step of DPM-Solver++(2M), equation (5): second order at one evaluation a step.

    The first step, and a step to the clean end, where h is infinite, are ``ddim``. Use a grid that
    ends with a short step, ``log_snr`` or ``karras``.

    Source: arXiv 2211.01095 algorithm 2.
    """
    plain = ddim(path, t, s, t_prev)
    alpha_s, sigma_s = scalar_alpha_sigma(path, s)
    if t_prev is None or sigma_s <= 0.0:
        return plain
    alpha_t, sigma_t = scalar_alpha_sigma(path, t)
    alpha_p, sigma_p = scalar_alpha_sigma(path, t_prev)
    if alpha_p <= 0.0:
        return plain
    step = math.log(alpha_s / sigma_s) - math.log(alpha_t / sigma_t)
    last = math.log(alpha_t / sigma_t) - math.log(alpha_p / sigma_p)
    extra = 0.5 * step / last
    return Coeffs(
        c_x=plain.c_x,
        c_denoised=plain.c_denoised * (1.0 + extra),
        c_prev=-plain.c_denoised * extra,
    )


def renoise(
    path: Path, t: float, s: float, t_prev: float | None, *, noise_scale: float = 1.0
) -> Coeffs:
    """Return the multistep consistency step (6): jump to the clean end, and noise that to ``s``.

    Args:
        path: path of the denoiser.
        t: not used.
        s: time of the next state.
        t_prev: not used.
        noise_scale: factor of the noise, at least 0; below 1 samples stay closer to the likeliest
            action, as with a smaller ``Sampler.init_scale``.

    Raises:
        UsageError: for a negative ``noise_scale``.

    Source: arXiv 2303.01469 algorithm 1. Difference: the noise that the map's own end still has,
        ``sigma(t_end)``, is neglected against ``sigma_s``.
    """
    if not 0.0 <= noise_scale < math.inf:
        raise UsageError(f"renoise: noise_scale is {noise_scale}, expected a number of at least 0")
    alpha_s, sigma_s = scalar_alpha_sigma(path, s)
    return Coeffs(c_x=0.0, c_denoised=alpha_s, c_noise=noise_scale * sigma_s)


RULES: Mapping[str, Callable[..., Coeffs]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "euler": euler,
    "heun": heun,
    "midpoint": midpoint,
    "dpmpp_2m": dpmpp_2m,
    "renoise": renoise,
    "sde": sde,
}
"""The rules by name."""


def make_rule(name: str, options: Mapping[str, Any] | None = None) -> Rule:
    """Return a rule by name with its settings bound.

    Args:
        name: a key of ``RULES``.
        options: settings of the rule, for example ``{"eta": 0.5}`` of ``ddim``.

    Raises:
        UsageError: for an unknown rule, or a setting that it does not have.
    """
    options = {} if options is None else options
    if name not in RULES:
        raise UsageError(f"rule is {name!r}; {nearest(name, RULES)}")
    rule = RULES[name]
    known = [
        p.name
        for p in inspect.signature(rule).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    check_options(f"rule {name!r}", options, known)
    return functools.partial(rule, **options) if options else rule


def kinds_of(rule: Rule) -> tuple[Kind, ...]:
    """Return the kinds of denoiser a rule is meant for; both for a rule that is not one of ours."""
    plain = rule.func if isinstance(rule, functools.partial) else rule
    if plain is renoise:
        return ("flow_map",)
    return ("posterior_mean",) if plain in RULES.values() else ("posterior_mean", "flow_map")


def check_rule(rule: Rule, kind: Kind, steps: Sequence[Coeffs]) -> None:
    """Refuse a rule that does not sample what a denoiser of this kind was trained for.

    Args:
        rule: sampling rule.
        kind: kind of the denoiser.
        steps: the steps that the rule makes. A single one that returns the denoised action, such as
            ``ddim`` to the clean end, is what a flow map is for, under whatever name.

    Raises:
        UsageError: for a rule of the other kind.
    """
    is_jump = len(steps) == 1 and steps[0] == Coeffs(c_x=0.0, c_denoised=1.0)
    if kind in kinds_of(rule) or (kind == "flow_map" and is_jump):
        return
    plain = rule.func if isinstance(rule, functools.partial) else rule
    name = getattr(plain, "__name__", repr(plain))
    advice = (
        "use rule='renoise', or 1 step"
        if kind == "flow_map"
        else "use rule='ddim', or a consistency policy"
    )
    raise UsageError(f"rule {name!r} does not fit a denoiser of kind {kind!r}; {advice}")


def _two_stages(
    first: Coeffs,
    *,
    at: tuple[float, float, float],
    start: tuple[float, float],
    change: tuple[float, float],
    share: float,
) -> Coeffs:
    """Return the step whose D and eps are ``(1 - share)`` those at t and ``share`` those at ``at``.

    With ``x_m = first.c_x x + first.c_denoised D``, ``eps_m = (x_m - alpha_m D_m)/sigma_m`` and
    ``x_s = x + dalpha mean(D) + dsigma mean(eps)``, collect the factors of x, D and D_m.
    """
    time, alpha_m, sigma_m = at
    alpha_t, sigma_t = start
    dalpha, dsigma = change
    rest = 1.0 - share
    c_x = 1.0 + dsigma * (rest / sigma_t + share * first.c_x / sigma_m)
    on_first = rest * (dalpha - dsigma * alpha_t / sigma_t)
    on_first += share * dsigma * first.c_denoised / sigma_m
    on_second = share * (dalpha - dsigma * alpha_m / sigma_m)
    total = on_first + on_second
    return Coeffs(
        c_x=c_x,
        c_denoised=total,
        stage=Stage(
            time=time,
            c_x=first.c_x,
            c_denoised=first.c_denoised,
            weight=on_second / total,
        ),
    )
