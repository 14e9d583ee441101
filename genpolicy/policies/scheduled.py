"""A policy's sampler with all that depends on time alone computed before it runs.

What is exported, and what the compiled steps run where a network has no program.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genpolicy.denoisers import Kind, target_of
from genpolicy.native import Scheduled, Source, Unsupported, evaluations_of, expand, sources_of
from genpolicy.native.expansion import Affine
from genpolicy.ops import backend
from genpolicy.paths import Path
from genpolicy.policies.recorded import CudaRecorder, Recorder, Recordings
from genpolicy.sampling import (
    DeviceNoise,
    NoiseSource,
    check_target,
    check_times,
    class_of,
    plan,
)
from genpolicy.seeding import bits_of
from genpolicy.shapes import Chunk

if TYPE_CHECKING:
    from genpolicy.policies.denoising import DenoisingPolicy

__all__ = ["ScheduledRun", "check_one_run"]

_SEEDS = " seeds"  # beside the observations; no key of theirs


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
    sampler was changed or that was moved. On a CUDA device with compiled steps a run is recorded
    once for each shape of the observations, and replayed.

    Args:
        policy: a trained policy, or a weighted sum of some.
        recorder: how runs are recorded; None is what the policy's device has.

    Attributes:
        recordings: of the policy's device; None where nothing is recorded.

    Raises:
        Unsupported: for others.
        UsageError: where the sampler does not fit what is composed.
    """

    def __init__(self, policy: DenoisingPolicy, *, recorder: Recorder | None = None) -> None:
        check_one_run(policy)
        device = policy.device
        structure = policy.structure({})
        self.sources: tuple[Source, ...] = sources_of(structure)
        self.path: Path = structure.path
        self.kind: Kind = structure.kind
        times = check_times(policy.sampler.times_on(self.path), self.path)
        steps = plan(policy.sampler.bound_rule, self.path, times)
        check_target(target_of(structure), class_of(steps, None))
        self.rows = [_on(device, expand(structure, t)) for t, _ in evaluations_of(steps, times)]
        self._fixed = [
            {key: value.to(device, torch.float32) for key, value in source.fixed.items()}
            for source in self.sources
        ]
        noisy = [index + 1 for index, step in enumerate(steps) if step.c_noise != 0.0]
        self.draws: tuple[int, ...] = (0, *noisy)
        self.recordings: Recordings | None = None
        recorder = _recorder_of(device) if recorder is None else recorder
        if recorder is not None:
            self.recordings = Recordings(recorder)

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
        if noise is None and self.recordings is not None:
            bits = bits_of(seeds).to(policy.device)
            return self.recordings({**obs, _SEEDS: bits}, functools.partial(self._recorded, policy))
        seen = zip(self.sources, self._fixed, strict=True)
        conds = [source.encoder(_seen(source, fixed, obs)) for source, fixed in seen]
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

    def _recorded(self, policy: DenoisingPolicy, given: Mapping[str, Tensor]) -> Chunk:
        """Return what ``sample`` does, of observations and seeds that lie on the device."""
        shape = (policy.spec.horizon, policy.spec.action_dim)
        obs = {key: value for key, value in given.items() if key != _SEEDS}
        return self.sample(policy, obs, noise=DeviceNoise(given[_SEEDS], shape))


def _recorder_of(device: torch.device) -> Recorder | None:
    """Return how runs are recorded on a device, where compiled steps draw noise there."""
    return CudaRecorder(device) if device.type == "cuda" and backend().cuda else None


def _on(device: torch.device, row: Affine) -> Affine:
    """Return a sum whose shifts lie on a device, so that nothing is copied there in a run."""
    if device.type == "cpu":
        return row

    def moved(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(device, torch.float32)

    terms = tuple(replace(term, in_shift=moved(term.in_shift)) for term in row.terms)
    return replace(row, shift=moved(row.shift), terms=terms)


def _seen(
    source: Source, fixed: Mapping[str, Tensor], obs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the normalized observations of one source."""
    own: dict[str, Tensor] = {}
    for key, shape in source.normalizer.obs_shapes.items():
        if key in fixed:
            like = next(iter(obs.values()))
            own[key] = fixed[key].expand(like.shape[0], source.n_obs_steps, *shape)
        else:
            own[key] = obs[key][:, -source.n_obs_steps :]
    return source.normalizer.normalize_obs(own)
