from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genpolicy.data import WindowDataset, WindowIndex
from genpolicy.errors import UsageError

DIFFUSION_POLICY = {"n_obs_steps": 2, "horizon": 16, "pad_before": 1, "pad_after": 7}


def reference_windows(episode_ends, n_obs_steps, horizon, pad_before, pad_after):
    """Rows and masks of all windows, entry by entry, from the definition."""
    rows, masks = [], []
    start = 0
    for end in episode_ends:
        first = start - pad_before
        last = max(end + pad_after - horizon, first)
        for s in range(first, last + 1):
            steps = range(s, s + horizon)
            rows.append([min(max(t, start), end - 1) for t in steps])
            masks.append([start <= t < end for t in steps])
        start = end
    return rows, masks


def test_an_episode_of_20_rows_gives_13_windows():
    index = WindowIndex(np.array([20]), **DIFFUSION_POLICY)
    assert len(index) == 13
    rows, mask = index.rows(torch.tensor([0, 12]))
    assert rows[0].tolist() == [0, *range(15)]
    assert mask[0].tolist() == [False] + [True] * 15
    assert rows[1].tolist() == [*range(11, 20), *[19] * 7]
    assert mask[1].tolist() == [True] * 9 + [False] * 7


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    horizon=st.integers(1, 9),
    data=st.data(),
)
def test_windows_are_those_of_the_definition(lengths, horizon, data):
    sizes = {
        "n_obs_steps": data.draw(st.integers(1, horizon)),
        "horizon": horizon,
        "pad_before": data.draw(st.integers(0, horizon - 1)),
        "pad_after": data.draw(st.integers(0, horizon - 1)),
    }
    ends = np.cumsum(lengths)
    index = WindowIndex(ends, **sizes)
    rows, mask = index.rows(torch.arange(len(index)))
    expected_rows, expected_mask = reference_windows(ends.tolist(), **sizes)
    assert rows.tolist() == expected_rows
    assert mask.tolist() == expected_mask
    # No window holds rows of two episodes.
    episode = np.searchsorted(ends, rows.numpy(), side="right")
    assert (episode == episode[:, :1]).all()


@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_short_episode_gives_one_window_that_starts_at_its_first_step(make_episodes, length):
    windows = WindowDataset(make_episodes([30, length]), **DIFFUSION_POLICY)
    batch = windows.gather(torch.tensor([len(windows) - 1]))
    assert len(windows) == 23 + 1
    assert batch["obs"]["state"][0, :, 0].tolist() == [30, 30]
    assert batch["mask"][0].tolist() == [False] + [True] * length + [False] * (15 - length)


def test_a_batch_holds_the_rows_of_its_windows(make_episodes):
    image = np.random.default_rng(0).integers(0, 255, (8, 4, 5, 3), np.uint8)
    row = np.arange(8, dtype=np.float32)
    episodes = make_episodes([5, 3], obs={"image": image, "state": row[:, None]})
    windows = WindowDataset(episodes, n_obs_steps=2, horizon=4, pad_before=1, pad_after=1)
    assert len(windows) == 4 + 2
    batch = windows.gather(torch.tensor([5, 3, 0]))
    assert batch["index"].tolist() == [5, 3, 0]
    assert (batch["action"][:, :, 0] / 10).tolist() == [[5, 6, 7, 7], [2, 3, 4, 4], [0, 0, 1, 2]]
    assert batch["obs"]["state"][:, :, 0].tolist() == [[5, 6], [2, 3], [0, 0]]
    assert batch["obs"]["image"].dtype == torch.uint8
    np.testing.assert_array_equal(batch["obs"]["image"], image[[[5, 6], [2, 3], [0, 0]]])
    full = [[True, True, True, False], [True, True, True, False], [False, True, True, True]]
    assert batch["mask"].tolist() == full


def test_padding_has_no_gradient(make_episodes):
    windows = WindowDataset(make_episodes([3]), **DIFFUSION_POLICY)
    batch = windows.gather(torch.tensor([0]))
    prediction = torch.zeros_like(batch["action"], requires_grad=True)
    mask = batch["mask"][..., None]
    error = (prediction - batch["action"]).square() * mask
    (error.sum() / (mask.sum() * 2)).backward()
    assert torch.equal(prediction.grad[~batch["mask"]], torch.zeros(13, 2))
    assert (prediction.grad[batch["mask"]][1:, 0] != 0).all()


def test_only_chosen_episodes_have_windows(make_episodes):
    windows = WindowDataset(make_episodes([20, 4, 20]), episode_ids=[2], **DIFFUSION_POLICY)
    rows, _ = windows.index.rows(torch.arange(len(windows)))
    assert len(windows) == 13
    assert (int(rows.min()), int(rows.max())) == (24, 43)
    with pytest.raises(UsageError, match="no episode is chosen"):
        WindowDataset(make_episodes([20]), episode_ids=[], **DIFFUSION_POLICY)


def test_the_data_is_shared_and_not_copied(make_episodes):
    episodes = make_episodes([20])
    windows = WindowDataset(episodes, **DIFFUSION_POLICY)
    episodes.actions[3] = 77
    assert float(windows.gather(torch.tensor([4]))["action"][0, 0, 0]) == 77


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_obs_steps": 0}, "n_obs_steps 0 and horizon 16"),
        ({"n_obs_steps": 17}, "n_obs_steps 17 and horizon 16"),
        ({"pad_before": 16}, "pad_before is 16, expected 0 to horizon - 1 = 15"),
        ({"pad_after": -1}, "pad_after is -1"),
    ],
)
def test_wrong_sizes_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        WindowIndex(np.array([20]), **(DIFFUSION_POLICY | changes))
