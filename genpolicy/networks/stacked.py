"""Layers of several networks of the same sizes, run as one batched product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.networks.embeddings import Activation, activation_layer

__all__ = ["StackedLinear", "StackedMLP"]

_ALL = slice(None)


class StackedLinear(nn.Module):
    """One linear layer per network, initialised as ``nn.Linear`` is.

    Args:
        n: networks.
        n_in: inputs of each.
        n_out: outputs of each.
    """

    def __init__(self, n: int, n_in: int, n_out: int) -> None:
        super().__init__()
        limit = 1.0 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(n, n_in, n_out).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.empty(n, 1, n_out).uniform_(-limit, limit))

    def forward(
        self, x: Float[Tensor, "n batch n_in"], chosen: slice = _ALL
    ) -> Float[Tensor, "n batch n_out"]:
        """Return the outputs of the chosen networks, one of whom each row of ``x`` is for."""
        return torch.baddbmm(self.bias[chosen], x, self.weight[chosen])


class StackedMLP(nn.Module):
    """Perceptrons that end in a linear layer.

    Args:
        n: networks.
        sizes: inputs, hidden units of each layer, outputs.
        activation: of the hidden layers.
    """

    def __init__(self, n: int, sizes: Sequence[int], activation: Activation) -> None:
        super().__init__()
        self.n = n
        self.activation = activation_layer(activation)
        self.layers = nn.ModuleList(
            [StackedLinear(n, before, after) for before, after in pairwise(sizes)]
        )

    def forward(
        self, x: Float[Tensor, "batch n_in"], chosen: slice = _ALL
    ) -> Float[Tensor, "n batch n_out"]:
        """Return what each chosen network makes of the same rows."""
        h = x.expand(len(range(self.n)[chosen]), -1, -1)  # (n, batch, n_in)
        for layer in list(self.layers)[:-1]:
            h = self.activation(layer(h, chosen))  # (n, batch, width)
        return self.layers[-1](h, chosen)  # (n, batch, n_out)
