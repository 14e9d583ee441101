r"""Compositions that add scores: the convex mean, products, guidance, negation.

With e_i the noise that member i implies and W the sum of the weights::

    (1)  E = sum_i w_i e_i,            the score sum_i w_i s_i in any coordinates
    (2)  D = sum_i w_i D_i + (1 - W) x_t/alpha

For W = 1 the same weights do for noise, clean, velocity, v and score. At t > 0 the score (1) is
that of ``prod p_i,t^w_i``, not of the noised ``prod p_i^w_i``: what a plain sampler makes of it is
exact for members of equal widths and W = 1, close for similar widths, and wrong for W != 1::

    members N(m_i, s^2), stochastic sampler with churn c:  variance s^2 c/((1 + c) W - 1),     (3)
                                                           target s^2/W

Sources: arXiv 2206.01714 (conjunction, negation), 2302.11552 (samplers), 2508.21016 (RL guidance),
2510.01068 (convex mean); (3) and the rate of ``weigh`` (arXiv 2503.02819) are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genpolicy.composition.members import (
    Carries,
    Member,
    advance_members,
    check_members,
    coverage_of,
    denoise_members,
    start_members,
    weigh_member,
)
from genpolicy.composition.weights import Weights, WeightSchedule, fixed_weights, sum_of
from genpolicy.denoisers import Kind, SamplerClass, Step, Target, target_of
from genpolicy.errors import UsageError
from genpolicy.paths import Path, expand_t, log_snr
from genpolicy.paths.base import scalar_alpha_sigma
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["Weighted", "conjunction", "mean", "negation", "product", "rl_guidance"]

Uncovered: TypeAlias = Literal["share", "first", "drop"]
"""Entries that a member says nothing about: the others share its weight, the first member takes it,
or it counts for nothing there."""

_NEAR = (
    "with a plain sampler it is exact for members of equal widths and close for similar ones; "
    "where widths differ much, use a corrector or particles"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighted:
    """A weighted sum of scores (1); build it with ``mean``, ``product`` and the others.

    Args:
        members: denoisers on one path.
        weights: one per member.
        target: what it is meant to sample.
        uncovered: who takes a member's weight where it covers a part of the chunk only.

    Members of weight 0 are not evaluated, and one member of weight 1 is returned as it is.
    """

    members: tuple[Member, ...]
    weights: Weights
    target: Target
    uncovered: Uncovered = "share"

    def __post_init__(self) -> None:
        total = sum_of(self.weights)
        alpha, _ = scalar_alpha_sigma(self.path, self.path.t_max)
        if alpha == 0.0 and (total is None or abs(total - 1.0) > 1e-6):
            sums_to_one = self.target.total_weight == 1.0
            if not sums_to_one:
                raise UsageError(
                    f"{self.target.operator}: the weights do not sum to 1, so (2) divides by "
                    f"alpha, which is 0 at t_max = {self.path.t_max}; run on "
                    "common_path(path, members, largest_sigma=80)"
                )

    @property
    def path(self) -> Path:
        """Path of the inputs."""
        return self.members[0].path

    @property
    def kind(self) -> Kind:
        """What the output means."""
        return "posterior_mean"

    @property
    def active(self) -> tuple[int, ...]:
        """Numbers of the members that are evaluated."""
        if isinstance(self.weights, tuple):
            return tuple(i for i, w in enumerate(self.weights) if w != 0.0)
        return tuple(range(len(self.members)))

    @property
    def coverage(self) -> Bool[Tensor, "horizon action"] | None:
        """Entries that at least one evaluated member covers; None for all."""
        masks = [coverage_of(self.members[i]) for i in self.active]
        if any(mask is None for mask in masks):
            return None
        whole = torch.stack([mask for mask in masks if mask is not None]).any(0)
        return None if bool(whole.all()) else whole

    def start(self, x_init: Chunk, cond: Cond) -> Carries:
        """Return the members' carries."""
        return start_members(self._evaluated, x_init, cond)

    def denoise(self, x_t: Chunk, t: Time, cond: Cond, carry: Carries) -> tuple[Chunk, Carries]:
        """Return (2) and the members' carries.

        Cost: one evaluation of each member whose weight is not 0, all on the same rows.
        """
        outputs, after = denoise_members(self._evaluated, x_t, t, cond, carry)
        return self._combine(outputs, self._factors(x_t, t), x_t, t), after

    def __call__(self, x_t: Chunk, t: Time, cond: Cond = None) -> Chunk:
        """Return (2), for members that start here where they follow a trajectory."""
        return self.denoise(x_t, t, cond, self.start(x_t, cond))[0]

    def weigh(
        self, x_t: Chunk, t: Time, cond: Cond, carry: Carries
    ) -> tuple[Chunk, Float[Tensor, " batch"], Carries]:
        """Return (2), the rate ``|E|^2 - sum_i w_i |e_i|^2 + sum_i w_i rate_i``, and the carries.

        At a level without signal all members imply the same noise and the rate is that of their
        weights alone; it is taken as 0 there, because a sampler starts at that level.
        """
        found = [
            weigh_member(member, x_t, t, cond, own)
            for member, own in zip(self._evaluated, carry, strict=True)
        ]
        factors = self._factors(x_t, t)
        denoised = self._combine([d for d, _, _ in found], factors, x_t, t)
        alpha, sigma = (expand_t(v, x_t) for v in self.path.alpha_sigma(t))
        rate = ((x_t - alpha * denoised) / sigma).square().flatten(1).sum(1)
        for factor, (own, own_rate, _) in zip(factors, found, strict=True):
            implied = ((x_t - alpha * own) / sigma).square()
            rate = rate - (factor * implied).flatten(1).sum(1)
            rate = rate + _row_weight(factor) * own_rate
        return denoised, rate, tuple(after for _, _, after in found)

    def shape_noise(self, noise: Chunk, carry: Carries) -> Chunk:
        """Return the noise as it is."""
        return noise

    def advance(self, carry: Carries, step: Step) -> tuple[Chunk, Carries]:
        """Return the state the step went to, and the members' carries."""
        return step.x_s, advance_members(self._evaluated, carry, step)

    @property
    def _evaluated(self) -> tuple[Member, ...]:
        return tuple(self.members[i] for i in self.active)

    def _factors(self, x_t: Chunk, t: Time) -> list[Any]:
        """Return each evaluated member's weight: a number, or a tensor that fits the chunks."""
        weights: list[Any]
        if isinstance(self.weights, tuple):
            weights = [self.weights[i] for i in self.active]
        else:
            table = self.weights
            if not isinstance(table, Tensor):
                table = table(log_snr(self.path, t.double()))
            if len(table) != len(x_t):
                raise UsageError(
                    f"{self.target.operator}: got weights for {len(table)} rows, the state has "
                    f"{len(x_t)}; give one row of weights per sample"
                )
            columns = table.to(x_t.device, x_t.dtype).unbind(1)
            weights = [expand_t(column, x_t) for column in columns]
        masks = [coverage_of(member) for member in self._evaluated]
        if all(mask is None for mask in masks):
            return weights
        present = [1.0 if m is None else m.to(x_t.device, x_t.dtype) for m in masks]
        covered = [w * p for w, p in zip(weights, present, strict=True)]
        if self.uncovered == "share":
            total = torch.as_tensor(sum(covered))
            share = 1.0 / torch.where(total == 0.0, torch.ones_like(total), total)
            return [w * share for w in covered]
        if self.uncovered == "first":
            covered[0] = 1.0 - sum(covered[1:])
        return covered

    def _combine(self, outputs: list[Chunk], factors: list[Any], x_t: Chunk, t: Time) -> Chunk:
        """Return (2)."""
        if len(outputs) == 1 and isinstance(factors[0], float) and factors[0] == 1.0:
            return outputs[0]
        combined = factors[0] * outputs[0]
        for factor, output in zip(factors[1:], outputs[1:], strict=True):
            combined = combined + factor * output
        if self.target.total_weight == 1.0:
            return combined
        missing = 1.0 - sum(factors)
        alpha, _ = self.path.alpha_sigma(t)
        return combined + missing * (x_t / expand_t(alpha, x_t))


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
    total = math.fsum(given)
    return Weighted(
        members=found,
        weights=given,
        uncovered="drop",
        target=_target(
            "product",
            "prod_i p_i^w_i",
            total,
            found,
            refused=abs(total - 1.0) > 1e-6,
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
        remedy=remedies[0] if remedies and not refused else "use corrector='mala' or particles",
        note=note,
    )


def _row_weight(factor: Any) -> Any:
    """Return a factor as one number per row; entries of one row have to agree."""
    if not isinstance(factor, Tensor):
        return factor
    return factor.flatten(1).mean(1) if factor.ndim == 3 else factor.mean()
