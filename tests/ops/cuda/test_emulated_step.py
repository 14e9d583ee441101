"""The CUDA kernel of single steps, run on the CPU, against the reference."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from torch import Tensor

from genpolicy.ops import Draw, Parts, reference
from tests.ops.cuda.emulation import FEW, MANY, Gpu

MOST = 16


def arguments_type(number: Any) -> type[ctypes.Structure]:
    """Return ``StepArguments`` of ``csrc/step.h``."""
    pointer = ctypes.c_void_p
    outs = [("outputs", pointer * MOST)]
    names = ("shift", "previous", "noise", "pinned", "mask", "seeds")
    factors = ("on_x", "c_x", "c_denoised", "c_previous", "c_noise", "lo", "hi")

    class StepArguments(ctypes.Structure):
        _fields_ = [
            *((name, ctypes.c_int64) for name in ("n_rows", "n", "n_outputs")),
            ("x", pointer),
            ("at", pointer),
            *outs,
            *((name, pointer) for name in names),
            ("index", ctypes.c_uint32),
            *((name, number) for name in factors),
            ("terms", number * MOST),
            ("out", pointer),
            ("denoised", pointer),
        ]

    return StepArguments


def step(
    gpu: Gpu,
    x: Tensor,
    parts: Parts,
    told: dict[str, Any],
    seeds: Tensor | None = None,
    device: int = MANY,
) -> tuple[Tensor, Tensor]:
    number = ctypes.c_float if x.dtype == torch.float32 else ctypes.c_double
    arguments = arguments_type(number)()
    kept: list[Tensor] = []

    def at(value: Tensor | None) -> int | None:
        if value is None:
            return None
        kept.append(value.contiguous())
        return kept[-1].data_ptr()

    out, denoised = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
    arguments.n_rows, arguments.n, arguments.n_outputs = len(x), x[0].numel(), len(parts.outputs)
    arguments.x = at(x)
    arguments.at = at(told.get("at", x)) if parts.on_x else None
    for i, (output, factor) in enumerate(zip(parts.outputs, parts.factors, strict=True)):
        arguments.outputs[i], arguments.terms[i] = at(output), factor
    arguments.shift = at(None if parts.shift is None else parts.shift.expand(x.shape[1:]))
    for name in ("previous", "noise", "pinned", "mask"):
        setattr(arguments, name, at(told.get(name)))
    arguments.seeds, arguments.index = at(seeds), 3
    for name in ("c_x", "c_denoised", "c_previous", "c_noise"):
        setattr(arguments, name, told[name])
    arguments.on_x = parts.on_x
    arguments.lo, arguments.hi = told.get("lo", -torch.inf), told.get("hi", torch.inf)
    arguments.out, arguments.denoised = out.data_ptr(), denoised.data_ptr()
    gpu.check(
        gpu.library.genpolicy_cuda_step(
            ctypes.byref(arguments), ctypes.c_int64(ctypes.sizeof(number)), device,
            ctypes.c_void_p(7),
        )
    )  # fmt: skip
    return out, denoised


def numbers(shape: tuple[int, ...], count: int, dtype: torch.dtype) -> list[Tensor]:
    draw = torch.Generator().manual_seed(len(shape) + count)
    return list(torch.randn(count, *shape, generator=draw, dtype=dtype).unbind(0))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 2), (7, 5, 3), (300, 3, 7), (2, 40, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("full", [True, False])
def test_it_is_the_reference(
    gpu: Gpu, shape: tuple[int, int, int], dtype: torch.dtype, full: bool
) -> None:
    x, at, first, second, previous, noise, pinned = numbers(shape, 7, dtype)
    told: dict[str, Any] = {"c_x": 0.3, "c_denoised": 0.6, "c_previous": -0.2, "c_noise": 0.7}
    parts = Parts(outputs=(first,), factors=(1.0,))
    if full:
        told |= {"previous": previous, "noise": noise, "pinned": pinned, "mask": first > 0.5}
        told |= {"at": at, "lo": -0.7, "hi": 0.8}
        shift = second[0, 0].clone()
        parts = Parts(outputs=(first, second), factors=(0.4, -1.2), on_x=0.9, shift=shift)
    found = step(gpu, x, parts, told, device=FEW)
    seen = told.pop("at", x)
    denoised = parts.denoised(seen)
    right = reference.affine_step(x, denoised, **told)
    close = 2e-6 if dtype == torch.float32 else 1e-14
    for actual, expected in zip(found, (right, denoised), strict=True):
        torch.testing.assert_close(actual, expected, atol=close, rtol=close)
    assert gpu.last_launch()["stream"] == 7


@pytest.mark.parametrize("n", [1, 4, 6, 13])
def test_noise_is_drawn_by_seed_and_index(gpu: Gpu, n: int) -> None:
    x = torch.zeros(9, n, 1)
    seeds = torch.arange(9) * 2**60 - 2**62
    told = {"c_x": 0.0, "c_denoised": 0.0, "c_previous": 0.0, "c_noise": 1.0}
    state, _ = step(gpu, x, Parts.of(x), told, seeds)
    torch.testing.assert_close(state, Draw(seeds, 3).numbers(x), atol=1e-6, rtol=1e-6)
    alone, _ = step(gpu, x[4:5], Parts.of(x[4:5]), told, seeds[4:5])
    assert torch.equal(alone[0], state[4])


def test_it_refuses_what_it_cannot_hold(gpu: Gpu) -> None:
    arguments = arguments_type(ctypes.c_float)()
    arguments.n_outputs = MOST + 1
    call = gpu.library.genpolicy_cuda_step
    assert call(ctypes.byref(arguments), ctypes.c_int64(4), MANY, None) != 0
    arguments.n_outputs = 0
    assert call(ctypes.byref(arguments), ctypes.c_int64(2), MANY, None) != 0
    assert call(ctypes.byref(arguments), ctypes.c_int64(4), MANY, None) == 0  # no rows
