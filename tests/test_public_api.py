"""The public names of the package, and what importing it may load."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import genpolicy

HEAVY = (
    "cv2",
    "diffusers",
    "gymnasium",
    "gymnasium_robotics",
    "hydra",
    "lightning",
    "matplotlib",
    "minari",
    "mujoco",
    "pygame",
    "robosuite",
)


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after ``statement``."""
    code = f"import sys\n{statement}\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


def test_public_names_are_a_decision():
    # A change here is a change of the public interface: it needs a CHANGELOG line.
    assert set(genpolicy.__all__) == {
        "TaskSpec",
        "__version__",
        "compose",
        "evaluate",
        "load_policy",
    }


def test_every_public_name_resolves_and_is_documented():
    for name in genpolicy.__all__:
        value = getattr(genpolicy, name)
        if callable(value):
            assert value.__doc__, name
            assert value.__name__ == name


def test_version_is_a_release_number():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?(\.dev\d+)?", genpolicy.__version__)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(AttributeError, match="did you mean 'load_policy'"):
        _ = genpolicy.load_polcy


def test_import_genpolicy_loads_neither_torch_nor_anything_heavy():
    loaded = loaded_by("import genpolicy")
    assert "genpolicy" in loaded
    assert not loaded & {*HEAVY, "torch", "numpy"}


def test_public_names_load_no_simulator_lightning_or_matplotlib():
    names = [name for name in genpolicy.__all__ if name != "__version__"]
    loaded = loaded_by("import genpolicy\n" + "\n".join(f"genpolicy.{name}" for name in names))
    assert "torch" in loaded
    assert not loaded & set(HEAVY)
