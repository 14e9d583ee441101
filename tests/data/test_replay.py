"""Batches of a data set and of what is added to it; several recordings as one."""

import numpy as np
import pytest
import torch

from genpolicy.data.episodes import DataSource, Episodes
from genpolicy.data.joining import join_episodes
from genpolicy.data.replay import ReplayBuffer
from genpolicy.data.transitions import TransitionDataset
from genpolicy.errors import DataError, UsageError


def recorded(n_episodes, length, value, *, final=True):
    """Episodes whose observations are all ``value`` and whose rewards count the rows."""
    n = n_episodes * length
    return Episodes.from_arrays(
        obs={"state": np.full((n, 2), value, np.float32)},
        actions=np.zeros((n, 1), np.float32),
        rewards=np.arange(n, dtype=np.float32),
        episode_ends=np.arange(1, n_episodes + 1) * length,
        source=DataSource("toy", "local"),
        final_obs={"state": np.full((n_episodes, 2), value, np.float32)} if final else None,
    )


def buffer(fraction, n=20):
    offline = TransitionDataset(recorded(5, 4, 0.0))
    return ReplayBuffer(offline, TransitionDataset, batch_size=n, seed=3, offline_fraction=fraction)


def share_of_added(batch):
    return float(batch["obs"]["state"][:, 0, 0].mean())


def test_batches_hold_the_wanted_fraction_of_either_source():
    for fraction, share in ((0.5, 0.5), (0.25, 0.75), (0.0, 1.0), (1.0, 0.0)):
        found = buffer(fraction)
        found.add(recorded(3, 4, 1.0))
        batch = found.batch(0)
        assert batch["reward"].shape == (20,)
        assert share_of_added(batch) == pytest.approx(share)


def test_without_a_fraction_every_transition_is_alike():
    found = buffer(None, n=4000)  # 20 transitions of the data set
    found.add(recorded(10, 8, 1.0))  # and 80 that were added
    assert share_of_added(found.batch(0)) == pytest.approx(0.8, abs=0.03)


def test_a_batch_is_a_function_of_its_step_and_what_was_added():
    first, second = buffer(0.5), buffer(0.5)
    first.add(recorded(2, 4, 1.0))
    first.batch(0)
    first.add(recorded(1, 6, 2.0))
    second.add(join_episodes([recorded(2, 4, 1.0), recorded(1, 6, 2.0)]))
    for step in (1, 7):
        a, b = first.batch(step), second.batch(step)
        assert torch.equal(a["reward"], b["reward"])
        assert torch.equal(a["next_obs"]["state"], b["next_obs"]["state"])
    assert not torch.equal(first.batch(1)["reward"], first.batch(2)["reward"])


def test_joined_episodes_keep_their_ends_and_lead_nowhere_else():
    joined = join_episodes([recorded(2, 3, 1.0), recorded(1, 2, 2.0), recorded(1, 4, 3.0)])
    assert joined.episode_ends.tolist() == [3, 6, 8, 12]
    assert joined.truncated.nonzero()[0].tolist() == [2, 5, 7, 11]
    data = TransitionDataset(joined, discount=0.9)
    batch = data.gather(torch.arange(len(data)))
    assert len(data) == 12  # the last row of an episode too: its final observation is known
    assert torch.equal(batch["obs"]["state"], batch["next_obs"]["state"])
    assert torch.allclose(batch["bootstrap"], torch.tensor(0.9))


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="no episode was added"):
        buffer(0.5).batch(0)
    with pytest.raises(UsageError, match="offline_fraction 2"):
        buffer(2)
    with pytest.raises(DataError, match="cannot be joined"):
        join_episodes([recorded(1, 3, 0.0), recorded(1, 3, 0.0, final=False)])
