"""Conditional flow matching: the velocity loss, with optimal-transport pairs and a noise floor.

With t = 0 the clean end, as everywhere in this package::

    (1)  x_t = alpha(t) clean + sigma(t) noise + sigma_min extra
         target = dalpha/dt clean + dsigma/dt noise

On LinearPath the target is ``noise - clean``. Papers on flow matching count time the other way
round (their time is 1 - t, their target clean - noise); the loss is the same number.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses.coupling import Coupling
from genpolicy.losses.denoising import prediction_loss
from genpolicy.losses.reduction import Mask, draw_noise, fill_padding
from genpolicy.losses.times import TimeSampler, UniformTimes
from genpolicy.losses.weighting import PredictionWeighting, Weighting
from genpolicy.paths import expand_t
from genpolicy.shapes import Chunk, Cond

__all__ = ["flow_matching_loss"]

Metrics: TypeAlias = dict[str, Tensor]


def flow_matching_loss(
    denoiser: ParameterizedDenoiser,
    clean: Chunk,
    cond: Cond,
    *,
    generator: torch.Generator,
    times: TimeSampler | None = None,
    weighting: Weighting | None = None,
    coupling: Coupling | None = None,
    sigma_min: float = 0.0,
    mask: Mask = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the conditional flow-matching loss of a velocity network.

    With the defaults it is ``denoising_loss`` with uniform times and ``PredictionWeighting``.

    Args:
        denoiser: a velocity network with its path, without preconditioning.
        clean: normalized actions.
        cond: conditions.
        generator: the only source of randomness.
        times: sampler of times; None is ``UniformTimes()``.
        weighting: None is ``PredictionWeighting()``, the plain squared error of the velocity.
        coupling: how noise rows are paired with actions; None keeps the independent pairs drawn.
        sigma_min: standard deviation of extra noise that the target ignores, at least 0. Samples
            keep it: their variance is that of the data plus ``sigma_min^2``.
        mask: True on valid entries of ``clean``; None when all are.

    Returns:
        The loss, and metrics ``loss`` and ``denoised_error``.

    Raises:
        UsageError: when the network does not predict a velocity, or for a negative ``sigma_min``.

    Source: arXiv 2210.02747 (flow matching), arXiv 2302.00482 (optimal pairs, section 3.2.2; extra
        noise, section 3.2.1).

    Cost: 1 network evaluation with gradient, and that of the coupling.
    """
    if denoiser.predicts != "velocity" or denoiser.precondition != "none":
        raise UsageError(
            f"flow_matching_loss: got a network that predicts {denoiser.predicts!r} with "
            f"precondition {denoiser.precondition!r}, expected 'velocity' and 'none'; use "
            "denoising_loss for other networks"
        )
    if sigma_min < 0:
        raise UsageError(f"flow_matching_loss: sigma_min is {sigma_min}, expected at least 0")
    times = UniformTimes() if times is None else times
    weighting = PredictionWeighting() if weighting is None else weighting
    clean = fill_padding(clean, mask)
    t = times.sample(len(clean), denoiser.path, generator, clean.device, clean.dtype)
    noise = draw_noise(clean, generator)
    if coupling is not None:
        noise = noise[coupling.pair(clean, noise, cond, mask)]
    alpha, sigma = denoiser.path.alpha_sigma(t)
    x_t = expand_t(alpha, clean) * clean + expand_t(sigma, clean) * noise
    if sigma_min > 0:
        x_t = x_t + sigma_min * draw_noise(clean, generator)
    return prediction_loss(denoiser, x_t, clean, noise, t, cond, weighting=weighting, mask=mask)
