"""Discretisations for consistency losses: how many noise levels, where, and which pair is trained.

    (1)  karras levels  s_i = (s_0^(1/rho) + i/(N-1) (s_max^(1/rho) - s_0^(1/rho)))^rho, i < N
    (2)  square root    N(k) = ceil(sqrt(k/K ((n_1 + 1)^2 - n_0^2) + n_0^2) - 1) + 1
    (3)  doubling       N(k) = min(n_0 2^floor(k/K'), n_1) + 1
                        K' = floor(K/(log2 floor(n_1/n_0) + 1))

Levels are numbered from the clean end. Training with N levels converges to a map whose samples are
too narrow when N is small (a factor 0.09 for N = 3, 0.92 for N = 40 on Gaussian data with standard
deviation 0.2), so a curriculum has to end at a large N, and its step count k has to be the step
count of the whole run: restarting it at every evaluation passes through the collapse again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genpolicy.errors import UsageError, nearest
from genpolicy.paths import Path

__all__ = [
    "ConstantCurriculum",
    "Curriculum",
    "DoublingCurriculum",
    "Spacing",
    "SquareRootCurriculum",
    "draw_levels",
    "level_times",
]

Spacing: TypeAlias = Literal["karras", "uniform"]


def check_choice(owner: str, field: str, value: str, choices: Any) -> None:
    """Raise ``UsageError`` unless ``value`` is one of the literals of ``choices``."""
    known = get_args(choices)
    if value not in known:
        raise UsageError(f"{owner}: {field} is {value!r}; {nearest(value, known)}")


@runtime_checkable
class Curriculum(Protocol):
    """The number of noise levels as a function of the training step."""

    def n_levels(self, step: int) -> int:
        """Return the number of levels, at least 2, at optimizer step ``step`` of the whole run."""
        ...


@dataclass(frozen=True, kw_only=True)
class ConstantCurriculum:
    """The same number of levels throughout.

    Args:
        levels: number of levels, at least 2.
    """

    levels: int = 40

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise UsageError(f"ConstantCurriculum: levels is {self.levels}, expected at least 2")

    def n_levels(self, step: int) -> int:
        """Return ``levels`` for every step."""
        return self.levels


@dataclass(frozen=True, kw_only=True)
class SquareRootCurriculum:
    """Levels that grow like the square root of the training step, equation (2).

    Args:
        total_steps: K, optimizer steps of the whole run; later steps keep the last number.
        first: n_0, at least 2: the number of levels at step 0.
        last: n_1, above ``first``: the number at the end is ``last + 1``.

    Source: arXiv 2303.01469, appendix C, with the constants of arXiv 2309.16984.
    """

    total_steps: int
    first: int = 2
    last: int = 150

    def __post_init__(self) -> None:
        _check_rise("SquareRootCurriculum", self.total_steps, self.first, self.last)

    def n_levels(self, step: int) -> int:
        """Return the number of levels at ``step``."""
        progress = min(max(step, 0), self.total_steps) / self.total_steps
        inside = progress * ((self.last + 1) ** 2 - self.first**2) + self.first**2
        return math.ceil(math.sqrt(inside) - 1) + 1


@dataclass(frozen=True, kw_only=True)
class DoublingCurriculum:
    """Levels that double at equal intervals, equation (3).

    Args:
        total_steps: K, optimizer steps of the whole run; later steps keep the last number.
        first: n_0, at least 2: one less than the number of levels at step 0.
        last: n_1, above ``first``: one less than the number at the end.

    Source: arXiv 2310.14189, table 1 (10 to 1280).
    """

    total_steps: int
    first: int = 10
    last: int = 1280

    def __post_init__(self) -> None:
        _check_rise("DoublingCurriculum", self.total_steps, self.first, self.last)

    def n_levels(self, step: int) -> int:
        """Return the number of levels at ``step``."""
        n_stages = math.log2(self.last // self.first) + 1
        period = max(math.floor(self.total_steps / n_stages), 1)
        stage = min(max(step, 0) // period, math.ceil(n_stages))
        return min(self.first * 2**stage, self.last) + 1


def _check_rise(name: str, total_steps: int, first: int, last: int) -> None:
    if total_steps < 1:
        raise UsageError(f"{name}: total_steps is {total_steps}, expected at least 1")
    if not 2 <= first < last:
        raise UsageError(f"{name}: got first {first} and last {last}, expected 2 <= first < last")


def level_times(
    path: Path, n_levels: int, *, spacing: Spacing, t_end: float, rho: float = 7.0
) -> Float[Tensor, " n_levels"]:
    """Return the times of ``n_levels`` noise levels, from ``t_end`` up to ``path.t_max``.

    Args:
        path: whose times.
        n_levels: at least 2.
        spacing: ``"karras"`` is equation (1) in s = sigma/alpha; ``"uniform"`` is uniform in t.
        t_end: time of level 0, at least ``path.t_min``.
        rho: exponent of the Karras spacing.

    Returns:
        Increasing float64 times on the host.

    Raises:
        UsageError: for Karras spacing where s is 0 at ``t_end`` or infinite at ``path.t_max``.
    """
    check_choice("level_times", "spacing", spacing, Spacing)
    if n_levels < 2 or not path.t_min <= t_end < path.t_max:
        raise UsageError(
            f"level_times: got {n_levels} levels from {t_end}, expected at least 2 from a time in "
            f"[{path.t_min}, {path.t_max})"
        )
    unit = torch.linspace(0.0, 1.0, n_levels, dtype=torch.float64)
    if spacing == "uniform":
        times = t_end + (path.t_max - t_end) * unit
    else:
        alpha, sigma = path.alpha_sigma(torch.tensor([t_end, path.t_max], dtype=torch.float64))
        low, high = (sigma / alpha).tolist()
        if not (low > 0 and math.isfinite(high)):
            raise UsageError(
                f"level_times: sigma/alpha runs from {low} to {high} on {type(path).__name__}, "
                "expected positive and finite ends for Karras spacing; use spacing='uniform', or a "
                "path with t_max below 1 and a positive t_end"
            )
        root = low ** (1 / rho) + unit * (high ** (1 / rho) - low ** (1 / rho))
        times = path.t_of_log_snr(-2.0 * rho * root.log()).clamp(path.t_min, path.t_max)
    times[0], times[-1] = t_end, path.t_max
    return times


def draw_levels(
    probabilities: Float[Tensor, " n"], batch: int, generator: torch.Generator
) -> Int[Tensor, " batch"]:
    """Draw ``batch`` indices with the given probabilities, on the generator's device."""
    weights = probabilities.to(generator.device)
    return torch.multinomial(weights, batch, replacement=True, generator=generator)


def lognormal_probabilities(
    sigmas: Float[Tensor, " n_levels"], *, mean: float, std: float
) -> Float[Tensor, " n_pairs"]:
    """Return the probability of each pair of adjacent levels under a log-normal on s.

    Args:
        sigmas: increasing s = sigma/alpha of the levels; infinity is allowed.
        mean: of log s.
        std: of log s.

    Source: arXiv 2310.14189, equation 9 (mean -1.1, std 2.0).
    """
    cumulative = torch.erf((sigmas.double().log() - mean) / (std * math.sqrt(2.0)))
    mass = cumulative.diff()
    return mass / mass.sum()
