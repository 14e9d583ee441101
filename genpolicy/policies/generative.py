"""The generative policy: normalize, encode, denoise, un-normalize.

Diffusion, flow and consistency policies are all this class; they differ in the path, the denoiser
and the sampler they are built with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from genpolicy.config import build, resolve_target
from genpolicy.data.normalizer import Normalizer
from genpolicy.denoisers import FlowMapDenoiser, ParameterizedDenoiser, TrajectoryDenoiser
from genpolicy.errors import NumericsError, UsageError
from genpolicy.policies.base import check_obs
from genpolicy.sampling import Sampler
from genpolicy.seeding import fresh_seeds
from genpolicy.shapes import Chunk, Cond, Obs, TaskSpec

__all__ = ["GenerativePolicy", "PolicyDenoiser", "build_policy"]

PolicyDenoiser: TypeAlias = ParameterizedDenoiser | FlowMapDenoiser | TrajectoryDenoiser
"""The denoisers that are trained networks."""


class GenerativePolicy(nn.Module):
    """A policy that samples chunks of actions from a learned conditional density.

    Args:
        spec: what it sees and returns.
        normalizer: statistics of the training data; actions are generated in normalized units.
        encoder: observations ``{key: (batch, n_obs_steps, *shape)}``, normalized, to features
            ``(batch, n_obs_steps, obs_dim)``.
        denoiser: the trained denoiser, with its path.
        sampler: rule, number of steps and grid used by ``sample``.
        rows_per_block: rows evaluated together. Matrix products round differently at different
            sizes, so rows are always computed in blocks of this one size (the last one padded):
            a row's action then does not depend, to the last bit, on how many rows are asked for.
            Larger blocks are faster for bulk sampling and slower for a single robot.
    """

    def __init__(
        self,
        *,
        spec: TaskSpec,
        normalizer: Normalizer,
        encoder: nn.Module,
        denoiser: PolicyDenoiser,
        sampler: Sampler,
        rows_per_block: int = 8,
    ) -> None:
        super().__init__()
        if rows_per_block < 1:
            raise UsageError(f"GenerativePolicy: rows_per_block is {rows_per_block}, expected >= 1")
        self.spec = spec
        self.normalizer = normalizer
        self.encoder = encoder
        self.denoiser: PolicyDenoiser = denoiser
        self.sampler = sampler
        self.rows_per_block = rows_per_block

    def with_sampler(self, **changes: Any) -> GenerativePolicy:
        """Return a policy on the same weights whose sampler has the given fields changed."""
        return GenerativePolicy(
            spec=self.spec,
            normalizer=self.normalizer,
            encoder=self.encoder,
            denoiser=self.denoiser,
            sampler=replace(self.sampler, **changes),
            rows_per_block=self.rows_per_block,
        ).train(self.training)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def encode(self, obs: Obs) -> Cond:
        """Return the condition for observations in physical units."""
        return self.encoder(self.normalizer.normalize_obs(obs))

    def training_pair(
        self, batch: Mapping[str, Any]
    ) -> tuple[Chunk, Cond, Bool[Tensor, "batch horizon"]]:
        """Return normalized clean actions, the condition and the mask of valid entries."""
        clean = self.normalizer.normalize_action(batch["action"])
        return clean, self.encode(batch["obs"]), batch["mask"]

    def sample(self, obs: Obs, *, seeds: Sequence[int] | None = None) -> Chunk:
        """Sample one chunk of actions per row, in physical units.

        Args:
            obs: for each key ``(batch, n_obs_steps, *shape)`` in physical units, on any device.
            seeds: one integer per row, or None for fresh ones. Row ``i`` depends on observation
                row ``i`` and ``seeds[i]`` only, bit for bit.

        Returns:
            ``(batch, horizon, action)`` on the policy's device.

        Raises:
            UsageError: when keys, shapes or the number of seeds do not fit ``spec``.
            NumericsError: when an action is not finite.

        Cost: ``sampler.nfe`` network evaluations per block of ``rows_per_block`` rows.
        """
        n_rows = check_obs(obs, self.spec, seeds, who="GenerativePolicy.sample")
        row_seeds = fresh_seeds(n_rows) if seeds is None else [int(seed) for seed in seeds]
        if n_rows == 0:
            return torch.zeros(0, self.spec.horizon, self.spec.action_dim, device=self.device)
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                blocks = [
                    self._sample_block(obs, row_seeds, start)
                    for start in range(0, n_rows, self.rows_per_block)
                ]
                chunk = torch.cat(blocks)
        finally:
            self.train(was_training)
        if not bool(torch.isfinite(chunk).all()):
            bad = (~torch.isfinite(chunk)).flatten(1).any(1).nonzero().flatten().tolist()
            raise NumericsError(
                f"GenerativePolicy.sample: rows {bad} of {n_rows} have non-finite actions; "
                "check the observations of these rows and the checkpoint's weights"
            )
        return chunk

    def _sample_block(self, obs: Obs, seeds: Sequence[int], start: int) -> Chunk:
        """Sample rows ``start : start + rows_per_block``, padding the block with its last row."""
        stop = min(start + self.rows_per_block, len(seeds))
        rows = torch.arange(start, start + self.rows_per_block).clamp_(max=stop - 1)
        block = {
            key: obs[key].index_select(0, rows.to(obs[key].device)).to(self.device)
            for key in self.spec.obs_shapes
        }
        normalized = self.sampler.run(
            self.denoiser,
            self.encode(block),
            seeds=[seeds[i] for i in rows.tolist()],
            horizon=self.spec.horizon,
            action_dim=self.spec.action_dim,
            bounds=self.normalizer.bounds,
        )
        return self.normalizer.denormalize_action(normalized[: stop - start])


def build_policy(
    config: Mapping[str, Any], *, spec: TaskSpec, normalizer: Normalizer
) -> GenerativePolicy:
    """Build an untrained policy from plain containers.

    Args:
        config: entries ``encoder``, ``network``, ``path``, ``denoiser`` and ``sampler``, each with
            a ``_target_``, and optionally ``rows_per_block``. Sizes are not in it: the network is
            built for ``spec`` and the encoder's ``obs_dim``.
        spec: what the policy sees and returns.
        normalizer: fitted statistics.

    Raises:
        UsageError: for missing or unknown entries.
    """
    needed = {"encoder", "network", "path", "denoiser", "sampler"}
    unknown = set(config) - needed - {"rows_per_block"}
    if needed - set(config) or unknown:
        raise UsageError(
            f"policy: missing entries {sorted(needed - set(config))}, unknown entries "
            f"{sorted(unknown)}; expected {sorted(needed)} and optionally rows_per_block"
        )
    encoder = build(config["encoder"], obs_shapes=spec.obs_shapes)
    kind = resolve_target(str(config["denoiser"].get("_target_")))
    network = build(
        config["network"],
        action_dim=spec.action_dim,
        horizon=spec.horizon,
        n_obs_steps=spec.n_obs_steps,
        obs_dim=encoder.obs_dim,
        n_times=2 if kind is TrajectoryDenoiser else 1,
    )
    denoiser: PolicyDenoiser = build(
        config["denoiser"], network=network, path=build(config["path"])
    )
    return GenerativePolicy(
        spec=spec,
        normalizer=normalizer,
        encoder=encoder,
        denoiser=denoiser,
        sampler=build(config["sampler"]),
        rows_per_block=int(config.get("rows_per_block", 8)),
    )
