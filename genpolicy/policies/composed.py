"""Several policies as one, combined while they denoise.

Each member brings its own observations, encoder, path, units, horizon and number of observation
steps; the composition runs on the path and in the units of one of them, the reference. What can be
matched exactly is matched (noise levels, offsets, one common scale, windows); what cannot be is
refused with the remedy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genpolicy.composition import LARGEST_SIGMA, Member, Part, Particles, common_path, on_path
from genpolicy.composition.weights import total_of
from genpolicy.denoisers import Kind, Step, Target, as_tracking, target_of
from genpolicy.errors import NumericsError, UsageError
from genpolicy.native import Unsupported
from genpolicy.paths import Path
from genpolicy.policies.alignment import Units, joint_spec, units_between
from genpolicy.policies.critic import check_critic
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.policies.operators import CostGuidance, Operator, Product, ValueGuidance
from genpolicy.sampling import (
    Corrector,
    RowNoise,
    Sampler,
    check_rule,
    check_target,
    class_of,
    make_corrector,
    plan,
)
from genpolicy.seeding import derive_seed
from genpolicy.shapes import Chunk, Obs

if TYPE_CHECKING:
    from genpolicy.policies.explanation import Explanation

__all__ = ["ComposedPolicy", "MemberOf"]

_TOO_LARGE = 1e6
"""States beyond this are no fault of the member that fails on them; paths reach 80 or so."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MemberOf:
    """A policy as a member of a composition.

    Args:
        policy: the policy.
        dims: entries of the composition's action that are the policy's, in its order; None when it
            has all of them.
        fixed_obs: observations that it sees instead of those of the composition, by key, each of
            the shape of one observation: the conditions of a conjunction.
    """

    policy: DenoisingPolicy
    dims: Sequence[int] | None = None
    fixed_obs: Mapping[str, Tensor] | None = None


class ComposedPolicy(DenoisingPolicy):
    """A composition of policies: a policy itself; build it with ``genpolicy.compose``.

    Args:
        members: policies, or ``MemberOf`` them.
        operator: how they are combined.
        sampler: rule and steps of the composition; None takes those of the reference.
        corrector: name in ``genpolicy.sampling.CORRECTORS`` of the MCMC steps between the
            sampler's; None for none.
        corrector_options: its settings.
        n_particles: particles per row of the sequential Monte Carlo; None for none. Each row then
            costs as much as ``n_particles`` rows.
        reference: number of the member whose path and units are used.
        rows_per_block: see ``DenoisingPolicy``; None takes that of the reference. With particles
            each row is a block.

    Raises:
        UsageError: when members do not fit each other, or the sampler the operator.
    """

    def __init__(
        self,
        members: Sequence[DenoisingPolicy | MemberOf],
        operator: Operator,
        *,
        sampler: Sampler | None = None,
        corrector: str | None = None,
        corrector_options: Mapping[str, Any] | None = None,
        n_particles: int | None = None,
        reference: int = 0,
        rows_per_block: int | None = None,
    ) -> None:
        super().__init__()
        self.training = False  # members keep the mode they are in
        self.members = tuple(m if isinstance(m, MemberOf) else MemberOf(policy=m) for m in members)
        if not self.members or not 0 <= reference < len(self.members):
            raise UsageError(
                f"compose: got {len(self.members)} members and reference {reference}, expected at "
                "least one member and the number of one of them"
            )
        if n_particles is not None and n_particles < 1:
            raise UsageError(f"compose: n_particles is {n_particles}, expected at least 1")
        self._policies = nn.ModuleList(member.policy for member in self.members)
        self.operator = operator
        self._critic = operator.critic if isinstance(operator, ValueGuidance) else None
        self.reference = reference
        chosen = self.members[reference].policy
        if self._critic is not None:
            check_critic(self._critic, chosen, who="value_guided")
        self.normalizer = chosen.normalizer
        self.spec, self._firsts = joint_spec(self.members, reference)
        self.plain_rows_per_block = (
            chosen.rows_per_block if rows_per_block is None else rows_per_block
        )
        # A row's particles are a block of their own.
        self.rows_per_block = 1 if n_particles is not None else self.plain_rows_per_block
        self.corrector_name, self.corrector_options = corrector, dict(corrector_options or {})
        self._corrector = None
        if corrector is not None:
            self._corrector = make_corrector(corrector, self.corrector_options)
        self.n_particles = n_particles
        self.used = operator.used(len(self.members))
        if not self.used:
            raise UsageError("compose: every weight is 0; give at least one member some weight")
        self._units: dict[int, Units] = {
            i: units_between(self.normalizer, self.members[i], number=i) for i in self.used
        }
        total = self._total_weight()
        self._path = common_path(
            chosen.path,
            [(self.members[i].policy.path, self._units[i].ratio) for i in self.used],
            largest_sigma=None if total == 1.0 else LARGEST_SIGMA,
        )
        self.given_sampler = sampler
        start = chosen.sampler if sampler is None else sampler
        # The annealed product starts narrower than its members by the root of their total weight.
        self.sampler = replace(start, init_scale=start.init_scale * total**-0.5)
        self._target = target_of(self._unbound())
        self._check_sampler()

    @property
    def path(self) -> Path:
        """The path of the reference, or the part of it that all members know."""
        return self._path

    @property
    def kind(self) -> Kind:
        """What the composition's output means."""
        return self.members[self.used[0]].policy.kind

    @property
    def target(self) -> Target | None:
        """What it is meant to sample; None where one member is left, which is its own target."""
        return self._target

    @property
    def corrector(self) -> Corrector | None:
        """MCMC steps between the sampler's; None for none."""
        return self._corrector

    @property
    def needs_gradient(self) -> bool:
        """Whether the operator, or a member's, differentiates through networks."""
        inner = any(self.members[i].policy.needs_gradient for i in self.used)
        operator = self.operator
        guided = isinstance(operator, CostGuidance | ValueGuidance)
        return inner or (guided and operator.scale != 0.0)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Smallest interval that holds the ranges of all members; None when one has none."""
        found: list[tuple[float, float]] = []
        for i in self.used:
            own = self.members[i].policy.bounds
            if own is None:
                return None
            found += self._units[i].to_reference(own)
        return min(low for low, _ in found), max(high for _, high in found)

    def evaluations_of(self, number: int) -> int:
        """Return the network evaluations of one member in one evaluation of the composition."""
        policy = self.members[number].policy
        if not isinstance(policy, ComposedPolicy):
            return 1
        return sum(policy.evaluations_of(i) for i in policy.used)

    def explain(self) -> Explanation:
        """Return members, paths, weights, target, samplers and cost, for reading with ``print``."""
        from genpolicy.policies.explanation import explain

        return explain(self)

    def with_sampler(self, **changes: Any) -> ComposedPolicy:
        """Return a policy on the same members whose sampler has the given fields changed.

        ``corrector``, ``corrector_options`` and ``n_particles`` are fields as well.
        """
        own = {
            name: changes.pop(name, value)
            for name, value in (
                ("corrector", self.corrector_name),
                ("corrector_options", self.corrector_options),
                ("n_particles", self.n_particles),
            )
        }
        base = self.given_sampler or self.members[self.reference].policy.sampler
        return ComposedPolicy(
            self.members,
            self.operator,
            sampler=replace(base, **changes) if changes else self.given_sampler,
            reference=self.reference,
            rows_per_block=self.plain_rows_per_block,
            **own,
        )

    def bind(self, obs: Obs) -> Member:
        """Return the composition for observations in physical units, one row per row of them."""
        members = list(self.bound_members(obs).values())
        return self.operator.build(members, obs=obs, normalizer=self.normalizer)

    def structure(self, fixed: Mapping[str, Tensor]) -> Member:
        """Return the composition with sources in the place of its trained denoisers."""
        if self.n_particles is not None:
            raise Unsupported("it has particles")
        members: list[Member] = []
        for i in self.used:
            own = {**fixed, **(self.members[i].fixed_obs or {})}
            members.append(self._aligned(i, self.members[i].policy.structure(own)))
        blank = self.spec.blank_obs(1, device=self.device)
        return self.operator.build(members, obs=blank, normalizer=self.normalizer)

    def bound_members(self, obs: Obs) -> dict[int, Member]:
        """Return the denoisers of the members in use, by number, as the composition sees them.

        Args:
            obs: observations of the composition in physical units.
        """
        bound: dict[int, Member] = {}
        for i in self.used:
            member = self.members[i]
            bound[i] = self._aligned(i, member.policy.bind(self._own_obs(member, obs)))
        return bound

    def sample_block(
        self,
        block: Mapping[str, Tensor],
        seeds: Sequence[int],
        *,
        on_step: Callable[[Step], None] | None = None,
    ) -> Chunk:
        """Sample one normalized chunk per row; with particles, each row from a group of them.

        The steps that ``on_step`` sees are then those of one group after the other.
        """
        if self.n_particles is None:
            chunk = super().sample_block(block, seeds, on_step=on_step)
            if not bool(torch.isfinite(chunk).all()):
                self._name_diverging(block, seeds)
            return chunk
        return torch.cat(
            [
                self._best_of_group({k: v[i : i + 1] for k, v in block.items()}, seed, on_step)
                for i, seed in enumerate(seeds)
            ]
        )

    def _best_of_group(
        self, row: Mapping[str, Tensor], seed: int, on_step: Callable[[Step], None] | None
    ) -> Chunk:
        """Return one fair draw of the particles of one observation."""
        n = self.n_particles
        assert n is not None
        crowd = {key: value.expand(n, *value.shape[1:]) for key, value in row.items()}
        uniforms = RowNoise([derive_seed(seed, "resample")], (1, 1), dtype=torch.float64)

        def uniform(index: int) -> Tensor:
            return torch.special.ndtr(uniforms.draw(index)).reshape(1)

        particles = Particles(inner=self.bind(crowd), n_particles=n, uniform=uniform)
        own_seeds = [derive_seed(seed, "particle", k) for k in range(n)]
        return self._run(particles, own_seeds, on_step)[:1]

    def _name_diverging(self, block: Mapping[str, Tensor], seeds: Sequence[int]) -> None:
        """Sample again, watching the members; raise an error with the first that is not finite."""
        history: list[str] = []

        def watch(step: Step) -> None:
            t = step.x_t.new_full((len(step.x_t),), step.t)
            sizes: dict[int, float] = {}
            for i, member in self.bound_members(block).items():
                tracked = as_tracking(member)
                denoised, _ = tracked.denoise(step.x_t, t, None, tracked.start(step.x_t, None))
                sizes[i] = float(denoised.double().square().mean().sqrt())
            found = ", ".join(f"{size:.3g}" for size in sizes.values())
            history.append(f"step {step.index} (t = {step.t:.3g}): {found}")
            bad = [f"member {i}" for i, size in sizes.items() if not math.isfinite(size)]
            if float(step.x_t.abs().max()) > _TOO_LARGE:
                bad = []  # no member has seen such states
            if not bad and bool(torch.isfinite(step.x_s).all()):
                return
            remedy = (
                "check that checkpoint and its observations"
                if bad
                else "no member fails on ordinary states: lower the weights, scales or step sizes"
            )
            raise NumericsError(
                f"ComposedPolicy.sample: {', '.join(bad) or 'the composition'} gave actions that "
                f"are not finite; {remedy}. Root mean squares of the actions of members "
                f"{list(sizes)}: {'; '.join(history[-3:])}"
            )

        super().sample_block(block, seeds, on_step=watch)

    def _own_obs(self, member: MemberOf, obs: Obs) -> dict[str, Tensor]:
        """Return the keys and the last observations that a member sees."""
        spec = member.policy.spec
        own = {key: obs[key][:, -spec.n_obs_steps :] for key in spec.obs_shapes if key in obs}
        for key, value in (member.fixed_obs or {}).items():
            n_rows = len(next(iter(obs.values())))
            like = own[key] if key in own else next(iter(obs.values()))
            shape = (n_rows, spec.n_obs_steps, *spec.obs_shapes[key])
            own[key] = value.to(like.device).expand(shape)
        return own

    def _aligned(self, i: int, bound: Member) -> Member:
        """Return a member's denoiser on the path, in the units and with the size of the whole."""
        units, policy = self._units[i], self.members[i].policy
        dims = self.members[i].dims
        moved = on_path(bound, self._path, ratio=units.ratio, offset=units.offset)
        spec, whole = policy.spec, self.spec
        if (spec.horizon, spec.action_dim) == (whole.horizon, whole.action_dim) and dims is None:
            return moved
        return Part(
            inner=moved,
            horizon=whole.horizon,
            action_dim=whole.action_dim,
            first=self._firsts[i],
            steps=spec.horizon,
            dims=tuple(range(spec.action_dim)) if dims is None else tuple(dims),
        )

    def _total_weight(self) -> float:
        """Return the sum of the weights: 1 for all operators but the product."""
        if not isinstance(self.operator, Product):
            return 1.0
        weights = self.operator.weights
        return total_of([1.0] * len(self.members) if weights is None else weights)

    def _unbound(self) -> Member:
        """Return the composition for one row of zeros, to read its target and check its members."""
        with torch.no_grad():
            return self.bind(self.spec.blank_obs(1, device=self.device))

    def _check_sampler(self) -> None:
        """Refuse at once what the sampling loop would refuse at the first call."""
        steps = plan(self.sampler.bound_rule, self.path, self.sampler.times_on(self.path))
        check_rule(self.sampler.bound_rule, self.kind, steps)
        if self.n_particles is None:
            check_target(self.target, class_of(steps, self.corrector))
