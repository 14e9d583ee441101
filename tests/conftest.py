"""What every test runs under: one thread, no network, its own cache, checked shapes, no leaks.

- One thread per process: the tests use tiny tensors, and workers share the machine.
- ``GENPOLICY_OFFLINE=1`` and a temporary ``GENPOLICY_CACHE``: no test downloads anything or meets a
  data set of the developer's.
- jaxtyping + beartype check the annotated shapes of the core layers at run time. They cost a few
  microseconds a call; ``GENPOLICY_TYPECHECK=0`` turns them off.
- Every test starts from the same torch seed, so that its outcome does not depend on which ran
  before it, and fails if it leaves global state changed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["GENPOLICY_OFFLINE"] = "1"
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "agg")

import numpy as np
import pytest
import torch

if os.environ.get("GENPOLICY_TYPECHECK", "1") != "0":
    from jaxtyping import install_import_hook

    # Before anything imports genpolicy: the hook rewrites modules as they load.
    install_import_hook(
        [f"genpolicy.{layer}" for layer in ("paths", "denoisers", "sampling", "losses", "ops")],
        "beartype.beartype",
    )

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    cache = tempfile.mkdtemp(prefix="genpolicy-test-cache-")
    os.environ["GENPOLICY_CACHE"] = cache
    os.environ.pop("GENPOLICY_DATA", None)
    config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = None if torch.cuda.is_available() else "needs a CUDA device; this machine has none"
    for item in items:
        if reason and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


def _global_state() -> dict[str, Any]:
    """Global state that no code of the library may change, in a form that compares with ``==``."""
    kind, keys, position, has_gauss, _ = np.random.get_state()  # noqa: NPY002 - guarding it
    return {
        "numpy's global random generator": (kind, np.asarray(keys).tobytes(), position, has_gauss),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's grad mode": torch.is_grad_enabled(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "torch's thread count": torch.get_num_threads(),
        "the working directory": os.getcwd(),
        "environment variables": {
            key: value
            for key, value in os.environ.items()
            if key.startswith(("GENPOLICY_", "MUJOCO_", "PYOPENGL_", "OMP_"))
        },
    }


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Seed torch, run the test, and fail it where it changed global state.

    Two global generators are left out: torch's, from which constructors of ``torch.nn`` draw, and
    Python's, with which beartype picks the items of a list that it checks.
    """
    torch.manual_seed(0)
    before = _global_state()
    yield
    after = _global_state()
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        pytest.fail(f"the test left global state changed: {', '.join(changed)}")


@pytest.fixture
def off_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip where nothing renders off screen, and put back what choosing a renderer sets."""
    from genpolicy.envs.rendering import choose_gl
    from genpolicy.errors import SimulatorError

    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    try:
        choose_gl()
    except SimulatorError as error:
        pytest.skip(str(error))
