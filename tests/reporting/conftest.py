from __future__ import annotations

from pathlib import Path

import pytest

from genpolicy.reporting import Sweep, read_sweep
from tests.reporting.sweeps import write_sweep


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three methods, two tasks and three seeds, with jobs that did not finish."""
    return write_sweep(tmp_path_factory.mktemp("sweeps") / "synthetic")


@pytest.fixture(scope="session")
def sweep(folder: Path) -> Sweep:
    return read_sweep(folder)
