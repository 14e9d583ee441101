"""Where the agent is at the steps of an action chunk, as a differentiable function of it.

In Push-T the action is a position (``ActionIsPosition``). In maze2d it is a force, which
``PointMass`` integrates from the last observation on::

    v' = (v + dt gain a) / (1 + dt damping),     x' = x + dt v'                               (1)

with |a| <= 1, and v limited to the highest speed before each step. (1) is MuJoCo's Euler step with
implicit joint damping; walls are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.errors import UsageError
from genpolicy.shapes import Chunk, Obs

__all__ = ["ActionIsPosition", "PointMass", "Positions"]

_BALL_MASS = 1000.0 * 4.0 / 3.0 * math.pi * 0.1**3
"""Mass in kg of maze2d's ball: density 1000 kg/m^3, radius 0.1 m."""


@runtime_checkable
class Positions(Protocol):
    """Where the agent is at the steps of a chunk."""

    def __call__(self, actions: Chunk, obs: Obs) -> Float[Tensor, "batch horizon dims"]:
        """Return the position that each action leads to; of past actions, what was observed."""
        ...


@dataclass(frozen=True, kw_only=True)
class ActionIsPosition:
    """The action is the agent's (target) position, as in Push-T.

    Args:
        dims: entries of the action that are coordinates.
    """

    dims: Sequence[int] = (0, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(int(i) for i in self.dims))

    def __call__(self, actions: Chunk, obs: Obs) -> Float[Tensor, "batch horizon dims"]:
        """Return the entries ``dims`` of the actions."""
        return entries_of(actions, self.dims, "action")


@dataclass(frozen=True, kw_only=True)
class PointMass:
    """A point mass driven by forces, equation (1); the defaults are those of maze2d.

    Args:
        position_key: observation that holds the position, in m.
        position_dims: its entries.
        velocity_key: observation that holds the velocity, in m/s.
        velocity_dims: its entries, as many.
        action_dims: entries of the action that are forces, as many; limited to [-1, 1].
        dt: duration of a step in s, positive.
        gain: acceleration in m/s^2 of an action of 1: force over mass.
        damping: damping over mass in 1/s, at least 0.
        max_speed: limit in m/s of each velocity entry before a step, positive.

    Raises:
        UsageError: for values outside these ranges.

    Source: the model of ``genpolicy.envs.maze2d``: gear 100 N, joint damping 1 N s/m, 4.19 kg.
    """

    position_key: str = "state"
    position_dims: Sequence[int] = (0, 1)
    velocity_key: str = "state"
    velocity_dims: Sequence[int] = (2, 3)
    action_dims: Sequence[int] = (0, 1)
    dt: float = 0.01
    gain: float = 100.0 / _BALL_MASS
    damping: float = 1.0 / _BALL_MASS
    max_speed: float = 5.0

    def __post_init__(self) -> None:
        for name in ("position_dims", "velocity_dims", "action_dims"):
            object.__setattr__(self, name, tuple(int(i) for i in getattr(self, name)))
        if not len(self.position_dims) == len(self.velocity_dims) == len(self.action_dims):
            raise UsageError(
                f"PointMass: position_dims {self.position_dims}, velocity_dims "
                f"{self.velocity_dims} and action_dims {self.action_dims} differ in number"
            )
        check_positive("PointMass", {"dt": self.dt, "max_speed": self.max_speed})
        check_at_least_0("PointMass", {"damping": self.damping})

    def __call__(self, actions: Chunk, obs: Obs) -> Float[Tensor, "batch horizon dims"]:
        """Return the observed positions of past steps and (1) from the last observation on.

        Raises:
            UsageError: when an observation is missing or has another number of rows.
        """
        observed = self._observed(obs, self.position_key, self.position_dims, actions)
        velocity = self._observed(obs, self.velocity_key, self.velocity_dims, actions)[:, -1]
        n_past = observed.shape[1] - 1
        force = entries_of(actions, self.action_dims, "action").clamp(-1.0, 1.0)
        position = observed[:, -1]
        steps = list(observed[:, 1:].unbind(1))[: actions.shape[1]]
        for k in range(n_past, actions.shape[1]):
            limited = velocity.clamp(-self.max_speed, self.max_speed)
            pushed = limited + self.dt * self.gain * force[:, k]
            velocity = pushed / (1.0 + self.dt * self.damping)
            position = position + self.dt * velocity
            steps.append(position)
        return torch.stack(steps, dim=1)

    def _observed(self, obs: Obs, key: str, dims: Sequence[int], actions: Tensor) -> Tensor:
        if key not in obs:
            raise UsageError(
                f"PointMass: observation {key!r} is missing, got {sorted(obs)}; set position_key "
                "and velocity_key"
            )
        value = obs[key]
        if value.ndim != 3 or len(value) != len(actions):
            raise UsageError(
                f"PointMass: observation {key!r} has shape {tuple(value.shape)} for actions of "
                f"shape {tuple(actions.shape)}, expected (batch, n_obs_steps, entries) with as "
                "many rows"
            )
        return entries_of(value, dims, f"observation {key!r}").to(actions.dtype)


def n_past_of(obs: Obs) -> int:
    """Return the number of entries of a chunk that lie before the current step."""
    return max((value.shape[1] - 1 for value in obs.values()), default=0)


def coming_of(positions: Tensor, obs: Obs) -> Tensor:
    """Return the positions from the current step on."""
    return positions[:, n_past_of(obs) :]


def entries_of(values: Tensor, dims: Sequence[int], what: str) -> Tensor:
    """Return the entries ``dims`` of the last axis; ``what`` has them, for errors."""
    if not dims or not all(0 <= i < values.shape[-1] for i in dims):
        raise UsageError(
            f"{what} has {values.shape[-1]} entries, asked for entries {tuple(dims)}; expected "
            f"indices from 0 to {values.shape[-1] - 1}"
        )
    return values[..., list(dims)]


def vector_of(values: Sequence[float], like: Tensor, what: str) -> Tensor:
    """Return coordinates as a tensor that fits positions ``like``."""
    if len(values) != like.shape[-1]:
        raise UsageError(
            f"{what} has {len(values)} coordinates, positions have {like.shape[-1]}; give as many"
        )
    return like.new_tensor(values)


def length_of(vectors: Tensor) -> Tensor:
    """Return Euclidean lengths; the gradient at a zero vector is 0, not NaN."""
    square = vectors.square().sum(-1)
    is_zero = square == 0.0
    return torch.where(is_zero, 1.0, square).sqrt().masked_fill(is_zero, 0.0)


def check_positive(owner: str, values: Mapping[str, float]) -> None:
    """Raise ``UsageError`` unless all values are positive and finite."""
    for name, value in values.items():
        if not 0.0 < value < math.inf:
            raise UsageError(f"{owner}: {name} is {value}, expected positive and finite")


def check_at_least_0(owner: str, values: Mapping[str, float]) -> None:
    """Raise ``UsageError`` unless all values are at least 0 and finite."""
    for name, value in values.items():
        if not 0.0 <= value < math.inf:
            raise UsageError(f"{owner}: {name} is {value}, expected finite and at least 0")
