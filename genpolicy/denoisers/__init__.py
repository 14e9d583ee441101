"""Networks as denoisers: posterior means, flow maps, and the contracts they share."""

from genpolicy.denoisers.base import (
    Bound,
    Denoiser,
    Kind,
    SamplerClass,
    Step,
    SummedDenoiser,
    Target,
    TrackingDenoiser,
    Untracked,
    as_tracking,
    target_of,
)
from genpolicy.denoisers.flow_map import Boundary, FlowMapDenoiser
from genpolicy.denoisers.parameterized import ParameterizedDenoiser, Precondition
from genpolicy.denoisers.trajectory import TrajectoryDenoiser

__all__ = [
    "Bound",
    "Boundary",
    "Denoiser",
    "FlowMapDenoiser",
    "Kind",
    "ParameterizedDenoiser",
    "Precondition",
    "SamplerClass",
    "Step",
    "SummedDenoiser",
    "Target",
    "TrackingDenoiser",
    "TrajectoryDenoiser",
    "Untracked",
    "as_tracking",
    "target_of",
]
