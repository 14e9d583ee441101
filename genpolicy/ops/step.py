"""Single steps of the denoising loop as compiled operators, for networks of any kind.

``mlp_sample`` runs a whole loop; here a network is evaluated by whoever it belongs to, and all that
happens between two evaluations (the sum over members, limits, the rule's sum, noise, known entries)
is one pass over memory. ``reference`` says in torch what the operators compute; derivatives are
defined for all but seeds, so that steps can be differentiated through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from genpolicy.ops import reference
from genpolicy.ops.library import LIBRARY, backend
from genpolicy.ops.mlp_reference import row_noise
from genpolicy.ops.reference import Parts
from genpolicy.shapes import Chunk

__all__ = ["Draw", "affine_step", "compose_step"]

_torch: Any = torch  # its library module is not annotated in full
_MOST_OUTPUTS = 16
_TYPES = (torch.float32, torch.float64)

_TOLD = (
    "Tensor? previous, Tensor? noise, Tensor? seeds, int index, float[] factors, float? lo, "
    "float? hi, Tensor? pinned, Tensor? mask"
)
_SUM = "Tensor? at, Tensor[] outputs, float[] terms, Tensor? shift"
LIBRARY.define(f"affine_step(Tensor x, Tensor denoised, {_TOLD}) -> Tensor")
LIBRARY.define(f"compose_step(Tensor x, {_SUM}, {_TOLD}) -> (Tensor, Tensor)")
LIBRARY.define(f"compose_step_(Tensor(a!) x, {_SUM}, {_TOLD}) -> Tensor")


@dataclass(frozen=True)
class Draw:
    """Noise that a step draws by itself: see ``genpolicy.ops.noise``, stream 0.

    Args:
        seeds: the bits of one unsigned 64-bit seed per row.
        index: which draw.
    """

    seeds: Int64[Tensor, " batch"]
    index: int

    def numbers(self, like: Chunk) -> Chunk:
        """Return the noise of a step whose state is ``like``."""
        drawn = row_noise(self.seeds, like[0].numel(), self.index, 0)
        return drawn.reshape(like.shape).to(like)


def affine_step(
    x: Chunk,
    denoised: Chunk,
    previous: Chunk | None = None,
    noise: Chunk | Draw | None = None,
    *,
    c_x: float,
    c_denoised: float,
    c_previous: float = 0.0,
    c_noise: float = 0.0,
    lo: float | None = None,
    hi: float | None = None,
    pinned: Chunk | None = None,
    mask: Bool[Tensor, "batch horizon action"] | None = None,
) -> Chunk:
    """Take one step of any sampler, see ``reference.affine_step``; the noise may be a ``Draw``."""
    factors = (c_x, c_denoised, c_previous, c_noise)
    return _affine(x, denoised, _told(previous, noise, factors, lo, hi, pinned, mask))


def compose_step(
    x: Chunk,
    parts: Parts,
    previous: Chunk | None = None,
    noise: Chunk | Draw | None = None,
    *,
    at: Chunk | None = None,
    c_x: float,
    c_denoised: float,
    c_previous: float = 0.0,
    c_noise: float = 0.0,
    lo: float | None = None,
    hi: float | None = None,
    pinned: Chunk | None = None,
    mask: Bool[Tensor, "batch horizon action"] | None = None,
    in_place: bool = False,
) -> tuple[Chunk, Chunk]:
    """Sum the members' outputs and take one step, see ``affine_step``.

    Args:
        x: state.
        parts: the denoised actions as a sum.
        previous: see ``affine_step``.
        noise: see ``affine_step``, or which noise to draw.
        at: the state that ``parts`` was evaluated at; None is ``x``.
        c_x: see ``affine_step``, as all that follow.
        c_denoised: factor.
        c_previous: factor.
        c_noise: factor.
        lo: lower limit.
        hi: upper limit.
        pinned: known entries.
        mask: where they are.
        in_place: may overwrite ``x`` with the state, for callers that need it no more.

    Returns:
        The state after the step and the denoised actions, not limited.
    """
    factors = (c_x, c_denoised, c_previous, c_noise)
    told = _told(previous, noise, factors, lo, hi, pinned, mask)
    if parts.is_one or len(parts.outputs) > _MOST_OUTPUTS or not _has_kernels(x):
        denoised = parts.denoised(x if at is None else at)
        return _affine(x, denoised, told), denoised
    outputs = [_like(output, x) for output in parts.outputs]
    shift = None if parts.shift is None else _row(parts.shift, x)
    seen = None if at is None or at is x else _like(at, x)
    terms = (parts.on_x, *parts.factors)
    told = _cast(told, x)
    ops = _torch.ops.genpolicy
    if in_place and x.is_contiguous():
        return x, ops.compose_step_.default(x, seen, outputs, terms, shift, *told)
    return ops.compose_step.default(x.contiguous(), seen, outputs, terms, shift, *told)


def _has_kernels(x: Tensor) -> bool:
    """Return whether compiled kernels take steps of such states here.

    Graphs that are traced hold the reference instead, so that exported programs need no operators
    of this library and compilers see what they can fuse.
    """
    if x.dtype not in _TYPES or x.ndim == 0 or torch.compiler.is_compiling():
        return False
    if x.device.type not in ("cpu", "cuda"):
        return False
    now = backend()
    return now.name == "compiled" and (x.device.type == "cpu" or bool(now.cuda))


def _told(
    previous: Tensor | None,
    noise: Tensor | Draw | None,
    factors: Sequence[float],
    lo: float | None,
    hi: float | None,
    pinned: Tensor | None,
    mask: Tensor | None,
) -> tuple[Any, ...]:
    """Return the arguments of the operators that follow the sum, as they are told."""
    if isinstance(noise, Draw):
        return previous, None, noise.seeds, noise.index, factors, lo, hi, pinned, mask
    return previous, noise, None, 0, factors, lo, hi, pinned, mask


def _cast(told: tuple[Any, ...], x: Tensor) -> tuple[Any, ...]:
    """Return the arguments as the kernels take them; they draw in single precision only."""
    previous, noise, seeds, index, factors, lo, hi, pinned, mask = told
    if seeds is not None and x.dtype != torch.float32:
        noise, seeds, index = Draw(seeds, index).numbers(x), None, 0
    if pinned is not None and mask is not None:
        pinned, mask = _like(pinned, x), mask.expand(x.shape).contiguous()
    else:
        pinned = mask = None
    return (
        None if previous is None else _like(previous, x),
        None if noise is None else _like(noise, x),
        None if seeds is None else seeds.to(x.device),
        index,
        factors,
        lo,
        hi,
        pinned,
        mask,
    )


def _affine(x: Tensor, denoised: Tensor, told: tuple[Any, ...]) -> Tensor:
    """Take a step by the kernels where there are some."""
    if not _has_kernels(x):
        return _affine_default(x, denoised, *told)
    like = _like(denoised, x)
    return _torch.ops.genpolicy.affine_step.default(x.contiguous(), like, *_cast(told, x))


def _like(value: Tensor, x: Tensor) -> Tensor:
    """Return a tensor as the kernels take it: shape, type and device of ``x``, contiguous."""
    if value.dtype != x.dtype or value.device != x.device:
        value = value.to(x)
    if value.shape != x.shape:
        value = value.expand(x.shape)
    return value.contiguous()


def _row(shift: Tensor, x: Tensor) -> Tensor:
    """Return what is added to every row, ``(horizon, action)`` numbers."""
    return shift.to(x).expand(x.shape[1:]).contiguous()


# ---- What the operators are where there are no kernels, and their derivatives --------------------


def _affine_default(
    x: Tensor,
    denoised: Tensor,
    previous: Tensor | None,
    noise: Tensor | None,
    seeds: Tensor | None,
    index: int,
    factors: Sequence[float],
    lo: float | None,
    hi: float | None,
    pinned: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    fresh = noise if seeds is None else Draw(seeds, index).numbers(x)
    c_x, c_denoised, c_previous, c_noise = factors
    return reference.affine_step(
        x,
        denoised,
        previous,
        fresh,
        c_x=c_x,
        c_denoised=c_denoised,
        c_previous=c_previous,
        c_noise=c_noise,
        lo=lo,
        hi=hi,
        pinned=pinned,
        mask=mask,
    )


def _compose_default(
    x: Tensor,
    at: Tensor | None,
    outputs: Sequence[Tensor],
    terms: Sequence[float],
    shift: Tensor | None,
    *told: Any,
) -> tuple[Tensor, Tensor]:
    parts = Parts(on_x=terms[0], outputs=tuple(outputs), factors=tuple(terms[1:]), shift=shift)
    denoised = parts.denoised(x if at is None else at)
    # An operator never returns one of its arguments.
    fresh = denoised.clone() if any(denoised is output for output in outputs) else denoised
    return _affine_default(x, denoised, *told), fresh


def _compose_default_(x: Tensor, *rest: Any) -> Tensor:
    state, denoised = _compose_default(x, *rest)
    x.copy_(state)
    return denoised


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keep what derivatives need: of ``affine_step`` (11 arguments) or ``compose_step`` (14)."""
    rest = inputs[1:]
    told = rest[-9:]
    previous, _, _, _, factors, lo, hi, _, mask = told
    composes = len(inputs) == 14
    denoised = output[1] if composes else rest[0]
    ctx.composes, ctx.factors, ctx.lo, ctx.hi = composes, tuple(factors), lo, hi
    ctx.has = tuple(value is not None for value in (previous, told[1], told[7]))
    if composes:
        ctx.has_at, ctx.terms = rest[0] is not None, tuple(rest[2])
        ctx.has_shift = rest[3] is not None
    ctx.save_for_backward(denoised, previous, mask)


def _inside(values: Tensor, lo: float | None, hi: float | None) -> Tensor | None:
    """Return where a limit lets changes through, as ``torch.clamp`` does; None for everywhere."""
    if lo is None and hi is None:
        return None
    inside = torch.ones_like(values, dtype=torch.bool)
    if lo is not None:
        inside = inside & (values >= lo)
    return inside if hi is None else inside & (values <= hi)


def _through(grad: Tensor, values: Tensor, lo: float | None, hi: float | None) -> Tensor:
    inside = _inside(values, lo, hi)
    return grad if inside is None else torch.where(inside, grad, torch.zeros_like(grad))


def _backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    denoised, previous, mask = ctx.saved_tensors
    c_x, c_denoised, c_previous, c_noise = ctx.factors
    has_previous, has_noise, has_pinned = ctx.has
    grad = grads[0]
    free = grad if mask is None else torch.where(mask, torch.zeros_like(grad), grad)
    of_denoised = c_denoised * _through(free, denoised, ctx.lo, ctx.hi)
    of_previous = c_previous * _through(free, previous, ctx.lo, ctx.hi) if has_previous else None
    of_pinned = None
    if has_pinned and mask is not None:
        of_pinned = torch.where(mask, grad, torch.zeros_like(grad))
    of_noise = c_noise * free if has_noise else None
    told = (of_previous, of_noise, None, None, None, None, None, of_pinned, None)
    of_x = c_x * free
    if not ctx.composes:
        return (of_x, of_denoised, *told)
    of_denoised = of_denoised + grads[1]
    on_x, *terms = ctx.terms
    of_at = on_x * of_denoised
    if not ctx.has_at:
        of_x, of_at = of_x + of_at, None
    of_outputs = [term * of_denoised for term in terms]
    of_shift = of_denoised.sum(0) if ctx.has_shift else None
    return (of_x, of_at, of_outputs, None, of_shift, *told)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _fake_pair(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


for _name, _default, _shape in (
    ("affine_step", _affine_default, _fake),
    ("compose_step", _compose_default, _fake_pair),
    ("compose_step_", _compose_default_, _fake),
):
    LIBRARY.impl(_name, _default, "CompositeExplicitAutograd")
    _torch.library.register_fake(f"genpolicy::{_name}", _shape, lib=LIBRARY)
for _name in ("affine_step", "compose_step"):
    _torch.library.register_autograd(
        f"genpolicy::{_name}", _backward, setup_context=_setup, lib=LIBRARY
    )
