"""Values of states and of actions: numbers for what was observed and done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.networks.checks import check_sizes
from genpolicy.networks.embeddings import Activation, activation_layer
from genpolicy.networks.stacked import StackedLinear

__all__ = ["QFunctions", "QNetwork", "ValueNetwork"]


class ValueNetwork(nn.Module):
    """A perceptron from observed features to a number.

    Args:
        n_obs_steps: observations it sees.
        obs_dim: features of each.
        width: hidden units of a layer.
        n_layers: hidden layers.
        activation: of the hidden layers.
        layer_norm: normalize each hidden layer after its activation.
    """

    def __init__(
        self,
        *,
        n_obs_steps: int,
        obs_dim: int,
        width: int = 256,
        n_layers: int = 2,
        activation: Activation = "mish",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        check_sizes("ValueNetwork", n_obs_steps=n_obs_steps, obs_dim=obs_dim, width=width)
        check_sizes("ValueNetwork", n_layers=n_layers)
        layers: list[nn.Module] = []
        for before, after in pairwise([n_obs_steps * obs_dim] + [width] * n_layers):
            layers += [nn.Linear(before, after), activation_layer(activation)]
            layers += [nn.LayerNorm(width)] if layer_norm else []
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))
        # It starts at 0, so that the first advantages are the returns themselves.
        nn.init.zeros_(self.layers[-1].weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.layers[-1].bias)  # pyright: ignore[reportArgumentType]

    def forward(
        self, features: Float[Tensor, "batch n_obs_steps obs_dim"]
    ) -> Float[Tensor, " batch"]:
        """Return one value per row."""
        return self.layers(features.flatten(1).to(torch.float32)).squeeze(-1)


class QFunctions(nn.Module, ABC):
    """Several perceptrons of the same sizes that end in a number, run as one.

    Args:
        n_critics: perceptrons; 2 are twin critics.
        n_in: inputs of each.
        width: hidden units of a layer.
        n_layers: hidden layers.
        activation: of the hidden layers.
        layer_norm: normalize each hidden layer after its activation.
    """

    def __init__(
        self,
        *,
        n_critics: int,
        n_in: int,
        width: int,
        n_layers: int,
        activation: Activation,
        layer_norm: bool,
    ) -> None:
        super().__init__()
        self.n_critics = n_critics
        self.activation = activation_layer(activation)
        sizes = [n_in] + [width] * n_layers + [1]
        self.layers = nn.ModuleList(
            [StackedLinear(n_critics, before, after) for before, after in pairwise(sizes)]
        )
        self.norms = nn.ModuleList(
            [_StackNorm(n_critics, width) if layer_norm else _NoNorm() for _ in range(n_layers)]
        )

    @abstractmethod
    def inputs(self, features: Tensor, actions: Tensor, chosen: slice) -> Tensor:
        """Return the inputs of the chosen critics, ``(critics, batch, n_in)``."""

    def forward(
        self,
        features: Float[Tensor, "batch n_obs_steps obs_dim"],
        actions: Float[Tensor, "batch n_actions action"],
        *,
        only: int | None = None,
    ) -> Float[Tensor, "critics batch"]:
        """Return the values of the actions, one row per critic.

        Args:
            features: of the observations, from an encoder.
            actions: normalized.
            only: number of the one critic that is wanted; None is all.
        """
        chosen = slice(None) if only is None else slice(only, only + 1)
        # Values are differences of large numbers: never in low precision.
        with torch.autocast(features.device.type, enabled=False):
            h = self.inputs(features.float(), actions.float(), chosen)
            for layer, norm in zip(list(self.layers)[:-1], self.norms, strict=True):
                h = norm(self.activation(layer(h, chosen)), chosen)  # (critics, batch, width)
            return self.layers[-1](h, chosen).squeeze(-1)  # (critics, batch)


class QNetwork(QFunctions):
    """Several perceptrons of the same sizes from features and actions to a number, run as one.

    Args:
        n_obs_steps: observations they see.
        obs_dim: features of each.
        n_actions: actions they value, from the current step on.
        action_dim: entries of an action.
        n_critics: perceptrons; 2 are twin critics.
        width: hidden units of a layer.
        n_layers: hidden layers.
        activation: of the hidden layers.
        layer_norm: normalize each hidden layer after its activation, which keeps values bounded
            away from the data.

    Raises:
        UsageError: for sizes that are not positive, or an unknown activation.

    Source: arXiv 1802.09477 (twin critics); sizes of arXiv 2208.06193; layer norms as in arXiv
        2305.09836 and 2502.02538.
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
        n_layers: int = 3,
        activation: Activation = "mish",
        layer_norm: bool = False,
    ) -> None:
        check_sizes("QNetwork", n_obs_steps=n_obs_steps, obs_dim=obs_dim, n_actions=n_actions)
        check_sizes("QNetwork", action_dim=action_dim, n_critics=n_critics, width=width)
        check_sizes("QNetwork", n_layers=n_layers)
        super().__init__(
            n_critics=n_critics,
            n_in=n_obs_steps * obs_dim + n_actions * action_dim,
            width=width,
            n_layers=n_layers,
            activation=activation,
            layer_norm=layer_norm,
        )

    def inputs(self, features: Tensor, actions: Tensor, chosen: slice) -> Tensor:
        """Return features and actions side by side, the same for every critic."""
        x = torch.cat([features.flatten(1), actions.flatten(1)], dim=-1)
        return x.expand(len(range(self.n_critics)[chosen]), -1, -1)  # (critics, batch, n_in)


class _StackNorm(nn.Module):
    """A layer norm per critic."""

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n, 1, width))
        self.bias = nn.Parameter(torch.zeros(n, 1, width))

    def forward(
        self, x: Float[Tensor, "n batch width"], chosen: slice
    ) -> Float[Tensor, "n batch width"]:
        return F.layer_norm(x, x.shape[-1:]) * self.weight[chosen] + self.bias[chosen]


class _NoNorm(nn.Module):
    """Nothing in the place of a layer norm."""

    def forward(self, x: Tensor, chosen: slice) -> Tensor:
        return x
