"""Checks that all networks share: of their settings when built, of their inputs when run."""

from __future__ import annotations

from torch import Tensor

from genpolicy.errors import UsageError

__all__ = ["check_inputs", "check_n_times", "check_rate", "check_sizes"]


def check_sizes(who: str, **sizes: int) -> None:
    """Raise a ``UsageError`` naming the first of ``sizes`` that is not a positive integer."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UsageError(f"{who}: {name} is {size!r}, expected a positive integer")


def check_rate(who: str, **rates: float) -> None:
    """Raise a ``UsageError`` naming the first of ``rates`` (of dropout) that is not in [0, 1)."""
    for name, rate in rates.items():
        if not 0.0 <= rate < 1.0:
            raise UsageError(f"{who}: {name} is {rate}, expected a number in [0, 1)")


def check_n_times(who: str, n_times: int) -> None:
    """Raise a ``UsageError`` unless ``n_times`` is 1 or 2."""
    if n_times not in (1, 2):
        raise UsageError(f"{who}: n_times is {n_times!r}, expected 1 or 2")


def check_inputs(
    who: str, x: Tensor, obs: Tensor, *, chunk: tuple[int, int], cond: tuple[int, int]
) -> None:
    """Compare what a network got with what it was built for.

    Args:
        who: name of the network.
        x: chunk of shape ``(batch, horizon, action)``.
        obs: observations of shape ``(batch, n_obs_steps, obs_dim)``.
        chunk: expected horizon and action entries.
        cond: expected observation steps and features.

    Raises:
        UsageError: with both shapes.
    """
    if x.ndim != 3 or tuple(x.shape[1:]) != chunk:
        raise UsageError(
            f"{who}: got a chunk of shape {tuple(x.shape)}, built for (batch, {chunk[0]}, "
            f"{chunk[1]}); build it with this horizon and action_dim or change the data's windows"
        )
    if obs.ndim != 3 or tuple(obs.shape[1:]) != cond or obs.shape[0] != x.shape[0]:
        raise UsageError(
            f"{who}: got observations of shape {tuple(obs.shape)} for {x.shape[0]} rows, built for "
            f"(batch, {cond[0]}, {cond[1]}); build it with the encoder's obs_dim and n_obs_steps"
        )
