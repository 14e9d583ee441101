"""Networks as instructions: what depends on time or observations alone leaves the loop.

The first layer of a network sees actions, time and observations side by side, so its sum splits
into three: the part of the times is tabulated when the program is written, that of the observations
is computed once per row, and only that of the actions is left for every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genpolicy.native.builder import Builder, Slot, Unsupported
from genpolicy.native.unet import lower_unet
from genpolicy.networks import MLP, ConditionalUnet1D, ResidualMLP
from genpolicy.ops.program import Act, padded

__all__ = ["activation_of", "lower_network"]

_ACTIVATIONS: dict[type[nn.Module], Act] = {
    nn.Mish: Act.MISH,
    nn.SiLU: Act.SILU,
    nn.ReLU: Act.RELU,
}


def lower_network(
    builder: Builder,
    network: nn.Module,
    *,
    x: int,
    cond: Sequence[Slot],
    times: Tensor,
    shift: Tensor | None,
) -> int:
    """Write a network, and return the register of its output.

    Args:
        builder: the program.
        network: an ``MLP``, a ``ResidualMLP`` or a ``ConditionalUnet1D``.
        x: register of its scaled input.
        cond: where each number of its flattened condition is.
        times: ``(n_evaluations,)`` what it is told of the time.
        shift: ``(n_evaluations, chunk)`` added to ``x`` at each evaluation; None for nothing.

    Raises:
        Unsupported: for networks of other types.
    """
    lower = _NETWORKS.get(type(network))
    if lower is None:
        known = ", ".join(kind.__name__ for kind in _NETWORKS)
        raise Unsupported(f"{type(network).__name__} is no network with a program ({known} are)")
    assert isinstance(network, MLP | ResidualMLP | ConditionalUnet1D)
    if network.time.n_times != 1:
        raise Unsupported("the network sees two times")
    return lower(builder, network, x, cond, times, shift)


def activation_of(module: nn.Module) -> Act:
    """Return the number of an activation.

    Raises:
        Unsupported: for others.
    """
    if isinstance(module, nn.GELU) and module.approximate == "none":
        return Act.GELU
    found = _ACTIVATIONS.get(type(module))
    if found is None:
        raise Unsupported(f"the activation {module} has no kernel")
    return found


def _lower_mlp(
    builder: Builder,
    network: nn.Module,
    x: int,
    cond: Sequence[Slot],
    times: Tensor,
    shift: Tensor | None,
) -> int:
    assert isinstance(network, MLP)
    layers = list(network.layers)
    first = layers[0]
    assert isinstance(first, nn.Linear)
    n_x, n_cond = builder.chunk, len(cond)
    on_x, on_time, on_cond = first.weight.double().split(
        [n_x, first.in_features - n_x - n_cond, n_cond], dim=1
    )
    table = network.time(times).double() @ on_time.T + _bias(first)
    h = _first_layer(
        builder,
        x=x,
        on_x=on_x,
        table=_shifted(table, on_x, shift),
        given=_given(builder, cond, on_cond),
        activation=activation_of(layers[1]),
    )
    for linear, activation in zip(layers[2:-1:2], layers[3:-1:2], strict=True):
        assert isinstance(linear, nn.Linear)
        out = builder.register(linear.out_features)
        act = activation_of(activation)
        builder.linear(out, _all(h, linear), linear.weight, _bias(linear), activation=act)
        h = out
    return _output(builder, h, layers[-1])


def _lower_residual(
    builder: Builder,
    network: nn.Module,
    x: int,
    cond: Sequence[Slot],
    times: Tensor,
    shift: Tensor | None,
) -> int:
    assert isinstance(network, ResidualMLP)
    on_x = network.actions.weight.double()
    width = len(on_x)
    table = network.time(times).double()
    given = _given(builder, cond, network.obs.weight)
    film = None
    bias = _bias(network.actions)
    if network.film is None:
        start = _shifted(table + bias, on_x, shift)
        h = _first_layer(builder, x=x, on_x=on_x, table=start, given=given)
    else:
        start = _shifted(bias.expand(len(times), -1), on_x, shift)
        h = _first_layer(builder, x=x, on_x=on_x, table=start, given=None)
        film = _lower_film(builder, network.film, given, table, len(network.blocks))
    normed = builder.register(width)
    blocks: list[Any] = list(network.blocks)
    hidden = builder.register(blocks[0].up.out_features)  # all blocks have the same size
    for number, block in enumerate(blocks):
        seen = _normed(builder, block.norm, normed, h)
        if film is not None:
            builder.modulate(normed, seen, film, width, at=2 * number * padded(width))
            seen = normed
        builder.linear(
            hidden, _all(seen, block.up), block.up.weight, _bias(block.up), activation=Act.SILU
        )
        builder.linear(
            h, _all(hidden, block.down), block.down.weight, _bias(block.down), accumulate=True
        )
    return _output(builder, _normed(builder, network.norm, normed, h), network.out)


_NETWORKS: dict[
    type[nn.Module],
    Callable[[Builder, nn.Module, int, Sequence[Slot], Tensor, Tensor | None], int],
] = {MLP: _lower_mlp, ResidualMLP: _lower_residual, ConditionalUnet1D: lower_unet}


def _given(builder: Builder, cond: Sequence[Slot], weight: Tensor) -> int | Tensor:
    """Return the register of what the observations add to the first layer.

    Where all of them are constants, it is returned as numbers.
    """
    if all(isinstance(slot, float) for slot in cond):
        return weight.double() @ torch.tensor(list(cond), dtype=torch.float64)
    register = builder.register(len(weight))
    builder.linear(register, cond, weight, in_loop=False)
    return register


def _first_layer(
    builder: Builder,
    *,
    x: int,
    on_x: Tensor,
    table: Tensor,
    given: int | Tensor | None,
    activation: Act = Act.NONE,
) -> int:
    h = builder.register(len(on_x))
    if isinstance(given, Tensor):
        table, given = table + given, None
    slots: list[Slot] = [(x, k) for k in range(on_x.shape[1])]
    builder.linear(h, slots, on_x, table, activation=activation, added=given)
    return h


def _lower_film(
    builder: Builder, layer: nn.Linear, given: int | Tensor, table: Tensor, n_blocks: int
) -> int:
    """Write the scales and shifts of all blocks; each lies in padded places of its own."""
    width = table.shape[1]
    wide = padded(width)
    given_act = builder.register(width)
    if isinstance(given, Tensor):
        table = table + given
        given = builder.register(width)  # stays zero
    builder.activate(given_act, given, width, Act.SILU, table=table)
    weight = layer.weight.new_zeros(2 * n_blocks, wide, layer.in_features, dtype=torch.float64)
    bias = layer.weight.new_zeros(2 * n_blocks, wide, dtype=torch.float64)
    weight[:, :width] = layer.weight.detach().double().reshape(2 * n_blocks, width, -1)
    bias[:, :width] = _bias(layer).reshape(2 * n_blocks, width)
    film = builder.register(2 * n_blocks * wide)
    builder.linear(film, _all(given_act, layer), weight.flatten(0, 1), bias.flatten())
    return film


def _normed(builder: Builder, layer: nn.Module, to: int, src: int) -> int:
    if isinstance(layer, nn.Identity):
        return src
    assert isinstance(layer, nn.LayerNorm)
    builder.norm(to, src, layer)
    return to


def _output(builder: Builder, h: int, layer: nn.Module) -> int:
    assert isinstance(layer, nn.Linear)
    out = builder.register(layer.out_features)
    builder.linear(out, _all(h, layer), layer.weight, _bias(layer))
    return out


def _all(register: int, layer: nn.Linear) -> list[Slot]:
    return [(register, k) for k in range(layer.in_features)]


def _bias(layer: nn.Linear) -> Tensor:
    if layer.bias is None:
        return layer.weight.new_zeros(layer.out_features, dtype=torch.float64)
    return layer.bias.detach().double()


def _shifted(table: Tensor, on_x: Tensor, shift: Tensor | None) -> Tensor:
    return table if shift is None else table + shift.double() @ on_x.T
