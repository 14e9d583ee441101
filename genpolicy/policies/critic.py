"""The critic: what actions are worth, in the state of the data, from observations.

It sees the observations of a task as a policy does (its own normalizer and encoder) and values the
actions that are executed from the current step on. Several Q networks are one module; a state value
is there where the algorithm that trained it has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.config import build
from genpolicy.data.normalizer import Normalizer
from genpolicy.errors import UsageError, nearest
from genpolicy.networks import QFunctions, ValueNetwork
from genpolicy.policies.base import Policy
from genpolicy.policies.encoders import build_encoder
from genpolicy.shapes import Chunk, Cond, Obs, TaskSpec

if TYPE_CHECKING:
    from genpolicy.policies.critic_checkpoint import CriticCard

__all__ = ["Aggregate", "Critic", "build_critic", "check_critic"]

Aggregate: TypeAlias = Literal["min", "mean"]


class Critic(nn.Module):
    """Q networks with what they see, and optionally a state value.

    Args:
        spec: what it sees; ``spec.executed`` are the actions of a chunk that it values.
        normalizer: statistics of the data.
        encoder: normalized observations to features ``(batch, n_obs_steps, obs_dim)``.
        q: the Q networks.
        value: the state value; None where there is none.
        aggregate: how several critics become one number: ``"min"`` or ``"mean"``.

    Attributes:
        card: what its checkpoint says of it; None for a critic that was not built for a run.

    Raises:
        UsageError: for an unknown ``aggregate``.
    """

    def __init__(
        self,
        *,
        spec: TaskSpec,
        normalizer: Normalizer,
        encoder: nn.Module,
        q: QFunctions,
        value: ValueNetwork | None = None,
        aggregate: Aggregate = "min",
    ) -> None:
        super().__init__()
        if aggregate not in get_args(Aggregate):
            raise UsageError(
                f"Critic: aggregate is {aggregate!r}; {nearest(aggregate, get_args(Aggregate))}"
            )
        self.spec, self.normalizer, self.encoder = spec, normalizer, encoder
        self.q, self.value, self.aggregate = q, value, aggregate
        self.card: CriticCard | None = None

    def features(self, obs: Obs) -> Tensor:
        """Return the features of observations in physical units."""
        found: Cond = self.encoder(self.normalizer.normalize_obs(obs))
        assert found is not None
        return found

    def q_values(
        self, features: Tensor, chunk: Chunk, *, only: int | None = None
    ) -> Float[Tensor, "critics batch"]:
        """Return the values of the executed part of normalized chunks, one row per critic.

        Args:
            features: of ``features``.
            chunk: ``(batch, horizon, action)`` in the units of the normalizer.
            only: number of the one critic that is wanted; None is all.
        """
        return self.q(features, chunk[:, self.spec.executed], only=only)

    def one(self, values: Float[Tensor, "critics batch"]) -> Float[Tensor, " batch"]:
        """Return the aggregate of the critics."""
        return values.amin(0) if self.aggregate == "min" else values.mean(0)

    def state_value(self, features: Tensor) -> Float[Tensor, " batch"]:
        """Return the state value.

        Raises:
            UsageError: where there is none.
        """
        if self.value is None:
            raise UsageError(
                "this critic has no state value; train one that has (critic=iql), for example with "
                "algorithm=iql"
            )
        return self.value(features)

    def forward(self, actions: Chunk, obs: Obs) -> Float[Tensor, " batch"]:
        """Return the value of chunks of actions of any policy for the task, in physical units.

        Args:
            actions: ``(batch, horizon, action)``; index 0 belongs to the oldest observation of
                ``obs``, as in every chunk.
            obs: by key ``(batch, n_obs_steps, *shape)``; the last ones that the critic sees are
                used, and keys that it does not see are ignored.

        Raises:
            UsageError: when observations are missing or too few, or the chunk ends before the
                actions that the critic values.
        """
        spec = self.spec
        seen: dict[str, Tensor] = {}
        current = 0
        for key in spec.obs_shapes:
            if key not in obs or obs[key].shape[1] < spec.n_obs_steps:
                got = f"{obs[key].shape[1]} steps" if key in obs else "none"
                raise UsageError(
                    f"critic: got {got} of observation {key!r}, expected at least "
                    f"{spec.n_obs_steps} steps; it was trained on {sorted(spec.obs_shapes)}"
                )
            current = obs[key].shape[1] - 1
            seen[key] = obs[key][:, -spec.n_obs_steps :]
        stop = current + spec.n_action_steps
        if actions.shape[1] < stop or actions.shape[2] != spec.action_dim:
            raise UsageError(
                f"critic: got chunks of {tuple(actions.shape[1:])}, expected at least {stop} "
                f"actions of {spec.action_dim} entries: it values {spec.n_action_steps} from index "
                f"{current} on"
            )
        chunk = self.normalizer.normalize_action(actions[:, current:stop])
        return self.one(self.q(self.features(seen), chunk))


def build_critic(config: Mapping[str, Any], *, spec: TaskSpec, normalizer: Normalizer) -> Critic:
    """Build an untrained critic from plain containers.

    Args:
        config: entries ``encoder``, ``q``, ``value`` (or None) and ``aggregate``.
        spec: what it sees.
        normalizer: fitted statistics.

    Raises:
        UsageError: for missing or unknown entries.
    """
    needed = {"encoder", "q", "value", "aggregate"}
    if set(config) != needed:
        raise UsageError(
            f"critic: missing entries {sorted(needed - set(config))}, unknown entries "
            f"{sorted(set(config) - needed)}; expected {sorted(needed)}"
        )
    for name, kinds in (("q", "twin, layer_norm or iql"), ("value", "iql")):
        given = config[name]
        if not (given is None and name == "value") and "_target_" not in (given or {}):
            raise UsageError(
                f"critic: {name} is {given}, which names no network; choose critic={kinds}"
            )
    encoder = build_encoder(config["encoder"], spec)
    sizes = {"n_obs_steps": spec.n_obs_steps, "obs_dim": encoder.obs_dim}
    value = None if config["value"] is None else build(config["value"], **sizes)
    q = build(config["q"], **sizes, n_actions=spec.n_action_steps, action_dim=spec.action_dim)
    return Critic(
        spec=spec,
        normalizer=normalizer,
        encoder=encoder,
        q=q,
        value=value,
        aggregate=config["aggregate"],
    )


def check_critic(critic: Critic, policy: Policy, *, who: str) -> None:
    """Refuse a critic that cannot value a policy's chunks.

    Raises:
        UsageError: naming what differs.
    """
    own, theirs = critic.spec, policy.spec
    for key, shape in own.obs_shapes.items():
        if theirs.obs_shapes.get(key) != shape:
            raise UsageError(
                f"{who}: the critic sees {key!r} of shape {shape}, the policy's observations are "
                f"{dict(theirs.obs_shapes)}; use a critic and a policy of the same task"
            )
    n_actions = theirs.horizon - theirs.n_obs_steps + 1
    if own.action_dim != theirs.action_dim or own.n_action_steps > n_actions:
        raise UsageError(
            f"{who}: the critic values {own.n_action_steps} actions of {own.action_dim} entries, a "
            f"chunk has {n_actions} of {theirs.action_dim} from the current step on"
        )
    if own.n_obs_steps > theirs.n_obs_steps:
        raise UsageError(
            f"{who}: the critic sees {own.n_obs_steps} observation steps, the policy "
            f"{theirs.n_obs_steps}; train the critic with as many or fewer"
        )
