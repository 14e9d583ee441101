"""The version of the package, without importing what is built."""

__version__ = "0.1.0"
