"""What the readers share: files that are missing or damaged, and HDF5 with errors that say so."""

from __future__ import annotations

import importlib
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from genpolicy.data.episodes import Array
from genpolicy.errors import DataError

__all__ = [
    "DamagedFileError",
    "array_at",
    "dataset_names",
    "hdf5_library",
    "open_hdf5",
    "require_path",
]


class DamagedFileError(DataError):
    """A file that cannot be read to its end; who knows its origin adds how to fetch it again."""


def require_path(path: str | Path) -> Path:
    """Return ``path`` as a Path that exists.

    Raises:
        DataError: when nothing is there.
    """
    found = Path(path).expanduser()
    if not found.exists():
        raise DataError(f"{found} does not exist; check the path, or fetch or generate the data")
    return found


def hdf5_library() -> Any:
    """Return the module h5py, which is imported on first use and carries no types."""
    return importlib.import_module("h5py")


@contextmanager
def open_hdf5(path: str | Path) -> Generator[Any]:
    """Open an HDF5 file for reading, without taking a lock (network file systems refuse them).

    Raises:
        DataError: when it does not exist.
        DamagedFileError: when it is truncated, corrupt or no HDF5 file. It is not deleted.
    """
    file = require_path(path)
    if file.is_dir():
        raise DataError(f"{file} is a folder, expected an HDF5 file")
    size = file.stat().st_size
    try:
        handle = hdf5_library().File(file, "r", locking=False)
    except OSError as error:
        stored = re.search(r"stored_eof = (\d+)", str(error))
        expected = f"{int(stored[1])} bytes" if stored else "an HDF5 file of unknown size"
        raise DamagedFileError(
            f"{file}: truncated or corrupt: expected {expected}, found {size} bytes"
        ) from error
    try:
        yield handle
    finally:
        handle.close()


def dataset_names(node: Any) -> list[str]:
    """Return the paths of all data sets below an HDF5 group, sorted."""
    kind = hdf5_library().Dataset
    names: list[str] = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, kind):
            names.append(name)

    node.visititems(note)
    return sorted(names)


def array_at(node: Any, key: str, *, rows: slice = slice(None)) -> Array:
    """Read the data set ``key`` of an HDF5 group into memory.

    Raises:
        DataError: when there is none, naming those that are.
        DamagedFileError: when its bytes cannot be decoded.
    """
    found: Any = node.get(key)
    if not isinstance(found, hdf5_library().Dataset):
        raise DataError(
            f"{node.file.filename}: there is no array {key!r} in {node.name}; it has "
            f"{', '.join(dataset_names(node)) or 'none'}"
        )
    try:
        return np.asarray(found[rows])
    except OSError as error:
        raise DamagedFileError(
            f"{node.file.filename}: array {key!r} is corrupt ({error})"
        ) from error
