"""Rotations of action vectors: axis-angle, matrices, and the six-number form of Zhou et al.

The six numbers are the first two rows of the rotation matrix, which are continuous in the rotation;
the way back orthonormalises them, so any two directions that are not parallel are accepted.

Source: Zhou et al. 2019, arXiv 1812.07035, equations (14) and (15); rows as in Diffusion Policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genpolicy.errors import UsageError

__all__ = [
    "ABSOLUTE_DIM",
    "axis_angle_of_matrix",
    "matrix_of_axis_angle",
    "matrix_of_six",
    "pose_from_six",
    "pose_to_six",
    "six_of_matrix",
    "six_of_quaternion",
    "with_six",
]

Array = NDArray[Any]

ABSOLUTE_DIM = 10
"""Entries of one arm's absolute action: position 3, rotation 6, gripper 1."""

_POSE_DIM = 7


def matrix_of_axis_angle(axis_angle: Array) -> Array:
    """Return ``(..., 3, 3)`` matrices of ``(..., 3)`` rotation vectors in radians."""
    from scipy.spatial.transform import Rotation

    flat = np.asarray(axis_angle, np.float64).reshape(-1, 3)
    return Rotation.from_rotvec(flat).as_matrix().reshape(*np.shape(axis_angle)[:-1], 3, 3)


def axis_angle_of_matrix(matrix: Array) -> Array:
    """Return ``(..., 3)`` rotation vectors, of length pi at most, of ``(..., 3, 3)`` matrices."""
    from scipy.spatial.transform import Rotation

    flat = np.asarray(matrix, np.float64).reshape(-1, 3, 3)
    return Rotation.from_matrix(flat).as_rotvec().reshape(*np.shape(matrix)[:-2], 3)


def six_of_matrix(matrix: Array) -> Array:
    """Return ``(..., 6)``: the first two rows of ``(..., 3, 3)`` rotation matrices."""
    return np.asarray(matrix)[..., :2, :].reshape(*np.shape(matrix)[:-2], 6)


def six_of_quaternion(quaternion: Array) -> Array:
    """Return ``(..., 6)`` numbers of ``(..., 4)`` quaternions (x, y, z, w); zeros stay zeros.

    A quaternion and its negative are one rotation, and simulators return either; the six numbers
    are the same for both.
    """
    q = np.asarray(quaternion, np.float64)
    length = np.linalg.norm(q, axis=-1, keepdims=True)
    x, y, z, w = np.moveaxis(q / np.where(length > 0, length, 1.0), -1, 0)
    first = [w * w + x * x - y * y - z * z, 2 * (x * y - z * w), 2 * (x * z + y * w)]
    second = [2 * (x * y + z * w), w * w + y * y - x * x - z * z, 2 * (y * z - x * w)]
    return np.stack([*first, *second], axis=-1)


def with_six(values: Array, starts: Sequence[int]) -> Array:
    """Return ``(..., size + 2 * len(starts))``: values with their quaternions as six numbers.

    Args:
        values: ``(..., size)``.
        starts: first entries of the quaternions, in order.
    """
    parts, done = [], 0
    for start in starts:
        parts += [values[..., done:start], six_of_quaternion(values[..., start : start + 4])]
        done = start + 4
    return np.concatenate([*parts, values[..., done:]], axis=-1).astype(np.float32)


def matrix_of_six(six: Array) -> Array:
    """Return the ``(..., 3, 3)`` rotation matrices that ``(..., 6)`` numbers stand for.

    Raises:
        UsageError: where the two rows are zero or parallel, which no rotation has.
    """
    values = np.asarray(six, np.float64)
    first, second = values[..., :3], values[..., 3:]
    x = first / np.maximum(np.linalg.norm(first, axis=-1, keepdims=True), 1e-12)
    rest = second - (x * second).sum(-1, keepdims=True) * x
    length = np.linalg.norm(rest, axis=-1, keepdims=True)
    if (np.linalg.norm(first, axis=-1) < 1e-9).any() or (length < 1e-9).any():
        raise UsageError(
            "the six numbers of a rotation are zero or parallel rows; expected two "
            "directions that are not"
        )
    y = rest / length
    return np.stack([x, y, np.cross(x, y)], axis=-2)


def pose_to_six(actions: Array) -> Array:
    """Return absolute actions with rotations as six numbers: ``(..., 10 * n_arms)``.

    Args:
        actions: ``(..., 7 * n_arms)``: position (m), axis-angle (rad) and gripper of each arm.

    Raises:
        UsageError: for another number of entries.
    """
    arms = _arms(actions, _POSE_DIM)
    six = six_of_matrix(matrix_of_axis_angle(arms[..., 3:6]))
    return np.concatenate([arms[..., :3], six, arms[..., 6:]], -1).reshape(*actions.shape[:-1], -1)


def pose_from_six(actions: Array) -> Array:
    """Return absolute actions with rotations as axis-angle: the inverse of ``pose_to_six``.

    Raises:
        UsageError: for another number of entries, or rows that are no rotation.
    """
    arms = _arms(actions, ABSOLUTE_DIM)
    turn = axis_angle_of_matrix(matrix_of_six(arms[..., 3:9]))
    return np.concatenate([arms[..., :3], turn, arms[..., 9:]], -1).reshape(*actions.shape[:-1], -1)


def _arms(actions: Array, per_arm: int) -> Array:
    size = np.shape(actions)[-1]
    if size == 0 or size % per_arm:
        raise UsageError(f"actions have {size} entries, expected {per_arm} for each arm")
    return np.asarray(actions, np.float64).reshape(*np.shape(actions)[:-1], -1, per_arm)
