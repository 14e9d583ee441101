"""The emulated GPU, built once."""

from __future__ import annotations

import pytest

from tests.ops.cuda.emulation import Gpu, built, compiler


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    if compiler() is None:
        pytest.skip("no C++ compiler; set CXX or install g++")
    return Gpu(built("libemulated.so", "-fPIC", "-shared"))
