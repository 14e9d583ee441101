"""Images that stay in their HDF5 file and are read when a batch asks for them.

A ``LazyRows`` has the shape and type of the array that it stands for. Low-dimensional observations
are small and always lie in memory; the arrays of ``Episodes`` that may be lazy are uint8 images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from genpolicy.errors import DataError

__all__ = ["LazyRows", "blocks_of", "rows_from"]

_BLOCK_BYTES = 1 << 24


class LazyRows:
    """The rows of several arrays of one HDF5 file, one after the other.

    Args:
        path: the file, which must not change while it is read.
        names: the arrays, for example ``data/demo_0/obs/agentview_image``.
        lengths: rows of each.
        shape: shape of one row.
        dtype: type of the values.
        rows: which of the rows to present, in which order; None presents all.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        names: Sequence[str],
        lengths: Sequence[int],
        shape: tuple[int, ...],
        dtype: Any,
        rows: NDArray[Any] | None = None,
    ) -> None:
        self.path, self.names = Path(path), tuple(names)
        self.lengths = tuple(int(n) for n in lengths)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._ends = np.cumsum(self.lengths, dtype=np.int64)
        self._rows = np.arange(int(self._ends[-1])) if rows is None else rows
        self.shape = (len(self._rows), *shape)
        self._open: tuple[int, Any] | None = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the array would take in memory."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Read rows: an integer, a slice or an array of integers, as of an array in memory."""
        wanted = self._rows[rows]
        found = self._read(np.atleast_1d(wanted).ravel())
        return found.reshape(*np.shape(wanted), *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read everything, for numpy."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def select(self, rows: NDArray[Any]) -> LazyRows:
        """Return the given rows without reading them."""
        return LazyRows(
            self.path,
            names=self.names,
            lengths=self.lengths,
            shape=self.shape[1:],
            dtype=self.dtype,
            rows=self._rows[rows],
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file out when copied to another process."""
        return {**self.__dict__, "_open": None}

    def _file(self) -> Any:
        """Return the file, opened once per process: a handle does not survive a fork."""
        from genpolicy.data.reading import hdf5_library

        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), hdf5_library().File(self.path, "r", locking=False))
        return self._open[1]

    def _read(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Read rows of the file, each once, consecutive ones together."""
        file = self._file()
        unique, where = np.unique(rows, return_inverse=True)
        values = np.empty((len(unique), *self.shape[1:]), self.dtype)
        part = np.searchsorted(self._ends, unique, side="right")
        cuts = np.flatnonzero((np.diff(unique) != 1) | (np.diff(part) != 0)) + 1
        for begin, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(unique)], strict=True):
            if begin == end:
                continue
            number = int(part[begin])
            first = int(unique[begin]) - int(self._ends[number] - self.lengths[number])
            try:
                values[begin:end] = file[self.names[number]][first : first + end - begin]
            except (OSError, KeyError) as error:
                raise DataError(
                    f"{self.path}: {self.names[number]} cannot be read any more ({error}); the "
                    "file was changed or damaged while it was in use"
                ) from error
        return values[where]


def rows_from(values: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """Return ``values[rows]``, which stays lazy where ``values`` is."""
    lazy: Any = values
    if isinstance(lazy, LazyRows):
        return cast("NDArray[Any]", lazy.select(rows))
    return values[rows]


def blocks_of(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield an array in blocks of about 16 MB, so that a lazy one is never in memory at once."""
    per_row = max(1, values.nbytes // max(1, len(values)))
    size = max(1, _BLOCK_BYTES // per_row)
    for begin in range(0, len(values), size):
        yield values[begin : begin + size]
