from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genpolicy.data import FieldStats, Normalizer
from genpolicy.errors import CheckpointError, UsageError


def single(column, mode="min_max"):
    """A normalizer of one action entry with the given values in the data."""
    values = np.asarray(column, np.float32)[:, None]
    return Normalizer(action=FieldStats.of(values, mode), obs={})


def test_min_max_maps_the_range_to_minus_one_and_one():
    normalizer = single([0, 1, 2, 3, 4])
    column = torch.arange(5.0)[:, None]
    normalized = normalizer.normalize_action(column)
    assert normalized.flatten().tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert torch.equal(normalizer.denormalize_action(normalized), column)
    assert normalizer.bounds == (-1.0, 1.0)


def test_mean_std_standardises_and_has_no_bounds():
    normalizer = single([0, 1, 2, 3, 4], "mean_std")
    normalized = normalizer.normalize_action(torch.arange(5.0)[:, None]).flatten()
    np.testing.assert_allclose(normalized, (np.arange(5) - 2) / np.sqrt(2), rtol=1e-6)
    assert normalizer.bounds is None


def test_identity_changes_nothing():
    normalizer = single([5, 5, 5], "identity")
    value = torch.tensor([[0.1], [7.0]])
    assert torch.equal(normalizer.normalize_action(value), value)
    assert torch.equal(normalizer.denormalize_action(value), value)
    assert normalizer.constant == {}
    assert normalizer.bounds is None


@pytest.mark.parametrize("mode", ["min_max", "mean_std"])
@pytest.mark.parametrize("value", [5.0, 0.1, -1e6])
def test_a_constant_entry_becomes_zero_and_comes_back_exactly(mode, value):
    normalizer = single([value] * 4, mode)
    data = torch.full((3, 1), value)
    assert torch.equal(normalizer.normalize_action(data), torch.zeros(3, 1))
    # Whatever the network says about it.
    restored = normalizer.denormalize_action(torch.tensor([[0.0], [0.7], [-3.0]]))
    assert torch.equal(restored, data)
    assert normalizer.constant == {"action": [0]}


def test_constant_means_a_range_below_the_threshold():
    assert single([1.0, 1.00009]).constant == {"action": [0]}
    assert single([1.0, 1.0002]).constant == {}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=8),
    st.sampled_from(["min_max", "mean_std", "identity"]),
)
def test_normalising_and_back_is_the_identity(column, mode):
    normalizer = single(column, mode)
    value = torch.tensor(column)[:, None]
    back = normalizer.denormalize_action(normalizer.normalize_action(value))
    scale = max(1e-4, float(value.abs().max()))
    assert float((back - value).abs().max()) <= 1e-4 + 1e-6 * scale


def test_statistics_survive_json_bit_for_bit(make_episodes):
    generator = np.random.default_rng(0)
    n = 50
    episodes = make_episodes(
        [n],
        obs={
            "state": generator.normal(size=(n, 7)) * 10.0 ** np.arange(-3, 4),
            "grid": generator.normal(size=(n, 2, 3)),
            "image": generator.integers(0, 255, (n, 4, 5, 3), np.uint8),
        },
        actions=generator.normal(size=(n, 3)),
    )
    normalizer = Normalizer.fit(episodes, obs={"state": "mean_std"})
    text = json.dumps(normalizer.to_json(), allow_nan=False)
    again = Normalizer.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    buffers, same = dict(normalizer.named_buffers()), dict(again.named_buffers())
    assert buffers.keys() == same.keys()
    assert all(torch.equal(buffers[name], same[name]) for name in buffers)
    assert again.obs_shapes == {"state": (7,), "grid": (2, 3), "image": (4, 5, 3)}
    obs = {key: torch.as_tensor(value) for key, value in episodes.obs.items()}
    first, second = normalizer.normalize_obs(obs), again.normalize_obs(obs)
    assert all(torch.equal(first[key], second[key]) for key in obs)
    assert float(first["grid"].abs().max()) == pytest.approx(1.0, abs=1e-6)


def test_images_are_mapped_to_minus_one_and_one(make_episodes):
    images = np.zeros((2, 4, 5, 3), np.uint8)
    images[0, 0, 0] = [0, 255, 51]
    normalizer = Normalizer.fit(make_episodes([2], obs={"image": images}))
    normalized = normalizer.normalize_obs({"image": torch.as_tensor(images)})["image"]
    assert normalized.dtype == torch.float32
    np.testing.assert_allclose(normalized[0, 0, 0], [-1.0, 1.0, -0.6], atol=1e-6)
    with pytest.raises(UsageError, match="float32, expected uint8"):
        normalizer.normalize_obs({"image": normalized})


def test_only_the_given_episodes_count(make_episodes):
    episodes = make_episodes([3, 1, 4])
    stats = Normalizer.fit(episodes, episode_ids=[0, 1]).stats
    assert stats["state"].maximum.tolist() == [3, 0]
    assert stats["action"].maximum.tolist() == [30, 2]


def test_statistics_are_no_weights_but_follow_the_module(make_episodes):
    normalizer = Normalizer.fit(make_episodes([4])).double()
    assert normalizer.state_dict() == {}
    assert normalizer.normalize_action(torch.zeros(1, 2)).dtype == torch.float64


def test_leading_axes_are_free(make_episodes):
    normalizer = Normalizer.fit(make_episodes([4]))
    chunk = torch.randn(2, 5, 2)
    assert torch.equal(
        normalizer.normalize_action(chunk)[1, 3], normalizer.normalize_action(chunk[1, 3])
    )


def test_unknown_and_missing_keys_are_named(make_episodes):
    normalizer = Normalizer.fit(make_episodes([4]))
    with pytest.raises(UsageError, match=r"\['stat'\] .* \['state'\] are missing; known .* state"):
        normalizer.normalize_obs({"stat": torch.zeros(1, 2)})


def test_another_shape_is_refused_instead_of_broadcast(make_episodes):
    normalizer = Normalizer.fit(make_episodes([4]))
    with pytest.raises(UsageError, match=r"shape \(3, 1\), expected it to end in \(2,\)"):
        normalizer.normalize_action(torch.zeros(3, 1))
    with pytest.raises(UsageError, match=r"obs\['state'\] has shape \(2, 3\)"):
        normalizer.normalize_obs({"state": torch.zeros(2, 3)})


def test_modes_are_checked(make_episodes):
    episodes = make_episodes([3])
    with pytest.raises(UsageError, match="did you mean 'min_max'"):
        Normalizer.fit(episodes, action="minmax")
    with pytest.raises(UsageError, match="'goal', which is no observation"):
        Normalizer.fit(episodes, obs={"goal": "identity"})
    with pytest.raises(UsageError, match="'image', which does not fit float32"):
        Normalizer.fit(episodes, obs={"state": "image"})
    with pytest.raises(UsageError, match="actions cannot have the mode 'image'"):
        Normalizer.fit(episodes, action="image")
    images = {"image": np.full((3, 4, 5, 3), 9, np.uint8)}
    with pytest.raises(UsageError, match="'min_max', which does not fit uint8"):
        Normalizer.fit(make_episodes([3], obs=images), obs={"image": "min_max"})


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("action"),
        lambda d: d["action"].pop("mean"),
        lambda d: d["action"].update(mode="minmax"),
        lambda d: d["action"].update(min=[0.0]),
        lambda d: d["action"].update(max=[float("nan"), 0.0]),
        lambda d: d["obs"].update(state=None),
    ],
)
def test_damaged_statistics_are_refused(make_episodes, damage):
    data = Normalizer.fit(make_episodes([3])).to_json()
    damage(data)
    with pytest.raises(CheckpointError, match="normalizer statistics are damaged"):
        Normalizer.from_json(data)
