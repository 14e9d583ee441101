r"""Is a composition where its members have data? Measured while it samples, without a rollout.

Every step of the sampler asks the members at the state x_t that the composition visits. With D_i
the denoised action of member i, D the one that the step used, and e = (x_t - alpha D)/sigma the
noise that a denoised action implies, in units of the added noise::

    (1)  disagreement  = rms (e_i - e_j) = alpha/sigma rms (D_i - D_j),   over pairs of members
    (2)  departure_i   = rms (e - e_i)   = alpha/sigma rms (D - D_i)
    (3)  clipped       = fraction of the entries of D at or beyond the bounds of the actions

The finished actions x_0 are then noised to several levels and denoised by each member::

    (4)  error_i(x_0)  = rms (D_i(alpha x_0 + sigma eps) - x_0)
    (5)  ratio_i       = error_i(samples of the composition) / error_i(own samples of member i)

A member that knows the actions returns them as well as it does its own: ratio 1. A ratio well above
1 says that the composition ended where this member has no data. For a Gaussian member N(m, s^2),
with actions of mean square distance d^2 from m::

    (6)  error^2 = ((1 - c)^2 d^2 + c^2 r^2),   r = sigma/alpha,  c = s^2/(s^2 + r^2)

so the ratio goes from 1 at small r to d/s at large r: actions without data are seen at levels above
the width of the member's modes. A ratio below 1 is harmless: the actions are narrower (d < s).

All noise is the same for every member, so differences between members are not those of the noise.

Source: derived here. arXiv 2510.01068 judges compositions by success rates alone, which do not show
why one fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from genpolicy.composition.members import (
    Carries,
    Member,
    advance_members,
    coverage_of,
    denoise_members,
    start_members,
)
from genpolicy.denoisers import Step, as_tracking
from genpolicy.errors import UsageError
from genpolicy.evaluation.diagnostics_result import Diagnostics
from genpolicy.evaluation.mode_mass import ModeMass, mass_between
from genpolicy.networks.modes import modes_kept
from genpolicy.paths import log_snr
from genpolicy.paths.base import scalar_alpha_sigma
from genpolicy.policies.base import check_obs
from genpolicy.policies.composed import ComposedPolicy
from genpolicy.sampling import RowNoise
from genpolicy.seeding import derive_seed
from genpolicy.shapes import Chunk, Obs

__all__ = ["DEFAULT_LEVELS", "Diagnostics", "ModeMass", "diagnose", "mass_between"]

DEFAULT_LEVELS = (0.0, 2.0, 4.0, 6.0)
"""Log-SNRs of (4): noise of size 1, 0.37, 0.14 and 0.05 in normalized units."""


def diagnose(
    policy: ComposedPolicy,
    obs: Obs,
    *,
    seeds: Sequence[int],
    levels: Sequence[float] | None = None,
) -> Diagnostics:
    """Sample from a composition and report how its members fare on the way and at the end.

    Args:
        policy: the composition. With particles the states are those of all particles, and members
            that follow their trajectory start anew at each step.
        obs: for each key ``(batch, n_obs_steps, *shape)`` in physical units; repeat one observation
            to look at one situation.
        seeds: one per row; the actions are those of ``policy.sample(obs, seeds=seeds)``.
        levels: finite log-SNRs of (4), increasing, that every member knows; None takes those of
            ``DEFAULT_LEVELS`` that they do.

    Raises:
        UsageError: for a policy without members, no rows, or levels outside the path.
        NumericsError: when an action is not finite.

    Cost: per step one evaluation of the composition and one more of each member; besides, each
        member samples once by itself and is evaluated twice per level.
    """
    if not isinstance(policy, ComposedPolicy):
        raise UsageError(
            f"diagnose: got a {type(policy).__name__}, expected a composition of policies "
            "(genpolicy.compose): a single policy has nothing to disagree with"
        )
    n_rows = check_obs(obs, policy.spec, seeds, who="diagnose")
    if n_rows == 0:
        raise UsageError("diagnose: got no observations, expected at least one row")
    chosen = _levels(policy, levels)
    times = policy.sampler.times_on(policy.path)
    sums = _Sums.of(len(policy.used), len(times) - 1, len(chosen))
    chunks: list[Chunk] = []
    with modes_kept(policy), torch.no_grad():
        policy.eval()
        for block, seeds_here, n_wanted in policy.blocks(obs, seeds):
            chunk = _watch(policy, block, seeds_here, n_wanted, sums)
            _compare(policy, block, seeds_here, chunk, chosen, n_wanted, sums)
            chunks.append(chunk[:n_wanted])
        normalized = torch.cat(chunks)
        actions = policy.normalizer.denormalize_action(normalized)
    bounds = policy.bounds
    visited = torch.tensor(times[:-1], dtype=torch.float64)
    return Diagnostics(
        operator=type(policy.operator).__name__,
        members=policy.used,
        times=visited.numpy(),
        log_snr=log_snr(policy.path, visited).numpy(),
        disagreement=sums.root("apart"),
        departure=sums.root("away"),
        clipped=None if bounds is None else sums.mean("clipped"),
        clipped_samples=None if bounds is None else float(_at(normalized, bounds).double().mean()),
        levels=np.asarray(chosen),
        errors=sums.root("errors"),
        own_errors=sums.root("own"),
        actions=actions.cpu().numpy(),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sums:
    """Sums of squares and their numbers of entries, by name, both of the shape of the result."""

    values: dict[str, Tensor]
    counts: dict[str, Tensor]

    @classmethod
    def of(cls, n_members: int, n_steps: int, n_levels: int) -> _Sums:
        shapes = {
            "apart": (n_steps,),
            "away": (n_members, n_steps),
            "clipped": (n_steps,),
            "errors": (n_members, n_levels),
            "own": (n_members, n_levels),
        }
        empty = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        return cls(values=empty, counts={name: value.clone() for name, value in empty.items()})

    def add(self, name: str, place: int | tuple[int, int], entries: Tensor) -> None:
        self.values[name][place] += entries.double().sum().cpu()
        self.counts[name][place] += entries.numel()

    def mean(self, name: str) -> np.ndarray:
        return (self.values[name] / self.counts[name]).numpy()

    def root(self, name: str) -> np.ndarray:
        return np.sqrt(self.mean(name))


def _watch(
    policy: ComposedPolicy,
    block: dict[str, Tensor],
    seeds: Sequence[int],
    n_valid: int,
    sums: _Sums,
) -> Chunk:
    """Return the actions of a block, adding (1) to (3) of its steps."""
    crowd, counted = block, n_valid
    if policy.n_particles is not None:
        counted = policy.n_particles
        crowd = {key: v.expand(counted, *v.shape[1:]) for key, v in block.items()}
    members = list(policy.bound_members(crowd).values())
    masks = [_mask(policy, member) for member in members]
    carries: Carries = ()

    def on_step(step: Step) -> None:
        nonlocal carries
        if step.index == 0 or policy.n_particles is not None:
            carries = start_members(members, step.x_t, None)
        t = step.x_t.new_full((len(step.x_t),), step.t)
        outputs, after = denoise_members(members, step.x_t, t, None, carries)
        if policy.n_particles is None:
            carries = advance_members(members, after, step)
        alpha, sigma = scalar_alpha_sigma(policy.path, step.t)
        used = (alpha / sigma) * step.denoised[:counted]
        own = [(alpha / sigma) * output[:counted] for output in outputs]
        for i, (noise, mask) in enumerate(zip(own, masks, strict=True)):
            sums.add("away", (i, step.index), (used - noise)[:, mask].square())
        for (a, mask_a), (b, mask_b) in itertools.combinations(zip(own, masks, strict=True), 2):
            sums.add("apart", step.index, (a - b)[:, mask_a & mask_b].square())
        if policy.bounds is not None:
            sums.add("clipped", step.index, _at(step.denoised[:counted], policy.bounds))

    return policy.sample_block(block, seeds, on_step=on_step)


def _compare(
    policy: ComposedPolicy,
    block: dict[str, Tensor],
    seeds: Sequence[int],
    chunk: Chunk,
    levels: Sequence[float],
    n_valid: int,
    sums: _Sums,
) -> None:
    """Add (4) of a block's actions and of the members' own."""
    shape = (policy.spec.horizon, policy.spec.action_dim)
    own_seeds = [derive_seed(seed, "diagnose") for seed in seeds]
    noise = RowNoise(own_seeds, shape, device=chunk.device, dtype=chunk.dtype)
    start = policy.given_sampler or policy.members[policy.reference].policy.sampler
    # A total weight other than 1 changes where a composition starts, not where a member does.
    sampler = replace(policy.sampler, init_scale=start.init_scale)
    for i, member in enumerate(policy.bound_members(block).values()):
        own = sampler.run(
            member,
            None,
            seeds=seeds,
            horizon=shape[0],
            action_dim=shape[1],
            bounds=policy.bounds,
            correct=policy.corrector,
            like=chunk,
        )
        mask = _mask(policy, member)
        for k, level in enumerate(levels):
            for name, clean in (("errors", chunk), ("own", own)):
                missed = _missed(member, clean, noise.draw(k), level)
                sums.add(name, (i, k), missed[:n_valid, mask].square())


def _missed(member: Member, clean: Chunk, noise: Chunk, level: float) -> Chunk:
    """Return ``D(alpha clean + sigma noise) - clean`` at a log-SNR."""
    path = member.path
    found = path.t_of_log_snr(torch.tensor(level, dtype=torch.float64))
    time = float(found.clamp(path.t_min, path.t_max))
    alpha, sigma = scalar_alpha_sigma(path, time)
    x_t = alpha * clean + sigma * noise
    tracked = as_tracking(member)
    t = x_t.new_full((len(x_t),), time)
    return tracked.denoise(x_t, t, None, tracked.start(x_t, None))[0] - clean


def _mask(policy: ComposedPolicy, member: Member) -> Bool[Tensor, "horizon action"]:
    """Return the entries that a member says something about."""
    found = coverage_of(member)
    if found is None:
        found = torch.ones(policy.spec.horizon, policy.spec.action_dim, dtype=torch.bool)
    return found.to(policy.device)


def _at(actions: Chunk, bounds: tuple[float, float]) -> Bool[Tensor, "batch horizon action"]:
    return (actions <= bounds[0]) | (actions >= bounds[1])


def _levels(policy: ComposedPolicy, levels: Sequence[float] | None) -> tuple[float, ...]:
    """Return the levels of (4), checked."""
    ends = torch.tensor([policy.path.t_max, policy.path.t_min], dtype=torch.float64)
    noisy, clean = log_snr(policy.path, ends).tolist()
    if levels is None:
        chosen = tuple(v for v in DEFAULT_LEVELS if noisy <= v <= clean)
        return chosen or (max(noisy, -10.0) / 2.0 + min(clean, 10.0) / 2.0,)
    chosen = tuple(float(v) for v in levels)
    is_sorted = list(chosen) == sorted(set(chosen))
    if not chosen or not is_sorted or not noisy <= chosen[0] <= chosen[-1] <= clean:
        raise UsageError(
            f"diagnose: levels are {chosen}, expected increasing log-SNRs within [{noisy:.2f}, "
            f"{clean:.2f}], which all members know"
        )
    return chosen
