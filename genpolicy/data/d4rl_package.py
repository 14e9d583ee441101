"""The package d4rl, for users who have it; nothing of ours needs it.

Release 1.1, the last one, needs gym below 0.25 and imports mujoco_py, which without MuJoCo 2.1 in
``~/.mujoco`` raises a plain ``Exception`` that d4rl does not expect. With mujoco_py out of the way
its data functions and reference returns work on current Python; of its environments none that is
used here does. ``pip install 'genpolicy[d4rl]'`` installs it with mujoco-py, pybullet and the rest;
``pip install --no-deps d4rl==1.1 gym==0.24.1 gym_notices`` is enough for this module.

Data sets that the package has downloaded are found by ``genpolicy.data.registry`` where
``D4RL_DATASET_DIR`` names its folder (the package's default is ``~/.d4rl/datasets``).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Generator, Mapping
from types import ModuleType
from typing import Any

from genpolicy.errors import DataError

__all__ = ["import_d4rl", "package_references"]


def import_d4rl() -> ModuleType:
    """Import the package, without mujoco_py and without its messages.

    mujoco_py stays blocked in this process unless it was imported before.

    Raises:
        DataError: when it is not installed, or fails even so, saying what it needs.
    """
    sys.modules.setdefault("mujoco_py", None)  # pyright: ignore[reportArgumentType]
    try:
        with _quietly():
            return importlib.import_module("d4rl")
    except Exception as error:  # whatever its imports raise
        raise DataError(
            f"the package d4rl cannot be imported ({type(error).__name__}: {error}); release 1.1 "
            "works after: pip install --no-deps d4rl==1.1 gym==0.24.1 gym_notices"
        ) from error


@contextlib.contextmanager
def _quietly() -> Generator[None]:
    """Keep the messages of d4rl's optional parts, which say what is missing of them, off."""
    name = "D4RL_SUPPRESS_IMPORT_ERROR"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def package_references() -> Mapping[str, tuple[float, float]]:
    """Return the (minimum, maximum) reference returns of the installed package, by its names.

    ``genpolicy.references`` has them without the package.

    Raises:
        DataError: when the package cannot be imported.
    """
    infos: Any = importlib.import_module(f"{import_d4rl().__name__}.infos")
    high: Mapping[str, float] = infos.REF_MAX_SCORE
    low: Mapping[str, float] = infos.REF_MIN_SCORE
    return {name: (float(low[name]), float(high[name])) for name in low if name in high}
