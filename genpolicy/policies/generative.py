"""The generative policy: normalize, encode, denoise, un-normalize.

Diffusion, flow and consistency policies are all this class; they differ in the path, the denoiser
and the sampler they are built with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from jaxtyping import Bool
from torch import Tensor, nn

from genpolicy.config import build, resolve_target
from genpolicy.data.normalizer import Normalizer
from genpolicy.denoisers import (
    Bound,
    FlowMapDenoiser,
    Kind,
    ParameterizedDenoiser,
    TrajectoryDenoiser,
)
from genpolicy.errors import UsageError
from genpolicy.native import Source
from genpolicy.paths import Path
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.policies.encoders import build_encoder
from genpolicy.sampling import Sampler
from genpolicy.shapes import Chunk, Cond, Obs, TaskSpec

if TYPE_CHECKING:
    from genpolicy.policies.checkpoint import PolicyCard

__all__ = ["GenerativePolicy", "PolicyDenoiser", "build_policy"]

PolicyDenoiser: TypeAlias = ParameterizedDenoiser | FlowMapDenoiser | TrajectoryDenoiser
"""The denoisers that are trained networks."""


class GenerativePolicy(DenoisingPolicy):
    """A policy that samples chunks of actions from a learned conditional density.

    Args:
        spec: what it sees and returns.
        normalizer: statistics of the training data; actions are generated in normalized units.
        encoder: observations ``{key: (batch, n_obs_steps, *shape)}``, normalized, to features
            ``(batch, n_obs_steps, obs_dim)``.
        denoiser: the trained denoiser, with its path.
        sampler: rule, number of steps and grid used by ``sample``.
        rows_per_block: rows evaluated together, see ``DenoisingPolicy``.

    Attributes:
        card: what its checkpoint says of it; None for a policy that was not loaded from one.
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
        one_step = isinstance(denoiser, FlowMapDenoiser) and denoiser.boundary == "none"
        if one_step and sampler.times_on(denoiser.path) != (denoiser.path.t_max, 0.0):
            raise UsageError(
                "GenerativePolicy: a map without boundary knows the noisy end alone; use "
                f"sampler=one_step with n_steps 1 and times null, got n_steps {sampler.n_steps}"
            )
        self.spec = spec
        self.normalizer = normalizer
        self.encoder = encoder
        self.denoiser: PolicyDenoiser = denoiser
        self.sampler = sampler
        self.card: PolicyCard | None = None
        self.rows_per_block = rows_per_block

    def with_sampler(self, **changes: Any) -> GenerativePolicy:
        """Return a policy on the same weights whose sampler has the given fields changed."""
        changed = GenerativePolicy(
            spec=self.spec,
            normalizer=self.normalizer,
            encoder=self.encoder,
            denoiser=self.denoiser,
            sampler=replace(self.sampler, **changes),
            rows_per_block=self.rows_per_block,
        )
        changed.card = self.card
        return changed.train(self.training)

    @property
    def path(self) -> Path:
        """Path of the denoiser."""
        return self.denoiser.path

    @property
    def kind(self) -> Kind:
        """What the denoiser's output means."""
        return self.denoiser.kind

    def bind(self, obs: Obs) -> Bound:
        """Return the denoiser with the condition of observations in physical units."""
        return Bound(self.denoiser, self.encode(obs))

    def structure(self, fixed: Mapping[str, Tensor]) -> Source:
        """Return what stands for the denoiser in a program."""
        return Source(
            denoiser=self.denoiser,
            normalizer=self.normalizer,
            encoder=self.encoder,
            n_obs_steps=self.spec.n_obs_steps,
            fixed=dict(fixed),
        )

    def encode(self, obs: Obs) -> Cond:
        """Return the condition for observations in physical units."""
        return self.encoder(self.normalizer.normalize_obs(obs))

    def training_pair(
        self, batch: Mapping[str, Any]
    ) -> tuple[Chunk, Cond, Bool[Tensor, "batch horizon"]]:
        """Return normalized clean actions, the condition and the mask of valid entries."""
        clean = self.normalizer.normalize_action(batch["action"])
        return clean, self.encode(batch["obs"]), batch["mask"]


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
    encoder = build_encoder(config["encoder"], spec)
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
