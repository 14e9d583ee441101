"""The sums of scores by name: mean, product, conjunction, RL guidance and negation.

Each checks its weights and says what it is meant to sample; ``weighted`` has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from genpolicy.composition.members import Member, check_members
from genpolicy.composition.weighted import Weighted
from genpolicy.composition.weights import Weights, WeightSchedule, fixed_weights, total_of
from genpolicy.denoisers import SamplerClass, Target, target_of
from genpolicy.errors import UsageError

__all__ = ["conjunction", "mean", "negation", "product", "rl_guidance"]

_NEAR = (
    "with a plain sampler it is exact for members of equal widths and close for similar ones; "
    "where widths differ much, use a corrector or particles"
)


def mean(members: Sequence[Member], weights: Weights | Sequence[float]) -> Weighted:
    """Return the convex mixture of scores: ``prod p_i^w_i`` with weights that sum to 1.

    Args:
        members: denoisers on one path; see ``on_path``.
        weights: at least 0, with sum 1; or one row of such per sample; or a schedule of them.

    Raises:
        UsageError: for other weights, flow maps, or members on different paths.

    Source: arXiv 2510.01068 algorithm 1.
    """
    found = check_members("mean", members)
    given = _checked("mean", weights, len(found))
    if isinstance(given, tuple) and (min(given) < 0.0 or abs(math.fsum(given) - 1.0) > 1e-6):
        raise UsageError(
            f"mean: got weights {given} with sum {math.fsum(given):g}, expected weights of at "
            "least 0 with sum 1; use product for other sums, rl_guidance or negation for "
            "negative ones"
        )
    if isinstance(given, Tensor) and (
        bool((given < 0).any()) or bool(((given.sum(1) - 1.0).abs() > 1e-4).any())
    ):
        raise UsageError("mean: some rows of weights are negative or do not sum to 1")
    density = "prod_i p_i^w_i, sum w = 1"
    return Weighted(
        members=found, weights=given, target=_target("mean", density, 1.0, found, note=_NEAR)
    )


def product(members: Sequence[Member], weights: Sequence[float] | None = None) -> Weighted:
    """Return the product of experts ``prod p_i^w_i`` with any positive weights, all 1 by default.

    A deterministic sampler collapses it (by (3) with c = 0) and is refused where the weights sum to
    more than 1; a stochastic one is too narrow. A corrector or particles reach it.

    Args:
        members: denoisers on one path, which may not start at pure noise (``common_path`` with
            ``largest_sigma``).
        weights: positive.

    Raises:
        UsageError: for other weights, flow maps, or members on different paths.

    Source: arXiv 2302.11552 section 3.
    """
    found = check_members("product", members)
    given = fixed_weights("product", [1.0] * len(found) if weights is None else weights, len(found))
    if min(given) < 0.0:
        raise UsageError(
            f"product: got weights {given}, expected at least 0; use negation for a member to "
            "keep away from"
        )
    total = total_of(given)
    return Weighted(
        members=found,
        weights=given,
        uncovered="drop",
        target=_target(
            "product",
            "prod_i p_i^w_i",
            total,
            found,
            refused=total != 1.0,
            note=(
                f"the weights sum to {total:g}, and the sum of scores at t > 0 is not the score of "
                "the noised product"
            ),
        ),
    )


def conjunction(
    base: Member, members: Sequence[Member], *, scale: float | Sequence[float] = 1.0
) -> Weighted:
    """Return ``p_0 prod (p_i/p_0)^w_i``: every condition at once, as classifier-free guidance.

    Args:
        base: the policy without condition, p_0.
        members: the policy with each condition.
        scale: weight w_i of every condition, or one for all, at least 0.

    Raises:
        UsageError: for negative scales, flow maps, or members on different paths.

    Source: arXiv 2206.01714 equation 11; 2211.15657 section 3.
    """
    found = check_members("conjunction", [base, *members], at_least=2)
    n = len(found) - 1
    scales = [float(scale)] * n if isinstance(scale, (int, float)) else list(scale)
    given = fixed_weights("conjunction", scales, n)
    if min(given) < 0.0:
        raise UsageError(f"conjunction: got scales {given}, expected at least 0; use negation")
    weights = (1.0 - math.fsum(given), *given)
    density = "p_0 prod_i (p_i/p_0)^w_i"
    return Weighted(
        members=found,
        weights=weights,
        uncovered="first",
        target=_target("conjunction", density, 1.0, found, note=_NEAR),
    )


def rl_guidance(base: Member, tuned: Member, *, scale: float | WeightSchedule) -> Weighted:
    """Return ``p_base^(1-w) p_tuned^w``: along the direction of tuning, and beyond it for w > 1.

    Where the tuned policy is the optimum of KL-regularised RL, ``p_base exp(R/beta)``, this is the
    optimum for ``beta/w``; otherwise w is a dial, and its curve is to be reported.

    Args:
        base: the policy before tuning; scale 0 is it.
        tuned: the policy after; scale 1 is it.
        scale: w, at least 0, or a schedule of both weights.

    Raises:
        UsageError: for a negative scale, flow maps, or members on different paths.

    Source: arXiv 2508.21016.
    """
    found = check_members("rl_guidance", [base, tuned], at_least=2)
    weights: Weights
    if isinstance(scale, (int, float)):
        if not 0.0 <= scale < math.inf:
            raise UsageError(f"rl_guidance: scale is {scale}, expected a number of at least 0")
        weights = (1.0 - float(scale), float(scale))
    else:
        weights = _checked("rl_guidance", scale, 2)
    density = "p_base^(1-w) p_tuned^w"
    note = f"{_NEAR}; for scales above 1 the base must not be narrower than the tuned policy allows"
    return Weighted(
        members=found,
        weights=weights,
        uncovered="first",
        target=_target("rl_guidance", density, 1.0, found, note=note),
    )


def negation(keep: Member, avoid: Member, *, strength: float) -> Weighted:
    """Return ``p_keep^(1+g) / p_avoid^g``: what the first does and the second does not.

    It is a density only where the first is the narrower one: for Gaussians
    ``(1 + g)/V_keep > g/V_avoid`` at every level.

    Args:
        keep: the policy to follow.
        avoid: the policy to keep away from.
        strength: g, at least 0.

    Raises:
        UsageError: for a negative strength, flow maps, or members on different paths.

    Source: arXiv 2302.11552, with weights that sum to 1 (its notebook's 1.3 and -0.3).
    """
    found = check_members("negation", [keep, avoid], at_least=2)
    if not 0.0 <= strength < math.inf:
        raise UsageError(f"negation: strength is {strength}, expected a number of at least 0")
    weights = (1.0 + float(strength), -float(strength))
    return Weighted(
        members=found,
        weights=weights,
        uncovered="first",
        target=_target("negation", "p_keep^(1+g)/p_avoid^g", 1.0, found, note=_NEAR),
    )


def _checked(operator: str, weights: Weights | Sequence[float], n_members: int) -> Weights:
    """Return weights of any kind with one per member."""
    if isinstance(weights, Tensor):
        if weights.ndim != 2 or weights.shape[1] != n_members:
            raise UsageError(
                f"{operator}: got weights of shape {tuple(weights.shape)}, expected (batch, "
                f"{n_members})"
            )
        return weights
    if isinstance(weights, WeightSchedule):
        if weights.n_members != n_members:
            raise UsageError(
                f"{operator}: the schedule has weights for {weights.n_members} members, there are "
                f"{n_members}"
            )
        return weights
    return fixed_weights(operator, weights, n_members)


def _target(
    operator: str,
    density: str,
    total: float,
    members: Sequence[Member],
    *,
    refused: bool = False,
    note: str = "",
) -> Target:
    """Return the target of a sum of scores; what a member refuses, the sum refuses as well."""
    inner = [target for target in map(target_of, members) if target is not None]
    refusals: set[SamplerClass] = {sampler for target in inner for sampler in target.refused}
    remedies = [target.remedy for target in inner if target.refused]
    if refused:
        refusals.add("ode")
    return Target(
        operator=operator,
        density=density,
        total_weight=total,
        unbiased=("corrected", "particles"),
        refused=tuple(sorted(refusals)),
        remedy=remedies[0]
        if remedies and not refused
        else "use corrector='hmc' or particles (n_particles)",
        note=note,
    )
