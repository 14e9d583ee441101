import numpy as np
import pytest

from genpolicy.data.rewards import REWARD_TRANSFORMS, RewardTransform
from genpolicy.errors import DataError, UsageError


def transformed(name, episodes):
    return RewardTransform.fit(name, episodes).apply(episodes).rewards


def test_published_transforms(make_episodes):
    rewards = np.array([0, 1, 0, 1, 1, 0], np.float32)
    toy = make_episodes([2, 4], rewards=rewards)
    np.testing.assert_allclose(transformed("none", toy), rewards)
    np.testing.assert_allclose(transformed("iql_antmaze", toy), rewards - 1)
    np.testing.assert_allclose(transformed("cql_antmaze", toy), 4 * (rewards - 0.5))
    np.testing.assert_allclose(transformed("antmaze", toy), 2 * (rewards - 0.25))
    # Returns are 1 and 2.
    np.testing.assert_allclose(transformed("iql_locomotion", toy), 1000 * rewards)
    found = transformed("normalize", toy)
    assert found.mean() == pytest.approx(0, abs=1e-6)
    assert found.std() == pytest.approx(1, abs=1e-6)
    assert toy.rewards is not found
    np.testing.assert_array_equal(toy.rewards, rewards)


def test_what_cannot_be_scaled_is_refused(make_episodes):
    constant = make_episodes([2, 2], rewards=np.ones(4, np.float32))
    with pytest.raises(DataError, match="every reward is 1"):
        RewardTransform.fit("normalize", constant)
    with pytest.raises(DataError, match="every episode has the return 2"):
        RewardTransform.fit("iql_locomotion", constant)
    with pytest.raises(DataError, match="no rewards"):
        RewardTransform.fit("normalize", make_episodes([2], rewards=None))
    with pytest.raises(UsageError, match="did you mean 'iql_antmaze'"):
        RewardTransform.fit("iql_antmase", constant)
    assert RewardTransform.fit("none", make_episodes([2], rewards=None)).gain == 1.0
    assert set(REWARD_TRANSFORMS) >= {"none", "normalize"}
