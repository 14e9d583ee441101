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

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genpolicy.composition.members import (
    Carries,
    Member,
    advance_members,
    coverage_of,
    denoise_members,
    start_members,
    weigh_member,
)
from genpolicy.composition.weights import Weights
from genpolicy.denoisers import Kind, Step, Target
from genpolicy.errors import UsageError
from genpolicy.paths import Path, expand_t, log_snr
from genpolicy.paths.base import scalar_alpha_sigma
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["Uncovered", "Weighted"]

Uncovered: TypeAlias = Literal["share", "first", "drop"]
"""Entries that a member says nothing about: the others share its weight, the first member takes it,
or it counts for nothing there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighted:
    """A weighted sum of scores (1); build it with the functions of ``sums``.

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
        alpha, _ = scalar_alpha_sigma(self.path, self.path.t_max)
        if alpha == 0.0 and self.target.total_weight != 1.0:
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


def _row_weight(factor: Any) -> Any:
    """Return a factor as one number per row; entries of one row have to agree."""
    if not isinstance(factor, Tensor):
        return factor
    return factor.flatten(1).mean(1) if factor.ndim == 3 else factor.mean()
