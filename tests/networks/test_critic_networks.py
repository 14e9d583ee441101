"""Critics as one module, and the scalar network whose gradient is its output."""

import pytest
import torch
from torch import nn

from genpolicy.networks import EnergyMLP, QNetwork, ValueNetwork

SIZES = {"n_obs_steps": 2, "obs_dim": 3, "n_actions": 2, "action_dim": 2}


@pytest.mark.parametrize("layer_norm", [False, True])
def test_critics_are_independent_perceptrons(layer_norm):
    sizes = {**SIZES, "n_critics": 3, "width": 8, "n_layers": 2}
    q = QNetwork(**sizes, activation="relu", layer_norm=layer_norm)
    obs, actions = torch.randn(5, 2, 3), torch.randn(5, 2, 2)
    with torch.no_grad():
        for parameter in q.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        found = q(obs, actions)
        for k in range(3):
            h = torch.cat([obs.flatten(1), actions.flatten(1)], 1)
            for layer, norm in zip(q.layers[:-1], q.norms, strict=True):
                h = torch.relu(h @ layer.weight[k] + layer.bias[k])
                if layer_norm:
                    own = nn.functional.layer_norm(h, (8,))
                    h = own * norm.weight[k] + norm.bias[k]
            last = q.layers[-1]
            expected = (h @ last.weight[k] + last.bias[k]).flatten()
            torch.testing.assert_close(found[k], expected)
            torch.testing.assert_close(q(obs, actions, only=k)[0], expected)


def test_the_published_critics_of_diffusion_ql_have_their_size():
    # Twin critics of 3 layers of 256 on hopper: 11 observations, 3 actions.
    sizes = {"n_obs_steps": 1, "obs_dim": 11, "n_actions": 1, "action_dim": 3}
    q = QNetwork(**sizes)
    one = (14 * 256 + 256) + 2 * (256 * 256 + 256) + (256 + 1)
    assert sum(p.numel() for p in q.parameters()) == 2 * one


def test_a_state_value_starts_at_zero():
    value = ValueNetwork(n_obs_steps=2, obs_dim=3, width=8, n_layers=3, layer_norm=True)
    assert torch.equal(value(torch.randn(4, 2, 3)), torch.zeros(4))


@pytest.fixture
def energy():
    network = EnergyMLP(
        action_dim=2, horizon=2, n_obs_steps=1, obs_dim=3, width=8, n_blocks=2, expansion=2
    ).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network


def test_the_output_is_minus_the_gradient_of_the_scalar(energy):
    x = torch.randn(6, 2, 2, dtype=torch.float64, requires_grad=True)
    time, obs = torch.rand(6).double() * 100, torch.randn(6, 1, 3).double()
    (gradient,) = torch.autograd.grad(energy.energy(x, time, obs).sum(), x)
    torch.testing.assert_close(energy(x, time, obs), -gradient)
    with torch.inference_mode():
        torch.testing.assert_close(energy(x.detach(), time, obs), -gradient)


def test_the_output_is_a_gradient_field(energy):
    time, obs = torch.rand(1).double() * 100, torch.randn(1, 1, 3).double()

    def field(flat):
        return energy(flat.view(1, 2, 2), time, obs).flatten()

    jacobian = torch.autograd.functional.jacobian(field, torch.randn(4, dtype=torch.float64))
    assert float(jacobian.abs().max()) > 1e-3
    torch.testing.assert_close(jacobian, jacobian.t())
