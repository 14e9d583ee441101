"""Geometry of Push-T that both its data and its simulator need: the block's keypoints, its mirror.

Keypoints are nine points fixed to the block,

    keypoint_k = position + R(angle) local_k.                                                   (1)

``local`` is fitted to the official data set and reproduces its ``keypoint`` array from its
``state`` array to 3e-5 px in frames without contact.

The T, the goal (at 256, 256 and 45 degrees) and the table are symmetric about the line
x + y = 512, so every recorded motion has a mirror image that is as good a demonstration:

    (x, y) -> (512 - y, 512 - x),    angle -> pi/2 - angle.                                     (2)

The fitted keypoints are not symmetric themselves, but (1) is linear in (cos, sin, x, y), and so is
(2): the mirror image of the keypoints is an affine function of them (3), without an angle.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLOCK_KEYPOINTS",
    "TABLE_SIZE",
    "block_keypoints",
    "mirror_image",
    "mirror_keypoints",
    "mirror_point",
    "mirror_state",
]

TABLE_SIZE = 512
"""Width and height of the table in pixels."""

BLOCK_KEYPOINTS = np.array(
    [
        [9.269787, 90.040974],
        [-60.983472, -1.186730],
        [60.912756, -1.393364],
        [-0.270503, 25.543625],
        [-14.064927, 122.815854],
        [39.002738, 32.857404],
        [-39.966415, 32.729655],
        [-16.824344, 62.863179],
        [23.541461, -1.700288],
    ]
)
"""``(9, 2)`` keypoints in the block's frame, in pixels and in the order of the data set."""


def block_keypoints(pose: NDArray[Any]) -> NDArray[np.float64]:
    """Return the keypoints of a block (1).

    Args:
        pose: ``(..., 3)`` position in pixels and angle in radians.

    Returns:
        ``(..., 9, 2)`` in pixels.
    """
    pose = np.asarray(pose, dtype=np.float64)
    cos, sin = np.cos(pose[..., 2, None]), np.sin(pose[..., 2, None])
    x, y = BLOCK_KEYPOINTS.T
    turned = np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)
    return turned + pose[..., None, :2]


def mirror_point(points: NDArray[Any]) -> NDArray[Any]:
    """Return the mirror images (2) of points ``(..., 2)`` in pixels."""
    return TABLE_SIZE - points[..., ::-1]


def mirror_state(state: NDArray[Any]) -> NDArray[Any]:
    """Return the mirror images (2) of states ``(..., 5)``; angles come out in [0, 2 pi)."""
    angle = (math.pi / 2 - state[..., 4:]) % (2 * math.pi)
    parts = [mirror_point(state[..., :2]), mirror_point(state[..., 2:4]), angle]
    return np.concatenate(parts, axis=-1)


def mirror_keypoints(keypoints: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mirror images (3) of keypoints ``(..., 18)`` in pixels.

    For keypoints that are not exactly those of a block, as the recorded ones in contact, this is
    the mirror image of the block that is nearest in least squares.
    """
    return np.asarray(keypoints, dtype=np.float64) @ _MIRROR.T + _MIRROR_OFFSET


def mirror_image(images: NDArray[Any]) -> NDArray[Any]:
    """Return the mirror images (2) of pictures ``(..., height, width, channels)``."""
    return np.swapaxes(images, -3, -2)[..., ::-1, ::-1, :]


def _keypoint_mirror() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matrix ``(18, 18)`` and offset ``(18,)`` of (3)."""
    x, y = BLOCK_KEYPOINTS.T
    one, zero = np.ones(9), np.zeros(9)
    # Rows: keypoint coordinates; columns: cos, sin, x and y of the block.
    design = np.stack(
        [np.stack([x, -y, one, zero], axis=-1), np.stack([y, x, zero, one], axis=-1)], axis=1
    ).reshape(18, 4)
    swap = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, -1, 0]], dtype=np.float64)
    matrix = design @ swap @ np.linalg.pinv(design)
    return matrix, design @ np.array([0.0, 0.0, TABLE_SIZE, TABLE_SIZE])


_MIRROR, _MIRROR_OFFSET = _keypoint_mirror()
