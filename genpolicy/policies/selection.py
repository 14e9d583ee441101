"""Best of N: several chunks of a policy, of which a critic chooses the one that is executed.

::

    (1)  a_k ~ policy(. | obs), k < N;   a = a_k with probability softmax(Q(obs, a_k)/temperature)

With temperature 0 the best one is taken. The critic need not have been trained with the policy, nor
on the same windows or statistics: both work in physical units.

Source: arXiv 2304.10573 (IDQL, best of N), arXiv 2208.06193 (50 candidates, temperature 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genpolicy.composition import Member
from genpolicy.denoisers import Kind, Step
from genpolicy.errors import UsageError
from genpolicy.networks.modes import modes_kept
from genpolicy.paths import Path
from genpolicy.policies.base import check_obs
from genpolicy.policies.critic import Critic, check_critic
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.sampling import RowNoise
from genpolicy.seeding import derive_seed, fresh_seeds
from genpolicy.shapes import Chunk, Obs

__all__ = ["SelectedPolicy"]


class SelectedPolicy(DenoisingPolicy):
    """A policy whose chunk is chosen by a critic among several (1).

    Args:
        policy: where candidates come from.
        critic: what values them; it sees some or all of the policy's observations.
        n_candidates: N, at least 1.
        temperature: in units of value, at least 0; 0 takes the best.

    Raises:
        UsageError: for values out of range, or a critic of other observations or actions.
    """

    def __init__(
        self,
        policy: DenoisingPolicy,
        critic: Critic,
        *,
        n_candidates: int,
        temperature: float = 0.0,
    ) -> None:
        super().__init__()
        self.training = False
        if n_candidates < 1 or not temperature >= 0.0:
            raise UsageError(
                f"best_of: n_candidates is {n_candidates} and temperature {temperature}, expected "
                "at least 1 and 0"
            )
        check_critic(critic, policy, who="best_of")
        self.policy, self.critic = policy, critic
        self.n_candidates, self.temperature = int(n_candidates), float(temperature)
        self.spec, self.normalizer, self.sampler = policy.spec, policy.normalizer, policy.sampler
        self.rows_per_block = policy.rows_per_block

    @property
    def path(self) -> Path:
        """Path of the policy."""
        return self.policy.path

    @property
    def kind(self) -> Kind:
        """What the policy's denoiser returns."""
        return self.policy.kind

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Range of normalized actions of the policy."""
        return self.policy.bounds

    @property
    def needs_gradient(self) -> bool:
        """Whether the policy differentiates through networks."""
        return self.policy.needs_gradient

    @property
    def nfe(self) -> int:
        """Evaluations per chunk, those of all candidates together."""
        return self.policy.nfe * self.n_candidates

    def with_sampler(self, **changes: Any) -> SelectedPolicy:
        """Return the same choice among candidates of a changed sampler."""
        return SelectedPolicy(
            self.policy.with_sampler(**changes),
            self.critic,
            n_candidates=self.n_candidates,
            temperature=self.temperature,
        )

    def bind(self, obs: Obs) -> Member:
        """Refuse: a choice among chunks is no denoiser.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "best_of: it cannot be a member of a composition; compose the policies, and choose "
            "among the samples of that composition"
        )

    def sample(self, obs: Obs, *, seeds: Sequence[int] | None = None) -> Chunk:
        """Sample N chunks per row, and return the one that is chosen, in physical units.

        Args:
            obs: as of every policy.
            seeds: one integer per row, or None for fresh ones; candidates have seeds of their own.

        Cost: ``nfe`` evaluations of the denoiser and N of the critic per row.
        """
        n_rows = check_obs(obs, self.spec, seeds, who="SelectedPolicy.sample")
        row_seeds = fresh_seeds(n_rows) if seeds is None else [int(seed) for seed in seeds]
        if n_rows == 0:
            return self.policy.sample(obs, seeds=row_seeds)
        crowd = {
            key: obs[key].repeat_interleave(self.n_candidates, 0) for key in self.spec.obs_shapes
        }
        chunks = self.policy.sample(crowd, seeds=self._candidate_seeds(row_seeds))
        return self._choose(chunks, obs, row_seeds)

    def sample_block(
        self,
        block: Mapping[str, Tensor],
        seeds: Sequence[int],
        *,
        on_step: Callable[[Step], None] | None = None,
    ) -> Chunk:
        """Sample one normalized chunk per row; ``on_step`` sees the steps of all candidates."""
        crowd = {key: value.repeat_interleave(self.n_candidates, 0) for key, value in block.items()}
        parts: list[Chunk] = []
        for one, own, n_wanted in self.policy.blocks(crowd, self._candidate_seeds(seeds)):
            parts.append(self.policy.sample_block(one, own, on_step=on_step)[:n_wanted])
        chunks = self.normalizer.denormalize_action(torch.cat(parts))
        return self.normalizer.normalize_action(self._choose(chunks, block, seeds))

    def _candidate_seeds(self, seeds: Sequence[int]) -> list[int]:
        n = self.n_candidates
        return [derive_seed(seed, "candidate", k) for seed in seeds for k in range(n)]

    def _choose(self, chunks: Chunk, obs: Obs, seeds: Sequence[int]) -> Chunk:
        """Return one of every N chunks; each row is valued by itself, so none depends on others."""
        n, chosen = self.n_candidates, []
        with torch.no_grad(), modes_kept(self.critic):
            self.critic.eval()
            for row, seed in enumerate(seeds):
                candidates = chunks[row * n : (row + 1) * n].clone()
                seen = {
                    key: obs[key][row : row + 1]
                    .to(candidates.device)
                    .expand(n, *obs[key].shape[1:])
                    for key in self.critic.spec.obs_shapes
                }
                values = self.critic(candidates, seen).double()
                if self.temperature > 0.0:
                    # The largest of values plus Gumbel noise is a draw from their softmax.
                    noise = RowNoise([derive_seed(seed, "choice")], (n, 1), dtype=torch.float64)
                    uniform = torch.special.ndtr(noise.draw(0)).flatten().clamp(1e-12, 1 - 1e-12)
                    gumbel = -(-uniform.log()).log()
                    values = values / self.temperature + gumbel.to(values.device)
                chosen.append(candidates[int(values.argmax())])
        return torch.stack(chosen)
