"""The elementwise kernels of sampling; ``genpolicy.ops.reference`` defines what is correct."""

from genpolicy.ops.reference import affine_step

__all__ = ["affine_step"]
