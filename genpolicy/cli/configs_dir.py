"""Where the configurations are: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

from genpolicy.errors import UsageError

__all__ = ["configs_dir"]


def configs_dir() -> Path:
    """Return the folder that holds ``train.yaml`` and the configuration groups.

    Returns:
        ``configs/`` of the repository for an editable install, ``genpolicy/_configs`` for a wheel.

    Raises:
        UsageError: when the installation has neither.
    """
    package = Path(__file__).resolve().parents[1]
    candidates = [package / "_configs", package.parent / "configs"]
    for folder in candidates:
        if (folder / "train.yaml").is_file():
            return folder
    raise UsageError(
        f"found no configurations; expected train.yaml in {candidates[0]} (wheel) or "
        f"{candidates[1]} (checkout); reinstall genpolicy"
    )
