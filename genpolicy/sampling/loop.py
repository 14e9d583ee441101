"""The only denoising loop of the library."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from genpolicy.denoisers import (
    Denoiser,
    SamplerClass,
    Step,
    SummedDenoiser,
    Target,
    TrackingDenoiser,
    as_tracking,
    target_of,
)
from genpolicy.errors import UsageError
from genpolicy.ops import Draw, Parts, compose_step
from genpolicy.paths import Path
from genpolicy.sampling.constraints import Constraint
from genpolicy.sampling.noise import NoiseSource, SeededNoise
from genpolicy.sampling.rules import Coeffs, Rule, check_rule
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["Corrector", "check_target", "check_times", "class_of", "plan", "sample"]

Denoise: TypeAlias = Callable[[Chunk, Time], Chunk]


@runtime_checkable
class Corrector(Protocol):
    """Moves the state at one noise level, for example by Langevin steps towards its density."""

    def __call__(
        self, x: Chunk, t: float, *, denoise: Denoise, path: Path, noise: NoiseSource, index: int
    ) -> Chunk:
        """Return the corrected state.

        Args:
            x: state at time ``t``.
            t: its time, above 0.
            denoise: the denoiser at the current condition, ``(x, t) -> denoised``.
            path: path of the denoiser.
            noise: draw with this ``index`` and ``stream`` 1, 2, ...
            index: index of the noise of this step.
        """
        ...


def sample(
    denoiser: Denoiser | TrackingDenoiser,
    x_init: Chunk,
    times: Tensor | Sequence[float],
    cond: Cond,
    *,
    rule: Rule,
    noise: NoiseSource | None = None,
    constrain: Constraint | None = None,
    correct: Corrector | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Chunk:
    """Denoise ``x_init`` along ``times``.

    Args:
        denoiser: what is sampled from.
        x_init: state at ``times[0]``.
        times: strictly decreasing, see ``genpolicy.paths.grid``; evaluations lie inside
            ``[path.t_min, path.t_max]``, the last time may be 0, the clean end.
        cond: conditions, or None.
        rule: sampling rule, for example ``ddim``.
        noise: source of noise; needed by rules that add some, and by correctors. Step ``i`` draws
            index ``i + 1``.
        constrain: bounds and known entries; None is neither.
        correct: called on every state but the last.
        on_step: called with every finished step.

    Returns:
        ``(batch, horizon, action)``: the state at the last time.

    Raises:
        UsageError: when the times leave the path, the rule does not fit the denoiser or what it
            composes, or noise is missing.

    Cost: one network evaluation per step, two where the rule has a second stage.
    """
    path = denoiser.path
    values = check_times(times, path)
    steps = plan(rule, path, values)
    check_rule(rule, denoiser.kind, steps)
    if correct is not None and denoiser.kind == "flow_map":
        raise UsageError(
            "sample: a consistency policy has no score, so it cannot be corrected; correct a score "
            "model that starts from its samples (genpolicy.compose.proposal)"
        )
    check_target(target_of(denoiser), class_of(steps, correct))
    constraint = Constraint() if constrain is None else constrain
    lo, hi = constraint.step_bounds
    tracked = as_tracking(denoiser)
    is_tracking = tracked is denoiser
    summed = denoiser if isinstance(denoiser, SummedDenoiser) else None
    # Nobody else sees the states of a summed denoiser's run, so they may be overwritten.
    is_private = not (is_tracking or on_step or correct or torch.is_grad_enabled())

    def evaluate(at: Chunk, time: float, carry: Any) -> tuple[Parts, Any]:
        t = at.new_full((at.shape[0],), time)
        if summed is not None:
            return summed.in_parts(at, t), carry
        denoised, carry = tracked.denoise(at, t, cond, carry)
        return Parts.of(denoised), carry

    x = constraint.pin_state(x_init, path, values[0])
    carry = tracked.start(x, cond)
    previous: Chunk | None = None
    for index, (coeffs, (t, s)) in enumerate(zip(steps, itertools.pairwise(values), strict=True)):
        parts, carry = evaluate(x, t, carry)
        at, first, earlier = x, None, previous
        c_current, c_earlier = coeffs.c_denoised, coeffs.c_prev
        if coeffs.stage is not None:
            stage = coeffs.stage
            pinned, mask = constraint.state_at(path, stage.time)
            at, first = compose_step(
                x,
                parts,
                c_x=stage.c_x,
                c_denoised=stage.c_denoised,
                lo=lo,
                hi=hi,
                pinned=pinned,
                mask=mask,
            )
            parts, carry = evaluate(at, stage.time, carry)
            earlier, c_earlier = first, (1.0 - stage.weight) * coeffs.c_denoised
            c_current = stage.weight * coeffs.c_denoised
        fresh: Chunk | None = None
        undrawn: Draw | None = None
        if coeffs.c_noise != 0.0:
            source = _required(noise)
            if is_private and isinstance(source, SeededNoise) and x.dtype == torch.float32:
                undrawn = source.undrawn(index + 1)
            else:
                fresh = tracked.shape_noise(source.draw(index + 1), carry)
        pinned, mask = constraint.state_at(path, s)
        x_s, current = compose_step(
            x,
            parts,
            earlier if c_earlier != 0.0 else None,
            fresh if undrawn is None else undrawn,
            at=at,
            c_x=coeffs.c_x,
            c_denoised=c_current,
            c_previous=c_earlier,
            c_noise=coeffs.c_noise,
            lo=lo,
            hi=hi,
            pinned=pinned,
            mask=mask,
            in_place=is_private and index > 0 and summed is not None,
        )
        denoised = current if first is None else first
        if index == len(steps) - 1:
            x_s = constraint.finish(x_s, path, s)
        elif correct is not None:
            x_s = correct(
                x_s,
                s,
                denoise=_bind(tracked, cond, carry),
                path=path,
                noise=_required(noise),
                index=index + 1,
            )
            x_s = constraint.pin_state(x_s, path, s)
        if on_step is not None or is_tracking:
            step = Step(
                index=index,
                n_steps=len(steps),
                t=t,
                s=s,
                x_t=x,
                x_s=x_s,
                denoised=constraint.clip_denoised_action(denoised),
                noise=fresh,
                c_denoised=coeffs.c_denoised,
                c_noise=coeffs.c_noise,
            )
            x_s, carry = tracked.advance(carry, step)
            if on_step is not None:
                on_step(step)
        previous, x = denoised, x_s
    return x


@functools.lru_cache(maxsize=256)
def plan(rule: Rule, path: Path, times: tuple[float, ...]) -> tuple[Coeffs, ...]:
    """Return the factors of every step of a run: they do not depend on the data.

    Args:
        rule: sampling rule.
        path: path of the denoiser.
        times: strictly decreasing.
    """
    before = (None, *times)
    return tuple(rule(path, t, s, before[i]) for i, (t, s) in enumerate(itertools.pairwise(times)))


def class_of(steps: Sequence[Coeffs], correct: Corrector | None) -> SamplerClass:
    """Return what kind of sampler these steps and corrections make."""
    if correct is not None:
        return "corrected"
    return "sde" if any(step.c_noise != 0.0 for step in steps) else "ode"


def check_target(target: Target | None, sampler: SamplerClass) -> None:
    """Refuse a sampler that misses what a composition is meant to sample.

    Args:
        target: of the composition; None, for a trained denoiser, refuses nothing.
        sampler: kind of sampler.

    Raises:
        UsageError: with the remedy.
    """
    if target is not None and sampler in target.refused:
        kinds = {
            "ode": "a deterministic sampler",
            "sde": "a stochastic sampler without correction",
            "corrected": "a sampler with MCMC corrections",
            "particles": "weighted particles",
        }
        raise UsageError(
            f"{target.operator} (target {target.density}) cannot be sampled with {kinds[sampler]}: "
            f"{target.note or 'it does not reach the target'}; {target.remedy}"
        )


def check_times(times: Tensor | Sequence[float], path: Path) -> tuple[float, ...]:
    """Return times as floats.

    Args:
        times: of a run, see ``sample``.
        path: path of the denoiser.

    Raises:
        UsageError: when they do not decrease strictly, or evaluations leave the path.
    """
    values = tuple(float(t) for t in times)
    if len(values) < 2:
        raise UsageError(f"sample: got {len(values)} times, expected at least 2 (one step)")
    if not all(earlier > later for earlier, later in itertools.pairwise(values)):
        raise UsageError(f"sample: times {values} do not decrease strictly")
    tolerance = 1e-9
    if not (values[0] <= path.t_max + tolerance and values[-2] >= path.t_min - tolerance):
        raise UsageError(
            f"sample: evaluations at times {values[0]:g} to {values[-2]:g} leave the range "
            f"[{path.t_min:g}, {path.t_max:g}] of {type(path).__name__}; use genpolicy.paths.grid, "
            "or fewer steps"
        )
    if values[-1] < 0.0:
        raise UsageError(f"sample: the last time is {values[-1]}, expected at least 0 (clean)")
    return values


def _required(noise: NoiseSource | None) -> NoiseSource:
    if noise is None:
        raise UsageError(
            "sample: the rule adds noise, or a corrector is used, and noise is None; pass "
            "noise=RowNoise(seeds, shape)"
        )
    return noise


def _bind(tracked: TrackingDenoiser, cond: Cond, carry: object) -> Denoise:
    """Return the denoiser as a function of state and time alone."""

    def denoise(x: Chunk, t: Time) -> Chunk:
        return tracked.denoise(x, t, cond, carry)[0]

    return denoise
