"""Weights of a mean from held-out demonstrations, without a rollout: a start for a search.

Noise is added to demonstrated actions at the levels that the composition's sampler visits, and the
members' errors about it give the best weights of each level and of all, by
``composition.estimate``. That the error of the score falls says little about success: mixtures of
policies that go different ways have small errors and end between them. Confirm with rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genpolicy.composition.estimate import gram_of_errors, noise_errors, optimal_weights
from genpolicy.composition.on_path import LARGEST_SIGMA
from genpolicy.composition.weights import LevelWeights
from genpolicy.errors import UsageError
from genpolicy.evaluation.records import align_columns
from genpolicy.paths import log_snr
from genpolicy.policies.base import check_obs
from genpolicy.policies.composed import ComposedPolicy, MemberOf
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.policies.operators import Mean
from genpolicy.sampling import RowNoise, Sampler
from genpolicy.seeding import derive_seed, generator_from

__all__ = ["WeightEstimate", "estimate_weights"]

_INSIDE = 1e-6
_N_RESAMPLES = 200


@dataclass(frozen=True, kw_only=True)
class WeightEstimate:
    """Weights that fit demonstrations best.

    Args:
        weights: one set for all levels, every level counting alike.
        weights_std: standard deviation of ``weights`` over resamples of the windows; too small
            where windows of one episode overlap.
        log_snr: the levels, increasing (noisy first).
        level_weights: the best weights of each level.
        member_errors: for each level the mean squared error of each member about the added noise;
            it includes what no member can know, so only differences mean something.
        errors: for each level the same of the mixture by ``weights``.
        level_errors: for each level the same of the mixture by ``level_weights``.
        n_windows: demonstrations used.
    """

    weights: tuple[float, ...]
    weights_std: tuple[float, ...]
    log_snr: tuple[float, ...]
    level_weights: tuple[tuple[float, ...], ...]
    member_errors: tuple[tuple[float, ...], ...]
    errors: tuple[float, ...]
    level_errors: tuple[float, ...]
    n_windows: int

    @property
    def schedule(self) -> LevelWeights:
        """The best weights of each level, for ``compose.mean`` and ``search_weights``."""
        return LevelWeights(log_snr=self.log_snr, weights=self.level_weights)

    @property
    def is_interior(self) -> tuple[bool, ...]:
        """For each level whether at least two members have weight: only then is there a gain."""
        return tuple(sum(w > _INSIDE for w in row) > 1 for row in self.level_weights)

    @property
    def gains(self) -> tuple[float, ...]:
        """For each level by how much its best mixture's error is below that of the best member."""
        pairs = zip(self.member_errors, self.level_errors, strict=True)
        return tuple(min(members) - mixed for members, mixed in pairs)

    def to_json(self) -> dict[str, Any]:
        """Return plain containers."""
        return {**vars(self), "gains": list(self.gains)}

    def __str__(self) -> str:
        n = len(self.weights)
        rows = [
            [
                "log-SNR",
                *(f"weight {i}" for i in range(n)),
                *(f"error {i}" for i in range(n)),
                "mixture",
                "gain",
            ]
        ]
        columns = (
            self.log_snr,
            self.level_weights,
            self.member_errors,
            self.level_errors,
            self.gains,
        )
        for level, weights, members, mixed, gain in zip(*columns, strict=True):
            row = [f"{level:.2f}", *(f"{w:.3f}" for w in weights), *(f"{e:.4f}" for e in members)]
            rows.append([*row, f"{mixed:.4f}", f"{gain:.4f}"])
        pairs = zip(self.weights, self.weights_std, strict=True)
        overall = ", ".join(f"{w:.3f} (std {s:.3f})" for w, s in pairs)
        return (
            f"weights for all levels, from {self.n_windows} windows: {overall}\n"
            + align_columns(rows, right=tuple(range(len(rows[0]))))
            + "\nerrors are of the noise at demonstrated actions; confirm with rollouts"
        )


def estimate_weights(
    members: Sequence[DenoisingPolicy | MemberOf],
    demonstrations: Mapping[str, Any],
    *,
    log_snr_levels: Sequence[float] | None = None,
    sampler: Sampler | None = None,
    reference: int = 0,
    seed: int = 0,
    rows_per_block: int = 256,
) -> WeightEstimate:
    """Return the weights of ``compose.mean`` that predict noise on demonstrations best.

    Args:
        members: policies that predict a posterior mean (no consistency policies); paths, prediction
            types, units and windows may differ.
        demonstrations: windows that no member was trained on, with the horizon and observation
            steps of the composition, in physical units: ``obs`` by key ``(batch, n_obs_steps,
            *shape)``, ``action`` ``(batch, horizon, action)`` and optionally ``mask`` ``(batch,
            horizon)``, true where the action was recorded; a ``WindowDataset.gather`` batch.
        log_snr_levels: finite, increasing; None takes those that the sampler visits.
        sampler: decides the levels; None is that of the reference.
        reference: number of the member whose path and units are used.
        seed: of the added noise; row ``i`` depends on it and on ``i`` only.
        rows_per_block: windows evaluated together.

    Raises:
        UsageError: for members that do not fit each other, or windows that do not fit them.

    Cost: one evaluation of each member per level and window.
    """
    equal = [1.0 / len(members)] * len(members) if members else []
    policy = ComposedPolicy(members, Mean(weights=equal), sampler=sampler, reference=reference)
    obs, clean, mask = _windows(policy, demonstrations)
    levels = _levels(policy) if log_snr_levels is None else [float(v) for v in log_snr_levels]
    if not levels or not all(map(math.isfinite, levels)) or sorted(set(levels)) != levels:
        raise UsageError(
            f"estimate_weights: the levels are {levels}, expected finite log-SNRs that increase"
        )
    n_rows, n = len(clean), len(members)
    grams = torch.zeros(len(levels), n_rows, n, n, dtype=torch.float64)
    sizes = torch.zeros(n_rows, dtype=torch.float64)
    policy.eval()
    with torch.inference_mode():
        for first in range(0, n_rows, rows_per_block):
            rows = slice(first, min(first + rows_per_block, n_rows))
            block = {key: value[rows].to(policy.device) for key, value in obs.items()}
            bound = list(policy.bound_members(block).values())
            seeds = [derive_seed(seed, "estimate", i) for i in range(rows.start, rows.stop)]
            noise = RowNoise(
                seeds,
                (clean.shape[1], clean.shape[2]),
                device=policy.device,
                dtype=clean.dtype,
            )
            for k, level in enumerate(levels):
                errors, covered = noise_errors(bound, clean[rows], noise.draw(k), log_snr=level)
                valid = mask[rows, :, None] & covered
                grams[k, rows] = gram_of_errors(errors * valid).cpu()
                sizes[rows] = valid.flatten(1).sum(1).double().cpu()
    total = float(sizes.sum())
    if total == 0.0:
        raise UsageError("estimate_weights: no recorded action is predicted by all members")
    each = grams.sum(1) / total
    whole = each.mean(0)
    level_weights = optimal_weights(each)
    weights = optimal_weights(whole)
    return WeightEstimate(
        weights=tuple(weights.tolist()),
        weights_std=_spread(grams.mean(0), sizes, seed=seed),
        log_snr=tuple(levels),
        level_weights=tuple(tuple(row) for row in level_weights.tolist()),
        member_errors=tuple(tuple(row) for row in each.diagonal(dim1=1, dim2=2).tolist()),
        errors=tuple(torch.einsum("i,kij,j->k", weights, each, weights).tolist()),
        level_errors=tuple(
            torch.einsum("ki,kij,kj->k", level_weights, each, level_weights).tolist()
        ),
        n_windows=n_rows,
    )


def _windows(
    policy: ComposedPolicy, demonstrations: Mapping[str, Any]
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return observations, normalized actions and mask, on the policy's device."""
    who, spec = "estimate_weights", policy.spec
    if not {"obs", "action"} <= set(demonstrations):
        raise UsageError(f"{who}: got entries {sorted(demonstrations)}, expected obs and action")
    n_rows = check_obs(demonstrations["obs"], spec, None, who=who)
    action = demonstrations["action"]
    wanted = (n_rows, spec.horizon, spec.action_dim)
    if tuple(action.shape) != wanted or n_rows < 2:
        raise UsageError(
            f"{who}: got actions of shape {tuple(action.shape)}, expected {wanted} with at least "
            f"two windows: {spec.horizon} actions from the first of {spec.n_obs_steps} observations"
        )
    mask = demonstrations.get("mask")
    mask = torch.ones(wanted[:2], dtype=torch.bool) if mask is None else mask
    clean = policy.normalizer.normalize_action(action.to(policy.device, torch.float32))
    return dict(demonstrations["obs"]), clean, mask.to(policy.device)


def _levels(policy: ComposedPolicy) -> list[float]:
    """Return the log-SNRs at which the sampler asks the members, noisy first."""
    times = torch.tensor(policy.sampler.times_on(policy.path)[:-1], dtype=torch.float64)
    found = log_snr(policy.path, times).clamp(min=-2.0 * math.log(LARGEST_SIGMA))
    return sorted({round(v, 6) for v in found.tolist()})


def _spread(grams: Tensor, sizes: Tensor, *, seed: int) -> tuple[float, ...]:
    """Return the standard deviation of the weights over resamples of the windows."""
    n = len(grams)
    picks = torch.randint(
        n, (_N_RESAMPLES, n), generator=generator_from(seed, "estimate", "resample")
    )
    tables = torch.stack([grams[p].sum(0) / sizes[p].sum().clamp(min=1.0) for p in picks])
    return tuple(optimal_weights(tables).std(0).tolist())
