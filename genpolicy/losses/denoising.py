"""The denoising loss: one formula for diffusion, EDM and flow-matching networks.

::

    (1)  x_t = alpha(t) clean + sigma(t) noise
    (2)  loss = mean over valid entries of  w(t) sigma^2 / gain^2 |prediction - target|^2

which is the mean of ``w(t) |denoised - clean|^2``, see ``weighting`` for w and the gain. Its
minimum is not zero: for data N(m, v) and noise prediction it is alpha^2 v/(alpha^2 v + sigma^2) at
each time, for velocity prediction on LinearPath (pi/2) sqrt(v) over uniform times.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.losses.reduction import (
    Mask,
    Squared,
    draw_noise,
    fill_padding,
    mean_over_valid,
)
from genpolicy.losses.times import TimeSampler
from genpolicy.losses.weighting import (
    PredictionWeighting,
    Weighting,
    edm_gain,
    prediction_gain,
)
from genpolicy.paths import expand_t, from_clean_and_noise
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["denoising_loss"]

Metrics: TypeAlias = dict[str, Tensor]

_TINY = 1e-12


def denoising_loss(
    denoiser: ParameterizedDenoiser,
    clean: Chunk,
    cond: Cond,
    *,
    times: TimeSampler,
    weighting: Weighting,
    generator: torch.Generator,
    mask: Mask = None,
    row_weights: Float[Tensor, " batch"] | None = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the denoising loss (2) of a batch.

    Args:
        denoiser: a network with its path and prediction type.
        clean: normalized actions.
        cond: conditions.
        times: sampler of noise levels.
        weighting: how much each noise level counts.
        generator: the only source of randomness.
        mask: True on valid entries of ``clean``; None when all are. Padded entries change neither
            the loss nor a gradient, whatever they hold.
        row_weights: how much each row counts; None counts all alike. With weights w(clean, cond)
            the minimum is the posterior mean of the density ``p w``, normalized.

    Returns:
        The loss, and metrics ``loss`` and ``denoised_error`` (mean squared error of the denoised
        action, unweighted).

    Cost: 1 network evaluation with gradient.
    """
    clean = fill_padding(clean, mask)
    t = times.sample(len(clean), denoiser.path, generator, clean.device, clean.dtype)
    noise = draw_noise(clean, generator)
    alpha, sigma = denoiser.path.alpha_sigma(t)
    x_t = expand_t(alpha, clean) * clean + expand_t(sigma, clean) * noise
    return prediction_loss(
        denoiser,
        x_t,
        clean,
        noise,
        t,
        cond,
        weighting=weighting,
        mask=mask,
        row_weights=row_weights,
    )


def prediction_loss(
    denoiser: ParameterizedDenoiser,
    x_t: Chunk,
    clean: Chunk,
    noise: Chunk,
    t: Time,
    cond: Cond,
    *,
    weighting: Weighting,
    mask: Mask,
    row_weights: Float[Tensor, " batch"] | None = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the loss (2) for given noisy actions; ``clean`` and ``noise`` make the target."""
    target, gain = _target_and_gain(denoiser, clean, noise, t)
    alpha, sigma = denoiser.path.alpha_sigma(t)
    per_row = Squared()(denoiser.raw(x_t, t, cond) - target, mask)
    weighted = per_row
    if not isinstance(weighting, PredictionWeighting):
        scaled = weighting.scaled(alpha, sigma, gain)
        weighted = per_row * scaled / gain.square().clamp(min=_TINY)
    if row_weights is not None:
        weighted = weighted * row_weights
    loss = mean_over_valid(weighted, mask)
    denoised = per_row.detach() * sigma.square() / gain.square().clamp(min=_TINY)
    return loss, {"loss": loss.detach(), "denoised_error": mean_over_valid(denoised, mask)}


def _target_and_gain(
    denoiser: ParameterizedDenoiser, clean: Chunk, noise: Chunk, t: Time
) -> tuple[Chunk, Time]:
    """Return what the network should predict and how that reacts to the denoised action.

    Under EDM preconditioning the network predicts ``F = (clean - c_skip y)/c_out``, y = x/alpha.
    Inserting x = alpha clean + sigma noise cancels what is singular at both ends of a path:
    ``F = (sigma clean - sigma_data^2 alpha noise)/(sigma_data q)``,
    ``q^2 = sigma^2 + (sigma_data alpha)^2``.
    """
    path = denoiser.path
    if denoiser.precondition == "none":
        target = from_clean_and_noise(clean, noise, t, path=path, predicts=denoiser.predicts)
        return target, prediction_gain(path, t, denoiser.predicts)
    alpha, sigma = path.alpha_sigma(t)
    gain = edm_gain(alpha, sigma, denoiser.sigma_data)
    numerator = (
        expand_t(sigma, clean) * clean - denoiser.sigma_data**2 * expand_t(alpha, clean) * noise
    )
    return numerator / (denoiser.sigma_data**2 * expand_t(gain, clean)), gain
