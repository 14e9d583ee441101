"""Our denoisers under the schedulers of diffusers, for comparison and for rules we do not have."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from genpolicy.denoisers import Denoiser
from genpolicy.errors import UsageError
from genpolicy.paths import LinearPath, Path, TabulatedPath, convert
from genpolicy.paths.from_diffusers import from_diffusers
from genpolicy.shapes import Chunk, Cond

__all__ = ["sample_with_scheduler"]

_TOLERANCE = 1e-3


def sample_with_scheduler(
    denoiser: Denoiser,
    scheduler: Any,
    noise: Chunk,
    cond: Cond,
    *,
    n_steps: int,
    generators: Sequence[torch.Generator] | None = None,
    step_options: Mapping[str, Any] | None = None,
) -> Chunk:
    """Sample with a diffusers scheduler; the scheduler itself is left as it was.

    Args:
        denoiser: of kind ``"posterior_mean"``, on the path of the scheduler.
        scheduler: any scheduler with a beta table or flow-matching levels. Its own settings hold,
            ``clip_sample`` among them, which is on by default.
        noise: standard normal initial noise.
        cond: conditions, or None.
        n_steps: number of inference steps, at least 1.
        generators: one per row, for schedulers that add noise.
        step_options: further arguments of its ``step``, for example ``{"eta": 0.5}``.

    Returns:
        ``(batch, horizon, action)``.

    Raises:
        UsageError: when the scheduler's levels are not those of the denoiser's path, or the
            denoiser is a flow map.

    Cost: one network evaluation per entry of ``scheduler.timesteps``.
    """
    if denoiser.kind != "posterior_mean":
        raise UsageError(
            f"sample_with_scheduler: got a denoiser of kind {denoiser.kind!r}, expected "
            "'posterior_mean'; use Sampler(rule='renoise')"
        )
    if n_steps < 1:
        raise UsageError(f"sample_with_scheduler: n_steps is {n_steps}, expected at least 1")
    settings = from_diffusers(scheduler)
    own = copy.deepcopy(scheduler)
    own.set_timesteps(n_steps)
    options = dict(step_options or {})
    if generators is not None and "generator" in inspect.signature(own.step).parameters:
        options["generator"] = list(generators)
    x = noise * float(own.init_noise_sigma) if isinstance(settings.path, TabulatedPath) else noise
    for level in own.timesteps:
        t = _time_of(settings.path, float(level), int(own.config.num_train_timesteps))
        _check_same_path(denoiser.path, settings.path, t)
        times = x.new_full((len(x),), t)
        x_t = own.scale_model_input(x, level) if isinstance(settings.path, TabulatedPath) else x
        denoised = denoiser(x_t, times, cond)
        output = convert(
            denoised, x_t, times, path=denoiser.path, predicts="clean", to=settings.predicts
        )
        x = own.step(output, level, x, **options).prev_sample
    return x


def _time_of(path: Path, level: float, n_levels: int) -> float:
    return level / n_levels if isinstance(path, LinearPath) else (level + 1.0) / n_levels


def _check_same_path(ours: Path, theirs: Path, t: float) -> None:
    time = torch.tensor(t, dtype=torch.float64)
    gap = max(
        abs(a.item() - b.item())
        for a, b in zip(ours.alpha_sigma(time), theirs.alpha_sigma(time), strict=True)
    )
    if gap > _TOLERANCE:
        raise UsageError(
            f"sample_with_scheduler: at t={t:g} the denoiser's {type(ours).__name__} and the "
            f"scheduler's {type(theirs).__name__} differ by {gap:.2g} in alpha or sigma; use the "
            "path of from_diffusers(scheduler)"
        )
