r"""How much each noise level counts: weights on the squared error of the denoised action.

At a given noisy sample every prediction type is an affine function of the denoised action D, so
its squared error is the squared error of D times a factor that depends on the time alone::

    (1)  |prediction - target|^2 = (gain/sigma)^2 |D - clean|^2
    (2)  gain = sigma |d prediction / d D|
         clean:    sigma                  noise:  alpha        v:  alpha^2 + sigma^2
         velocity: |dalpha sigma - dsigma alpha|               score:  alpha/sigma
         network under EDM preconditioning:  sqrt(sigma^2 + (alpha sigma_data)^2)/sigma_data

A weighting is a function w(t) in ``loss = w(t) |D - clean|^2``. With snr = alpha^2/sigma^2::

    (3)  prediction  w = (gain/sigma)^2      plain squared error of what the network predicts
         clean       w = 1
         min_snr     w = min(snr, gamma)
         edm         w = snr + 1/sigma_data^2

Identities that follow. For a noise network ``prediction`` is w = snr, so min_snr is that clipped
at gamma; for a clean network ``prediction`` is ``clean``; for v on a variance-preserving path it is
snr + 1, which is ``edm`` with sigma_data = 1; under EDM preconditioning it is ``edm``; for a
velocity network on LinearPath it is 1/t^2.

Losses are computed on the prediction, as ``w sigma^2 / gain^2 |prediction - target|^2``: dividing
the error of D by sigma^2 would lose all digits near the clean end. That is why the classes return
w sigma^2, which is finite at both ends of every path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from genpolicy.errors import UsageError
from genpolicy.paths import Path, Prediction
from genpolicy.shapes import Time

__all__ = [
    "CleanWeighting",
    "EdmWeighting",
    "MinSnrWeighting",
    "PredictionWeighting",
    "Weighting",
    "denoised_weight",
    "edm_gain",
    "prediction_gain",
]


@runtime_checkable
class Weighting(Protocol):
    """A weight on the squared error of the denoised action."""

    def scaled(self, alpha: Time, sigma: Time, gain: Time) -> Time:
        """Return ``w sigma^2`` for the path's alpha and sigma and the prediction's gain (2)."""
        ...


@dataclass(frozen=True, kw_only=True)
class PredictionWeighting:
    """Plain squared error of what the network predicts: w = (gain/sigma)^2."""

    def scaled(self, alpha: Time, sigma: Time, gain: Time) -> Time:
        """Return ``w sigma^2``, see ``Weighting.scaled``."""
        return gain.square()


@dataclass(frozen=True, kw_only=True)
class CleanWeighting:
    """Plain squared error of the denoised action: w = 1."""

    def scaled(self, alpha: Time, sigma: Time, gain: Time) -> Time:
        """Return ``w sigma^2``, see ``Weighting.scaled``."""
        return sigma.square()


@dataclass(frozen=True, kw_only=True)
class MinSnrWeighting:
    """w = min(snr, gamma): the noise-prediction loss without its stress on the cleanest levels.

    Args:
        gamma: largest weight, positive.

    Source: arXiv 2303.09556, section 3.4 (gamma 5).
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise UsageError(f"MinSnrWeighting: gamma is {self.gamma}, expected a positive number")

    def scaled(self, alpha: Time, sigma: Time, gain: Time) -> Time:
        """Return ``w sigma^2``, see ``Weighting.scaled``."""
        return alpha.square().minimum(self.gamma * sigma.square())


@dataclass(frozen=True, kw_only=True)
class EdmWeighting:
    """w = snr + 1/sigma_data^2: unit-variance errors at every level for data of that spread.

    Args:
        sigma_data: standard deviation of normalized actions, positive.

    Source: arXiv 2206.00364, table 1: ``(s^2 + sigma_data^2)/(s sigma_data)^2``, s = sigma/alpha.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise UsageError(
                f"EdmWeighting: sigma_data is {self.sigma_data}, expected a positive number"
            )

    def scaled(self, alpha: Time, sigma: Time, gain: Time) -> Time:
        """Return ``w sigma^2``, see ``Weighting.scaled``."""
        return alpha.square() + (sigma / self.sigma_data).square()


def prediction_gain(path: Path, t: Time, predicts: Prediction) -> Time:
    """Return the gain (2) of a prediction type: ``sigma |d prediction / d denoised|``.

    Args:
        path: whose alpha and sigma.
        t: times in ``[path.t_min, path.t_max]``.
        predicts: prediction type.

    Returns:
        ``(batch,)``, at least 0; infinite for a score where sigma is 0.
    """
    alpha, sigma = path.alpha_sigma(t)
    if predicts == "clean":
        return sigma
    if predicts == "noise":
        return alpha
    if predicts == "v":
        return alpha.square() + sigma.square()
    if predicts == "score":
        return alpha / sigma
    if predicts == "velocity":
        dalpha, dsigma = path.derivatives(t)
        return (dalpha * sigma - dsigma * alpha).abs()
    raise UsageError(
        f"prediction_gain: got predicts={predicts!r}, expected 'clean', 'noise', 'velocity', 'v' "
        "or 'score'"
    )


def edm_gain(alpha: Time, sigma: Time, sigma_data: float) -> Time:
    """Return the gain (2) of a network under EDM preconditioning: ``sigma`` over its output scale.

    Source: arXiv 2206.00364, table 1: c_out = s sigma_data / sqrt(s^2 + sigma_data^2).
    """
    return (sigma.square() + (sigma_data * alpha).square()).sqrt() / sigma_data


def denoised_weight(weighting: Weighting, path: Path, t: Time, *, predicts: Prediction) -> Tensor:
    """Return w(t) of equations (3), the weight on the squared error of the denoised action.

    Args:
        weighting: which one.
        path: whose alpha and sigma.
        t: times in ``[path.t_min, path.t_max]``.
        predicts: prediction type; only ``PredictionWeighting`` depends on it.

    Returns:
        ``(batch,)``. Infinite where sigma is 0 and the weight has no bound.
    """
    alpha, sigma = path.alpha_sigma(t)
    gain = prediction_gain(path, t, predicts)
    return weighting.scaled(alpha, sigma, gain) / sigma.square()
