"""What images in observations have to be: uint8, channels last, 0 to 255."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genpolicy.data.lazy import blocks_of
from genpolicy.errors import DataError

__all__ = ["as_image", "check_image"]

_CHANNELS = (1, 3, 4)


def as_image(name: str, key: str, value: NDArray[Any]) -> NDArray[Any]:
    """Return images as uint8, converting float arrays that hold the integers 0 to 255.

    Raises:
        DataError: for floats in [0, 1] or with fractions, which would be wrapped or rounded.
    """
    if value.dtype == np.uint8:
        return value
    low, high = float(value.min()), float(value.max())
    converted = value.astype(np.uint8) if low >= 0 and high <= 255 else None
    if converted is None or high <= 1.0 or not np.array_equal(converted, value):
        raise DataError(
            f"{name}: images {key!r} are {value.dtype} in [{low:g}, {high:g}], expected uint8 from "
            "0 to 255; use (255 * image).round().astype(uint8) for images in [0, 1]"
        )
    return converted


def check_image(name: str, key: str, value: NDArray[Any]) -> None:
    """Refuse three-dimensional observations that are not uint8 images with channels last."""
    if value.ndim != 4:
        return
    shape = value.shape[1:]
    if value.dtype != np.uint8:
        raise DataError(
            f"{name}: images {key!r} are {value.dtype} in [{value.min():g}, {value.max():g}], "
            "expected uint8 from 0 to 255; use (255 * image).round().astype(uint8) for images in "
            "[0, 1]"
        )
    if shape[2] not in _CHANNELS:
        order = "channels first" if shape[0] in _CHANNELS else "of no known layout"
        raise DataError(
            f"{name}: images {key!r} have shape {shape}, which is {order}; expected (height, "
            "width, channels) with 1, 3 or 4 channels: use np.moveaxis(images, 1, -1)"
        )
    if len(value) and not any(int(block.max()) > 1 for block in blocks_of(value)):
        raise DataError(
            f"{name}: images {key!r} have no value above 1, expected 0 to 255; they look like "
            "images in [0, 1] that were cast to uint8"
        )
