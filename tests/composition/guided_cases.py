"""A Gaussian policy under a quadratic cost: what the tests of guidance share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genpolicy.composition.guided import CostGuided
from genpolicy.sampling import RowNoise
from tests.oracles import GaussianDenoiser

M, S, Q = 0.3, 0.5, -1.0
EVERYWHERE = (-math.inf, math.inf)
FREE: dict[str, Any] = {"interval": EVERYWHERE, "max_ratio": None}


@dataclass(frozen=True)
class Quadratic:
    """C = |x - q|^2/2."""

    q: Any = Q

    def __call__(self, actions: Tensor) -> Tensor:
        return 0.5 * (actions - self.q).square().flatten(1).sum(1)


def guided(path: Any, **changes: Any) -> CostGuided:
    values = {"inner": GaussianDenoiser(path, M, S), "cost": Quadratic(), "scale": 4.0} | changes
    return CostGuided(**values)


def states(n: int, *, horizon: int = 2, action: int = 1) -> Tensor:
    return RowNoise(range(n), (horizon, action), dtype=torch.float64).draw(0)


def at(t: float, n: int) -> Tensor:
    return torch.full((n,), t, dtype=torch.float64)
