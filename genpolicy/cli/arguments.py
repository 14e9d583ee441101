"""Arguments of `genpolicy data`: a data set or a file, then ``key=value`` options and flags."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

from genpolicy.errors import UsageError, nearest

__all__ = ["file_of", "read_options", "setting_of", "task_of"]


def task_of(argv: Sequence[str], action: str) -> str:
    """Return the task that stands first, checked against the known ones."""
    from genpolicy.data.registry import dataset_entry

    if not argv or "=" in argv[0] or argv[0].startswith("-"):
        raise UsageError(
            f"data {action} needs a data set; `genpolicy data list` shows them, for example: "
            f"genpolicy data {action} maze2d-umaze"
        )
    return dataset_entry(argv[0]).name


def file_of(argv: Sequence[str], action: str) -> Path:
    """Return the robomimic file that stands first."""
    if not argv or "=" in argv[0] or argv[0].startswith("-"):
        raise UsageError(
            f"data {action} needs a robomimic file, for example: genpolicy data {action} demos.hdf5"
        )
    return Path(argv[0]).expanduser()


def read_options(
    argv: Sequence[str], *, known: Collection[str], flags: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Split arguments into ``key=value`` options (values as YAML reads them) and flags.

    Raises:
        UsageError: for a key or flag that is not known.
    """
    options: dict[str, Any] = {}
    found: list[str] = []
    for argument in argv:
        key, equals, text = argument.partition("=")
        if argument in flags:
            found.append(argument)
        elif not equals:
            valid = [*flags, *(f"{name}=" for name in known)]
            raise UsageError(f"cannot read {argument!r}; {nearest(argument, valid)}")
        elif key not in known:
            raise UsageError(f"unknown option {key!r}; {nearest(key, known)}")
        else:
            try:
                options[key] = text if key == "path" else yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise UsageError(f"cannot read the value of {argument!r}") from error
    return options, found


def setting_of(name: str, value: Any, *, like: int | float | str) -> int | float | str:
    """Return ``value`` as the type of ``like``; 1e5 and 100_000 are integers.

    Raises:
        UsageError: for what is no such value.
    """
    if isinstance(like, str):
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(like, float):
        if math.isfinite(number):
            return number
        raise UsageError(f"{name} is {value!r}, expected a number")
    if number.is_integer():
        return int(number)
    raise UsageError(f"{name} is {value!r}, expected an integer")
