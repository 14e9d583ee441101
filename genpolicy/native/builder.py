"""Writing programs: registers, packed layers, instructions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from genpolicy.ops.program import (
    PIECES,
    VERSION,
    Act,
    Field,
    Header,
    Op,
    Plan,
    PlanHeader,
    Program,
    Register,
    bits_of_double,
    pack_kernel,
    pack_weights,
    padded,
    pieces_of,
)
from genpolicy.ops.program import Precision as Products
from genpolicy.sampling import Precision

__all__ = ["Builder", "Evaluation", "Limits", "Slot", "Unsupported"]

Slot: TypeAlias = tuple[int, int] | float
"""One number that a layer sees: a register and a place in it, or a constant."""


class Unsupported(Exception):  # noqa: N818 - it is no error: sampling goes on in torch
    """Says why something has no program; the message completes "it is sampled in torch because"."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The factors of one evaluation of the networks and of the step that follows.

    Args:
        from_stage: evaluate the state inside the step instead of the state.
        to_stage: the step leads there.
        c_x: factor of the state.
        c_denoised: of the denoised action.
        c_previous: of the denoised action of the evaluation before.
        c_noise: of fresh noise.
        noise_index: index of that noise.
        on_x: factor of the evaluated state in the denoised action.
        members: for every network, the factors of its input and of its output.
        shift: added to the denoised action, one number per entry of the chunk; None for none.
    """

    from_stage: bool = False
    to_stage: bool = False
    c_x: float
    c_denoised: float
    c_previous: float = 0.0
    c_noise: float = 0.0
    noise_index: int = 0
    on_x: float
    members: Sequence[tuple[float, float]]
    shift: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where sampling starts and what it stays within.

    Args:
        init: factor of the initial noise.
        every_step: range of the denoised action at every step; None for none.
        end: range of the sample; None for none.
        center: added to the sample, one number per entry of the chunk.
        span: factor of the sample before that.
    """

    init: float
    every_step: tuple[float, float] | None
    end: tuple[float, float] | None
    center: Tensor
    span: Tensor


class Builder:
    """Collects the parts of a program.

    Args:
        n_inputs: numbers that a row of observations has.
        chunk: ``horizon * action``.
        precision: of products, see ``Sampler``; ``"bf16x3"`` is for CPUs with a matrix unit alone.
    """

    def __init__(self, *, n_inputs: int, chunk: int, precision: Precision = "fp32") -> None:
        self.chunk = chunk
        self.precision: Precision = precision
        self.widths = [chunk] * Register.INPUTS + [n_inputs]
        self.n_evaluations = 0
        self._prologue: list[list[int]] = []
        self._body: list[list[int]] = []
        self._vectors: list[Tensor] = []
        self._n_vectors = 0
        self._weights: list[Tensor] = []
        self._n_weights = 0

    def register(self, width: int) -> int:
        """Return a new register."""
        self.widths.append(width)
        return len(self.widths) - 1

    def linear(
        self,
        dst: int,
        slots: Sequence[Slot],
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        activation: Act = Act.NONE,
        added: int | None = None,
        accumulate: bool = False,
        in_loop: bool = True,
    ) -> None:
        """Write ``dst = act(W x + b)`` for an ``x`` that is spread over registers and constants.

        Args:
            dst: register of the result.
            slots: where each of the inputs is.
            weight: ``(n_out, n_in)``.
            bias: ``(n_out,)`` or, one row per evaluation, ``(n_evaluations, n_out)``; None is 0.
            activation: of the sum.
            added: a register that is added before the activation.
            accumulate: add to ``dst`` instead; without activation.
            in_loop: run at every evaluation rather than once per row.
        """
        weight = weight.detach().double()
        total = weight.new_zeros(len(weight)) if bias is None else bias.detach().double()
        numbers = [slot if isinstance(slot, float) else 0.0 for slot in slots]
        total = total + weight @ torch.tensor(numbers, dtype=torch.float64)
        columns: dict[int, list[tuple[int, int]]] = {}
        for k, slot in enumerate(slots):
            if isinstance(slot, tuple):
                source, place = slot
                columns.setdefault(source, []).append((k, place))
        if not columns:
            raise Unsupported("a layer sees constants only")
        parts: list[tuple[int, Tensor]] = []
        for source, pairs in columns.items():
            part = weight.new_zeros(len(weight), self.widths[source])
            ks, places = (torch.tensor(numbers) for numbers in zip(*pairs, strict=True))
            parts.append((source, part.index_add_(1, places, weight[:, ks])))
        for number, (source, part) in enumerate(parts):
            is_first = number == 0
            self.emit(
                Op.LINEAR,
                in_loop=in_loop,
                dst=dst,
                src=source,
                src2=-1 if added is None or not is_first else added,
                n_in=part.shape[1],
                n_out=len(part),
                weights=self.pack(part),
                vector=self.vector(total if is_first else torch.zeros(len(part))),
                stride=padded(len(part)) if is_first and total.ndim == 2 else 0,
                activation=activation if len(parts) == 1 else Act.NONE,
                accumulate=accumulate or not is_first,
            )
        if len(parts) > 1 and activation != Act.NONE:
            self.activate(dst, dst, len(weight), activation, in_loop=in_loop)

    def activate(
        self,
        dst: int,
        src: int,
        n: int,
        activation: Act,
        *,
        table: Tensor | None = None,
        in_loop: bool = True,
    ) -> None:
        """Write ``dst = act(src + table[evaluation])``; without a table nothing is added."""
        self.emit(
            Op.ACTIVATE,
            in_loop=in_loop,
            dst=dst,
            src=src,
            n_out=n,
            vector=self.vector(torch.zeros(n) if table is None else table),
            stride=0 if table is None else padded(n),
            activation=activation,
        )

    def norm(self, dst: int, src: int, layer: nn.LayerNorm) -> None:
        """Write a layer norm over the last axis."""
        (width,) = layer.normalized_shape
        gain = torch.ones(width) if layer.weight is None else layer.weight
        offset = torch.zeros(width) if layer.bias is None else layer.bias
        self.emit(
            Op.NORM,
            dst=dst,
            src=src,
            n_out=width,
            vector=self.vector(torch.stack([gain, offset]).detach()),
            extra=bits_of_double(layer.eps),
        )

    def modulate(self, dst: int, src: int, film: int, n: int, *, at: int) -> None:
        """Write ``dst = src * (1 + film[at:]) + film[at + padded(n):]``."""
        self.emit(Op.MODULATE, dst=dst, src=src, src2=film, n_out=n, extra=at)

    def normalize(self, dst: int, src: int, center: Tensor, gain: Tensor) -> None:
        """Write ``dst = (src - center) * gain``, once per row."""
        vector = self.vector(torch.stack([center, gain]))
        self.emit(Op.NORMALIZE, in_loop=False, dst=dst, src=src, n_out=len(gain), vector=vector)

    def present(self, register: int, first: int, n: int, *, flag: int) -> None:
        """Write zeros into ``n`` entries where one is NaN; ``flag`` says whether they are there."""
        self.emit(Op.PRESENT, in_loop=False, src=register, n_in=first, n_out=n, extra=flag)

    def waves(self, dst: int, src: int, n: int, *, octave: int) -> None:
        """Write sines, and from ``padded(n)`` on cosines, of ``2**octave pi src``."""
        self.emit(Op.WAVES, in_loop=False, dst=dst, src=src, n_out=n, extra=octave)

    def member_input(self, dst: int, member: int) -> None:
        """Write the scaled state that a network sees."""
        self.emit(Op.INPUT, dst=dst, n_out=self.chunk, extra=member)

    def combine(self, src: int, member: int) -> None:
        """Add a network's scaled output to the denoised action."""
        self.emit(Op.COMBINE, src=src, n_out=self.chunk, extra=member)

    def build(self, evaluations: Sequence[Evaluation], limits: Limits) -> Program:
        """Return the program."""
        n_members = len(evaluations[0].members)
        shifts = [e.shift for e in evaluations]
        shift = -1
        if any(s is not None for s in shifts):
            rows = [torch.zeros(self.chunk) if s is None else s for s in shifts]
            shift = self.vector(torch.cat(rows), pad=False)
        offsets, row_floats = [], 0
        for width in self.widths:
            offsets.append(row_floats)
            row_floats += padded(width)
        header = {
            Header.VERSION: VERSION,
            Header.INPUTS: self.widths[Register.INPUTS],
            Header.CHUNK: self.chunk,
            Header.REGISTERS: len(self.widths),
            Header.PROLOGUE: len(self._prologue),
            Header.BODY: len(self._body),
            Header.EVALUATIONS: len(evaluations),
            Header.MEMBERS: n_members,
            Header.PRECISION: int(Products[self.precision.upper()]),
            Header.CENTER: self.vector(limits.center),
            Header.SPAN: self.vector(limits.span),
            Header.SHIFT: shift,
            Header.ROW_FLOATS: row_floats,
        }
        code = [header[field] for field in Header]
        for offset, width in zip(offsets, self.widths, strict=True):
            code += [offset, width]
        for instruction in self._prologue + self._body:
            code += instruction
        plan = _limits_row(limits)
        for evaluation in evaluations:
            plan += _plan_row(evaluation)
        return Program(
            code=torch.tensor(code, dtype=torch.int64),
            plan=torch.tensor(plan, dtype=torch.float64),
            vectors=torch.cat(self._vectors).float(),
            weights=torch.cat(self._weights),
        )

    def emit(
        self,
        op: Op,
        *,
        in_loop: bool = True,
        dst: int = -1,
        src: int = -1,
        src2: int = -1,
        n_in: int = 0,
        n_out: int,
        weights: int = 0,
        vector: int = 0,
        stride: int = 0,
        activation: Act = Act.NONE,
        accumulate: bool = False,
        extra: int = 0,
        src3: int = -1,
        grid: Mapping[Field, int] | None = None,
    ) -> None:
        """Write an instruction, see ``program.h``; ``grid`` holds the fields of those on grids."""
        values = {
            Field.OP: int(op),
            Field.DST: dst,
            Field.SRC: src,
            Field.SRC2: src2,
            Field.IN: n_in,
            Field.OUT: n_out,
            Field.WEIGHTS: weights,
            Field.VECTOR: vector,
            Field.STRIDE: stride,
            Field.ACTIVATION: int(activation),
            Field.ACCUMULATE: int(accumulate),
            Field.EXTRA: extra,
            Field.SRC3: src3,
            **(grid or {}),
        }
        (self._body if in_loop else self._prologue).append(
            [values.get(field, 0) for field in Field]
        )

    def vector(self, values: Tensor, *, pad: bool = True) -> int:
        """Store numbers, each row of them padded, and return where they start."""
        rows = values.detach().double().cpu()
        rows = rows.reshape(-1, rows.shape[-1])
        if pad:
            rows = torch.nn.functional.pad(rows, (0, padded(rows.shape[1]) - rows.shape[1]))
        at = self._n_vectors
        flat = rows.reshape(-1)
        extra = padded(len(flat)) - len(flat)
        self._vectors.append(torch.nn.functional.pad(flat, (0, extra)))
        self._n_vectors += len(flat) + extra
        return at

    def pack(self, weight: Tensor) -> int:
        """Store a layer's weights, or those of a convolution, and return where they start."""
        pack = pack_weights if weight.ndim == 2 else pack_kernel
        full = weight.detach().float().cpu()
        if self.precision == "fp32":
            packed = pack(full, pairs=False)
        else:
            pieces = pieces_of(full, PIECES if self.precision == "bf16x3" else 1)
            packed = torch.cat([pack(piece, pairs=True) for piece in pieces])
        at = self._n_weights
        self._weights.append(packed)
        self._n_weights += len(packed)
        return at


def _limits_row(limits: Limits) -> list[float]:
    low, high = limits.every_step or (-math.inf, math.inf)
    low_end, high_end = limits.end or (-math.inf, math.inf)
    row = {
        PlanHeader.INIT: limits.init,
        PlanHeader.LOW: low,
        PlanHeader.HIGH: high,
        PlanHeader.LOW_END: low_end,
        PlanHeader.HIGH_END: high_end,
    }
    return [row[field] for field in PlanHeader]


def _plan_row(evaluation: Evaluation) -> list[float]:
    row = {
        Plan.FROM_STAGE: float(evaluation.from_stage),
        Plan.TO_STAGE: float(evaluation.to_stage),
        Plan.X: evaluation.c_x,
        Plan.DENOISED: evaluation.c_denoised,
        Plan.PREVIOUS: evaluation.c_previous,
        Plan.NOISE: evaluation.c_noise,
        Plan.NOISE_INDEX: float(evaluation.noise_index),
        Plan.ON_X: evaluation.on_x,
    }
    return [row[field] for field in Plan if field != Plan.MEMBERS] + [
        factor for pair in evaluation.members for factor in pair
    ]
