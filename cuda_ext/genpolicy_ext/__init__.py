"""Compiled operators of genpolicy; loaded by it where this package is installed."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

from genpolicy_ext._build import ABI, BUILT_WITH_TORCH, CUDA_ARCHITECTURES
from genpolicy_ext._version import __version__

__all__ = [
    "ABI",
    "BUILT_WITH_TORCH",
    "CUDA_ARCHITECTURES",
    "__version__",
    "has_matrix_unit",
    "isa",
    "isas",
    "library",
    "multiply_adds",
    "peak_gflops",
    "read_gbytes",
]


def library() -> Path:
    """Return the shared library with the operators.

    Raises:
        OSError: when it is not there, because the package was not built.
    """
    found = Path(__file__).with_name("libgenpolicy_ext.so")
    if not found.is_file():
        raise OSError(f"{found} is not there; build it with: pip install ./cuda_ext")
    return found


def isa() -> str:
    """Return the instruction set of the CPU kernels that this processor runs."""
    return _function("genpolicy_isa", ctypes.c_char_p)().decode()


def isas() -> list[str]:
    """Return the instruction sets that ``GENPOLICY_ISA`` may name on this processor."""
    return _function("genpolicy_isas", ctypes.c_char_p)().decode().split()


def has_matrix_unit() -> bool:
    """Return whether those kernels run programs whose float32 numbers are sums of bfloat16."""
    return bool(_function("genpolicy_has_matrix_unit", ctypes.c_int)())


def multiply_adds(n_turns: int) -> int:
    """Multiply and add on registers alone, and return how many operations that were.

    Timed beside something else, it says what the processor could do at that moment.
    """
    return _function("genpolicy_multiply_adds", ctypes.c_int64)(ctypes.c_int64(n_turns))


def peak_gflops() -> float:
    """Return what one core adds and multiplies at most, in 1e9 operations per second, measured.

    It is the fastest of 400 attempts of some 60 microseconds.
    """
    return _function("genpolicy_peak_gflops", ctypes.c_double)()


def read_gbytes(n_bytes: int) -> float:
    """Return how fast one core reads so much memory again and again, in 1e9 bytes per second."""
    function = _function("genpolicy_read_gbytes", ctypes.c_double)
    memory = (ctypes.c_char * (n_bytes + 64))()
    ctypes.memset(memory, 1, n_bytes + 64)  # pages that were never written are all the same one
    address = -(-ctypes.addressof(memory) // 64) * 64  # as the weights lie: no read crosses a line
    return function(ctypes.c_void_p(address), ctypes.c_int64(n_bytes))


@functools.cache
def _function(name: str, result: type) -> Any:
    import torch  # noqa: F401 - its libraries have to be there first

    function = getattr(ctypes.CDLL(str(library())), name)
    function.restype = result
    return function
