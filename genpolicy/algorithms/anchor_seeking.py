"""COCOA's first stage: models of the dynamics, then a policy that leads back to the data.

::

    first n_dynamics_steps
    (1)  forward and reverse ensembles, by likelihood (``networks/dynamics.py``)
    then, from the next observations s' of a batch, with the data's actions a before them
    (2)  direction   of n_directions actions of the data, that of the smallest cosine with a
    (3)  a_j = clip(direction_scale direction + direction_noise e),   e ~ N(0, I)
    (4)  s_j ~ reverse(s_{j-1}, a_j),   s_0 = s',   j <= n_reverse_steps
    (5)  seeker      mean |seeker(s_j) - a_j|^2

(2) leads away from where the data came from, so that (4) leaves the data; taken forward, the same
actions lead back into it, which (5) learns. The policy of this algorithm is the seeker.

Differences from the paper's code: the seeker trains for a fixed number of steps on fresh rollouts
rather than until its error stops changing; rollouts go on after their first step whatever ended in
the data; dynamics and seeker share one optimizer, whose momentum of the dynamics is then not used.

Source: arXiv 2404.04682 (algorithm 1) and its public code.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

from genpolicy.algorithms.common import (
    OptimizerSettings,
    configure_adamw,
    one_step_map,
    step_generator,
)
from genpolicy.algorithms.critics import check_transitions
from genpolicy.errors import UsageError
from genpolicy.losses import draw_noise
from genpolicy.networks import AnchorNetwork
from genpolicy.policies import GenerativePolicy

__all__ = ["AnchorSeeking", "anchor_network"]


def anchor_network(policy: Any, *, who: str) -> AnchorNetwork:
    """Return the seeker and the dynamics of a policy that anchor seeking trained.

    Raises:
        UsageError: when it is another.
    """
    network = getattr(getattr(policy, "denoiser", None), "network", None)
    if not isinstance(network, AnchorNetwork):
        raise UsageError(
            f"{who} needs a policy with an anchor seeker, got {type(network).__name__}; use "
            "network=anchors, trained by algorithm=anchor_seeking"
        )
    return network


class AnchorSeeking(LightningModule):
    """Trains dynamics forward and in reverse, then the anchor seeker.

    Args:
        policy: deterministic, with an ``AnchorNetwork`` and min-max normalized actions.
        optimizer: AdamW settings.
        seed: names the noise of every step.
        n_dynamics_steps: steps of (1), at least 1; the rest of the run trains the seeker.
        n_reverse_steps: in (4), at least 1.
        n_directions: in (2), at least 1.
        direction_scale: in (3).
        direction_noise: in (3), at least 0.

    Raises:
        UsageError: for values out of range, another policy, or features that are learned.
    """

    def __init__(
        self,
        *,
        policy: GenerativePolicy,
        optimizer: OptimizerSettings,
        seed: int,
        n_dynamics_steps: int,
        n_reverse_steps: int = 5,
        n_directions: int = 32,
        direction_scale: float = 0.8,
        direction_noise: float = 0.1,
    ) -> None:
        super().__init__()
        one_step_map(policy, who="AnchorSeeking")
        self.network = anchor_network(policy, who="AnchorSeeking")
        if policy.bounds is None or list(policy.encoder.parameters()):
            raise UsageError(
                f"AnchorSeeking: actions have the range {policy.bounds} and the encoder "
                f"{len(list(policy.encoder.parameters()))} learned parts; dynamics need "
                "data.action_normalizer=min_max and policy.encoder.out_dim=null"
            )
        if min(n_dynamics_steps, n_reverse_steps, n_directions) < 1 or direction_noise < 0.0:
            raise UsageError(
                f"AnchorSeeking: n_dynamics_steps is {n_dynamics_steps}, n_reverse_steps "
                f"{n_reverse_steps}, n_directions {n_directions} and direction_noise "
                f"{direction_noise}, expected at least 1, 1, 1 and 0"
            )
        self.policy = policy
        self.optimizer_settings, self.seed = optimizer, seed
        self.n_dynamics_steps, self.n_reverse_steps = n_dynamics_steps, n_reverse_steps
        self.n_directions = n_directions
        self.direction_scale, self.direction_noise = direction_scale, direction_noise

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of both ensembles (1), and named figures."""
        seen, after, action = self._steps(batch)
        forward, error = self.network.forward_model.loss(
            seen, action, after, reward=batch["reward"], terminated=batch["terminated"]
        )
        reverse, reverse_error = self.network.reverse_model.loss(after, action, seen)
        return forward + reverse, {
            "forward_error": error,
            "reverse_error": reverse_error,
            "loss": (forward + reverse).detach(),
        }

    @torch.no_grad()
    def directions(self, action: Tensor, generator: torch.Generator) -> Tensor:
        """Return (2) for each row: of other rows' actions the most opposite one."""
        n = len(action)
        drawn = torch.randint(
            n, (n, self.n_directions), generator=generator, device=generator.device
        )
        candidates = action[drawn.to(action.device)]  # (batch, directions, action)
        cosine = F.cosine_similarity(candidates, action[:, None], dim=-1)
        rows = torch.arange(n, device=action.device)
        return candidates[rows, cosine.argmin(1)]

    @torch.no_grad()
    def reverse_rollouts(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return observations off the data (4), and the actions that lead back (3)."""
        _, at, before = self._steps(batch)
        direction = self.directions(before, generator)
        bounds = self.policy.bounds
        assert bounds is not None
        found: list[Tensor] = []
        taken: list[Tensor] = []
        for _ in range(self.n_reverse_steps):
            noise = self.direction_noise * draw_noise(direction[:, None], generator)[:, 0]
            action = (self.direction_scale * direction + noise).clamp(*bounds)
            at = self.network.reverse_model.imagine(at, action, generator).obs
            found.append(at)
            taken.append(action)
        return torch.cat(found), torch.cat(taken)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """One step of the dynamics, or of the seeker once they are trained."""
        check_transitions(batch, who="AnchorSeeking")
        generator = step_generator(self, self.seed)
        if self.global_step < self.n_dynamics_steps:
            loss, metrics = self.loss(batch, generator)
            return {"loss": loss, "metrics": metrics}
        seen, action = self.reverse_rollouts(batch, generator)
        loss = (self.network.seeker(seen) - action).square().mean()
        return {"loss": loss, "metrics": {"seeker_error": loss.detach()}}

    def _steps(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return features before and after the step, and the normalized action."""
        before, after = self.policy.encode(batch["obs"]), self.policy.encode(batch["next_obs"])
        assert before is not None
        assert after is not None
        action = self.policy.normalizer.normalize_action(batch["action"])
        return before[:, -1], after[:, -1], action[:, 0]

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up."""
        return configure_adamw(self, self.optimizer_settings)
