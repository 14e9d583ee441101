"""What a network predicts, and how each prediction turns into the denoised action and back.

With ``x_t = alpha clean + sigma noise`` and ``D`` the denoised action (the network's estimate of
``clean``):

    prediction p   training target              denoised
    clean          clean                        D = p
    noise          noise                        D = (x_t - sigma p)/alpha
    velocity       dalpha clean + dsigma noise  D = (sigma p - dsigma x_t)
                                                    / (dalpha sigma - dsigma alpha)
    v              alpha noise - sigma clean    D = (alpha x_t - sigma p)/(alpha^2 + sigma^2)
    score          -noise/sigma                 D = (x_t + sigma^2 p)/alpha

``velocity`` is dx_t/dt; ``v`` is the angular velocity of progressive distillation (arXiv
2202.00512, appendix D). They differ. On LinearPath ``D = x_t - t velocity``.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from genpolicy.errors import UsageError, nearest
from genpolicy.paths.base import Path, expand_t
from genpolicy.shapes import Chunk, Time

__all__ = ["Prediction", "check_prediction", "convert", "from_clean_and_noise", "to_denoised"]

Prediction: TypeAlias = Literal["clean", "noise", "velocity", "v", "score"]

_SMALLEST_RATIO = 1e-5


def to_denoised(pred: Chunk, x_t: Chunk, t: Time, *, path: Path, predicts: Prediction) -> Chunk:
    """Return the denoised action that a prediction at ``(x_t, t)`` stands for.

    Args:
        pred: the prediction.
        x_t: noisy actions.
        t: time of each row, in ``[path.t_min, path.t_max]``.
        path: the path ``x_t`` lies on.
        predicts: what ``pred`` is.

    Returns:
        ``(batch, horizon, action)``.
    """
    if predicts == "clean":
        return pred
    alpha, sigma = path.alpha_sigma(t)
    if predicts == "noise":
        on_x, on_pred = 1.0 / alpha, -sigma / alpha
    elif predicts == "score":
        on_x, on_pred = 1.0 / alpha, sigma.square() / alpha
    elif predicts == "v":
        total = alpha.square() + sigma.square()
        on_x, on_pred = alpha / total, -sigma / total
    elif predicts == "velocity":
        dalpha, dsigma = path.derivatives(t)
        determinant = dalpha * sigma - dsigma * alpha
        on_x, on_pred = -dsigma / determinant, sigma / determinant
    else:
        raise _unknown("to_denoised", predicts)
    return expand_t(on_x, x_t) * x_t + expand_t(on_pred, x_t) * pred


def from_clean_and_noise(
    clean: Chunk, noise: Chunk, t: Time, *, path: Path, predicts: Prediction
) -> Chunk:
    """Return what the network should predict for known clean actions and noise.

    Args:
        clean: clean actions.
        noise: the noise that made ``x_t``.
        t: time of each row; for ``score`` sigma has to be positive there.
        path: the path.
        predicts: what the network predicts.

    Returns:
        ``(batch, horizon, action)``: the training target.
    """
    if predicts == "clean":
        return clean
    if predicts == "noise":
        return noise
    if predicts == "velocity":
        on_clean, on_noise = path.derivatives(t)
    else:
        alpha, sigma = path.alpha_sigma(t)
        if predicts == "v":
            on_clean, on_noise = -sigma, alpha
        elif predicts == "score":
            on_clean, on_noise = torch.zeros_like(sigma), -1.0 / sigma
        else:
            raise _unknown("from_clean_and_noise", predicts)
    return expand_t(on_clean, clean) * clean + expand_t(on_noise, clean) * noise


def convert(
    pred: Chunk, x_t: Chunk, t: Time, *, path: Path, predicts: Prediction, to: Prediction
) -> Chunk:
    """Return a prediction at ``(x_t, t)`` as another type: through the denoised action.

    Args:
        pred: the prediction.
        x_t: noisy actions.
        t: time of each row, where sigma is positive unless ``to`` is ``"clean"`` or ``predicts``.
        path: the path ``x_t`` lies on.
        predicts: what ``pred`` is.
        to: what is wanted.

    Returns:
        ``(batch, horizon, action)``.
    """
    if predicts == to:
        return pred
    denoised = to_denoised(pred, x_t, t, path=path, predicts=predicts)
    if to == "clean":
        return denoised
    alpha, sigma = path.alpha_sigma(t)
    noise = (x_t - expand_t(alpha, x_t) * denoised) / expand_t(sigma, x_t)
    return from_clean_and_noise(denoised, noise, t, path=path, predicts=to)


def check_prediction(path: Path, predicts: Prediction) -> None:
    """Refuse a prediction type that is not finite somewhere on ``[path.t_min, path.t_max]``.

    Args:
        path: the path.
        predicts: prediction type.

    Raises:
        UsageError: for an unknown type; for ``noise`` and ``score`` where alpha/sigma falls below
            1e-5, because dividing by alpha then only amplifies rounding; for ``score`` where sigma
            is 0; for ``velocity`` where its formulas are not finite.
    """
    if predicts not in get_args(Prediction):
        raise _unknown("check_prediction", predicts)
    name = type(path).__name__
    t = torch.linspace(path.t_min, path.t_max, 257, dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(t)
    if predicts in ("noise", "score") and bool((alpha < _SMALLEST_RATIO * sigma).any()):
        raise UsageError(
            f"predicts={predicts!r} on {name}: alpha/sigma falls to {_ratio(alpha, sigma):.1e} at "
            f"t_max={path.t_max:g}, expected at least {_SMALLEST_RATIO:g}; use "
            f"{name}(t_max=0.999) or predicts='velocity'"
        )
    if predicts == "score" and bool((sigma <= 0.0).any()):
        raise UsageError(
            f"predicts='score' on {name}: sigma is 0 at t_min={path.t_min:g} and the score "
            f"infinite; use {name}(t_min=0.001, ...) or predicts='noise'"
        )
    if predicts == "velocity":
        dalpha, dsigma = path.derivatives(t)
        determinant = dalpha * sigma - dsigma * alpha
        terms = torch.stack([dalpha, dsigma, dsigma / determinant, sigma / determinant])
        if not bool(torch.isfinite(terms).all()):
            where = t[~torch.isfinite(terms).all(0)][0].item()
            raise UsageError(
                f"predicts='velocity' on {name}: not finite at t={where:g}; use "
                f"{name}(t_min=0.001, ...) or predicts='v'"
            )


def _ratio(alpha: Tensor, sigma: Tensor) -> float:
    return (alpha / sigma).min().item()


def _unknown(owner: str, predicts: str) -> UsageError:
    return UsageError(
        f"{owner}: predicts is {predicts!r}; {nearest(predicts, get_args(Prediction))}"
    )
