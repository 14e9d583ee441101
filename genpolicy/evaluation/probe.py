"""What a policy would do at one observation: many samples, without an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from genpolicy.errors import UsageError
from genpolicy.seeding import derive_seed
from genpolicy.shapes import Obs

if TYPE_CHECKING:
    from genpolicy.policies import Policy

__all__ = ["sample_chunks"]


def sample_chunks(
    policy: Policy, obs: Obs, *, n: int, seed: int = 0
) -> Float[np.ndarray, "n horizon action"]:
    """Sample ``n`` chunks of actions at one observation.

    Args:
        policy: what to ask, in one call.
        obs: for each key ``(1, n_obs_steps, *shape)`` in physical units.
        n: number of samples, at least 1.
        seed: of the samples; two policies asked with the same seed get the same noise.

    Returns:
        Chunks in physical units; ``chunks[:, policy.spec.executed.start]`` are the actions that
        would be executed first.

    Raises:
        UsageError: for several observations, or ``n`` below 1.
    """
    sizes = {key: len(value) for key, value in obs.items()}
    if set(sizes.values()) != {1} or n < 1:
        raise UsageError(f"sample_chunks: got rows {sizes} and n {n}, expected one row and n >= 1")
    rows = {key: value.expand(n, *value.shape[1:]) for key, value in obs.items()}
    seeds = [derive_seed(seed, "probe", i) for i in range(n)]
    return policy.sample(rows, seeds=seeds).detach().cpu().numpy()
