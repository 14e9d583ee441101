"""The anchor seeker of COCOA: a policy that leads back to the data, and where it leads.

::

    (1)  anchor     h steps of the seeker in the forward dynamics, from s
    (2)  s = anchor + difference

Source: arXiv 2404.04682 and its public code. Anchors are computed in the encoder of the policy and
    in that of the critic, rather than shared between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.errors import CheckpointError, UsageError
from genpolicy.networks.checks import check_inputs, check_sizes
from genpolicy.networks.dynamics import DynamicsEnsemble
from genpolicy.networks.embeddings import Times
from genpolicy.networks.encoders import LowDimEncoder
from genpolicy.shapes import Chunk, Obs

__all__ = ["AnchorEncoder", "AnchorNetwork"]


def _seeker(obs_dim: int, action_dim: int, width: int) -> nn.Sequential:
    """Return the seeker: two hidden layers with layer norms, actions in [-1, 1]."""
    return nn.Sequential(
        nn.Linear(obs_dim, width),
        nn.LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, action_dim),
        nn.Tanh(),
    )


class AnchorNetwork(nn.Module):
    """The seeker as a network of a deterministic policy, with forward and reverse dynamics.

    The policy acts as the seeker does; ``algorithm=anchor_seeking`` trains all three, and
    ``AnchorEncoder`` takes the seeker and the forward dynamics over.

    Args:
        action_dim: entries of an action.
        horizon: 1.
        n_obs_steps: 1.
        obs_dim: features of an observation.
        n_times: 1.
        seeker_width: hidden units of the seeker.
        n_models: members of each ensemble.
        dynamics_width: hidden units of a member's layers.
        dynamics_layers: hidden layers of a member.

    Raises:
        UsageError: for chunks, or sizes that are not positive.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        horizon: int,
        n_obs_steps: int,
        obs_dim: int,
        n_times: int = 1,
        seeker_width: int = 100,
        n_models: int = 7,
        dynamics_width: int = 200,
        dynamics_layers: int = 4,
    ) -> None:
        super().__init__()
        if (horizon, n_obs_steps, n_times) != (1, 1, 1):
            raise UsageError(
                f"AnchorNetwork: horizon is {horizon}, n_obs_steps {n_obs_steps} and n_times "
                f"{n_times}, expected 1 each: dynamics are those of single steps; use "
                "data=maze2d_steps or data.horizon=1 data.n_obs_steps=1"
            )
        check_sizes("AnchorNetwork", action_dim=action_dim, obs_dim=obs_dim, width=seeker_width)
        self._chunk, self._cond = (1, action_dim), (1, obs_dim)
        sizes = {
            "obs_dim": obs_dim,
            "action_dim": action_dim,
            "n_models": n_models,
            "width": dynamics_width,
            "n_layers": dynamics_layers,
        }
        self.seeker = _seeker(obs_dim, action_dim, seeker_width)
        self.forward_model = DynamicsEnsemble(**sizes, outcomes=True)
        self.reverse_model = DynamicsEnsemble(**sizes, outcomes=False)

    def forward(
        self, x: Chunk, time: Times, obs: Float[Tensor, "batch n_obs_steps obs_dim"]
    ) -> Chunk:
        """Return the seeker's action, whatever ``x`` and ``time`` are."""
        check_inputs("AnchorNetwork", x, obs, chunk=self._chunk, cond=self._cond)
        return self.seeker(obs)  # (batch, 1, action)


class AnchorEncoder(nn.Module):
    """Normalized low-dimensional observations to difference and anchor, side by side.

    Seeker and dynamics are those of a run of ``algorithm=anchor_seeking``; they are not trained
    here, and saved with the encoder.

    Args:
        obs_shapes: shape of one observation by key.
        action_dim: entries of an action.
        keys: keys to use; None uses all.
        n_anchor_steps: h in (1), at least 1.
        seeker_width: as in ``AnchorNetwork``.
        n_models: as in ``AnchorNetwork``.
        dynamics_width: as in ``AnchorNetwork``.
        dynamics_layers: as in ``AnchorNetwork``.

    Raises:
        UsageError: for sizes that are not positive, or keys that are no low-dimensional ones.
    """

    def __init__(
        self,
        *,
        obs_shapes: Mapping[str, tuple[int, ...]],
        action_dim: int,
        keys: Sequence[str] | None = None,
        n_anchor_steps: int = 1,
        seeker_width: int = 100,
        n_models: int = 7,
        dynamics_width: int = 200,
        dynamics_layers: int = 4,
    ) -> None:
        super().__init__()
        if n_anchor_steps < 1:
            raise UsageError(
                f"AnchorEncoder: n_anchor_steps is {n_anchor_steps}, expected at least 1: with 0 "
                "every difference is 0"
            )
        self.flat = LowDimEncoder(obs_shapes=obs_shapes, keys=keys)
        self.n_anchor_steps = n_anchor_steps
        self.n_features = self.flat.obs_dim
        self.obs_dim = 2 * self.n_features
        self.seeker = _seeker(self.n_features, action_dim, seeker_width)
        self.forward_model = DynamicsEnsemble(
            obs_dim=self.n_features,
            action_dim=action_dim,
            outcomes=True,
            n_models=n_models,
            width=dynamics_width,
            n_layers=dynamics_layers,
        )
        self.seeker.requires_grad_(False)
        self.forward_model.requires_grad_(False)

    def load_anchors(self, network: AnchorNetwork) -> None:
        """Take seeker and forward dynamics over.

        Raises:
            CheckpointError: when they have other sizes.
        """
        try:
            self.seeker.load_state_dict(network.seeker.state_dict())
            self.forward_model.load_state_dict(network.forward_model.state_dict())
        except RuntimeError as error:
            raise CheckpointError(
                f"the anchor seeker has other sizes than this encoder ({error}); give the encoder "
                "its keys, seeker_width, n_models, dynamics_width and dynamics_layers"
            ) from error

    def split(self, obs: Obs) -> tuple[Tensor, Tensor]:
        """Return difference and anchor, ``(batch, n_obs_steps, features)`` each; no gradient."""
        with torch.no_grad():
            seen = self.flat(obs)
            at = seen.flatten(0, 1)  # (batch * n_obs_steps, features)
            for _ in range(self.n_anchor_steps):
                at = self.forward_model.next_obs(at, self.seeker(at))
            anchor = at.view_as(seen)
            return seen - anchor, anchor

    def forward(self, obs: Obs) -> Float[Tensor, "batch n_obs_steps obs_dim"]:
        """Return difference and anchor of each observation step."""
        return torch.cat(self.split(obs), dim=-1)
