"""What algorithms with a critic share: Bellman regression, implicit Q-learning, what is saved.

Critic and policy are trained by one optimizer on the sum of their losses; ``held`` and detached
features keep each from the other's parameters. The policy therefore follows the critic of before
the step, where papers with two optimizers use that of after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor

from genpolicy.algorithms.common import draw_chunks
from genpolicy.algorithms.frozen import FrozenTarget, held
from genpolicy.denoisers import Denoiser
from genpolicy.errors import UsageError
from genpolicy.losses import bellman_target, critic_loss, expectile_loss, improvement_loss
from genpolicy.policies import Critic, DenoisingPolicy, GenerativePolicy, SelectedPolicy
from genpolicy.policies.weights import Weights
from genpolicy.shapes import Chunk

__all__ = [
    "acting_policy",
    "bellman_loss",
    "check_selection",
    "check_transitions",
    "critic_to_save",
    "implicit_q_losses",
    "improve",
    "value_of_next",
]

Metrics = dict[str, Tensor]


def check_transitions(batch: Mapping[str, Any], *, who: str) -> None:
    """Refuse batches of windows.

    Raises:
        UsageError: with the setting to change.
    """
    if "next_obs" not in batch:
        raise UsageError(f"{who} needs transitions, got windows; set data.transitions=true")


def check_selection(who: str, n_candidates: int, temperature: float) -> None:
    """Check how an algorithm's policy acts.

    Raises:
        UsageError: for values out of range.
    """
    if n_candidates < 1 or not temperature >= 0.0:
        raise UsageError(
            f"{who}: n_candidates is {n_candidates} and temperature {temperature}, expected at "
            "least 1 and 0"
        )


@torch.no_grad()
def value_of_next(
    critic: Critic,
    policy: GenerativePolicy,
    denoiser: Denoiser,
    batch: Mapping[str, Any],
    generator: torch.Generator,
    *,
    n_actions: int = 1,
) -> Float[Tensor, " batch"]:
    """Return the value of what a policy does at the next observations.

    Args:
        critic: the averaged one.
        policy: gives encoder and sampler.
        denoiser: the policy's own, or an average of it.
        batch: transitions.
        generator: of the samples.
        n_actions: chunks per row, of which each critic takes its best before they are aggregated.

    Cost: ``policy.nfe`` evaluations of the denoiser on ``n_actions`` times the rows.
    """
    cond = policy.encode(batch["next_obs"])
    features = critic.features(batch["next_obs"])
    assert cond is not None
    if n_actions > 1:
        cond = cond.repeat_interleave(n_actions, 0)
        features = features.repeat_interleave(n_actions, 0)
    values = critic.q_values(features, draw_chunks(policy, denoiser, cond, generator))
    return critic.one(values.view(len(values), -1, n_actions).amax(-1))


def bellman_loss(
    critic: Critic,
    batch: Mapping[str, Any],
    next_value: Float[Tensor, " batch"],
    *,
    normalize: bool = False,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the regression of every critic on ``r + bootstrap next_value``.

    Args:
        critic: trained here.
        batch: transitions.
        next_value: of what is observed next; not used where the task ended.
        normalize: divide the targets by their standard deviation over the batch.
    """
    target = bellman_target(batch["reward"], batch["bootstrap"], next_value)
    if normalize:
        target = target / (target.std() + 1e-6)
    chunk = critic.normalizer.normalize_action(batch["action"])
    values = critic.q_values(critic.features(batch["obs"]), chunk)
    loss = critic_loss(values, target)
    return loss, {
        "critic_loss": loss.detach(),
        "q": values.detach().mean(),
        "q_target": target.mean(),
        "q_target_max": target.max(),
    }


def implicit_q_losses(
    critic: Critic, target: FrozenTarget[Critic], batch: Mapping[str, Any], *, expectile: float
) -> tuple[Float[Tensor, ""], Float[Tensor, " batch"], Metrics]:
    """Return the losses of implicit Q-learning, and the advantage of the data's actions.

    ::

        (1)  V    expectile regression on the target critics at the data's actions
        (2)  Q    r + bootstrap V(next): no action outside of the data is ever valued

    Args:
        critic: with a state value.
        target: average of the critic.
        batch: transitions.
        expectile: in (0, 1).

    Source: arXiv 2110.06169 equations 5 and 6.
    """
    slow = target.of(critic)
    chunk = critic.normalizer.normalize_action(batch["action"])
    with torch.no_grad():
        q = slow.one(slow.q_values(slow.features(batch["obs"]), chunk))
        next_value = critic.state_value(critic.features(batch["next_obs"]))
    value = critic.state_value(critic.features(batch["obs"]))
    value_loss = expectile_loss(q - value, expectile)
    q_loss, metrics = bellman_loss(critic, batch, next_value)
    advantage = (q - value).detach()
    metrics |= {"value_loss": value_loss.detach(), "value": value.detach().mean()}
    return value_loss + q_loss, advantage, metrics


def improve(
    critic: Critic, batch: Mapping[str, Any], chunk: Chunk, generator: torch.Generator | None
) -> Float[Tensor, ""]:
    """Return the normalized loss that raises the value of a policy's chunks.

    Args:
        critic: gets no gradient.
        batch: whose observations the chunks belong to.
        chunk: normalized, with gradient.
        generator: decides which of two critics is followed and which divides, each as often; None
            takes the first in both places.
    """
    first = other = 0
    if generator is not None and critic.q.n_critics > 1:
        first = int(torch.randint(2, (1,), generator=generator, device=generator.device))
        other = 1 - first
    with torch.no_grad():
        features = critic.features(batch["obs"])
    with held(critic):
        followed = critic.q_values(features, chunk, only=first)[0]
    if other == first:
        return improvement_loss(followed, followed)
    with torch.no_grad():
        divisor = critic.q_values(features, chunk, only=other)[0]
    return improvement_loss(followed, divisor)


def critic_to_save(
    module: LightningModule,
) -> tuple[Critic, dict[Weights, dict[str, Tensor]]] | None:
    """Return the critic of an algorithm with its weights by kind; None where it has none."""
    critic = getattr(module, "critic", None)
    if not isinstance(critic, Critic):
        return None
    target = getattr(module, "critic_target", None)
    slow = target.of(critic) if isinstance(target, FrozenTarget) else critic
    assert isinstance(slow, Critic)
    return critic, {"ema": slow.state_dict(), "raw": critic.state_dict()}


def acting_policy(module: LightningModule, *, n_candidates: int | None = None) -> DenoisingPolicy:
    """Return the policy as it acts: with its candidates chosen by the critic, where it has some.

    Args:
        module: an algorithm.
        n_candidates: instead of the algorithm's; None takes those.
    """
    policy = module.policy
    assert isinstance(policy, DenoisingPolicy)
    n = getattr(module, "n_candidates", 1) if n_candidates is None else n_candidates
    critic = getattr(module, "critic", None)
    if n == 1 or not isinstance(critic, Critic):
        return policy
    target = getattr(module, "critic_target", None)
    slow = target.of(critic) if isinstance(target, FrozenTarget) else critic
    assert isinstance(slow, Critic)
    temperature = float(getattr(module, "temperature", 0.0))  # pyright: ignore[reportArgumentType]
    return SelectedPolicy(policy, slow, n_candidates=int(n), temperature=temperature)
