"""Layout of the programs of ``mlp_sample``: a policy's whole denoising loop as four tensors.

The layout is defined, with what each instruction does, in ``cuda_ext/csrc/program.h``; the numbers
here are those of its enumerations, and a test compares them. ``genpolicy.native`` writes programs,
the compiled kernels and ``genpolicy.ops.mlp_reference`` run them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Float, Int64
from torch import Tensor

__all__ = [
    "HEADER_SIZE",
    "INSTRUCTION_SIZE",
    "PANEL",
    "PIECES",
    "PLAN_HEADER_SIZE",
    "VERSION",
    "Act",
    "Field",
    "Header",
    "Op",
    "Plan",
    "PlanHeader",
    "Precision",
    "Program",
    "Register",
    "bits_of_double",
    "double_of_bits",
    "pack_kernel",
    "pack_weights",
    "padded",
    "pieces_of",
    "strided",
    "unpack_kernel",
    "unpack_weights",
]

VERSION = 3
PANEL = 16
"""Outputs of a layer that lie beside each other in memory; registers are padded to multiples."""


class Header(IntEnum):
    """Places in the header of ``code``."""

    VERSION = 0
    INPUTS = 1
    CHUNK = 2
    REGISTERS = 3
    PROLOGUE = 4
    BODY = 5
    EVALUATIONS = 6
    MEMBERS = 7
    PRECISION = 8
    CENTER = 9
    SPAN = 10
    SHIFT = 11
    ROW_FLOATS = 12


HEADER_SIZE = len(Header)


class Precision(IntEnum):
    """Of products; the names in lower case are those of ``Sampler.precision``."""

    FP32 = 0
    BF16 = 1
    BF16X3 = 2


PIECES = 3
"""Numbers in bfloat16 whose sum a float32 is, with ``Precision.BF16X3``."""


class Register(IntEnum):
    """The registers of the state machine itself; layers use those behind."""

    STATE = 0
    STAGE = 1
    DENOISED = 2
    BEFORE = 3
    NOISE = 4
    INPUTS = 5


class Field(IntEnum):
    """Places in an instruction."""

    OP = 0
    DST = 1
    SRC = 2
    SRC2 = 3
    IN = 4
    OUT = 5
    WEIGHTS = 6
    VECTOR = 7
    STRIDE = 8
    ACTIVATION = 9
    ACCUMULATE = 10
    EXTRA = 11
    SRC3 = 12
    LENGTH = 13
    TAPS = 14
    HOP = 15
    BEFORE = 16
    EVERY = 17
    PLACE = 18


INSTRUCTION_SIZE = len(Field)


class Op(IntEnum):
    """What an instruction does."""

    LINEAR = 0
    NORM = 1
    MODULATE = 2
    ACTIVATE = 3
    NORMALIZE = 4
    PRESENT = 5
    WAVES = 6
    INPUT = 7
    COMBINE = 8
    SPREAD = 9
    GATHER = 10
    CONVOLVE = 11
    GROUP_NORM = 12


class Act(IntEnum):
    """Activations."""

    NONE = 0
    MISH = 1
    SILU = 2
    RELU = 3
    GELU = 4


class PlanHeader(IntEnum):
    """Places at the start of ``plan``."""

    INIT = 0
    LOW = 1
    HIGH = 2
    LOW_END = 3
    HIGH_END = 4


PLAN_HEADER_SIZE = len(PlanHeader)


class Plan(IntEnum):
    """Places in a row of ``plan``; behind MEMBERS lie in_scale and on_raw of every member."""

    FROM_STAGE = 0
    TO_STAGE = 1
    X = 2
    DENOISED = 3
    PREVIOUS = 4
    NOISE = 5
    NOISE_INDEX = 6
    ON_X = 7
    MEMBERS = 8


@dataclass(frozen=True, eq=False)
class Program:
    """A denoising loop that ``mlp_sample`` runs.

    Args:
        code: header, registers and instructions.
        plan: factors of every evaluation, on the host.
        vectors: biases, tables, norms, units.
        weights: float32, or bfloat16 for products in that type; a layer's pieces one behind the
            other.
    """

    code: Int64[Tensor, " n_code"]
    plan: Float[Tensor, " n_plan"]
    vectors: Float[Tensor, " n_vectors"]
    weights: Float[Tensor, " n_weights"]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors in the order of the operator's arguments."""
        return self.code, self.plan, self.vectors, self.weights

    @property
    def flops(self) -> int:
        """Floating-point operations of the layers of one row."""
        rows = self._instructions
        times = (rows[:, Field.OP] == Op.LINEAR) + (rows[:, Field.OP] == Op.CONVOLVE) * (
            rows[:, Field.LENGTH] * rows[:, Field.TAPS]
        )
        costs = 2 * rows[:, Field.IN] * rows[:, Field.OUT] * times
        once = self.head(Header.PROLOGUE)
        return int(costs[:once].sum() + costs[once:].sum() * self.head(Header.EVALUATIONS))

    @property
    def _instructions(self) -> Int64[Tensor, "n_instructions n_fields"]:
        start = HEADER_SIZE + 2 * self.head(Header.REGISTERS)
        return self.code[start:].reshape(-1, INSTRUCTION_SIZE)

    def head(self, field: Header) -> int:
        """Return a number of the header."""
        return int(self.code[field])


def padded(n: int) -> int:
    """Return ``n`` rounded up to a multiple of ``PANEL``."""
    return -(-n // PANEL) * PANEL


def strided(n: int) -> int:
    """Return the numbers of a position of a grid with ``n`` channels."""
    return padded(n) + PANEL


def bits_of_double(value: float) -> int:
    """Return the bits of a float64 as a signed integer."""
    return struct.unpack("<q", struct.pack("<d", value))[0]


def double_of_bits(bits: int) -> float:
    """Return the float64 of bits."""
    return struct.unpack("<d", struct.pack("<q", bits))[0]


def pack_weights(weight: Float[Tensor, "n_out n_in"], *, pairs: bool) -> Float[Tensor, " n"]:
    """Return a layer's weights in panels of ``PANEL`` outputs, padded with zeros.

    Args:
        weight: as of ``nn.Linear``.
        pairs: put two inputs of an output beside each other, as products in bfloat16 want them;
            otherwise a panel is ``(n_in, PANEL)``.
    """
    n_out, n_in = weight.shape
    inputs = n_in + n_in % 2 if pairs else n_in
    full = weight.new_zeros(padded(n_out), inputs)
    full[:n_out, :n_in] = weight
    panels = full.reshape(-1, PANEL, inputs)
    if not pairs:
        return panels.transpose(1, 2).reshape(-1)
    return panels.reshape(-1, PANEL, inputs // 2, 2).transpose(1, 2).reshape(-1)


def pack_kernel(kernel: Float[Tensor, "n_out n_in taps"], *, pairs: bool) -> Float[Tensor, " n"]:
    """Return a convolution's weights tap by tap, each as of ``pack_weights``, inputs padded."""
    n_out, n_in, taps = kernel.shape
    full = kernel.new_zeros(taps, n_out, padded(n_in))
    full[..., :n_in] = kernel.permute(2, 0, 1)
    return torch.cat([pack_weights(tap, pairs=pairs) for tap in full])


def pieces_of(weight: Float[Tensor, "*size"], n: int) -> list[Float[Tensor, "*size"]]:
    """Return ``n`` numbers in bfloat16 for each of float32; the sum of ``PIECES`` is that number.

    Each is the one next to what the sum of those before it lacks.
    """
    pieces: list[Tensor] = []
    rest = weight.float()
    for _ in range(n):
        pieces.append(rest.bfloat16())
        rest = rest - pieces[-1].float()
    return pieces


def unpack_kernel(
    packed: Float[Tensor, " n"], at: int, n_out: int, n_in: int, taps: int, *, pieces: int = 1
) -> Float[Tensor, "n_out n_in taps"]:
    """Return a convolution's weights in float32; the reverse of packing."""
    size = padded(n_out) * padded(n_in)
    kernel = [
        unpack_weights(packed, at + k * size, n_out, padded(n_in), pieces=pieces, step=taps * size)
        for k in range(taps)
    ]
    return torch.stack([tap[:, :n_in] for tap in kernel], dim=-1)


def unpack_weights(
    packed: Float[Tensor, " n"],
    at: int,
    n_out: int,
    n_in: int,
    *,
    pieces: int = 1,
    step: int | None = None,
) -> Float[Tensor, "n_out n_in"]:
    """Return one layer's weights in float32, as of ``nn.Linear``; the reverse of packing.

    Args:
        packed: the weights of a program.
        at: where the layer's first piece starts.
        n_out: outputs.
        n_in: inputs.
        pieces: numbers that a weight is the sum of.
        step: from a piece to the next; None for the size of the layer.
    """
    pairs = packed.dtype == torch.bfloat16
    inputs = n_in + n_in % 2 if pairs else n_in
    size = padded(n_out) * inputs
    starts = [at + k * (size if step is None else step) for k in range(pieces)]
    part = sum((packed[start : start + size].float() for start in starts), torch.zeros(()))
    if pairs:
        panels = part.reshape(-1, inputs // 2, PANEL, 2).transpose(1, 2)
    else:
        panels = part.reshape(-1, inputs, PANEL).transpose(1, 2)
    return panels.reshape(padded(n_out), inputs)[:n_out, :n_in]
