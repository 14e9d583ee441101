"""The convolutional network as instructions on grids.

The condition enters every block through a linear layer that sees Mish of the time's embedding and
of the observations side by side. Its sum is split: the part of the times is tabulated for all
evaluations when the program is written, that of the observations is computed once per row, and an
evaluation only adds the two. Concatenated channels are not copied: a convolution of two grids is
the sum of two convolutions. A transposed convolution of stride 2 is one convolution for the even
positions and one for the odd ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genpolicy.native.builder import Builder, Slot
from genpolicy.networks import ConditionalUnet1D
from genpolicy.networks.unet1d import FilmBlock
from genpolicy.ops.program import Act, Field, Op, bits_of_double, padded, strided

__all__ = ["lower_unet"]


@dataclass(frozen=True)
class _Grid:
    """A register with a grid: positions of channels."""

    register: int
    channels: int
    length: int


def lower_unet(
    builder: Builder,
    network: nn.Module,
    x: int,
    cond: Sequence[Slot],
    times: Tensor,
    shift: Tensor | None,
) -> int:
    """Write a ``ConditionalUnet1D``, see ``lower_network``."""
    assert isinstance(network, ConditionalUnet1D)
    return _Writer(builder, network, cond, times).write(network, x, shift)


class _Writer:
    """Writes one network; grids that are no longer needed are used again."""

    def __init__(
        self, builder: Builder, network: ConditionalUnet1D, cond: Sequence[Slot], times: Tensor
    ) -> None:
        self.builder = builder
        self.free: dict[tuple[int, int], list[_Grid]] = {}
        self.places: dict[nn.Module, int] = {}
        self.film = self._film(network, cond, times)

    def write(self, network: ConditionalUnet1D, x: int, shift: Tensor | None) -> int:
        """Write the instructions of one evaluation and return the register of the output."""
        builder = self.builder
        action_dim = _channels_in(network)
        horizon = builder.chunk // action_dim
        if shift is not None:
            builder.activate(x, x, builder.chunk, Act.NONE, table=shift)
        h = self._take(action_dim, horizon)
        builder.emit(
            Op.SPREAD, dst=h.register, src=x, n_out=action_dim, grid={Field.LENGTH: horizon}
        )
        skips: list[_Grid] = []
        for number, (first, second, shrink) in enumerate(_triples(network.down)):
            wide = self._block([h], first)
            self._give(h)
            h = self._block([wide], second)
            self._give(wide)
            skips.append(h)
            if isinstance(shrink, nn.Conv1d):
                smaller = self._take(h.channels, h.length // 2)
                self._convolve(smaller, [h], shrink, hop=2)
                if number == 0:  # the finest level has no skip connection
                    self._give(h)
                h = smaller
        for one in network.middle:
            after = self._block([h], one)
            if h is not skips[-1]:
                self._give(h)
            h = after
        for first, second, grow in _triples(network.up):
            skip = skips.pop()
            narrow = self._block([h, skip], first)
            self._give(h, skip)
            h = self._block([narrow], second)
            self._give(narrow)
            assert isinstance(grow, nn.ConvTranspose1d)
            larger = self._take(h.channels, 2 * h.length)
            self._double(larger, h, grow)
            self._give(h)
            h = larger
        last, to_actions = network.out
        assert isinstance(last, nn.Sequential)
        assert isinstance(to_actions, nn.Conv1d)
        normed = self._conv_norm_mish([h], last)
        actions = self._take(action_dim, horizon)
        self._convolve(actions, [normed], to_actions)
        out = builder.register(builder.chunk)
        builder.emit(
            Op.GATHER,
            dst=out,
            src=actions.register,
            n_out=action_dim,
            grid={Field.LENGTH: horizon},
        )
        return out

    def _film(self, network: ConditionalUnet1D, cond: Sequence[Slot], times: Tensor) -> int:
        """Write the factors and shifts of all blocks; each lies in padded places of its own."""
        builder = self.builder
        blocks = [module for module in network.modules() if isinstance(module, FilmBlock)]
        total = sum(2 * padded(_channels_out(block)) for block in blocks)
        weight = torch.zeros(total, blocks[0].film.in_features, dtype=torch.float64)
        bias = torch.zeros(total, dtype=torch.float64)
        at = 0
        for block in blocks:
            n = _channels_out(block)
            wide = padded(n)
            self.places[block] = at
            rows = block.film.weight.detach().double()
            added = block.film.bias.detach().double()
            if block.film_scale:
                weight[at : at + n], bias[at : at + n] = rows[:n], added[:n]
            else:
                bias[at : at + n] = 1.0
            weight[at + wide : at + wide + n] = rows[-n:]
            bias[at + wide : at + wide + n] = added[-n:]
            at += 2 * wide
        told = F.mish(network.time(times)).double()  # (n_evaluations, time_dim)
        n_time = told.shape[1]
        table = told @ weight[:, :n_time].T + bias
        seen = self._activated(cond)
        given = builder.register(total)
        if any(isinstance(slot, tuple) for slot in seen):
            builder.linear(given, seen, weight[:, n_time:], in_loop=False)
        else:  # the register stays zero
            table = table + weight[:, n_time:] @ torch.tensor(seen, dtype=torch.float64)
        film = builder.register(total)
        builder.activate(film, given, total, Act.NONE, table=table)
        return film

    def _activated(self, cond: Sequence[Slot]) -> list[Slot]:
        """Write Mish of the condition."""
        found: dict[int, int] = {}
        slots: list[Slot] = []
        for slot in cond:
            if isinstance(slot, tuple):
                source, place = slot
                if source not in found:
                    width = self.builder.widths[source]
                    found[source] = self.builder.register(width)
                    self.builder.activate(found[source], source, width, Act.MISH, in_loop=False)
                slots.append((found[source], place))
            else:
                slots.append(F.mish(torch.tensor(slot, dtype=torch.float64)).item())
        return slots

    def _block(self, parts: Sequence[_Grid], block: nn.Module) -> _Grid:
        """Write a residual block on channels side by side; its result is a grid of its own.

        Nothing that is still read is overwritten: kernels may run the two convolutions of the
        inputs at the same time, and each norm behind the one before it.
        """
        assert isinstance(block, FilmBlock)
        first = self._conv_norm_mish(parts, block.first, film=self.places[block])
        out = self._take(first.channels, first.length)
        added = out
        if isinstance(block.skip, nn.Conv1d):
            self._convolve(out, parts, block.skip)
        elif len(parts) == 1:
            added = parts[0]
        else:  # as many channels side by side as come out: a product with ones copies them
            self._convolve(out, parts, _copying(out.channels))
        y = self._take(out.channels, out.length)
        convolution, norm = _layers(block.second)
        self._convolve(y, [first], convolution)
        self._norm(out, y, norm, added=added)
        self._give(y, first)
        return out

    def _conv_norm_mish(
        self, parts: Sequence[_Grid], layers: nn.Sequential, *, film: int | None = None
    ) -> _Grid:
        convolution, norm = _layers(layers)
        y = self._take(convolution.out_channels, parts[0].length)
        self._convolve(y, parts, convolution)
        out = self._take(y.channels, y.length)
        self._norm(out, y, norm, film=film)
        self._give(y)
        return out

    def _convolve(
        self, dst: _Grid, parts: Sequence[_Grid], layer: nn.Conv1d, *, hop: int = 1
    ) -> None:
        """Write a convolution over the channels of several grids side by side."""
        (before,) = layer.padding
        first = 0
        for part in parts:
            kernel = layer.weight[:, first : first + part.channels]
            bias = layer.bias if first == 0 else None
            self._emit_convolution(
                dst, part, kernel, bias, before=int(before), hop=hop, accumulate=first > 0
            )
            first += part.channels

    def _double(self, dst: _Grid, src: _Grid, layer: nn.ConvTranspose1d) -> None:
        """Write a transposed convolution: y[2i + place] = sum over k of x[i - before + k] W_k."""
        kernel = layer.weight.transpose(0, 1)  # (out, in, 4)
        even, odd = kernel[..., [3, 1]], kernel[..., [2, 0]]
        self._emit_convolution(dst, src, even, layer.bias, before=1, every=2)
        self._emit_convolution(dst, src, odd, layer.bias, before=0, every=2, place=1)

    def _emit_convolution(
        self,
        dst: _Grid,
        src: _Grid,
        kernel: Tensor,
        bias: Tensor | None,
        *,
        before: int,
        hop: int = 1,
        every: int = 1,
        place: int = 0,
        accumulate: bool = False,
    ) -> None:
        self.builder.emit(
            Op.CONVOLVE,
            dst=dst.register,
            src=src.register,
            n_in=src.channels,
            n_out=dst.channels,
            weights=self.builder.pack(kernel),
            vector=self.builder.vector(torch.zeros(dst.channels) if bias is None else bias),
            accumulate=accumulate,
            grid={
                Field.LENGTH: dst.length // every,
                Field.TAPS: kernel.shape[-1],
                Field.HOP: hop,
                Field.BEFORE: before,
                Field.EVERY: every,
                Field.PLACE: place,
            },
        )

    def _norm(
        self,
        dst: _Grid,
        src: _Grid,
        layer: nn.GroupNorm,
        *,
        film: int | None = None,
        added: _Grid | None = None,
    ) -> None:
        """Write ``dst = mish(norm(src))``, scaled and shifted, and something added."""
        self.builder.emit(
            Op.GROUP_NORM,
            dst=dst.register,
            src=src.register,
            src2=-1 if added is None else added.register,
            src3=-1 if film is None else self.film,
            n_in=layer.num_groups,
            n_out=src.channels,
            vector=self.builder.vector(torch.stack([layer.weight, layer.bias])),
            activation=Act.MISH,
            extra=bits_of_double(layer.eps),
            grid={Field.LENGTH: src.length, Field.PLACE: film or 0},
        )

    def _take(self, channels: int, length: int) -> _Grid:
        """Return a grid, one that was given back if there is one."""
        kept = self.free.get((channels, length))
        if kept:
            return kept.pop()
        return _Grid(self.builder.register(length * strided(channels)), channels, length)

    def _give(self, *grids: _Grid) -> None:
        for one in grids:
            self.free.setdefault((one.channels, one.length), []).append(one)


def _triples(levels: nn.ModuleList) -> list[tuple[nn.Module, nn.Module, nn.Module]]:
    """Return the two blocks of each level and what changes the length behind them."""
    return [(first, second, change) for first, second, change in levels]  # type: ignore[misc]


def _channels_in(network: ConditionalUnet1D) -> int:
    first = next(module for module in network.modules() if isinstance(module, nn.Conv1d))
    return first.in_channels


def _channels_out(block: FilmBlock) -> int:
    return _layers(block.second)[0].out_channels


def _layers(part: nn.Sequential) -> tuple[nn.Conv1d, nn.GroupNorm]:
    convolution, norm = part[0], part[1]
    assert isinstance(convolution, nn.Conv1d)
    assert isinstance(norm, nn.GroupNorm)
    return convolution, norm


def _copying(n_channels: int) -> nn.Conv1d:
    layer = nn.Conv1d(n_channels, n_channels, 1, bias=False)
    layer.weight.data = torch.eye(n_channels).unsqueeze(-1)
    return layer
