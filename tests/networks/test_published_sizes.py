"""Parameter counts of published configurations, each recomputed from its recipe."""

from __future__ import annotations

import pytest
import torch

from genpolicy.errors import UsageError
from genpolicy.networks import MLP, ChiTransformer, ConditionalUnet1D, ResidualMLP, ResNet18


def n_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Push-T from states: 2 steps of 20 observations.
        ({"action_dim": 2, "n_obs_steps": 2, "obs_dim": 20}, 65_783_298),
        # Square from images, "256M" in arXiv 2303.04137, table 7: two cameras and 9 numbers.
        (
            {
                "action_dim": 10,
                "n_obs_steps": 2,
                "obs_dim": 2 * 64 + 9,
                "dims": (512, 1024, 2048),
                "time_dim": 128,
            },
            255_612_042,
        ),
    ],
)
def test_unet(settings, expected):
    with torch.device("meta"):
        assert n_parameters(ConditionalUnet1D(horizon=16, **settings)) == expected


def test_transformer_of_nine_million():
    with torch.device("meta"):
        network = ChiTransformer(action_dim=2, horizon=16, n_obs_steps=2, obs_dim=20)
    n, m = 256, 4 * 256
    attention = 4 * (n * n + n)
    feed_forward = n * m + m + m * n + n
    layer = 2 * attention + feed_forward + 3 * 2 * n
    embeddings = (2 + 1) * n + (20 + 1) * n + (16 + 3) * n
    assert n_parameters(network) == 8 * layer + feed_forward + embeddings + 2 * n + (n + 1) * 2
    assert round(n_parameters(network) / 1e6) == 9


def test_mlp_of_diffusion_ql():
    with torch.device("meta"):
        network = MLP(action_dim=6, horizon=1, n_obs_steps=1, obs_dim=17)
    assert n_parameters(network) == 144_438


def test_residual_mlp():
    with torch.device("meta"):
        network = ResidualMLP(action_dim=2, horizon=16, n_obs_steps=2, obs_dim=20)
    assert n_parameters(network) == 3_504_160


def test_resnet18_has_the_convolutions_of_the_original():
    with torch.device("meta"):
        network = ResNet18()
    assert n_parameters(network) == 11_689_512 - 1000 * (512 + 1)  # without the classifier


@pytest.mark.parametrize(
    ("horizon", "n_levels", "proposal"),
    [(10, 3, "8 or 12"), (15, 2, "14 or 16"), (3, 3, "horizon 4,"), (17, 5, "16 or 32")],
)
def test_unet_proposes_horizons_that_it_can_halve(horizon, n_levels, proposal):
    settings = {"action_dim": 2, "n_obs_steps": 1, "obs_dim": 3, "time_dim": 8}
    with pytest.raises(UsageError, match=proposal):
        ConditionalUnet1D(horizon=horizon, dims=[8] * n_levels, **settings)


@pytest.mark.parametrize(("horizon", "n_levels"), [(1, 1), (7, 1), (2, 2), (12, 3), (8, 4)])
def test_unet_takes_any_horizon_that_it_can_halve(horizon, n_levels):
    network = ConditionalUnet1D(
        action_dim=2, horizon=horizon, n_obs_steps=1, obs_dim=3, time_dim=8, dims=[8] * n_levels
    )
    x = torch.randn(2, horizon, 2)
    assert network(x, torch.zeros(2), torch.zeros(2, 1, 3)).shape == x.shape


@pytest.mark.parametrize(
    "settings", [{"dims": (8, 12)}, {"dims": ()}, {"kernel_size": 4}, {"n_groups": 0}]
)
def test_unet_refuses_impossible_settings(settings):
    with pytest.raises(UsageError, match="ConditionalUnet1D"):
        ConditionalUnet1D(action_dim=2, horizon=16, n_obs_steps=1, obs_dim=3, **settings)
