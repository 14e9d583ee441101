r"""Superpositions of denoisers: mixtures (OR), and equal likelihood (AND).

Both follow the members' log-densities along the trajectory. With D_i the member's denoised action
and e_i = (x_t - alpha_t D_i)/sigma_t the noise that it implies, a step from t to s adds

    (1)  d log q_i = log N(x_s; alpha_s D_i, sigma_s^2) - log N(x_t; alpha_t D_i, sigma_t^2)

to log q_i: by Bayes' rule, the reverse step of ``ddpm`` over the forward one. For small steps it is
the Ito density estimator, which in variance-exploding coordinates (y = x/alpha, r = sigma/alpha) is

    (2)  d log q_i = -<dy, e_i>/r - (dr/r) |e_i|^2,    dr > 0 the decrease of the level,

up to a term that all share. (1) also holds from pure noise (alpha = 0), gives a mixture better
shares in few steps (of 0.30: 0.286, not 0.271, in 50 steps on LinearPath), and makes (4) exact for
steps of any size. Both need the noise of the forward process: ``ddpm``.

    (3)  OR    D = sum_i k_i D_i,    k = softmax(T log q + log_prior)
    (4)  AND   D = the point as far from every D_i, in the plane through them (for two: their mean),
               and the noise of the step without its part along the differences D_i - D_1

With (4) all d log q_i of (1) agree. Proposition 6 of the paper gets there, for two members and
noise z of size n in y, by the weight of member 1, with Delta = e_1 - e_2, whose variance is huge:

    (5)  kappa = 1/2 + n <z, Delta>/((1 - (r_s/r_t)^2) r_t |Delta|^2)

As no noise is left along v = Delta/|Delta|, (1) counts a curvature of log q_i that takes no effect:
tracked log-densities stay equal and true ones do not (for Gaussians log q_1 - log q_2 ends at
ln(std_2/std_1)). ``correct_widths`` adds the drift

    (6)  D += (sigma^2/(2 alpha)) (v^T d(D_1 - D_2)/dx v) v/|D_1 - D_2|

which is ``kappa += v^T (H_1 - H_2) v/(2 |s_1 - s_2|^2)``, with the derivative by a difference.

Source: arXiv 2412.17762, theorem 1 and proposition 6; (1), (4) and (6) are derived here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.composition.members import (
    Carries,
    Member,
    advance_members,
    check_members,
    denoise_members,
    start_members,
)
from genpolicy.denoisers import Kind, SamplerClass, Step, Target, target_of
from genpolicy.errors import UsageError
from genpolicy.paths import Path, expand_t
from genpolicy.paths.base import scalar_alpha_sigma
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["Superposed", "SuperposedCarry", "mixture", "superpose_and", "superpose_or"]

# Half the distance of the two evaluations of (6), in units of sigma.
_PROBE = 0.05
# Members whose difference leaves the plane of the others by a smaller sine count as lying in it.
_FLAT = 1e-3

_REMEDY = "use rule='ddpm' (or 'sde' with churn 1), without a corrector"
_NOTE = (
    "log-densities are tracked along the noise of the forward process; no noise, other amounts of "
    "it, and moves of a corrector track wrongly"
)


class SuperposedCarry(NamedTuple):
    """What a superposition remembers along a trajectory, one row per row of the state.

    Args:
        members: the members' carries.
        log_q: log-density of the state under each member, less that of the initial state, float64;
            what counts are the differences between members, which start at 0.
        outputs: the members' denoised actions, from an evaluation to the end of its step.
        directions: orthonormal differences of the outputs, along which an AND adds no noise; zeros
            where they are too small.
    """

    members: Carries
    log_q: Float[Tensor, "batch member"]
    outputs: Float[Tensor, "batch member horizon action"] | None = None
    directions: Float[Tensor, "batch direction horizon action"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Superposed:
    """Denoisers superposed; build it with ``mixture``, ``superpose_or`` or ``superpose_and``.

    Args:
        operator: its name in errors and targets.
        members: denoisers of whole chunks on one path.
        mode: ``"or"`` (3) or ``"and"`` (4).
        temperature: T of (3), above 0.
        log_prior: one number per member.
        correct_widths: use (6).
        tolerance: for AND, |e_i - e_j|^2 below which members count as equal and nothing is removed.

    As a plain ``Denoiser`` it answers for equal log-densities: OR with the weights of the prior.
    """

    operator: str
    members: tuple[Member, ...]
    mode: Literal["or", "and"]
    temperature: float = 1.0
    log_prior: tuple[float, ...]
    correct_widths: bool = False
    tolerance: float = 1e-8

    @property
    def path(self) -> Path:
        """Path of the inputs."""
        return self.members[0].path

    @property
    def kind(self) -> Kind:
        """What the output means."""
        return "posterior_mean"

    @functools.cached_property
    def target(self) -> Target:
        """The mixture for OR with temperature 1; no density otherwise.

        A composed member counts with the density that its own samples have.
        """
        inner = [target for target in map(target_of, self.members) if target is not None]
        refused: set[SamplerClass] = {"ode", "corrected"}
        refused.update(sampler for target in inner for sampler in target.refused)
        density = "sum_i prior_i p_i"
        if self.mode == "and":
            density = "none: all log p_i - log p_j are as at the start, which is no product"
        elif self.temperature != 1.0:
            density = "none: scores chosen by softmax(T log p_i + log_prior_i) at every level"
        is_exact = density[:4] != "none" and all("sde" in target.unbiased for target in inner)
        return Target(
            operator=self.operator,
            density=density,
            total_weight=1.0,
            unbiased=("sde",) if is_exact else (),
            refused=tuple(sorted(refused)),
            remedy=_REMEDY,
            note=_NOTE,
        )

    def start(self, x_init: Chunk, cond: Cond) -> SuperposedCarry:
        """Return the carry of a trajectory that starts at ``x_init``, with equal log-densities."""
        log_q = x_init.new_zeros((len(x_init), len(self.members)), dtype=torch.float64)
        return SuperposedCarry(members=start_members(self.members, x_init, cond), log_q=log_q)

    def weights(self, carry: SuperposedCarry) -> Float[Tensor, "batch member"]:
        """Return the weights k of (3), in float64."""
        prior = torch.tensor(self.log_prior, dtype=torch.float64, device=carry.log_q.device)
        return (self.temperature * carry.log_q + prior).softmax(1)

    def denoise(
        self, x_t: Chunk, t: Time, cond: Cond, carry: SuperposedCarry
    ) -> tuple[Chunk, SuperposedCarry]:
        """Return (3) or (4), and the carry with the members' denoised actions.

        Cost: one evaluation of each member, three with ``correct_widths``.
        """
        carry = SuperposedCarry._make(carry)  # a plain tuple where rows were drawn anew
        found, inner = denoise_members(self.members, x_t, t, cond, carry.members)
        outputs = torch.stack(found, dim=1)
        seen = carry._replace(members=inner, outputs=outputs)
        if self.mode == "or":
            weights = self.weights(carry).to(x_t.dtype)
            return (weights[:, :, None, None] * outputs).sum(1), seen
        alpha, sigma = (expand_t(value, x_t) for value in self.path.alpha_sigma(t))
        # |D_i - D_j|^2 from which |e_i - e_j|^2 reaches the tolerance; infinite at alpha = 0.
        least = self.tolerance * (sigma / alpha).square()
        centre, directions = _centre(outputs, least)
        if self.correct_widths:
            away = directions[:, 0]
            slope = torch.zeros_like(sigma)
            for side in (_PROBE, -_PROBE):
                x = x_t + side * sigma * away
                one, two = denoise_members(self.members, x, t, cond, carry.members)[0]
                slope = slope + _dot(one - two, away) / (2.0 * side * sigma)
            length = _dot(outputs[:, 0] - outputs[:, 1], away)
            drift = 0.5 * sigma.square() * slope / (alpha * length) * away
            # No direction where the members agree, no derivative at the clean end.
            centre = torch.where((length.abs() > 0.0) & (sigma > 0.0), centre + drift, centre)
        return centre, seen._replace(directions=directions)

    def __call__(self, x_t: Chunk, t: Time, cond: Cond = None) -> Chunk:
        """Return (3) or (4) at equal log-densities."""
        return self.denoise(x_t, t, cond, self.start(x_t, cond))[0]

    def shape_noise(self, noise: Chunk, carry: SuperposedCarry) -> Chunk:
        """Return the noise, for AND without its part along the members' differences."""
        directions = SuperposedCarry._make(carry).directions
        if directions is None:
            return noise
        return noise - (_dot(noise[:, None], directions) * directions).sum(1)

    def advance(self, carry: SuperposedCarry, step: Step) -> tuple[Chunk, SuperposedCarry]:
        """Return the state the step went to, and the carry with (1) added.

        The step to the clean end, where (1) is infinite, leaves the log-densities as they are.

        Raises:
            UsageError: when the step did not add the noise of the forward process, or an AND is a
                member, whose noise nobody shapes.
        """
        carry = SuperposedCarry._make(carry)
        inner = advance_members(self.members, carry.members, step)
        moved = carry._replace(members=inner, outputs=None, directions=None)
        start, end = (scalar_alpha_sigma(self.path, time) for time in (step.t, step.s))
        is_end = step.noise is None and step.index == step.n_steps - 1
        if is_end or end[1] == 0.0 or carry.outputs is None:
            return step.x_s, moved
        self._check_noise(step, carry)
        gain = _log_normal(step.x_s, carry.outputs, *end)
        gain = gain - _log_normal(step.x_t, carry.outputs, *start)
        return step.x_s, moved._replace(log_q=carry.log_q + gain)

    def _check_noise(self, step: Step, carry: SuperposedCarry) -> None:
        """Refuse steps that (1) does not describe."""
        alpha_t, sigma_t = scalar_alpha_sigma(self.path, step.t)
        alpha_s, sigma_s = scalar_alpha_sigma(self.path, step.s)
        ratio = alpha_t * sigma_s / (alpha_s * sigma_t)
        forward = sigma_s * math.sqrt(max(1.0 - ratio**2, 0.0))
        is_forward = step.noise is not None
        if is_forward and alpha_t > 0.0:
            # The factors of a rule on this path keep the marginal variance. A step seen through
            # on_path has those of another path, which cannot be compared.
            kept = (alpha_s - step.c_denoised) / alpha_t * sigma_t
            is_ours = abs(math.hypot(kept, step.c_noise) - sigma_s) <= 1e-7 * sigma_s
            is_forward = not is_ours or math.isclose(step.c_noise, forward, rel_tol=1e-2)
        if step.noise is None or not is_forward:
            raise UsageError(
                f"{self.operator}: step {step.index} added noise of size {step.c_noise:.4g}, "
                f"expected that of the forward process, {forward:.4g}; {_REMEDY}"
            )
        shown = carry.directions
        if shown is not None and bool((_dot(step.noise[:, None], shown).abs() > 1e-2).any()):
            raise UsageError(
                f"{self.operator}: the noise of step {step.index} was not shaped, because this is "
                "a member; make it the outermost composition"
            )


def mixture(members: Sequence[Member], *, prior: Sequence[float] | None = None) -> Superposed:
    """Return the mixture ``sum_i prior_i p_i``: every sample is one member's.

    Use 50 steps or more: with fewer the shares of the members are off.

    Args:
        members: denoisers on one path; see ``on_path``.
        prior: probability of each member, positive with sum 1; None is equal ones.

    Raises:
        UsageError: for other probabilities, flow maps, members on different paths or of a part.

    Source: arXiv 2412.17762 (OR with T = 1).

    Cost: one evaluation of each member per step.
    """
    found = _checked("mixture", members)
    chances = [1.0 / len(found)] * len(found) if prior is None else [float(p) for p in prior]
    is_prior = min(chances, default=0.0) > 0.0 and abs(math.fsum(chances) - 1.0) <= 1e-6
    if len(chances) != len(found) or not is_prior:
        raise UsageError(
            f"mixture: got prior {tuple(chances)} for {len(found)} members, expected as many "
            "positive probabilities with sum 1; leave a member of probability 0 out"
        )
    either = superpose_or(found, log_prior=[math.log(p) for p in chances])
    return dataclasses.replace(either, operator="mixture")


def superpose_or(
    members: Sequence[Member],
    *,
    temperature: float = 1.0,
    log_prior: Sequence[float] | None = None,
) -> Superposed:
    """Return SuperDiff's OR (3): scores weighted by the members' tracked log-densities.

    Args:
        members: denoisers on one path; see ``on_path``.
        temperature: T, above 0. 1 is the mixture; larger values commit to one member early.
        log_prior: added to T log q, one finite number per member; None is 0 for all.

    Raises:
        UsageError: for other settings, flow maps, members on different paths or of a part.

    Source: arXiv 2412.17762 (OR); T = 1 and T = 100 in its experiments.

    Cost: one evaluation of each member per step.
    """
    found = _checked("superpose_or", members)
    offsets = tuple(map(float, [0.0] * len(found) if log_prior is None else log_prior))
    if len(offsets) != len(found) or not all(math.isfinite(v) for v in offsets):
        raise UsageError(f"superpose_or: log_prior is {offsets}, expected {len(found)} numbers")
    if not 0.0 < temperature < math.inf:
        raise UsageError(f"superpose_or: temperature is {temperature}, expected a number above 0")
    return Superposed(
        operator="superpose_or",
        members=found,
        mode="or",
        temperature=temperature,
        log_prior=offsets,
    )


def superpose_and(
    members: Sequence[Member], *, correct_widths: bool = False, tolerance: float = 1e-8
) -> Superposed:
    """Return SuperDiff's AND (4): samples that are equally likely under all members.

    It is not the product: samples lie on a surface, with (nearly) no width across it. It has to be
    the outermost composition, because it shapes the noise.

    Args:
        members: at least two denoisers on one path; see ``on_path``. n members fix n - 1 directions
            of the chunk; where they are not independent, the first that are count.
        correct_widths: remove the bias of members of unequal curvature, by (6); for two members.
        tolerance: |e_i - e_j|^2 over the chunk below which members count as equal, at least 0.

    Raises:
        UsageError: for other settings, flow maps, members on different paths or of a part.

    Source: arXiv 2412.17762 proposition 6; the projected form and (6) are derived here.

    Cost: one evaluation of each member per step, three with ``correct_widths``.
    """
    found = _checked("superpose_and", members, at_least=2)
    if correct_widths and len(found) > 2:
        raise UsageError(
            f"superpose_and: got correct_widths for {len(found)} members, expected 2; leave it out"
        )
    if not 0.0 <= tolerance < math.inf:
        raise UsageError(f"superpose_and: tolerance is {tolerance}, expected at least 0")
    return Superposed(
        operator="superpose_and",
        members=found,
        mode="and",
        log_prior=(0.0,) * len(found),
        correct_widths=correct_widths,
        tolerance=tolerance,
    )


def _checked(operator: str, members: Sequence[Member], at_least: int = 1) -> tuple[Member, ...]:
    found = check_members(operator, members, at_least=at_least, whole=True)
    for number, member in enumerate(found):
        if isinstance(member, Superposed) and member.mode == "and":
            raise UsageError(
                f"{operator}: member {number} is superpose_and, which shapes the noise; make it "
                "the outermost composition, with all members"
            )
    return found


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return inner products over horizon and action, of shape ``(..., 1, 1)``."""
    return (a * b).sum((-2, -1), keepdim=True)


def _log_normal(x: Tensor, outputs: Tensor, alpha: float, sigma: float) -> Tensor:
    """Return log N(x; alpha D_i, sigma^2) in float64, less a constant, ``(batch, member)``."""
    gap = (x[:, None] - alpha * outputs).double() / sigma
    return -0.5 * gap.square().sum((-2, -1)) - math.prod(x.shape[1:]) * math.log(sigma)


def _centre(outputs: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Return the point (4) and orthonormal directions of the plane through the outputs.

    Directions come one by one (Gram-Schmidt). One of a squared length below ``least`` or nearly in
    the span of those before is left out: it is 0, and the point does not leave the mean along it.
    """
    centre = outputs.mean(1)
    square = _dot(outputs - centre[:, None], outputs - centre[:, None])
    directions: list[Tensor] = []
    reaches: list[Tensor] = []
    for number in range(1, outputs.shape[1]):
        edge = outputs[:, number] - outputs[:, 0]
        rest, reach = edge, 0.5 * (square[:, number] - square[:, 0])
        for direction, earlier in zip(directions, reaches, strict=True):
            share = _dot(rest, direction)
            rest, reach = rest - share * direction, reach - share * earlier
        length = _dot(rest, rest)
        is_kept = (length >= least) & (length >= _FLAT**2 * _dot(edge, edge)) & (length > 0.0)
        scale = torch.where(is_kept, length, torch.ones_like(length)).rsqrt() * is_kept
        directions.append(rest * scale)
        reaches.append(reach * scale)
        centre = centre + reaches[-1] * directions[-1]
    return centre, torch.stack(directions, dim=1)
