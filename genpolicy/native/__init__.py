"""Policies as programs of the compiled operators: the whole denoising loop in one call."""

from genpolicy.native.builder import Unsupported
from genpolicy.native.expansion import Source, expand, sources_of
from genpolicy.native.scheduled import GivenNoise, Scheduled
from genpolicy.native.sources import Field
from genpolicy.native.write import evaluations_of, write_program

__all__ = [
    "Field",
    "GivenNoise",
    "Scheduled",
    "Source",
    "Unsupported",
    "evaluations_of",
    "expand",
    "sources_of",
    "write_program",
]
