"""Networks as denoisers: posterior means, flow maps, and the contracts they share."""

from genpolicy.denoisers.base import (
    Denoiser,
    Kind,
    Step,
    TrackingDenoiser,
    Untracked,
    as_tracking,
)
from genpolicy.denoisers.flow_map import Boundary, FlowMapDenoiser
from genpolicy.denoisers.parameterized import ParameterizedDenoiser, Precondition
from genpolicy.denoisers.trajectory import TrajectoryDenoiser

__all__ = [
    "Boundary",
    "Denoiser",
    "FlowMapDenoiser",
    "Kind",
    "ParameterizedDenoiser",
    "Precondition",
    "Step",
    "TrackingDenoiser",
    "TrajectoryDenoiser",
    "Untracked",
    "as_tracking",
]
