"""Which noise levels a loss trains on: samplers of the time t.

Every sampler returns times inside ``[path.t_min, path.t_max]``. Samplers that think in the noise
to signal ratio s = sigma/alpha go through ``path.t_of_log_snr`` with log_snr = -2 log s, so that
they mean the same noise levels on every path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from genpolicy.errors import UsageError
from genpolicy.paths import Path, TabulatedPath
from genpolicy.shapes import Time

__all__ = [
    "KarrasTimes",
    "LevelTimes",
    "LogNormalSigmaTimes",
    "LogitNormalTimes",
    "MixedTimes",
    "TimeSampler",
    "UniformTimes",
]


@runtime_checkable
class TimeSampler(Protocol):
    """A distribution of training times on a path."""

    def sample(
        self,
        batch: int,
        path: Path,
        generator: torch.Generator,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Time:
        """Draw ``batch`` times in ``[path.t_min, path.t_max]``.

        Args:
            batch: number of times, at least 0.
            path: whose times.
            generator: the only source of randomness; numbers are drawn on its device.
            device: where the result goes; None leaves it on the generator's device.
            dtype: floating type of the result.

        Returns:
            ``(batch,)``.
        """
        ...


def _uniform(
    batch: int, generator: torch.Generator, device: torch.device | None, dtype: torch.dtype
) -> Time:
    draw = torch.rand(batch, generator=generator, device=generator.device, dtype=dtype)
    return draw.to(device or generator.device)


def _normal(
    batch: int, generator: torch.Generator, device: torch.device | None, dtype: torch.dtype
) -> Time:
    draw = torch.randn(batch, generator=generator, device=generator.device, dtype=dtype)
    return draw.to(device or generator.device)


def _of_log_sigma(path: Path, log_sigma: Time) -> Time:
    """Return the times whose ``log(sigma/alpha)`` is given, moved to the nearest end if outside."""
    return path.t_of_log_snr(-2.0 * log_sigma).clamp(path.t_min, path.t_max)


def _require_positive(name: str, field: str, value: float) -> None:
    if not value > 0:
        raise UsageError(f"{name}: {field} is {value}, expected a positive number")


@dataclass(frozen=True, kw_only=True)
class UniformTimes:
    """Times uniform on the path, or on a part of it.

    Args:
        low: smallest time; None is ``path.t_min``.
        high: largest time; None is ``path.t_max``.
    """

    low: float | None = None
    high: float | None = None

    def sample(
        self,
        batch: int,
        path: Path,
        generator: torch.Generator,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Time:
        """Draw ``batch`` times, see ``TimeSampler.sample``."""
        low = path.t_min if self.low is None else self.low
        high = path.t_max if self.high is None else self.high
        if not path.t_min <= low < high <= path.t_max:
            raise UsageError(
                f"UniformTimes: got [{low}, {high}], expected an interval inside the path's "
                f"[{path.t_min}, {path.t_max}]"
            )
        uniform = _uniform(batch, generator, device, dtype)
        return (low + (high - low) * uniform).clamp(path.t_min, path.t_max)


@dataclass(frozen=True, kw_only=True)
class LogitNormalTimes:
    """Times whose logit is normal: most of them in the middle of the path, where it is hard.

    Args:
        mean: of the logit; positive values favour the noise end.
        std: of the logit, positive.

    Source: arXiv 2403.03206, equation 19 (same direction of time as here).
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("LogitNormalTimes", "std", self.std)

    def sample(
        self,
        batch: int,
        path: Path,
        generator: torch.Generator,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Time:
        """Draw ``batch`` times, see ``TimeSampler.sample``."""
        unit = torch.sigmoid(self.mean + self.std * _normal(batch, generator, device, dtype))
        return (path.t_min + (path.t_max - path.t_min) * unit).clamp(path.t_min, path.t_max)


@dataclass(frozen=True, kw_only=True)
class LogNormalSigmaTimes:
    """Times at which ``log(sigma/alpha)`` is normal; draws outside the path move to its ends.

    Args:
        mean: of the natural logarithm.
        std: of the natural logarithm, positive.

    Source: arXiv 2206.00364, table 1 (mean -1.2, std 1.2), there with alpha = 1.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        _require_positive("LogNormalSigmaTimes", "std", self.std)

    def sample(
        self,
        batch: int,
        path: Path,
        generator: torch.Generator,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Time:
        """Draw ``batch`` times, see ``TimeSampler.sample``."""
        log_sigma = self.mean + self.std * _normal(batch, generator, device, dtype)
        return _of_log_sigma(path, log_sigma)


@dataclass(frozen=True, kw_only=True)
class KarrasTimes:
    """Times whose ``(sigma/alpha)^(1/rho)`` is uniform, counted from the noise end.

    With u uniform on ``[low, high]`` the noise level is
    ``(sigma_max^(1/rho) + u (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho``.

    Args:
        sigma_min: noise to signal ratio at u = 1, positive.
        sigma_max: noise to signal ratio at u = 0, above ``sigma_min``.
        rho: exponent, positive; 7 puts most levels near the clean end.
        low: smallest u, at least 0.
        high: largest u, at most 1.

    Source: arXiv 2206.00364, equation 5; ``high=0.7`` is one half of the times of arXiv 2405.07503.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("KarrasTimes", "rho", self.rho)
        if not 0 < self.sigma_min < self.sigma_max or not math.isfinite(self.sigma_max):
            raise UsageError(
                f"KarrasTimes: got sigma_min {self.sigma_min} and sigma_max {self.sigma_max}, "
                "expected 0 < sigma_min < sigma_max, both finite"
            )
        if not 0 <= self.low < self.high <= 1:
            raise UsageError(
                f"KarrasTimes: got [{self.low}, {self.high}], expected 0 <= low < high <= 1"
            )

    def sample(
        self,
        batch: int,
        path: Path,
        generator: torch.Generator,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Time:
        """Draw ``batch`` times, see ``TimeSampler.sample``."""
        u = self.low + (self.high - self.low) * _uniform(batch, generator, device, dtype)
        top, bottom = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return _of_log_sigma(path, self.rho * torch.log(top + u * (bottom - top)))


@dataclass(frozen=True, kw_only=True)
class LevelTimes:
    """Equally spaced levels, each equally likely: level k is time (k+1)/n_levels.

    Args:
        n_levels: number of levels, at least 1, for a continuous path that is sampled at them alone;
            None takes those of a ``TabulatedPath``.
    """

    n_levels: int | None = None

    def __post_init__(self) -> None:
        if self.n_levels is not None and self.n_levels < 1:
            raise UsageError(f"LevelTimes: n_levels is {self.n_levels}, expected at least 1")

    def sample(
        self,
        batch: int,
        path: Path,
        generator: torch.Generator,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Time:
        """Draw ``batch`` times, see ``TimeSampler.sample``.

        Raises:
            UsageError: when neither the path nor these settings have levels.
        """
        n_levels = self.n_levels
        if n_levels is None:
            if not isinstance(path, TabulatedPath):
                raise UsageError(
                    f"LevelTimes: got a {type(path).__name__}, which has no levels, expected a "
                    "TabulatedPath or n_levels; or use UniformTimes"
                )
            n_levels = path.n_levels
        level = torch.randint(n_levels, (batch,), generator=generator, device=generator.device).to(
            device or generator.device
        )
        return (level.to(dtype) + 1.0) / n_levels


@dataclass(frozen=True, kw_only=True)
class MixedTimes:
    """The first part of a batch from one sampler, the rest from another.

    Args:
        first: sampler of the first ``round(fraction * batch)`` rows.
        second: sampler of the other rows.
        fraction: between 0 and 1.
    """

    first: TimeSampler
    second: TimeSampler
    fraction: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise UsageError(f"MixedTimes: fraction is {self.fraction}, expected 0 to 1")

    def sample(
        self,
        batch: int,
        path: Path,
        generator: torch.Generator,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Time:
        """Draw ``batch`` times, see ``TimeSampler.sample``."""
        n_first = round(self.fraction * batch)
        return torch.cat(
            [
                self.first.sample(n_first, path, generator, device, dtype),
                self.second.sample(batch - n_first, path, generator, device, dtype),
            ]
        )
