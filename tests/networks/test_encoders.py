"""Low-dimensional observations to features."""

from __future__ import annotations

import math

import pytest
import torch

from genpolicy.errors import UsageError
from genpolicy.networks import LowDimEncoder, ResidualMLP

SHAPES = {"pose": (2, 2), "agent": (3,), "image": (32, 32, 3)}
LOW_DIM = {"pose": (2, 2), "agent": (3,)}


def observations(batch: int = 5) -> dict[str, torch.Tensor]:
    return {key: torch.randn(batch, 2, *shape) for key, shape in SHAPES.items()}


def test_observations_are_concatenated_by_name():
    encoder, obs = LowDimEncoder(obs_shapes=LOW_DIM), observations()
    out = encoder(obs)
    assert encoder.obs_dim == 7
    assert torch.equal(out, torch.cat([obs["agent"], obs["pose"].reshape(5, 2, 4)], dim=-1))
    reordered = {key: LOW_DIM[key] for key in reversed(LOW_DIM)}
    assert torch.equal(LowDimEncoder(obs_shapes=reordered)(obs), out)


@pytest.mark.parametrize(
    ("hidden_dim", "n_parameters"), [(None, 3 * 6 + 6), (9, 3 * 9 + 9 + 9 * 6 + 6)]
)
def test_a_projection_is_learned(hidden_dim, n_parameters):
    encoder = LowDimEncoder(obs_shapes=SHAPES, keys=["agent"], out_dim=6, hidden_dim=hidden_dim)
    assert encoder.obs_dim == 6
    assert encoder(observations()).shape == (5, 2, 6)
    assert sum(p.numel() for p in encoder.parameters()) == n_parameters


def test_gradients_of_a_network_reach_the_encoder():
    encoder = LowDimEncoder(obs_shapes=LOW_DIM, out_dim=6, hidden_dim=8)
    network = ResidualMLP(action_dim=2, horizon=4, n_obs_steps=2, obs_dim=encoder.obs_dim, width=16)
    network(torch.randn(5, 4, 2), torch.rand(5), encoder(observations())).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in encoder.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keys": ["agnt"]}, "did you mean 'agent'"),
        ({"keys": []}, "no keys"),
        ({}, "images; use ImageEncoder"),
        ({"keys": ["agent"], "hidden_dim": 8}, "out_dim is None"),
        ({"keys": ["agent"], "out_dim": 0}, "out_dim is 0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        LowDimEncoder(obs_shapes=SHAPES, **settings)


def test_frequencies_tell_close_values_apart():
    encoder = LowDimEncoder(obs_shapes={"x": (1,)}, n_frequencies=3)
    assert encoder.obs_dim == 7
    x = torch.tensor([[[0.25]]])
    waves = [f(2.0**k * torch.pi * 0.25) for k in range(3) for f in (math.sin, math.cos)]
    torch.testing.assert_close(encoder({"x": x}).flatten(), torch.tensor([0.25, *waves]))
    with pytest.raises(UsageError, match="n_frequencies"):
        LowDimEncoder(obs_shapes={"x": (1,)}, n_frequencies=-1)


def test_absent_observations_are_zeros_with_a_flag():
    encoder = LowDimEncoder(obs_shapes={"a": (1,), "goal": (2,)}, optional_keys=["goal"]).eval()
    goal = torch.tensor([[[1.0, 2.0]], [[torch.nan, 2.0]]])
    out = encoder({"a": torch.full((2, 1, 1), 5.0), "goal": goal})
    assert out.tolist() == [[[5.0, 1.0, 2.0, 1.0]], [[5.0, 0.0, 0.0, 0.0]]]
    with pytest.raises(UsageError, match="optional_keys"):
        LowDimEncoder(obs_shapes={"a": (1,)}, optional_keys=["b"])
    with pytest.raises(UsageError, match="drop_rate"):
        LowDimEncoder(obs_shapes={"a": (1,)}, optional_keys=["a"], drop_rate=1.0)


def test_optional_observations_are_left_out_of_some_rows_in_training():
    encoder = LowDimEncoder(obs_shapes={"goal": (2,)}, optional_keys=["goal"], drop_rate=0.25)
    torch.manual_seed(0)
    out = encoder({"goal": torch.ones(4000, 1, 2)})
    assert out[:, 0, 2].mean().item() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(out[:, 0, 0], out[:, 0, 2])
