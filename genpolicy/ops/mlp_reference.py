"""What ``mlp_sample`` computes, in readable torch: runs a program of ``genpolicy.ops.program``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from genpolicy.ops.noise import normals, round_keys
from genpolicy.ops.program import (
    HEADER_SIZE,
    INSTRUCTION_SIZE,
    PIECES,
    PLAN_HEADER_SIZE,
    VERSION,
    Act,
    Field,
    Header,
    Op,
    Plan,
    PlanHeader,
    Precision,
    Register,
    double_of_bits,
    padded,
    strided,
    unpack_kernel,
    unpack_weights,
)

__all__ = ["mlp_sample", "row_noise"]


def _same(x: Tensor) -> Tensor:
    return x


_ACTIVATIONS: dict[Act, Callable[[Tensor], Tensor]] = {
    Act.NONE: _same,
    Act.MISH: F.mish,
    Act.SILU: F.silu,
    Act.RELU: F.relu,
    Act.GELU: F.gelu,
}


def row_noise(
    seeds: Int64[Tensor, " batch"], n_values: int, index: int, stream: int
) -> Float[Tensor, "batch n_values"]:
    """Return standard normal numbers of one draw, float32, see ``genpolicy.ops.noise``.

    Args:
        seeds: the bits of one unsigned 64-bit seed per row.
        n_values: numbers per row, at least 1.
        index: which draw, in [0, 2**32).
        stream: independent draws of one index, in [0, 2**32).
    """
    keys = round_keys(seeds.cpu().numpy().view(np.uint64))
    rows = torch.as_tensor(normals(keys, n_values, index=index, stream=stream))
    return rows.to(seeds.device, torch.float32)


def mlp_sample(
    inputs: Float[Tensor, "batch n_inputs"],
    seeds: Int64[Tensor, " batch"],
    code: Int64[Tensor, " n_code"],
    plan: Float[Tensor, " n_plan"],
    vectors: Float[Tensor, " n_vectors"],
    weights: Float[Tensor, " n_weights"],
    chunk: int,
) -> Float[Tensor, "batch chunk"]:
    """Run the denoising loop of a program.

    Args:
        inputs: one row of observations, in the units and the order of the program.
        seeds: the bits of one unsigned 64-bit seed per row.
        code: see ``Program``.
        plan: see ``Program``.
        vectors: see ``Program``; its type is that of the arithmetic, float32 or float64.
        weights: see ``Program``.
        chunk: ``horizon * action``, as in the program.

    Returns:
        ``(batch, horizon * action)`` in physical units, of the type of ``vectors``.

    Raises:
        ValueError: for another version of programs, or another size of chunks.
    """
    machine = _Machine(seeds, code, plan, vectors, weights)
    if machine.head[Header.CHUNK] != chunk:
        raise ValueError(
            f"mlp_sample: chunk is {chunk}, the program makes {machine.head[Header.CHUNK]} numbers"
        )
    return machine.sample(inputs)


def grid_of(
    register: Float[Tensor, "batch width"], n_channels: int
) -> Float[Tensor, "batch positions {n_channels}"]:
    """Return a register as a grid of so many channels."""
    step = strided(n_channels)
    n = register.shape[1] // step
    return register[:, : n * step].reshape(len(register), n, step)[..., :n_channels]


def _list_of(values: Any) -> list[Any]:
    return values.tolist()


class _Machine:
    """The registers of a batch, and what the instructions do to them."""

    def __init__(
        self, seeds: Tensor, code: Tensor, plan: Tensor, vectors: Tensor, weights: Tensor
    ) -> None:
        numbers: list[int] = _list_of(code)
        if numbers[Header.VERSION] != VERSION:
            raise ValueError(
                f"mlp_sample: the program has version {numbers[Header.VERSION]}, expected {VERSION}"
            )
        self.head = numbers[:HEADER_SIZE]
        at = HEADER_SIZE + 2 * self.head[Header.REGISTERS]
        self.widths = numbers[HEADER_SIZE + 1 : at : 2]
        rows = [
            numbers[i : i + INSTRUCTION_SIZE] for i in range(at, len(numbers), INSTRUCTION_SIZE)
        ]
        self.prologue = rows[: self.head[Header.PROLOGUE]]
        self.body = rows[self.head[Header.PROLOGUE] :]
        values: list[float] = _list_of(plan)
        self.limits = values[:PLAN_HEADER_SIZE]
        width = Plan.MEMBERS + 2 * self.head[Header.MEMBERS]
        self.plan = [values[i : i + width] for i in range(PLAN_HEADER_SIZE, len(values), width)]
        self.vectors, self.weights = vectors, weights
        precision = self.head[Header.PRECISION]
        self.pieces = PIECES if precision == Precision.BF16X3 else 1
        self.rounds_inputs = precision == Precision.BF16
        self.seeds = seeds
        self.registers: dict[int, Tensor] = {}
        self.factors: list[float] = []
        self.seen = vectors

    def sample(self, inputs: Tensor) -> Tensor:
        chunk = self.head[Header.CHUNK]
        self.registers[Register.INPUTS] = inputs.to(self.vectors.dtype)
        for instruction in self.prologue:
            self.run(instruction, 0)
        self.registers[Register.STATE] = self.limits[PlanHeader.INIT] * self.noise(0)
        for e, factors in enumerate(self.plan):
            self.evaluate(e, factors)
        center = self.vectors[self.head[Header.CENTER] :][:chunk]
        span = self.vectors[self.head[Header.SPAN] :][:chunk]
        low, high = self.limits[PlanHeader.LOW_END], self.limits[PlanHeader.HIGH_END]
        return center + self.registers[Register.STATE].clamp(low, high) * span

    def evaluate(self, e: int, factors: list[float]) -> None:
        """Run the networks at one level, and step."""
        chunk = self.head[Header.CHUNK]
        registers = self.registers
        state = registers[Register.STATE]
        self.seen = registers[Register.STAGE] if factors[Plan.FROM_STAGE] else state
        denoised = factors[Plan.ON_X] * self.seen
        if self.head[Header.SHIFT] >= 0:
            denoised = denoised + self.vectors[self.head[Header.SHIFT] + e * chunk :][:chunk]
        registers[Register.DENOISED] = denoised
        self.factors = factors
        for instruction in self.body:
            self.run(instruction, e)
        clean = registers[Register.DENOISED].clamp(
            self.limits[PlanHeader.LOW], self.limits[PlanHeader.HIGH]
        )
        reached = factors[Plan.X] * state + factors[Plan.DENOISED] * clean
        if factors[Plan.PREVIOUS] != 0.0:
            reached = reached + factors[Plan.PREVIOUS] * registers[Register.BEFORE]
        if factors[Plan.NOISE] != 0.0:
            reached = reached + factors[Plan.NOISE] * self.noise(int(factors[Plan.NOISE_INDEX]))
        registers[Register.BEFORE] = clean
        registers[Register.STAGE if factors[Plan.TO_STAGE] else Register.STATE] = reached

    def noise(self, index: int) -> Tensor:
        return row_noise(self.seeds, self.head[Header.CHUNK], index, 0).to(self.vectors.dtype)

    def run(self, instruction: list[int], e: int) -> None:
        """Run one instruction at evaluation ``e``."""
        field = instruction.__getitem__
        dst, out, extra = field(Field.DST), field(Field.OUT), field(Field.EXTRA)
        at = field(Field.VECTOR) + e * field(Field.STRIDE)
        wide = padded(out)
        registers = self.registers
        source = field(Field.SRC)
        src = registers.get(source)
        if src is None and source >= 0:  # nothing was written there: zeros
            src = self.vectors.new_zeros(len(self.seeds), self.widths[source])
        match Op(field(Field.OP)):
            case Op.LINEAR:
                assert src is not None
                self.linear(instruction, src, self.vectors[at : at + out])
            case Op.NORM:
                assert src is not None
                eps = double_of_bits(extra)
                gain, offset = (self.vectors[at + k * wide :][:out] for k in range(2))
                registers[dst] = F.layer_norm(src, (out,), gain, offset, eps)
            case Op.MODULATE:
                assert src is not None
                film = registers[field(Field.SRC2)]
                scale, shift = (film[:, extra + k * wide :][:, :out] for k in range(2))
                registers[dst] = src * (1.0 + scale) + shift
            case Op.ACTIVATE:
                assert src is not None
                act = _ACTIVATIONS[Act(field(Field.ACTIVATION))]
                registers[dst] = act(src + self.vectors[at : at + out])
            case Op.NORMALIZE:
                assert src is not None
                center, gain = (self.vectors[at + k * wide :][:out] for k in range(2))
                scaled = (src[:, :out] - center) * gain
                self.write(dst, torch.where(gain == 0.0, 0.0, scaled))
            case Op.PRESENT:
                assert src is not None
                first = field(Field.IN)
                part = src[:, first : first + out]
                absent = part.isnan().any(1, keepdim=True)
                changed = src.clone()
                changed[:, first : first + out] = torch.where(absent, 0.0, part)
                changed[:, extra : extra + 1] = (~absent).to(src.dtype)
                registers[field(Field.SRC)] = changed
            case Op.WAVES:
                assert src is not None
                angles = 2.0**extra * math.pi * src[:, :out]
                waves = src.new_zeros(len(src), wide + out)
                waves[:, :out], waves[:, wide:] = angles.sin(), angles.cos()
                registers[dst] = waves
            case Op.INPUT:
                registers[dst] = self.factors[Plan.MEMBERS + 2 * extra] * self.seen
            case Op.COMBINE:
                assert src is not None
                scale = self.factors[Plan.MEMBERS + 2 * extra + 1]
                registers[Register.DENOISED] = registers[Register.DENOISED] + scale * src[:, :out]
            case Op.SPREAD:
                assert src is not None
                rows = src[:, : field(Field.LENGTH) * out]
                self.write_grid(dst, rows.reshape(len(src), field(Field.LENGTH), out))
            case Op.GATHER:
                assert src is not None
                self.write(dst, grid_of(src, out)[:, : field(Field.LENGTH)].flatten(1))
            case Op.CONVOLVE:
                assert src is not None
                self.write_grid(dst, self.convolved(instruction, src))
            case Op.GROUP_NORM:
                assert src is not None
                self.write_grid(dst, self.group_normed(instruction, src))

    def linear(self, instruction: list[int], src: Tensor, added: Tensor) -> None:
        """Run one layer."""
        field = instruction.__getitem__
        dst, n_in, out = field(Field.DST), field(Field.IN), field(Field.OUT)
        weight = unpack_weights(self.weights, field(Field.WEIGHTS), out, n_in, pieces=self.pieces)
        x = src[:, :n_in]
        if self.rounds_inputs:
            x = x.to(torch.bfloat16)
        result = F.linear(x.to(added.dtype), weight.to(added.dtype)) + added
        if field(Field.SRC2) >= 0:
            result = result + self.registers[field(Field.SRC2)][:, :out]
        if field(Field.ACCUMULATE):
            self.registers[dst] = self.registers[dst] + result
        else:
            self.registers[dst] = _ACTIVATIONS[Act(field(Field.ACTIVATION))](result)

    def convolved(self, instruction: list[int], src: Tensor) -> Tensor:
        """Return the grid that a convolution writes, as it is afterwards."""
        field = instruction.__getitem__
        n_in, out, length = field(Field.IN), field(Field.OUT), field(Field.LENGTH)
        hop, every, taps = field(Field.HOP), field(Field.EVERY), field(Field.TAPS)
        at, before = field(Field.VECTOR), field(Field.BEFORE)
        kernel = unpack_kernel(
            self.weights, field(Field.WEIGHTS), out, n_in, taps, pieces=self.pieces
        )
        x = grid_of(src, n_in).transpose(1, 2)  # (batch, channels, positions)
        if self.rounds_inputs:
            x = x.to(torch.bfloat16)
        dtype = self.vectors.dtype
        behind = max(0, (length - 1) * hop + taps - before - x.shape[-1])
        x = F.pad(x.to(dtype), (before, behind))
        found = F.conv1d(x, kernel.to(dtype), stride=hop)[..., :length].transpose(1, 2)
        found = found + self.vectors[at : at + out]  # (batch, length, out)
        n_positions = self.widths[field(Field.DST)] // strided(out)
        before_it = self.registers.get(field(Field.DST))
        if before_it is None:
            full = found.new_zeros(len(src), n_positions, out)
        else:
            full = grid_of(before_it, out).clone()
        places = slice(field(Field.PLACE), field(Field.PLACE) + (length - 1) * every + 1, every)
        full[:, places] = found + full[:, places] if field(Field.ACCUMULATE) else found
        return full

    def group_normed(self, instruction: list[int], src: Tensor) -> Tensor:
        """Return the grid that a group norm writes."""
        field = instruction.__getitem__
        out, length, wide = field(Field.OUT), field(Field.LENGTH), padded(field(Field.OUT))
        at, place = field(Field.VECTOR), field(Field.PLACE)
        gain, offset = (self.vectors[at + k * wide :][:out] for k in range(2))
        x = grid_of(src, out)[:, :length].transpose(1, 2)  # (batch, channels, length)
        eps = double_of_bits(field(Field.EXTRA))
        x = F.group_norm(x, field(Field.IN), gain, offset, eps)
        x = _ACTIVATIONS[Act(field(Field.ACTIVATION))](x).transpose(1, 2)
        if field(Field.SRC3) >= 0:
            film = self.registers[field(Field.SRC3)][:, place:].unsqueeze(1)
            x = x * film[..., :out] + film[..., wide : wide + out]
        if field(Field.SRC2) >= 0:
            x = x + grid_of(self.registers[field(Field.SRC2)], out)[:, :length]
        return x

    def write_grid(self, dst: int, values: Float[Tensor, "batch length channels"]) -> None:
        """Set the first positions of a grid, and zeros behind."""
        n = values.shape[-1]
        self.write(dst, F.pad(values, (0, strided(n) - n)).flatten(1))

    def write(self, dst: int, values: Tensor) -> None:
        """Set the first entries of a register, and the others to zero."""
        self.registers[dst] = F.pad(values, (0, self.widths[dst] - values.shape[1]))
