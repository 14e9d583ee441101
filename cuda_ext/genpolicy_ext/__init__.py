"""Compiled operators of genpolicy; loaded by it where this package is installed."""

from __future__ import annotations

import ctypes
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


def peak_gflops() -> float:
    """Return what one core adds and multiplies at most, in 1e9 operations per second, measured."""
    return _function("genpolicy_peak_gflops", ctypes.c_double)()


def read_gbytes(n_bytes: int) -> float:
    """Return how fast one core reads so much memory again and again, in 1e9 bytes per second."""
    function = _function("genpolicy_read_gbytes", ctypes.c_double)
    memory = (ctypes.c_char * (n_bytes + 64))()
    ctypes.memset(memory, 1, n_bytes + 64)  # pages that were never written are all the same one
    address = -(-ctypes.addressof(memory) // 64) * 64  # as the weights lie: no read crosses a line
    return function(ctypes.c_void_p(address), ctypes.c_int64(n_bytes))


def _function(name: str, result: type) -> Any:
    import torch  # noqa: F401 - its libraries have to be there first

    function = getattr(ctypes.CDLL(str(library())), name)
    function.restype = result
    return function
