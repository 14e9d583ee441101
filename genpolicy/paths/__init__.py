"""Noising paths ``x_t = alpha(t) clean + sigma(t) noise``, prediction types and grids of times."""

from genpolicy.paths.base import Path, expand_t, log_snr
from genpolicy.paths.from_diffusers import DiffusersSettings, from_diffusers
from genpolicy.paths.gaussian import CosinePath, KarrasPath, LinearPath, VPPath
from genpolicy.paths.grids import GRIDS, check_grid, grid
from genpolicy.paths.prediction import (
    Prediction,
    check_prediction,
    convert,
    from_clean_and_noise,
    to_denoised,
)
from genpolicy.paths.tabulated import Schedule, TabulatedPath

__all__ = [
    "GRIDS",
    "CosinePath",
    "DiffusersSettings",
    "KarrasPath",
    "LinearPath",
    "Path",
    "Prediction",
    "Schedule",
    "TabulatedPath",
    "VPPath",
    "check_grid",
    "check_prediction",
    "convert",
    "expand_t",
    "from_clean_and_noise",
    "from_diffusers",
    "grid",
    "log_snr",
    "to_denoised",
]
