"""A policy that tries other actions than its own, to collect experience."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genpolicy.errors import UsageError
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.sampling import RowNoise
from genpolicy.seeding import derive_seed, fresh_seeds
from genpolicy.shapes import Chunk, Obs

__all__ = ["ExploringPolicy"]


class ExploringPolicy:
    """A policy with Gaussian noise on its normalized actions, or with uniform ones in their place.

    Args:
        policy: what to disturb.
        noise_std: in normalized units, at least 0.
        uniform: take actions uniformly from the normalizer's range and leave the policy out.

    Raises:
        UsageError: for a negative size, or ``uniform`` where actions have no range.
    """

    def __init__(self, policy: DenoisingPolicy, *, noise_std: float, uniform: bool = False) -> None:
        if not noise_std >= 0.0:
            raise UsageError(f"exploration: noise_std is {noise_std}, expected at least 0")
        if uniform and policy.bounds is None:
            raise UsageError(
                "exploration: actions normalized by mean and standard deviation have no range to "
                "draw from; use data.action_normalizer=min_max, or warmup_actions=policy"
            )
        self.policy, self.noise_std, self.uniform = policy, float(noise_std), uniform
        self.spec = policy.spec

    def sample(self, obs: Obs, *, seeds: Sequence[int] | None = None) -> Chunk:
        """Return a chunk per row, see ``Policy.sample``; its noise is a function of its seed."""
        policy = self.policy
        n_rows = len(next(iter(obs.values())))
        rows = fresh_seeds(n_rows) if seeds is None else [int(seed) for seed in seeds]
        noise = RowNoise(
            [derive_seed(seed, "exploration") for seed in rows],
            (self.spec.horizon, self.spec.action_dim),
            device=policy.device,
        ).draw(0)
        bounds = policy.bounds
        if self.uniform:
            assert bounds is not None
            chunk = bounds[0] + (bounds[1] - bounds[0]) * torch.special.ndtr(noise)
            return policy.normalizer.denormalize_action(chunk)
        chunk = policy.sample(obs, seeds=rows)
        if self.noise_std == 0.0:
            return chunk
        chunk = policy.normalizer.normalize_action(chunk) + self.noise_std * noise
        if bounds is not None:
            chunk = chunk.clamp(*bounds)
        return policy.normalizer.denormalize_action(chunk)
