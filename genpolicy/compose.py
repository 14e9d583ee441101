"""Policies combined when acting, without training: ``genpolicy.compose.mean([a, b], ...)``.

::

    both   = compose.mean([a, b], weights=[0.4, 0.6])      convex mixture of scores
    expert = compose.product([a, b], corrector="mala")     product of experts, with MCMC
    dial   = compose.rl_guidance(base=a, tuned=b, scale=1.8)
    safe   = compose.with_cost(a, cost=compose.costs.KeepOut(...), scale=0.5)
    either = compose.mixture([a, b])                       one or the other
    less   = compose.negation(a, b, strength=0.3)          a, but not like b
    best   = compose.best_of(a, critic, n=32)              samples chosen by a critic
    steered = compose.value_guided(a, critic, scale=0.5)   p exp(scale Q)
    multi  = compose.conjunction(a, conditions=[c1, c2], scale=1.2)

Every result is a policy: it can be evaluated, recorded and composed again, and ``explain`` says
what it samples. Members may differ in path, prediction type, observations, encoder, horizon and
number of observation steps; see ``genpolicy.policies.composed`` for what is matched and what is
refused. ``estimate_weights`` and ``search_weights`` find weights; ``diagnose`` shows where members
disagree and whether the result lies where they have data.

The keyword arguments that every function takes: ``sampler`` (a ``genpolicy.sampling.Sampler``; None
takes that of the reference), ``corrector`` and ``corrector_options`` (MCMC steps), ``n_particles``
(sequential Monte Carlo), and ``reference`` (the member whose path and units are used).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.composition import LevelWeights, WeightSchedule, costs
from genpolicy.errors import UsageError
from genpolicy.evaluation.diagnostics import Diagnostics, diagnose, mass_between
from genpolicy.evaluation.weight_estimate import estimate_weights
from genpolicy.evaluation.weight_search import search_weights
from genpolicy.policies.composed import ComposedPolicy, MemberOf
from genpolicy.policies.critic import Critic
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.policies.explanation import Explanation, explain
from genpolicy.policies.operators import (
    Conjunction,
    CostGuidance,
    EndpointMean,
    Mean,
    Negation,
    Product,
    RLGuidance,
    Superposition,
    ValueGuidance,
    WeightsOfObs,
)
from genpolicy.policies.proposal import ProposalPolicy
from genpolicy.policies.selection import SelectedPolicy
from genpolicy.sampling import Sampler
from genpolicy.shapes import Chunk, Obs

__all__ = [
    "Diagnostics",
    "Explanation",
    "LevelWeights",
    "Sampler",
    "best_of",
    "conjunction",
    "costs",
    "diagnose",
    "endpoint_mean",
    "estimate_weights",
    "explain",
    "mass_between",
    "mean",
    "mixture",
    "negation",
    "part",
    "product",
    "proposal",
    "rl_guidance",
    "search_weights",
    "superpose_and",
    "superpose_or",
    "value_guided",
    "with_cost",
]

AnyMember: TypeAlias = DenoisingPolicy | MemberOf


class Sampling(TypedDict, total=False):
    """How a composition is sampled; see the module."""

    sampler: Sampler | None
    corrector: str | None
    corrector_options: Mapping[str, Any] | None
    n_particles: int | None
    reference: int
    rows_per_block: int | None


def part(policy: DenoisingPolicy, *, dims: Sequence[int]) -> MemberOf:
    """Return a policy as the owner of some entries of a larger action.

    Args:
        policy: the policy with the smaller action.
        dims: for each of its action entries the entry of the composition's action.
    """
    return MemberOf(policy=policy, dims=tuple(int(d) for d in dims))


def mean(
    members: Sequence[AnyMember],
    weights: Sequence[float] | WeightSchedule | WeightsOfObs,
    **sampling: Unpack[Sampling],
) -> ComposedPolicy:
    """Return the convex mixture of scores (General Policy Composition).

    Args:
        members: policies.
        weights: at least 0 with sum 1; or ``LevelWeights``; or a function of the observation that
            returns one row of weights per row. A member of weight 0 is not evaluated.
        sampling: see the module.

    Source: arXiv 2510.01068.
    """
    return ComposedPolicy(members, Mean(weights=weights), **sampling)


def product(
    members: Sequence[AnyMember],
    weights: Sequence[float] | None = None,
    **sampling: Unpack[Sampling],
) -> ComposedPolicy:
    """Return the product of experts; it needs a corrector, particles, or a stochastic rule.

    Args:
        members: policies.
        weights: positive; None is 1 for each.
        sampling: see the module.

    Raises:
        UsageError: for a deterministic sampler without corrector, which collapses a product.

    Source: arXiv 2302.11552.
    """
    return ComposedPolicy(members, Product(weights=weights), **sampling)


def rl_guidance(
    *, base: AnyMember, tuned: AnyMember, scale: float, **sampling: Unpack[Sampling]
) -> ComposedPolicy:
    """Return the policy ``scale`` times as far from ``base`` as ``tuned`` is.

    Args:
        base: before tuning: scale 0, bit for bit.
        tuned: after tuning: scale 1, bit for bit.
        scale: at least 0; above 1 extrapolates.
        sampling: see the module.

    Source: arXiv 2508.21016.
    """
    return ComposedPolicy([base, tuned], RLGuidance(scale=scale), **sampling)


def negation(
    keep: AnyMember, avoid: AnyMember, *, strength: float, **sampling: Unpack[Sampling]
) -> ComposedPolicy:
    """Return what ``keep`` does and ``avoid`` does not.

    Args:
        keep: the policy to follow; the narrower one, see ``composition.negation``.
        avoid: the policy to keep away from.
        strength: at least 0; 0.3 is usual.
        sampling: see the module.

    Source: arXiv 2302.11552.
    """
    return ComposedPolicy([keep, avoid], Negation(strength=strength), **sampling)


def conjunction(
    policy: DenoisingPolicy,
    *,
    conditions: Sequence[Mapping[str, Any]],
    scale: float | Sequence[float] = 1.0,
    without: Mapping[str, Any] | None = None,
    **sampling: Unpack[Sampling],
) -> ComposedPolicy:
    """Return a policy that meets several conditions at once, by classifier-free guidance.

    Args:
        policy: trained with and without its condition (``encoder.optional_keys``).
        conditions: for each condition the observations it sets, by key, each of the shape of one
            observation.
        scale: weight of every condition, or one for all.
        without: the observations that stand for no condition; None sets the keys of ``conditions``
            to NaN, which is what encoders with ``optional_keys`` read as absent.
        sampling: see the module.

    Raises:
        UsageError: without conditions, or for keys that the policy does not have.

    Source: arXiv 2211.15657 section 3.3; arXiv 2402.02511 (task level).
    """
    if not conditions:
        raise UsageError("conjunction: got no conditions, expected at least one")
    keys = {key for condition in conditions for key in condition}
    unknown = sorted(keys - set(policy.spec.obs_shapes))
    if unknown:
        raise UsageError(
            f"conjunction: the policy has no observations {unknown}; it has "
            f"{sorted(policy.spec.obs_shapes)}"
        )
    absent = without
    if absent is None:
        optional = set(getattr(getattr(policy, "encoder", None), "optional_keys", ()))
        if not keys <= optional:
            raise UsageError(
                f"conjunction: the policy was not trained without {sorted(keys - optional)}; train "
                "with policy.encoder.optional_keys, or say what stands for no condition with "
                "without={...}"
            )
        absent = {key: torch.full(policy.spec.obs_shapes[key], torch.nan) for key in keys}

    def given(values: Mapping[str, Any]) -> MemberOf:
        tensors = {
            key: torch.as_tensor(value, dtype=torch.float32).expand(policy.spec.obs_shapes[key])
            for key, value in values.items()
        }
        return MemberOf(policy=policy, fixed_obs=tensors)

    members = [given(absent), *(given({**absent, **condition}) for condition in conditions)]
    return ComposedPolicy(members, Conjunction(scale=scale), **sampling)


def mixture(
    members: Sequence[AnyMember],
    prior: Sequence[float] | None = None,
    **sampling: Unpack[Sampling],
) -> ComposedPolicy:
    """Return the mixture of densities: each sample is one member's, by tracked log-densities.

    Args:
        members: policies of one horizon and action size.
        prior: probability of each member; None is the same for all.
        sampling: see the module; the rule has to be ``ddpm`` (or ``sde`` with churn 1).

    Source: arXiv 2412.17762 proposition 3 (OR).
    """
    return ComposedPolicy(members, Superposition(mode="or", prior=prior), **sampling)


def superpose_or(
    members: Sequence[AnyMember], *, temperature: float = 1.0, **sampling: Unpack[Sampling]
) -> ComposedPolicy:
    """Return SuperDiff's OR with a temperature: ``mixture`` at 1, the likelier member above.

    Args:
        members: policies of one horizon and action size.
        temperature: factor of the tracked log-densities.
        sampling: see the module; the rule has to be ``ddpm``.

    Source: arXiv 2412.17762.
    """
    return ComposedPolicy(members, Superposition(temperature=temperature), **sampling)


def superpose_and(
    members: Sequence[AnyMember], *, correct_widths: bool = False, **sampling: Unpack[Sampling]
) -> ComposedPolicy:
    """Return SuperDiff's AND: samples that are equally likely under both members.

    Args:
        members: two policies of one horizon and action size.
        correct_widths: remove the bias that members of unequal curvature cause.
        sampling: see the module; the rule has to be ``ddpm``.

    Source: arXiv 2412.17762 proposition 6.
    """
    operator = Superposition(mode="and", correct_widths=correct_widths)
    return ComposedPolicy(members, operator, **sampling)


def with_cost(
    policy: AnyMember,
    *,
    cost: Callable[[Chunk, Obs], Float[Tensor, " batch"]],
    scale: float,
    options: Mapping[str, Any] | None = None,
    **sampling: Unpack[Sampling],
) -> ComposedPolicy:
    """Return a policy tilted by a cost in physical units: ``p exp(-scale cost)``.

    Args:
        policy: the policy.
        cost: ``cost(actions, obs)``, differentiable, one number per row: actions ``(batch, horizon,
            action)`` and observations in physical units; ``costs`` has the usual ones.
        scale: at least 0, in 1/cost.
        options: further settings of ``composition.CostGuided``: ``gradient``, ``interval``,
            ``max_ratio``.
        sampling: see the module.

    Source: arXiv 2402.02511 (behaviour level).
    """
    operator = CostGuidance(cost=cost, scale=scale, options=dict(options or {}))
    return ComposedPolicy([policy], operator, **sampling)


def value_guided(
    policy: AnyMember,
    critic: Critic,
    *,
    scale: float,
    options: Mapping[str, Any] | None = None,
    **sampling: Unpack[Sampling],
) -> ComposedPolicy:
    """Return a policy steered by a critic that it was not trained with: ``p exp(scale Q)``.

    It is ``with_cost`` for the cost -Q: the same targets, limits and samplers.

    Args:
        policy: diffusion or flow policy, or a composition.
        critic: of the same task, for example ``genpolicy.policies.load_critic("runs/iql")``.
        scale: at least 0, in 1/value; the inverse of a temperature.
        options: further settings of ``composition.CostGuided``: ``gradient``, ``interval``,
            ``max_ratio``.
        sampling: see the module.

    Raises:
        UsageError: for a consistency policy, or a critic of other observations or actions.

    Source: arXiv 2205.09991 section 3.2; the exact target is that of arXiv 2304.12824.
    """
    operator = ValueGuidance(critic=critic, scale=scale, options=dict(options or {}))
    return ComposedPolicy([policy], operator, **sampling)


def best_of(
    policy: DenoisingPolicy, critic: Critic, *, n: int, temperature: float = 0.0
) -> SelectedPolicy:
    """Return a policy that samples ``n`` chunks and runs the one that a critic chooses.

    Args:
        policy: of any kind, compositions included.
        critic: of the same task.
        n: candidates, at least 1.
        temperature: of the choice, in units of value; 0 takes the best.

    Source: arXiv 2304.10573.
    """
    return SelectedPolicy(policy, critic, n_candidates=n, temperature=temperature)


def endpoint_mean(
    members: Sequence[AnyMember], weights: Sequence[float], **sampling: Unpack[Sampling]
) -> ComposedPolicy:
    """Return the mean of consistency policies' ends, re-noised: a heuristic without a density.

    Args:
        members: consistency policies.
        weights: at least 0 with sum 1.
        sampling: see the module; the rule is ``renoise``.
    """
    return ComposedPolicy(members, EndpointMean(weights=weights), **sampling)


def proposal(
    consistency: DenoisingPolicy, policy: DenoisingPolicy, *, level: float = 1.0
) -> ProposalPolicy:
    """Return a policy that starts from another's chunk: the exact use of a consistency policy.

    Args:
        consistency: where chunks come from.
        policy: the policy, or composition, that goes on from the noised chunk, with its sampler
            and, if it has one, its corrector.
        level: sigma/alpha at which it goes on; 1 is as much noise as signal.
    """
    return ProposalPolicy(consistency, policy, level=level)
