"""Weights of a composition: one number per member, or one that varies with level or sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.errors import UsageError

__all__ = ["LevelWeights", "WeightSchedule", "Weights", "fixed_weights", "total_of"]


@runtime_checkable
class WeightSchedule(Protocol):
    """Weights that vary with the noise level, or with the sample, or with both."""

    @property
    def n_members(self) -> int:
        """Number of members it has weights for."""
        ...

    def __call__(self, log_snr: Float[Tensor, " batch"]) -> Float[Tensor, "batch members"]:
        """Return the weights of each row at its level."""
        ...


Weights: TypeAlias = tuple[float, ...] | Float[Tensor, "batch members"] | WeightSchedule
"""Fixed; one row per sample; or a function of the level."""


@dataclass(frozen=True, kw_only=True)
class LevelWeights:
    """Weights given at some noise levels, and interpolated linearly in log-SNR between them.

    Args:
        log_snr: levels, increasing (noisy first). Outside them the nearest weights hold.
        weights: for each level the weights of the members.

    Raises:
        UsageError: when levels do not increase, or the numbers of weights differ.
    """

    log_snr: Sequence[float]
    weights: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        levels = tuple(float(v) for v in self.log_snr)
        table = tuple(tuple(float(w) for w in row) for row in self.weights)
        increasing = all(a < b for a, b in itertools.pairwise(levels))
        if not levels or len(levels) != len(table) or len({len(r) for r in table}) != 1:
            raise UsageError(
                f"LevelWeights: got {len(levels)} levels and {len(table)} rows of weights of "
                f"lengths {sorted({len(r) for r in table})}, expected one row per level, all alike"
            )
        if not increasing or not all(math.isfinite(w) for row in table for w in row):
            raise UsageError(
                f"LevelWeights: levels {levels} have to increase, and weights to be finite"
            )
        object.__setattr__(self, "log_snr", levels)
        object.__setattr__(self, "weights", table)

    @property
    def n_members(self) -> int:
        """Number of members it has weights for."""
        return len(self.weights[0])

    def __call__(self, log_snr: Float[Tensor, " batch"]) -> Float[Tensor, "batch members"]:
        """Return the interpolated weights of each row."""
        knots = torch.tensor(self.log_snr, dtype=torch.float64, device=log_snr.device)
        table = torch.tensor(self.weights, dtype=torch.float64, device=log_snr.device)
        if len(knots) == 1:
            return table.expand(len(log_snr), -1)
        level = log_snr.double().clamp(float(knots[0]), float(knots[-1]))
        right = torch.searchsorted(knots, level).clamp(1, len(knots) - 1)
        span = knots[right] - knots[right - 1]
        share = ((level - knots[right - 1]) / span).unsqueeze(-1)
        return table[right - 1] * (1.0 - share) + table[right] * share


def fixed_weights(operator: str, weights: Sequence[float], n_members: int) -> tuple[float, ...]:
    """Return weights as floats.

    Raises:
        UsageError: when their number is not that of the members, or one is not finite.
    """
    found = tuple(float(w) for w in weights)
    if len(found) != n_members:
        raise UsageError(
            f"{operator}: got {len(found)} weights for {n_members} members, expected as many"
        )
    if not all(math.isfinite(w) for w in found):
        raise UsageError(f"{operator}: got weights {found}, expected finite ones")
    return found


def total_of(weights: Sequence[float]) -> float:
    """Return the sum of weights: exactly 1 where it is 1 but for rounding."""
    total = math.fsum(weights)
    return 1.0 if abs(total - 1.0) < 1e-6 else total
