"""The kernels of sampling: ``reference`` and ``mlp_reference`` define what is correct."""

from genpolicy.ops.library import Backend, backend, is_compiled, peak_gflops
from genpolicy.ops.noise import normals, philox4x32, round_keys
from genpolicy.ops.reference import Parts
from genpolicy.ops.step import Draw, affine_step, compose_step

__all__ = [
    "Backend",
    "Draw",
    "Parts",
    "affine_step",
    "backend",
    "compose_step",
    "is_compiled",
    "normals",
    "peak_gflops",
    "philox4x32",
    "round_keys",
]
