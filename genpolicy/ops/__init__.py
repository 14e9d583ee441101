"""The kernels of sampling: ``reference`` and ``mlp_reference`` define what is correct."""

from genpolicy.ops.library import Backend, backend, is_compiled, peak_gflops
from genpolicy.ops.noise import normals, philox4x32, round_keys
from genpolicy.ops.reference import affine_step

__all__ = [
    "Backend",
    "affine_step",
    "backend",
    "is_compiled",
    "normals",
    "peak_gflops",
    "philox4x32",
    "round_keys",
]
