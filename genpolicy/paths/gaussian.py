"""Analytic paths: straight line (flow matching), cosine, VP diffusion, and Karras (VE, EDM).

Time runs from 0 (clean) to 1 (noise) and::

    linear   alpha = 1 - t                   sigma = t
    cosine   alpha = cos(a) / cos(b)         a = b + c t, c = (pi/2)/(1 + offset), b = c offset
             sigma = sqrt(sin(a + b) sin(a - b)) / cos(b)    (1 - alpha^2, without cancellation)
    vp       alpha = exp(-q/2)               q = beta_min t + (beta_max - beta_min) t^2 / 2
             sigma = sqrt(1 - exp(-q))
    karras   alpha = 1                       sigma = sigma_max t^rho
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.errors import UsageError
from genpolicy.paths.base import check_range

__all__ = ["CosinePath", "KarrasPath", "LinearPath", "VPPath"]


@dataclass(frozen=True, kw_only=True)
class LinearPath:
    """The straight line between clean and noise: rectified flow, conditional flow matching.

    Args:
        t_min: smallest time of a network evaluation.
        t_max: largest one. At 1 the clean part is gone (alpha = 0), which ``velocity``, ``clean``
            and ``v`` predictions allow and ``noise`` and ``score`` do not.

    Source: arXiv 2209.03003, 2210.02747. Their time runs the other way (0 is noise, 1 is data), and
        with it the sign of the velocity.
    """

    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        check_range("LinearPath", self.t_min, self.t_max)

    def alpha_sigma(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return alpha(t) and sigma(t)."""
        return 1.0 - t, t.clone()

    def derivatives(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return d alpha/dt and d sigma/dt."""
        return torch.full_like(t, -1.0), torch.ones_like(t)

    def t_of_log_snr(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time of a log-SNR."""
        return torch.sigmoid(-0.5 * log_snr)


@dataclass(frozen=True, kw_only=True)
class CosinePath:
    """The cosine schedule of improved DDPM in continuous time.

    Args:
        offset: keeps the first levels from being too clean, at least 0.
        t_min: smallest time of a network evaluation.
        t_max: largest one. Below 1, because alpha(1) is 0; the discrete schedule caps its last
            beta for the same reason.

    Source: arXiv 2102.09672, equation 17.
    """

    offset: float = 0.008
    t_min: float = 0.001
    t_max: float = 0.995

    def __post_init__(self) -> None:
        check_range("CosinePath", self.t_min, self.t_max)
        if not self.offset >= 0.0:
            raise UsageError(f"CosinePath: offset is {self.offset}, expected at least 0")

    @property
    def _rate(self) -> float:
        return 0.5 * math.pi / (1.0 + self.offset)

    def alpha_sigma(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return alpha(t) and sigma(t)."""
        start = self._rate * self.offset
        turned = self._rate * t
        # At t = 0 the ratio of two equal cosines is 1 exactly in any dtype.
        alpha = torch.cos(start + turned) / torch.cos(start + torch.zeros_like(t))
        square = torch.sin(2.0 * start + turned) * torch.sin(turned)
        return alpha, square.clamp(min=0.0).sqrt() / math.cos(start)

    def derivatives(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return d alpha/dt and d sigma/dt; the latter is infinite at t = 0."""
        alpha, sigma = self.alpha_sigma(t)
        start = self._rate * self.offset
        dalpha = -self._rate * torch.sin(start + self._rate * t) / math.cos(start)
        return dalpha, -alpha * dalpha / sigma

    def t_of_log_snr(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time of a log-SNR."""
        start = self._rate * self.offset
        signal, noise = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
        cosine = signal.sqrt() * math.cos(start)
        sine = (noise + signal * math.sin(start) ** 2).sqrt()
        return ((torch.atan2(sine, cosine) - start) / self._rate).clamp(min=0.0)


@dataclass(frozen=True, kw_only=True)
class VPPath:
    """The variance-preserving diffusion with a linear beta(t).

    Args:
        beta_min: beta at t = 0, positive.
        beta_max: beta at t = 1, at least ``beta_min``.
        t_min: smallest time of a network evaluation.
        t_max: largest one.

    Source: arXiv 2011.13456, equation 33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 0.001
    t_max: float = 1.0

    def __post_init__(self) -> None:
        check_range("VPPath", self.t_min, self.t_max)
        if not 0.0 < self.beta_min <= self.beta_max < math.inf:
            raise UsageError(
                f"VPPath: got beta_min {self.beta_min} and beta_max {self.beta_max}, expected "
                "0 < beta_min <= beta_max"
            )

    def _exponent(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def alpha_sigma(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return alpha(t) and sigma(t)."""
        q = self._exponent(t)
        return torch.exp(-0.5 * q), (-torch.expm1(-q)).sqrt()

    def derivatives(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return d alpha/dt and d sigma/dt; the latter is infinite at t = 0."""
        alpha, sigma = self.alpha_sigma(t)
        half_beta = 0.5 * (self.beta_min + (self.beta_max - self.beta_min) * t)
        return -half_beta * alpha, half_beta * alpha.square() / sigma

    def t_of_log_snr(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time of a log-SNR."""
        q = torch.logaddexp(-log_snr, torch.zeros_like(log_snr))
        slope = self.beta_max - self.beta_min
        return 2.0 * q / (self.beta_min + (self.beta_min**2 + 2.0 * slope * q).sqrt())


@dataclass(frozen=True, kw_only=True)
class KarrasPath:
    """The variance-exploding path of EDM, in the time that makes its grid uniform.

    EDM spaces sigma^(1/rho) equally from sigma_max to sigma_min. Here these are equally spaced
    times between ``t_max = 1`` and ``t_min = (sigma_min/sigma_max)^(1/rho)``.

    Args:
        sigma_min: noise level of the last network evaluation, positive.
        sigma_max: noise level where sampling starts, above ``sigma_min``.
        rho: how strongly the levels crowd at the clean end, at least 1.

    Source: arXiv 2206.00364, equation 5. There time is sigma itself.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (0.0 < self.sigma_min < self.sigma_max < math.inf and self.rho >= 1.0):
            raise UsageError(
                f"KarrasPath: got sigma_min {self.sigma_min}, sigma_max {self.sigma_max} and rho "
                f"{self.rho}, expected 0 < sigma_min < sigma_max and rho >= 1"
            )

    @property
    def t_min(self) -> float:
        """Time of ``sigma_min``."""
        return (self.sigma_min / self.sigma_max) ** (1.0 / self.rho)

    @property
    def t_max(self) -> float:
        """Time of ``sigma_max``."""
        return 1.0

    def alpha_sigma(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return alpha(t) and sigma(t)."""
        return torch.ones_like(t), self.sigma_max * t**self.rho

    def derivatives(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return d alpha/dt and d sigma/dt."""
        return torch.zeros_like(t), self.sigma_max * self.rho * t ** (self.rho - 1.0)

    def t_of_log_snr(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time of a log-SNR."""
        return torch.exp((-0.5 * log_snr - math.log(self.sigma_max)) / self.rho)
