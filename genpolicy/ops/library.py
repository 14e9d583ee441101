"""The compiled operators: schemas, references, and which implementation answers.

Schemas and references are registered here; the package ``genpolicy_ext`` (``make ext``) adds
compiled kernels to them. Call sites, ``torch.compile`` and ``torch.export`` see the same operators
with and without it.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genpolicy.errors import UsageError, nearest
from genpolicy.ops import mlp_reference

__all__ = ["LIBRARY", "Backend", "backend", "is_compiled", "peak_gflops", "wanted"]

_ABI = 4
"""Version of schemas and program layouts; that of the compiled package has to be the same."""

_MODES = ("auto", "off", "require")
_OLDEST_TORCH = (2, 10)

_torch: Any = torch  # its library module is not annotated in full
LIBRARY: Any = torch.library.Library("genpolicy", "DEF")
LIBRARY.define("row_noise(Tensor seeds, int n_values, int index, int stream) -> Tensor")
LIBRARY.define(
    "mlp_sample(Tensor inputs, Tensor seeds, Tensor code, Tensor plan, Tensor vectors, "
    "Tensor weights, int chunk) -> Tensor"
)


def _fake_row_noise(seeds: Tensor, n_values: int, index: int, stream: int) -> Tensor:
    return seeds.new_empty((seeds.shape[0], n_values), dtype=torch.float32)


def _fake_mlp_sample(
    inputs: Tensor,
    seeds: Tensor,
    code: Tensor,
    plan: Tensor,
    vectors: Tensor,
    weights: Tensor,
    chunk: int,
) -> Tensor:
    return vectors.new_empty((inputs.shape[0], chunk))


for _name, _fake in (("row_noise", _fake_row_noise), ("mlp_sample", _fake_mlp_sample)):
    LIBRARY.impl(_name, getattr(mlp_reference, _name), "CompositeExplicitAutograd")
    _torch.library.register_fake(f"genpolicy::{_name}", _fake, lib=LIBRARY)


@dataclass(frozen=True)
class Backend:
    """Which implementation of the operators answers.

    Attributes:
        name: ``"compiled"`` or ``"reference"``.
        reason: why it is the reference, or what was loaded.
        isa: instruction set of the CPU kernels in use; None for the reference.
        cuda: CUDA architectures of the compiled kernels; empty for a CPU build.
        has_matrix_unit: whether the CPU kernels run programs with ``Precision.BF16X3``.
        remedy: what would make the compiled kernels answer; empty where they do.
    """

    name: str
    reason: str
    isa: str | None = None
    cuda: tuple[str, ...] = ()
    has_matrix_unit: bool = False
    remedy: str = ""


def wanted() -> str:
    """Return ``GENPOLICY_EXT``: ``auto`` (use kernels where there are some), ``off``, ``require``.

    Raises:
        UsageError: for another value.
    """
    value = os.environ.get("GENPOLICY_EXT", "auto")
    if value not in _MODES:
        raise UsageError(f"GENPOLICY_EXT is {value!r}; {nearest(value, _MODES)}")
    return value


def backend() -> Backend:
    """Return which implementation answers, loading the compiled one at the first call.

    Raises:
        UsageError: when ``GENPOLICY_EXT=require`` and there are no compiled kernels.
    """
    mode = wanted()
    if mode == "off":
        return Backend("reference", "GENPOLICY_EXT=off", remedy="unset GENPOLICY_EXT")
    found = _load()
    if mode == "require" and found.name != "compiled":
        raise UsageError(
            f"GENPOLICY_EXT=require, but there are no compiled operators: {found.reason}; "
            f"{found.remedy}"
        )
    return found


def is_compiled() -> bool:
    """Return whether compiled kernels answer, see ``backend``."""
    return backend().name == "compiled"


def peak_gflops() -> float | None:
    """Return what one core of this machine computes at most, in 1e9 operations per second.

    It is measured by the compiled operators; None without them.
    """
    if not is_compiled():
        return None
    package: Any = importlib.import_module("genpolicy_ext")
    return package.peak_gflops()


@functools.cache
def _load() -> Backend:
    """Load the compiled operators once; what goes wrong is warned of once."""
    remedy = "build it with: pip install ./cuda_ext (or make ext)"
    try:
        package: Any = importlib.import_module("genpolicy_ext")
    except ModuleNotFoundError:
        return Backend("reference", "genpolicy_ext is not installed", remedy=remedy)
    found = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])
    try:
        if found < _OLDEST_TORCH:
            raise OSError(f"it needs torch 2.10 or newer, this is {torch.__version__}")
        if package.ABI != _ABI:
            raise OSError(f"it has interface {package.ABI}, this genpolicy needs {_ABI}")
        _torch.ops.load_library(str(package.library()))
    except OSError as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        version = getattr(package, "__version__", "?")
        reason = f"genpolicy_ext {version} cannot be used: {error}{cause}"
        warnings.warn(
            f"{reason}; sampling goes on in torch, slower; {remedy}", RuntimeWarning, stacklevel=3
        )
        return Backend("reference", reason, remedy=remedy)
    isa = package.isa()
    asked = os.environ.get("GENPOLICY_ISA", isa)
    if asked != isa:
        raise UsageError(
            f"GENPOLICY_ISA is {asked!r}, which this processor does not run, or which does not "
            f"exist; its best is {isa!r}, it runs {', '.join(package.isas())}"
        )
    return Backend(
        "compiled",
        f"genpolicy_ext {package.__version__}, built with torch {package.BUILT_WITH_TORCH}",
        isa=isa,
        cuda=tuple(package.CUDA_ARCHITECTURES),
        has_matrix_unit=package.has_matrix_unit(),
    )
