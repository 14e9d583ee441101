"""Objectives of offline RL: Bellman errors, expectiles, and what a critic tells a policy.

::

    (1)  y = r + bootstrap V',     bootstrap = discount^n, or 0 where the task ended
    (2)  critics       sum over critics of the mean of (Q_i - y)^2
    (3)  expectile     mean of |tau - 1(e < 0)| e^2,  e = Q - V: V is the tau-expectile of Q
    (4)  improvement   -mean Q_1(s, a) / mean |Q_2(s, a)|,  the divisor without gradient
    (5)  weights       w = min(exp(A/beta), max_weight), divided by its mean over the batch
    (6)  alignment     -sum_k softmax_k(Q_k) log softmax_k(D_k)

The minimum of a weighted denoising loss with (5) is the posterior mean of ``p(a|s) exp(A/beta)``,
normalized (but for rows whose weight was cut).

Source: arXiv 2110.06169 (3, 5), arXiv 2208.06193 (4; TD3+BC, arXiv 2106.06860, has one critic in
both places), arXiv 1910.00177 (5), arXiv 2407.09024 equation 13 (6).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.errors import UsageError

__all__ = [
    "advantage_weights",
    "alignment_loss",
    "bellman_target",
    "critic_loss",
    "expectile_loss",
    "improvement_loss",
]


def bellman_target(
    reward: Float[Tensor, " batch"],
    bootstrap: Float[Tensor, " batch"],
    next_value: Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """Return the target (1), without gradient.

    A factor of 0 leaves nothing of ``next_value``, not-a-number included: what comes after the end
    of a task was never observed.
    """
    following = torch.where(bootstrap > 0.0, bootstrap * next_value, 0.0)
    return (reward + following).detach()


def critic_loss(
    values: Float[Tensor, "critics batch"], target: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Return the loss (2): every critic regresses on the same target."""
    return (values - target).square().mean(dim=1).sum()


def expectile_loss(error: Float[Tensor, " batch"], expectile: float) -> Float[Tensor, ""]:
    """Return the loss (3).

    Args:
        error: what is regressed on less the estimate, Q - V.
        expectile: tau in (0, 1); 0.5 is the mean, towards 1 it approaches the maximum.

    Raises:
        UsageError: for an expectile out of range.
    """
    if not 0.0 < expectile < 1.0:
        raise UsageError(f"expectile_loss: expectile is {expectile}, expected a value in (0, 1)")
    weight = (expectile - (error < 0.0).to(error.dtype)).abs()
    return (weight * error.square()).mean()


def improvement_loss(
    followed: Float[Tensor, " batch"], divisor: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Return the loss (4): the scale of the critics does not matter.

    Args:
        followed: value of the policy's actions by the critic that is followed, with gradient.
        divisor: values by the critic whose mean size divides, the same or another.

    Returns:
        A number near -1 for positive values.
    """
    return -followed.mean() / divisor.detach().abs().mean().clamp(min=1e-6)


def advantage_weights(
    advantage: Float[Tensor, " batch"], *, beta: float, max_weight: float
) -> tuple[Float[Tensor, " batch"], Float[Tensor, ""]]:
    """Return the weights (5), with mean 1, and the share of them that was cut.

    Args:
        advantage: one per row.
        beta: temperature.
        max_weight: limit before normalization.
    """
    exponent = advantage / beta
    # Where all are negative the largest counts as 0: the ratios stay, and not all underflow.
    raw = (exponent - exponent.max().clamp(max=0.0)).exp()
    limited = raw.clamp(max=max_weight)
    return limited / limited.mean(), (raw > max_weight).to(raw.dtype).mean()


def alignment_loss(
    tilt: Float[Tensor, "batch actions"],
    values: Float[Tensor, "batch actions"],
    *,
    labels: Literal["soft", "best"] = "soft",
) -> Float[Tensor, ""]:
    """Return the loss (6), the mean over rows.

    Args:
        tilt: D, log-ratio of policy to behaviour of each action, with gradient; a constant per row
            changes nothing.
        values: Q of each action; a constant per row changes nothing.
        labels: ``"soft"`` is (6); ``"best"`` puts all weight on the action of largest value, which
            for two actions is the loss of direct preference optimization.

    At equal tilts it is the logarithm of the number of actions, whatever the values.
    """
    if labels == "soft":
        weights = values.softmax(dim=1)
    else:
        weights = torch.zeros_like(values).scatter_(1, values.argmax(1, keepdim=True), 1.0)
    return -(weights.detach() * tilt.log_softmax(dim=1)).sum(dim=1).mean()
