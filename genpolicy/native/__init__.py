"""Policies as programs of the compiled operators: the whole denoising loop in one call."""

from genpolicy.native.builder import Unsupported
from genpolicy.native.expansion import Source
from genpolicy.native.sources import Field
from genpolicy.native.write import write_program

__all__ = ["Field", "Source", "Unsupported", "write_program"]
