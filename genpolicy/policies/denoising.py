"""What every policy of this library that acts by denoising shares: sampling in blocks of rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genpolicy.composition import Member
from genpolicy.data.normalizer import Normalizer
from genpolicy.denoisers import Kind, Step, Target
from genpolicy.errors import NumericsError
from genpolicy.native import Unsupported
from genpolicy.networks.modes import modes_kept
from genpolicy.paths import Path
from genpolicy.policies.base import check_obs
from genpolicy.policies.compiled import CompiledSampler, compiled_sampler, use_compiled
from genpolicy.sampling import Corrector, Sampler
from genpolicy.seeding import fresh_seeds
from genpolicy.shapes import Chunk, Obs, TaskSpec

__all__ = ["DenoisingPolicy"]


class DenoisingPolicy(nn.Module, ABC):
    """A policy that denoises chunks: a trained one, or a composition of several.

    Attributes:
        spec: what it sees and returns.
        normalizer: units of the denoiser: statistics of the actions.
        sampler: rule, number of steps and grid used by ``sample``.
        rows_per_block: rows evaluated together. Matrix products round differently at different
            sizes, so rows are always computed in blocks of this one size (the last one padded): a
            row's action then does not depend, to the last bit, on how many rows are asked for.
            Larger blocks are faster for bulk sampling and slower for a single robot. Compiled
            operators do not need blocks.
        compiled: the program of the last call, see ``policies.compiled``.
    """

    spec: TaskSpec
    normalizer: Normalizer
    sampler: Sampler
    rows_per_block: int
    compiled: CompiledSampler | None = None

    @abstractmethod
    def bind(self, obs: Obs) -> Member:
        """Return the denoiser for observations in physical units, one row per row of them.

        It works in the units of ``normalizer`` and needs no condition.
        """

    @property
    @abstractmethod
    def path(self) -> Path:
        """The path that ``bind``'s denoiser runs on."""

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """What the denoiser's output means."""

    @abstractmethod
    def with_sampler(self, **changes: Any) -> DenoisingPolicy:
        """Return a policy on the same weights whose sampler has the given fields changed."""

    def structure(self, fixed: Mapping[str, Tensor]) -> Member:
        """Return what ``bind`` returns, with a ``Source`` in the place of each trained denoiser.

        Args:
            fixed: observations that are seen instead of those of the caller, in physical units.

        Raises:
            Unsupported: for policies that are not sampled by one run of the denoising loop.
        """
        raise Unsupported(f"{type(self).__name__} is not sampled by one run of the loop")

    @property
    def target(self) -> Target | None:
        """What a composition is meant to sample; None for a trained policy, which is its own."""
        return None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Range of normalized actions that samples are clipped to; None where there is none."""
        return self.normalizer.bounds

    @property
    def corrector(self) -> Corrector | None:
        """MCMC steps between the sampler's; None for none."""
        return None

    @property
    def needs_gradient(self) -> bool:
        """Whether sampling differentiates through networks, as guidance by a cost does."""
        return False

    @property
    def nfe(self) -> int:
        """Evaluations of the denoiser per chunk."""
        return self.sampler.nfe(self.path)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def sample(self, obs: Obs, *, seeds: Sequence[int] | None = None) -> Chunk:
        """Sample one chunk of actions per row, in physical units.

        Args:
            obs: for each key ``(batch, n_obs_steps, *shape)`` in physical units, on any device.
            seeds: one integer per row, or None for fresh ones. Row ``i`` depends on observation
                row ``i`` and ``seeds[i]`` only, bit for bit. (In torch alone, layers of fewer than
                16 outputs round by their place in a block; compiled operators do not.)

        Returns:
            ``(batch, horizon, action)`` on the policy's device.

        Raises:
            UsageError: when keys, shapes or the number of seeds do not fit ``spec``.
            NumericsError: when an action is not finite.

        Cost: ``nfe`` evaluations of the denoiser per block of ``rows_per_block`` rows.
        """
        name = f"{type(self).__name__}.sample"
        n_rows = check_obs(obs, self.spec, seeds, who=name)
        row_seeds = fresh_seeds(n_rows) if seeds is None else [int(seed) for seed in seeds]
        if n_rows == 0:
            return torch.zeros(0, self.spec.horizon, self.spec.action_dim, device=self.device)
        scheduled = None
        if use_compiled():
            compiled = compiled_sampler(self)
            scheduled = compiled.scheduled
            if not compiled.reason:
                chunk = compiled.sample(obs, row_seeds)
                if math.isfinite(chunk.sum().item()):
                    return chunk
                # Sampling again in torch finds what is wrong, and says it.
        quiet = torch.no_grad() if self.needs_gradient else torch.inference_mode()
        with modes_kept(self), quiet:
            if any(inner.training for inner in self.modules()):
                self.eval()
            parts: list[Chunk] = []
            for block, block_seeds, n_wanted in self.blocks(obs, row_seeds):
                if scheduled is None:
                    normalized = self.sample_block(block, block_seeds)
                else:
                    normalized = scheduled.sample(self, block, seeds=block_seeds)
                parts.append(self.normalizer.denormalize_action(normalized[:n_wanted]))
            chunk = torch.cat(parts)
        if not bool(torch.isfinite(chunk).all()):
            bad = (~torch.isfinite(chunk)).flatten(1).any(1).nonzero().flatten().tolist()
            raise NumericsError(
                f"{name}: rows {bad} of {n_rows} have non-finite actions; "
                "check the observations of these rows and the checkpoint's weights"
            )
        return chunk

    def blocks(
        self, obs: Obs, seeds: Sequence[int]
    ) -> Iterator[tuple[dict[str, Tensor], list[int], int]]:
        """Yield blocks of ``rows_per_block`` rows, the last one padded with its last row.

        Args:
            obs: as of ``sample``.
            seeds: one per row.

        Yields:
            Observations on the own device, seeds, and how many of the block's rows were asked for.
        """
        for first in range(0, len(seeds), self.rows_per_block):
            stop = min(first + self.rows_per_block, len(seeds))
            rows = torch.arange(first, first + self.rows_per_block).clamp_(max=stop - 1)
            block = {
                key: obs[key].index_select(0, rows.to(obs[key].device)).to(self.device)
                for key in self.spec.obs_shapes
            }
            yield block, [int(seeds[i]) for i in rows.tolist()], stop - first

    def sample_block(
        self,
        block: Mapping[str, Tensor],
        seeds: Sequence[int],
        *,
        on_step: Callable[[Step], None] | None = None,
    ) -> Chunk:
        """Sample one normalized chunk per row of a block of observations on the own device.

        Args:
            block: observations in physical units.
            seeds: one per row.
            on_step: called with every finished step, see ``sampling.sample``.
        """
        return self._run(self.bind(block), seeds, on_step)

    def _run(
        self,
        denoiser: Member,
        seeds: Sequence[int],
        on_step: Callable[[Step], None] | None,
        *,
        proposal: Chunk | None = None,
    ) -> Chunk:
        """Sample one normalized chunk per seed with the own sampler and corrector."""
        return self.sampler.run(
            denoiser,
            None,
            seeds=seeds,
            horizon=self.spec.horizon,
            action_dim=self.spec.action_dim,
            bounds=self.bounds,
            correct=self.corrector,
            on_step=on_step,
            proposal=proposal,
            like=torch.empty(0, device=self.device),
        )
