"""A consistency policy as a proposal that a score model corrects.

A consistency policy has no score, so it cannot be added to others. It can start them: its chunk is
noised to some level, and a policy with a score, or a composition of such, goes on from there, with
MCMC steps if it has a corrector::

    (1)  x_t = alpha_t clean + sigma_t noise,   clean from the proposal

The noisier the level, the less of the proposal is left and the more evaluations are made. At the
noisy end it is the second policy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from genpolicy.composition import Member
from genpolicy.denoisers import Kind, Step
from genpolicy.errors import UsageError
from genpolicy.paths import Path
from genpolicy.policies.alignment import units_between
from genpolicy.policies.composed import ComposedPolicy, MemberOf
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.sampling import Corrector
from genpolicy.seeding import derive_seed
from genpolicy.shapes import Chunk, Obs

__all__ = ["ProposalPolicy"]


class ProposalPolicy(DenoisingPolicy):
    """Samples of one policy, noised to a level and denoised by another (1).

    Args:
        proposal: where chunks come from, usually a consistency policy.
        policy: the policy that goes on; it decides units, sampler and corrector.
        level: where it goes on, as sigma/alpha; of its sampler's times those below are used.

    Raises:
        UsageError: when the two see or return other things, ``policy`` has no score or has
            particles, or ``level`` is outside its levels.
    """

    def __init__(self, proposal: DenoisingPolicy, policy: DenoisingPolicy, *, level: float) -> None:
        super().__init__()
        self.training = False
        if policy.kind != "posterior_mean":
            raise UsageError(
                "proposal: the policy that corrects is a consistency policy; give a diffusion or "
                "flow policy, or a composition of such"
            )
        if isinstance(policy, ComposedPolicy) and policy.n_particles is not None:
            raise UsageError(
                f"proposal: the policy that corrects has {policy.n_particles} particles, which "
                "start from noise; give it a corrector instead (with_sampler(n_particles=None, "
                "corrector='mala'))"
            )
        if proposal.spec != policy.spec:
            raise UsageError(
                f"proposal: the proposal is for {proposal.spec}, the policy for {policy.spec}; "
                "both need the same observations and windows"
            )
        if not level > 0.0:
            raise UsageError(f"proposal: level is {level}, expected a positive sigma/alpha")
        self.proposal, self.policy, self.level = proposal, policy, float(level)
        self.spec, self.normalizer = policy.spec, policy.normalizer
        self.rows_per_block = policy.rows_per_block
        self._units = units_between(policy.normalizer, MemberOf(policy=proposal), number=0)
        ratio = torch.tensor(self.level, dtype=torch.float64)
        start = policy.path.t_of_log_snr(-2.0 * ratio.log()).item()
        if not policy.path.t_min < start <= policy.path.t_max:
            raise UsageError(
                f"proposal: level {level} is outside the levels of the policy's path {policy.path}"
            )
        below = [t for t in policy.sampler.times_on(policy.path) if t < start - 1e-6]
        self.sampler = replace(
            policy.sampler, times=(start, *below), n_steps=len(below), init_scale=1.0
        )

    @property
    def path(self) -> Path:
        """Path of the policy that goes on."""
        return self.policy.path

    @property
    def kind(self) -> Kind:
        """What the denoiser's output means."""
        return "posterior_mean"

    @property
    def corrector(self) -> Corrector | None:
        """MCMC steps of the policy that goes on."""
        return self.policy.corrector

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Range of normalized actions of the policy that goes on."""
        return self.policy.bounds

    @property
    def needs_gradient(self) -> bool:
        """Whether either differentiates through networks."""
        return self.policy.needs_gradient or self.proposal.needs_gradient

    @property
    def nfe(self) -> int:
        """Evaluations of the proposal, and of the policy below the level."""
        return self.proposal.nfe + self.sampler.nfe(self.path)

    def with_sampler(self, **changes: Any) -> ProposalPolicy:
        """Return the same proposal, with other settings of the sampler that goes on."""
        return ProposalPolicy(self.proposal, self.policy.with_sampler(**changes), level=self.level)

    def bind(self, obs: Obs) -> Member:
        """Refuse: a proposal is where sampling starts, which a denoiser cannot say.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "proposal: it cannot be a member of a composition; compose the policy that goes on, "
            "and give that composition the proposal"
        )

    def sample_block(
        self,
        block: Mapping[str, Tensor],
        seeds: Sequence[int],
        *,
        on_step: Callable[[Step], None] | None = None,
    ) -> Chunk:
        """Sample one normalized chunk per row: the proposal, noise, and the steps below the level.

        Args:
            block: observations in physical units.
            seeds: one per row.
            on_step: called with every step of the policy that goes on.
        """
        proposed = self.proposal.sample_block(block, [derive_seed(s, "proposal") for s in seeds])
        proposed = self._units.chunk_to_reference(proposed)
        return self._run(self.policy.bind(block), seeds, on_step, proposal=proposed)
