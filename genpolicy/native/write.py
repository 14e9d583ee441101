"""A composition and a sampler as one program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genpolicy.composition import Member
from genpolicy.denoisers import target_of
from genpolicy.native.builder import Builder, Evaluation, Limits
from genpolicy.native.expansion import Affine, expand, sources_of
from genpolicy.native.networks import lower_network
from genpolicy.native.sources import Field, lower_observations
from genpolicy.ops.program import Program
from genpolicy.paths.base import scalar_alpha_sigma
from genpolicy.sampling import (
    Coeffs,
    Sampler,
    check_rule,
    check_target,
    check_times,
    class_of,
    plan,
)

__all__ = ["evaluations_of", "write_program"]


def write_program(
    member: Member,
    sampler: Sampler,
    *,
    fields: Mapping[str, Field],
    horizon: int,
    bounds: tuple[float, float] | None,
    center: Tensor,
    span: Tensor,
) -> Program:
    """Return the denoising loop of a composition as a program.

    Args:
        member: a tree of ``OnPath`` and ``Weighted`` over sources.
        sampler: rule, steps and limits.
        fields: where observations lie in the inputs, by key.
        horizon: actions per chunk.
        bounds: range of normalized actions; None for none.
        center: middle of the range of each entry of an action, in physical units.
        span: physical units of a normalized one.

    Raises:
        Unsupported: for what has no program.
        UsageError: for what cannot be sampled at all, as in ``sampling.sample``.
    """
    sources = sources_of(member)
    path = member.path
    times = check_times(sampler.times_on(path), path)
    steps = plan(sampler.bound_rule, path, times)
    check_rule(sampler.bound_rule, member.kind, steps)
    check_target(target_of(member), class_of(steps, None))

    rows = evaluations_of(steps, times)
    expanded = [expand(member, t) for t, _ in rows]
    n_inputs = sum(field.n_steps * field.size for field in fields.values())
    chunk = horizon * len(center)
    builder = Builder(n_inputs=n_inputs, chunk=chunk, precision=sampler.precision)
    for number, source in enumerate(sources):
        cond = lower_observations(
            builder,
            fields,
            normalizer=source.normalizer,
            encoder=source.encoder,
            n_obs_steps=source.n_obs_steps,
            fixed=source.fixed,
        )
        x = builder.register(chunk)
        builder.member_input(x, number)
        with torch.no_grad():
            out = lower_network(
                builder,
                source.trained.network,
                x=x,
                cond=cond,
                times=torch.tensor([a.terms[number].time for a in expanded], dtype=torch.float32),
                shift=_input_shifts(expanded, number, horizon),
            )
        builder.combine(out, number)
    evaluations = [
        Evaluation(
            **factors,
            on_x=affine.on_x,
            members=[(term.in_scale, term.on_raw) for term in affine.terms],
            shift=None if affine.shift is None else affine.shift.repeat(horizon),
        )
        for (_, factors), affine in zip(rows, expanded, strict=True)
    ]
    start = path.t_max if sampler.times is None else times[0]
    _, sigma = scalar_alpha_sigma(path, start)
    limits = Limits(
        init=sampler.init_scale * sigma,
        every_step=bounds if sampler.clip and sampler.clip_denoised else None,
        end=bounds if sampler.clip else None,
        center=center.repeat(horizon),
        span=span.repeat(horizon),
    )
    return builder.build(evaluations, limits)


def evaluations_of(
    steps: tuple[Coeffs, ...], times: tuple[float, ...]
) -> list[tuple[float, dict[str, Any]]]:
    """Return the time and the step's factors of every evaluation."""
    rows: list[tuple[float, dict[str, Any]]] = []
    for index, (coeffs, t) in enumerate(zip(steps, times, strict=False)):
        end = {"c_x": coeffs.c_x, "c_noise": coeffs.c_noise, "noise_index": index + 1}
        stage = coeffs.stage
        if stage is None:
            end |= {"c_denoised": coeffs.c_denoised, "c_previous": coeffs.c_prev}
        else:
            inside = {"to_stage": True, "c_x": stage.c_x, "c_denoised": stage.c_denoised}
            rows.append((t, inside))
            end |= {
                "from_stage": True,
                "c_denoised": stage.weight * coeffs.c_denoised,
                "c_previous": (1.0 - stage.weight) * coeffs.c_denoised,
            }
        rows.append((t if stage is None else stage.time, end))
    return rows


def _input_shifts(expanded: list[Affine], number: int, horizon: int) -> Tensor | None:
    """Return what is added to a network's input, ``(n_evaluations, chunk)``."""
    shifts = [affine.terms[number].in_shift for affine in expanded]
    if all(shift is None for shift in shifts):
        return None
    found = next(shift for shift in shifts if shift is not None)
    rows = [torch.zeros_like(found) if shift is None else shift for shift in shifts]
    return torch.stack(rows).repeat(1, horizon)
