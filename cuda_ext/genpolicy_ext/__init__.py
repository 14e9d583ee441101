"""Compiled operators of genpolicy; loaded by it where this package is installed."""

from __future__ import annotations

import ctypes
from pathlib import Path

from genpolicy_ext._build import ABI, BUILT_WITH_TORCH, CUDA_ARCHITECTURES
from genpolicy_ext._version import __version__

__all__ = ["ABI", "BUILT_WITH_TORCH", "CUDA_ARCHITECTURES", "__version__", "isa", "library"]


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
    function = ctypes.CDLL(str(library())).genpolicy_isa
    function.restype = ctypes.c_char_p
    return function().decode()
