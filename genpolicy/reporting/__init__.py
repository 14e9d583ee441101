"""Reports of sweeps and runs: what they reached, with intervals, and what became of each job.

Importing this package loads no simulator, no plotting library and no Lightning; ``build`` and
``pictures`` are imported by whoever writes a report.
"""

from genpolicy.reporting.cells import Cell, cells_of
from genpolicy.reporting.entries import Entry, Sweep, read_entries, read_entry, read_sweep

__all__ = ["Cell", "Entry", "Sweep", "cells_of", "read_entries", "read_entry", "read_sweep"]
