"""COCOA: policies and critics of (difference, anchor) in the place of the observation.

::

    (1)  s = anchor + difference    of ``AnchorEncoder``
    (2)  phi_t = <f(difference)_t, g(anchor)_t>,   t < m

An anchor lies near the data, and differences repeat, so that both parts of an observation outside
of the data may be known ones. For action values, actions are appended to both parts.

Source: arXiv 2404.04682 and its public code. Anchors are computed in the encoder of the policy and
    in that of the critic, rather than shared between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.errors import UsageError
from genpolicy.networks.anchors import AnchorEncoder
from genpolicy.networks.checks import check_sizes
from genpolicy.networks.embeddings import Activation
from genpolicy.networks.stacked import StackedMLP
from genpolicy.networks.value import QFunctions, ValueNetwork
from genpolicy.shapes import Obs

__all__ = [
    "Bilinear",
    "TransductiveEncoder",
    "TransductiveQNetwork",
    "TransductiveValueNetwork",
]


class Bilinear(nn.Module):
    """The predictor (2), of several networks as one.

    Args:
        n: networks.
        n_in: entries of a difference, and of an anchor.
        width: hidden units of f and g, and m, the entries of phi.
        n_layers: hidden layers of f and of g.
        rank: entries of each inner product.
        activation: of the hidden layers.
    """

    def __init__(
        self, *, n: int, n_in: int, width: int, n_layers: int, rank: int, activation: Activation
    ) -> None:
        super().__init__()
        check_sizes("Bilinear", n=n, n_in=n_in, width=width, n_layers=n_layers, rank=rank)
        sizes = [n_in] + [width] * n_layers + [width * rank]
        self._out = (width, rank)
        self.f = StackedMLP(n, sizes, activation)
        self.g = StackedMLP(n, sizes, activation)

    def forward(
        self,
        difference: Float[Tensor, "batch n_in"],
        anchor: Float[Tensor, "batch n_in"],
        chosen: slice = slice(None),
    ) -> Float[Tensor, "n batch width"]:
        """Return phi of the chosen networks."""
        left = self.f(difference, chosen).unflatten(-1, self._out)  # (n, batch, width, rank)
        right = self.g(anchor, chosen).unflatten(-1, self._out)
        return (left * right).sum(-1)


class TransductiveEncoder(AnchorEncoder):
    """Normalized low-dimensional observations to phi (2), as the condition of any policy.

    Args:
        obs_shapes: as in ``AnchorEncoder``.
        action_dim: as in ``AnchorEncoder``.
        keys: as in ``AnchorEncoder``.
        basis_width: m, and hidden units of f and g.
        basis_layers: hidden layers of f and g.
        rank: entries of each inner product.
        activation: of f and g.
        n_anchor_steps: as in ``AnchorEncoder``.
        seeker_width: as in ``AnchorNetwork``.
        n_models: as in ``AnchorNetwork``.
        dynamics_width: as in ``AnchorNetwork``.
        dynamics_layers: as in ``AnchorNetwork``.
    """

    def __init__(
        self,
        *,
        obs_shapes: Mapping[str, tuple[int, ...]],
        action_dim: int,
        keys: Sequence[str] | None = None,
        basis_width: int = 64,
        basis_layers: int = 2,
        rank: int = 4,
        activation: Activation = "relu",
        n_anchor_steps: int = 1,
        seeker_width: int = 100,
        n_models: int = 7,
        dynamics_width: int = 200,
        dynamics_layers: int = 4,
    ) -> None:
        super().__init__(
            obs_shapes=obs_shapes,
            action_dim=action_dim,
            keys=keys,
            n_anchor_steps=n_anchor_steps,
            seeker_width=seeker_width,
            n_models=n_models,
            dynamics_width=dynamics_width,
            dynamics_layers=dynamics_layers,
        )
        self.predictor = Bilinear(
            n=1,
            n_in=self.n_features,
            width=basis_width,
            n_layers=basis_layers,
            rank=rank,
            activation=activation,
        )
        self.obs_dim = basis_width

    def forward(self, obs: Obs) -> Float[Tensor, "batch n_obs_steps obs_dim"]:
        """Return phi of each observation step."""
        difference, anchor = self.split(obs)
        phi = self.predictor(difference.flatten(0, 1), anchor.flatten(0, 1))[0]
        return phi.view(*anchor.shape[:2], -1)


class TransductiveQNetwork(QFunctions):
    """Action values of (difference, anchor): (2) with the actions in both, then perceptrons.

    Args:
        n_obs_steps: observations they see.
        obs_dim: features of ``AnchorEncoder``.
        n_actions: actions they value, from the current step on.
        action_dim: entries of an action.
        n_critics: critics; 2 are twin critics.
        width: hidden units of a layer after (2).
        n_layers: hidden layers after (2).
        activation: of all hidden layers.
        layer_norm: normalize each hidden layer after (2).
        basis_width: m, and hidden units of f and g.
        basis_layers: hidden layers of f and g.
        rank: entries of each inner product.

    Raises:
        UsageError: for sizes that are not positive, or features that are no pair.
    """

    def __init__(
        self,
        *,
        n_obs_steps: int,
        obs_dim: int,
        n_actions: int,
        action_dim: int,
        n_critics: int = 2,
        width: int = 256,
        n_layers: int = 2,
        activation: Activation = "relu",
        layer_norm: bool = False,
        basis_width: int = 64,
        basis_layers: int = 2,
        rank: int = 4,
    ) -> None:
        check_sizes("TransductiveQNetwork", n_critics=n_critics, width=width, n_layers=n_layers)
        super().__init__(
            n_critics=n_critics,
            n_in=basis_width,
            width=width,
            n_layers=n_layers,
            activation=activation,
            layer_norm=layer_norm,
        )
        self._half = _half("TransductiveQNetwork", obs_dim)
        self.predictor = Bilinear(
            n=n_critics,
            n_in=n_obs_steps * self._half + n_actions * action_dim,
            width=basis_width,
            n_layers=basis_layers,
            rank=rank,
            activation=activation,
        )

    def inputs(self, features: Tensor, actions: Tensor, chosen: slice) -> Tensor:
        """Return phi of the chosen critics, ``(critics, batch, basis_width)``."""
        parts = [
            torch.cat([part.flatten(1), actions.flatten(1)], dim=-1)
            for part in features.split(self._half, dim=-1)
        ]
        return self.predictor(*parts, chosen)


class TransductiveValueNetwork(ValueNetwork):
    """A state value of (difference, anchor).

    Args:
        n_obs_steps: observations it sees.
        obs_dim: features of ``AnchorEncoder``.
        width: hidden units of a layer after (2).
        n_layers: hidden layers after (2).
        activation: of all hidden layers.
        layer_norm: normalize each hidden layer after (2).
        basis_width: m, and hidden units of f and g.
        basis_layers: hidden layers of f and g.
        rank: entries of each inner product.
    """

    def __init__(
        self,
        *,
        n_obs_steps: int,
        obs_dim: int,
        width: int = 256,
        n_layers: int = 2,
        activation: Activation = "relu",
        layer_norm: bool = False,
        basis_width: int = 64,
        basis_layers: int = 2,
        rank: int = 4,
    ) -> None:
        super().__init__(
            n_obs_steps=1,
            obs_dim=basis_width,
            width=width,
            n_layers=n_layers,
            activation=activation,
            layer_norm=layer_norm,
        )
        self._half = _half("TransductiveValueNetwork", obs_dim)
        self.predictor = Bilinear(
            n=1,
            n_in=n_obs_steps * self._half,
            width=basis_width,
            n_layers=basis_layers,
            rank=rank,
            activation=activation,
        )

    def forward(
        self, features: Float[Tensor, "batch n_obs_steps obs_dim"]
    ) -> Float[Tensor, " batch"]:
        """Return one value per row."""
        difference, anchor = features.float().split(self._half, dim=-1)
        phi = self.predictor(difference.flatten(1), anchor.flatten(1))  # (1, batch, width)
        return super().forward(phi.transpose(0, 1))


def _half(who: str, obs_dim: int) -> int:
    """Return the size of a difference and of an anchor."""
    if obs_dim % 2:
        raise UsageError(
            f"{who}: got {obs_dim} features, expected difference and anchor of the same size; use "
            "an AnchorEncoder (critic=transductive)"
        )
    return obs_dim // 2
