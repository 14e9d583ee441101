"""Low-dimensional observations to features."""

from __future__ import annotations

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
