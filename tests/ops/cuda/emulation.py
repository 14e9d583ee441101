"""The CUDA kernels compiled for the CPU with ``shim/cuda_runtime.h``, called by their C ABI."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from genpolicy.ops.program import Program

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[2] / "cuda_ext" / "csrc"
# Contraction is off on the device too (-fmad=false): what is fused there says so.
FLAGS = ["-std=c++20", "-O1", "-pthread", "-ffp-contract=off", "-fno-strict-aliasing"]
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]

MANY, FEW, SMALL, TINY, ONE = range(5)
"""Fictitious devices of the shim, see ``kDevices``."""


def compiler() -> str | None:
    """Return the C++ compiler, or None."""
    return shutil.which(os.environ.get("CXX", "g++"))


def built(name: str, *flags: str, main: str = "emulated.cpp") -> Path:
    """Return a library or program made of the kernels, an earlier one where nothing changed."""
    patterns = ((SOURCES, "*.h"), (SOURCES, "cuda/*"), (HERE, "shim/*"))
    sources = sorted(path for folder, pattern in patterns for path in folder.glob(pattern))
    command = [str(compiler()), *FLAGS, *WARNINGS, "-DGENPOLICY_EMULATED", *flags, *fast_sums()]
    command += [f"-I{HERE / 'shim'}", f"-I{SOURCES}", str(HERE / "shim" / main)]
    digest = hashlib.sha256(" ".join(command).encode())
    for source in sources:
        digest.update(source.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"genpolicy-emulated-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"{digest.hexdigest()[:20]}-{name}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as staging:
            made = Path(staging) / name
            done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            made.rename(target)
    return target


def fast_sums() -> list[str]:
    """Return the flag for fused multiply-adds where this processor has them; else libm has."""
    try:
        has_them = " fma " in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        has_them = False
    return ["-mfma"] if has_them else []


class Gpu:
    """The C functions of ``csrc/cuda/api.h`` on tensors of the host."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.genpolicy_cuda_error_name.restype = ctypes.c_char_p
        self.library.emulated_last_launch.restype = ctypes.POINTER(ctypes.c_int64 * 5)

    def workspace(self, program: Program, n_rows: int, device: int) -> int:
        """Return the bytes of device memory that a call needs."""
        code, plan, vectors, weights = program.tensors
        found = ctypes.c_int64(-1)
        error = self.library.genpolicy_cuda_mlp_sample_workspace(
            *_sized(code), *_sized(plan), _size(vectors), _size(weights), ctypes.c_int64(n_rows),
            device, ctypes.byref(found),
        )  # fmt: skip
        self.check(error)
        return found.value

    def sample(
        self, inputs: Tensor, seeds: Tensor, program: Program, device: int = MANY, stream: int = 7
    ) -> Tensor:
        """Return what ``mlp_sample`` returns."""
        code, plan, vectors, weights = program.tensors
        n_rows = len(inputs)
        n_bytes = self.workspace(program, n_rows, device)
        workspace = torch.full((n_bytes // 16, 2), -1, dtype=torch.int64)
        out = torch.full((n_rows, int(code[2])), torch.nan)
        error = self.library.genpolicy_cuda_mlp_sample(
            _at(inputs), _at(seeds), *_sized(code), *_sized(plan), *_sized(vectors),
            *_sized(weights), _at(out), ctypes.c_int64(n_rows), _at(workspace),
            ctypes.c_int64(n_bytes), device, ctypes.c_void_p(stream),
        )  # fmt: skip
        self.check(error)
        return out

    def row_noise(
        self, seeds: Tensor, n_values: int, index: int, stream: int, device: int = MANY
    ) -> Tensor:
        """Return what ``row_noise`` returns."""
        out = torch.full((len(seeds), n_values), torch.nan)
        error = self.library.genpolicy_cuda_row_noise(
            _at(seeds), ctypes.c_int64(len(seeds)), ctypes.c_int64(n_values),
            ctypes.c_uint32(index), ctypes.c_uint32(stream), _at(out), device, ctypes.c_void_p(7),
        )  # fmt: skip
        self.check(error)
        return out

    def check(self, error: int) -> None:
        """Raise ``RuntimeError`` with the name of an error."""
        if error:
            raise RuntimeError(self.library.genpolicy_cuda_error_name(error).decode())

    def last_launch(self) -> dict[str, int]:
        """Return where and how the last kernel was started."""
        names = ("device", "blocks", "threads", "shared_bytes", "stream")
        return dict(zip(names, self.library.emulated_last_launch().contents, strict=True))


def _at(tensor: Tensor) -> ctypes.c_void_p:
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())


def _size(tensor: Tensor) -> ctypes.c_int64:
    return ctypes.c_int64(tensor.numel())


def _sized(tensor: Tensor) -> tuple[ctypes.c_void_p, ctypes.c_int64]:
    return _at(tensor), _size(tensor)
