from __future__ import annotations

import numpy as np
import pytest

from genpolicy.errors import UsageError
from genpolicy.rotations import (
    axis_angle_of_matrix,
    matrix_of_axis_angle,
    matrix_of_six,
    pose_from_six,
    pose_to_six,
    six_of_matrix,
    six_of_quaternion,
    with_six,
)


def test_a_quarter_turn_about_each_axis():
    turns = np.pi / 2 * np.eye(3)
    expected = [
        [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
        [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
        [[0, -1, 0], [1, 0, 0], [0, 0, 1]],
    ]
    matrices = matrix_of_axis_angle(turns)
    np.testing.assert_allclose(matrices, expected, atol=1e-12)
    np.testing.assert_allclose(axis_angle_of_matrix(matrices), turns, atol=1e-12)
    # The first two rows, as in Diffusion Policy.
    np.testing.assert_allclose(six_of_matrix(matrices)[2], [0, -1, 0, 1, 0, 0], atol=1e-12)


def test_six_numbers_need_not_be_orthonormal():
    rng = np.random.default_rng(0)
    turns = rng.uniform(-1.5, 1.5, (20, 3))
    matrices = matrix_of_axis_angle(turns)
    np.testing.assert_allclose(matrix_of_six(six_of_matrix(matrices)), matrices, atol=1e-12)
    six = six_of_matrix(matrices)
    skewed = np.concatenate([3.0 * six[:, :3], 0.5 * six[:, 3:] + 0.2 * six[:, :3]], axis=1)
    np.testing.assert_allclose(matrix_of_six(skewed), matrices, atol=1e-12)
    with pytest.raises(UsageError, match="zero or parallel"):
        matrix_of_six(np.array([1.0, 0, 0, 2, 0, 0]))
    with pytest.raises(UsageError, match="zero or parallel"):
        matrix_of_six(np.zeros(6))


@pytest.mark.parametrize("n_arms", [1, 2])
def test_actions_of_one_and_two_arms(n_arms):
    rng = np.random.default_rng(1)
    actions = rng.uniform(-1, 1, (5, 7 * n_arms))
    six = pose_to_six(actions)
    assert six.shape == (5, 10 * n_arms)
    np.testing.assert_array_equal(six[:, :3], actions[:, :3])
    np.testing.assert_array_equal(six[:, -1], actions[:, -1])
    np.testing.assert_allclose(pose_from_six(six), actions, atol=1e-12)
    np.testing.assert_allclose(pose_from_six(six[0]), actions[0], atol=1e-12)
    with pytest.raises(UsageError, match="8 entries, expected 7 for each arm"):
        pose_to_six(np.zeros(8))


def test_quaternions_of_either_sign_are_the_same_six_numbers():
    from scipy.spatial.transform import Rotation

    turns = Rotation.random(8, random_state=0)
    quaternions = turns.as_quat()
    six = six_of_quaternion(quaternions)
    np.testing.assert_allclose(six, six_of_matrix(turns.as_matrix()), atol=1e-12)
    np.testing.assert_array_equal(six_of_quaternion(-quaternions), six)
    np.testing.assert_allclose(six_of_quaternion(2 * quaternions), six, atol=1e-12)
    np.testing.assert_array_equal(six_of_quaternion(np.zeros(4)), np.zeros(6))


def test_quaternions_among_other_numbers_are_replaced_in_their_places():
    identity = [0.0, 0.0, 0.0, 1.0]
    values = np.array([[1.0, *identity, 2.0, *identity, 3.0]])
    found = with_six(values, (1, 6))
    rows = [1, 0, 0, 0, 1, 0]
    np.testing.assert_array_equal(found, [[1, *rows, 2, *rows, 3]])
    assert found.dtype == np.float32
