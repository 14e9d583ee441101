"""Compositions as sums: every denoised action is a sum of the state, networks' outputs and shifts.

At one time t, a trained denoiser, a denoiser on another path or in other units, and a weighted sum
of such denoisers all have the form

    (1)  D = on_x x + shift + sum_i on_raw_i F_i(in_scale_i x + in_shift_i, time_i, cond_i)

with F_i the networks. The factors are read off the denoisers themselves, in the type they compute
in, so that no formula of a path or a prediction is repeated here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.composition import Member, OnPath, Weighted, WeightSchedule
from genpolicy.composition.members import coverage_of
from genpolicy.data.normalizer import Normalizer
from genpolicy.denoisers import FlowMapDenoiser, Kind, ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.native.builder import Unsupported
from genpolicy.paths import Path, log_snr
from genpolicy.paths.base import scalar_alpha_sigma
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["Affine", "Source", "Term", "expand", "sources_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A trained denoiser with its encoder, in the place where sampling has the denoiser bound.

    Args:
        denoiser: the denoiser.
        normalizer: of its observations.
        encoder: of its observations.
        n_obs_steps: observation steps that it sees.
        fixed: observations that it sees instead of those of the whole, in physical units.
    """

    denoiser: nn.Module
    normalizer: Normalizer
    encoder: nn.Module
    n_obs_steps: int
    fixed: dict[str, Tensor]

    @property
    def path(self) -> Path:
        """Path of the denoiser."""
        return self.trained.path

    @property
    def kind(self) -> Kind:
        """What the denoiser's output means."""
        return self.trained.kind

    @property
    def trained(self) -> ParameterizedDenoiser | FlowMapDenoiser:
        """The denoiser, if it is one with a program.

        Raises:
            Unsupported: for others.
        """
        if not isinstance(self.denoiser, ParameterizedDenoiser | FlowMapDenoiser):
            raise Unsupported(f"{type(self.denoiser).__name__} has no program")
        return self.denoiser

    def __call__(self, x_t: Chunk, t: Time, cond: Cond = None) -> Chunk:
        """Refuse: it only stands for a denoiser."""
        raise UsageError("a Source is written into a program, not evaluated")


@dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """One network in (1).

    Args:
        source: whose network.
        in_scale: factor of the state in its input.
        in_shift: what is added there, one number per entry of an action; None for nothing.
        time: what it is told of the time.
        on_raw: factor of its output.
    """

    source: Source
    in_scale: float
    in_shift: Float[Tensor, " action"] | None
    time: float
    on_raw: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """The denoised action (1) at one time.

    Args:
        on_x: factor of the state.
        shift: one number per entry of an action; None for nothing.
        terms: one per source, in the order of ``sources_of``.
    """

    on_x: float
    shift: Float[Tensor, " action"] | None
    terms: tuple[Term, ...]


def sources_of(member: Member) -> tuple[Source, ...]:
    """Return the sources of a composition in the order of its members.

    Raises:
        Unsupported: for compositions that are no sum (1).
    """
    if isinstance(member, Source):
        return (member,)
    if isinstance(member, OnPath):
        return sources_of(member.inner)
    if isinstance(member, Weighted):
        return tuple(s for i in member.active for s in sources_of(member.members[i]))
    raise Unsupported(f"{type(member).__name__} is no weighted sum of networks")


def expand(member: Member, t: float) -> Affine:
    """Return (1) at a time of the member's path.

    Raises:
        Unsupported: for compositions that are no sum (1), or whose weights depend on the row.
    """
    if isinstance(member, Source):
        return _expand_source(member, t)
    if isinstance(member, OnPath):
        return _expand_on_path(member, t)
    if isinstance(member, Weighted):
        return _expand_sum(member, t)
    raise Unsupported(f"{type(member).__name__} is no weighted sum of networks")


def _expand_source(source: Source, t: float) -> Affine:
    denoiser = source.trained
    time = torch.tensor([t], dtype=torch.float32)
    one, none = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    with torch.no_grad():
        seen, told = denoiser.network_input(one, time)
        on_x = denoiser.denoised_of_raw(none, one, time)
        on_raw = denoiser.denoised_of_raw(one, none, time)
    term = Term(
        source=source,
        in_scale=seen.item(),
        in_shift=None,
        time=told.item(),
        on_raw=on_raw.item(),
    )
    return Affine(on_x=on_x.item(), shift=None, terms=(term,))


def _expand_on_path(member: OnPath, t: float) -> Affine:
    """Put ``x_i = scale x + alpha d`` into the inner sum, and return ``r (D_i - d)``."""
    time, scale, alpha = member.matched(torch.tensor(t, dtype=torch.float32).item())
    inner, ratio, offset = expand(member.inner, time), member.ratio, member.offset
    terms: list[Term] = []
    for term in inner.terms:
        shift = _sum(term.in_shift, offset, term.in_scale * alpha)
        terms.append(
            replace(
                term, in_scale=term.in_scale * scale, in_shift=shift, on_raw=ratio * term.on_raw
            )
        )
    shift = _sum(inner.shift, offset, inner.on_x * alpha - 1.0)
    return Affine(
        on_x=ratio * inner.on_x * scale,
        shift=None if shift is None else ratio * shift,
        terms=tuple(terms),
    )


def _expand_sum(member: Weighted, t: float) -> Affine:
    parts = [expand(member.members[i], t) for i in member.active]
    if any(coverage_of(member.members[i]) is not None for i in member.active):
        raise Unsupported("a member covers a part of the chunk only")
    factors = _factors(member, t)
    on_x = sum(f * part.on_x for f, part in zip(factors, parts, strict=True))
    if member.target.total_weight != 1.0:
        alpha, _ = scalar_alpha_sigma(member.path, t)
        on_x += (1.0 - sum(factors)) / alpha
    shift = None
    terms: list[Term] = []
    for factor, part in zip(factors, parts, strict=True):
        shift = _sum(shift, part.shift, factor)
        terms += [replace(term, on_raw=factor * term.on_raw) for term in part.terms]
    return Affine(on_x=on_x, shift=shift, terms=tuple(terms))


def _factors(member: Weighted, t: float) -> list[float]:
    """Return the weights of the members that are evaluated."""
    weights = member.weights
    if isinstance(weights, tuple):
        return [weights[i] for i in member.active]
    if isinstance(weights, Tensor) or not isinstance(weights, WeightSchedule):
        raise Unsupported("weights depend on the observation or the row")
    level = log_snr(member.path, torch.tensor([t], dtype=torch.float32).double())
    table = weights(level)
    if len(table) != 1:
        raise Unsupported("weights depend on the row")
    return [float(w) for w in table[0]]


def _sum(first: Tensor | None, second: Tensor | None, factor: float) -> Tensor | None:
    """Return ``first + factor * second``, None being nothing."""
    if second is None:
        return first
    added = factor * second.detach().cpu().double()
    return added if first is None else first + added
