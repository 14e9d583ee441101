"""Beta tables of discrete-time diffusion models as a continuous path.

    (1)  abar_k = (1 - beta_0) ... (1 - beta_k),  alpha = sqrt(abar), sigma = sqrt(1 - abar)
    (2)  level k of n sits at time (k + 1)/n; between levels log-SNR is linear in t
    (3)  below level 0, t < 1/n: sigma = sigma_0 n t and alpha = sqrt(1 - sigma^2)

Tables: ``linear`` and ``scaled_linear`` (equal steps in beta or in sqrt(beta));
``squaredcos_cap_v2``, ``beta_k = min(1 - f((k+1)/n)/f(k/n), 0.999)`` with
``f(u) = cos^2((u + 0.008)/1.008 pi/2)``; and
``dql_vp``, ``beta_k = 1 - exp(-b_min/n - (b_max - b_min)(2k + 1)/(2 n^2))``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.errors import UsageError, nearest

__all__ = ["Schedule", "TabulatedPath"]

Schedule: TypeAlias = Literal["squaredcos_cap_v2", "linear", "scaled_linear", "dql_vp", "betas"]

_BETA_RANGE = {"linear": (1e-4, 0.02), "scaled_linear": (1e-4, 0.02), "dql_vp": (0.1, 10.0)}


@dataclass(frozen=True, kw_only=True)
class TabulatedPath:
    """A discrete-time noise schedule, usable at its levels and between them.

    Args:
        schedule: name of the table; ``"betas"`` when the table itself is given.
        n_levels: number of levels, at least 1.
        beta_start: first beta of ``linear`` and ``scaled_linear``, b_min of ``dql_vp``; None takes
            1e-4, or 0.1 for ``dql_vp``.
        beta_end: last beta, b_max of ``dql_vp``; None takes 0.02, or 10 for ``dql_vp``.
        betas: the table itself, each in (0, 1); the other arguments are then not used.

    Raises:
        UsageError: for an unknown schedule, or values outside these ranges.

    Source: arXiv 2006.11239 (linear), 2102.09672 equation 17 (squared cosine), 2208.06193 (dql_vp).
    """

    schedule: Schedule = "squaredcos_cap_v2"
    n_levels: int = 100
    beta_start: float | None = None
    beta_end: float | None = None
    betas: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.betas is not None:
            object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
            object.__setattr__(self, "n_levels", len(self.betas))
            object.__setattr__(self, "schedule", "betas")
        names = get_args(Schedule)
        if self.schedule not in names:
            raise UsageError(
                f"TabulatedPath: schedule is {self.schedule!r}; {nearest(self.schedule, names)}"
            )
        if self.schedule == "betas" and self.betas is None:
            raise UsageError("TabulatedPath: schedule 'betas' needs betas=(...), got None")
        if self.schedule not in _BETA_RANGE and (self.beta_start, self.beta_end) != (None, None):
            raise UsageError(
                f"TabulatedPath: {self.schedule!r} takes no beta_start or beta_end, got "
                f"{self.beta_start} and {self.beta_end}"
            )
        if self.n_levels < 1:
            raise UsageError(f"TabulatedPath: n_levels is {self.n_levels}, expected at least 1")
        bad = [(k, b) for k, b in enumerate(self.beta_table()) if not 0.0 < b < 1.0]
        if bad:
            raise UsageError(
                f"TabulatedPath: beta at level {bad[0][0]} is {bad[0][1]}, expected a value in "
                f"(0, 1); {len(bad)} of {self.n_levels} levels are outside (a beta of 1 is zero "
                "signal: train with a value below 1)"
            )

    @property
    def t_min(self) -> float:
        """Time of level 0."""
        return 1.0 / self.n_levels

    @property
    def t_max(self) -> float:
        """Time of the last level."""
        return 1.0

    def beta_table(self) -> tuple[float, ...]:
        """Return the betas, level 0 first."""
        if self.betas is not None:
            return tuple(self.betas)
        n = self.n_levels
        if self.schedule == "squaredcos_cap_v2":
            return tuple(min(1.0 - _cos2((k + 1) / n) / _cos2(k / n), 0.999) for k in range(n))
        first, last = _BETA_RANGE[self.schedule]
        first = first if self.beta_start is None else self.beta_start
        last = last if self.beta_end is None else self.beta_end
        if self.schedule == "dql_vp":
            rise = (last - first) / (2.0 * n**2)
            return tuple(-math.expm1(-first / n - rise * (2 * k + 1)) for k in range(n))
        unit = [k / (n - 1) if n > 1 else 0.0 for k in range(n)]
        if self.schedule == "linear":
            return tuple(first + u * (last - first) for u in unit)
        if first < 0.0 or last < 0.0:
            raise UsageError(
                f"TabulatedPath: got beta_start {first} and beta_end {last}, expected positive"
            )
        return tuple((first**0.5 + u * (last**0.5 - first**0.5)) ** 2 for u in unit)

    def time_of_level(self, level: int) -> float:
        """Return the time ``(level + 1)/n_levels`` of level 0 to ``n_levels - 1``.

        Raises:
            UsageError: for a level outside the table.
        """
        if not 0 <= level < self.n_levels:
            raise UsageError(f"TabulatedPath: level is {level}, expected 0 to {self.n_levels - 1}")
        return (level + 1) / self.n_levels

    def alpha_sigma(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return alpha(t) and sigma(t)."""
        level, _, below = self._locate(t)
        ramp = _table(self, t.device).ramp * t.double()
        sigma = torch.where(below, ramp, torch.sigmoid(-level).sqrt())
        alpha = torch.where(below, (1.0 - sigma.square()).sqrt(), torch.sigmoid(level).sqrt())
        return alpha.to(t.dtype), sigma.to(t.dtype)

    def derivatives(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return d alpha/dt and d sigma/dt; at a level, those of the segment towards noise."""
        level, slope, below = self._locate(t)
        signal, noise = torch.sigmoid(level), torch.sigmoid(-level)
        ramp = _table(self, t.device).ramp
        sigma = ramp * t.double()
        low = -sigma * ramp / (1.0 - sigma.square()).clamp(min=1e-300).sqrt()
        dalpha = torch.where(below, low, 0.5 * signal.sqrt() * noise * slope)
        dsigma = torch.where(below, ramp, -0.5 * noise.sqrt() * signal * slope)
        return dalpha.to(t.dtype), dsigma.to(t.dtype)

    def t_of_log_snr(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time of a log-SNR; 1 for all below the last level's."""
        table = _table(self, log_snr.device)
        value = log_snr.double().contiguous()
        n = self.n_levels
        # Levels fall with time: level k is the first that is not above it.
        left = (torch.searchsorted(-table.log_snr, -value) - 1).clamp(0, max(n - 2, 0))
        part = (value - table.log_snr[left]) / table.rise[left].clamp(max=-1e-300)
        position = (left + part).clamp(0.0, n - 1.0)
        below = torch.sigmoid(-value).sqrt() / table.ramp
        t = torch.where(value > table.log_snr[0], below, (position + 1.0) / n)
        return t.to(log_snr.dtype)

    def _locate(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-SNR, its slope in t, and where t lies below level 0."""
        table = _table(self, t.device)
        position = t.double() * self.n_levels - 1.0
        # A level's time is not representable in binary: within rounding it is that level.
        closest = position.round()
        at_level = (position - closest).abs() <= 2.0 * torch.finfo(t.dtype).eps * self.n_levels
        position = torch.where(at_level, closest, position)
        left = position.long().clamp(0, max(self.n_levels - 2, 0))
        rise = table.rise[left]
        level = table.log_snr[left] + (position - left).clamp(max=1.0) * rise
        return level, rise * self.n_levels, position < 0.0


class _Table(NamedTuple):
    """Log-SNR of every level, its rise to the next one (0 at the last), and sigma_0 n of (3)."""

    log_snr: Tensor
    rise: Tensor
    ramp: float


def _cos2(u: float) -> float:
    return math.cos((u + 0.008) / 1.008 * math.pi / 2.0) ** 2


@functools.lru_cache(maxsize=64)
def _table(path: TabulatedPath, device: torch.device) -> _Table:
    """Return the table of a path on a device, equation (1), in float64."""
    with torch.inference_mode(False):
        betas = torch.tensor(path.beta_table(), dtype=torch.float64)
        abar = torch.cumprod(1.0 - betas, 0)
        log_snr = abar.log() - torch.log1p(-abar)
        rise = torch.cat([log_snr.diff(), torch.zeros(1, dtype=torch.float64)])
        ramp = math.sqrt(1.0 - abar[0].item()) * path.n_levels
        return _Table(log_snr.to(device), rise.to(device), ramp)
