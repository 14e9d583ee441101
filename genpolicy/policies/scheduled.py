"""A policy's sampler with all that depends on time alone computed before it runs.

What is exported, and what the compiled steps run where a network has no program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genpolicy.denoisers import Kind, target_of
from genpolicy.native import Scheduled, Source, Unsupported, evaluations_of, expand, sources_of
from genpolicy.paths import Path
from genpolicy.sampling import NoiseSource, check_target, check_times, class_of, plan
from genpolicy.shapes import Chunk

if TYPE_CHECKING:
    from genpolicy.policies.denoising import DenoisingPolicy

__all__ = ["ScheduledRun", "check_one_run"]


def check_one_run(policy: DenoisingPolicy) -> None:
    """Refuse policies that are not sampled by one run of the loop over a sum of networks.

    Raises:
        Unsupported: with the reason.
    """
    if policy.needs_gradient:
        raise Unsupported("it differentiates through networks")
    if policy.corrector is not None:
        raise Unsupported("it has a corrector")


class ScheduledRun:
    """The evaluations of a policy's run as sums with numbers for factors.

    It holds for the policy's sampler, normalizers and weights of members, not for a policy whose
    sampler was changed.

    Args:
        policy: a trained policy, or a weighted sum of some.

    Raises:
        Unsupported: for others.
        UsageError: where the sampler does not fit what is composed.
    """

    def __init__(self, policy: DenoisingPolicy) -> None:
        check_one_run(policy)
        structure = policy.structure({})
        self.sources: tuple[Source, ...] = sources_of(structure)
        self.path: Path = structure.path
        self.kind: Kind = structure.kind
        times = check_times(policy.sampler.times_on(self.path), self.path)
        steps = plan(policy.sampler.bound_rule, self.path, times)
        check_target(target_of(structure), class_of(steps, None))
        self.rows = [expand(structure, t) for t, _ in evaluations_of(steps, times)]
        noisy = [index + 1 for index, step in enumerate(steps) if step.c_noise != 0.0]
        self.draws: tuple[int, ...] = (0, *noisy)

    def sample(
        self,
        policy: DenoisingPolicy,
        obs: Mapping[str, Tensor],
        *,
        seeds: Sequence[int] = (),
        noise: NoiseSource | None = None,
    ) -> Chunk:
        """Sample one normalized chunk per row.

        Args:
            policy: the one that this was made of.
            obs: in physical units, on its device.
            seeds: one per row, where there is no ``noise``.
            noise: has the draws ``self.draws``; its device and type are those of the sample.
        """
        conds = [source.encoder(_seen(source, obs)) for source in self.sources]
        return policy.sampler.run(
            Scheduled(path=self.path, kind=self.kind, rows=self.rows, conds=conds),
            None,
            seeds=seeds,
            horizon=policy.spec.horizon,
            action_dim=policy.spec.action_dim,
            bounds=policy.bounds,
            like=torch.empty(0, device=policy.device),
            noise=noise,
        )


def _seen(source: Source, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the normalized observations of one source."""
    own: dict[str, Tensor] = {}
    for key, shape in source.normalizer.obs_shapes.items():
        if key in source.fixed:
            like = next(iter(obs.values()))
            value = source.fixed[key].to(like.device, torch.float32)
            own[key] = value.expand(like.shape[0], source.n_obs_steps, *shape)
        else:
            own[key] = obs[key][:, -source.n_obs_steps :]
    return source.normalizer.normalize_obs(own)
