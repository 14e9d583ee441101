"""Dynamics, anchors and the bilinear predictor of COCOA."""

import pytest
import torch

from genpolicy.errors import CheckpointError, UsageError
from genpolicy.networks import (
    AnchorEncoder,
    AnchorNetwork,
    Bilinear,
    DynamicsEnsemble,
    TransductiveEncoder,
    TransductiveQNetwork,
    TransductiveValueNetwork,
)

SMALL = {"seeker_width": 8, "n_models": 2, "dynamics_width": 8, "dynamics_layers": 1}
SHAPES = {"state": (3,), "goal": (2,)}


def observed(batch=6, n_obs_steps=2):
    return {key: torch.randn(batch, n_obs_steps, *shape) for key, shape in SHAPES.items()}


def test_an_observation_is_its_anchor_and_the_difference():
    encoder = AnchorEncoder(obs_shapes=SHAPES, action_dim=2, keys=["state"], **SMALL)
    obs = observed()
    difference, anchor = encoder.split(obs)
    torch.testing.assert_close(difference + anchor, obs["state"])
    assert float(difference.abs().max()) > 1e-3
    assert torch.equal(encoder(obs), torch.cat([difference, anchor], -1))
    assert encoder.obs_dim == 6
    assert all(not p.requires_grad for p in encoder.parameters())
    with pytest.raises(UsageError, match="every difference is 0"):
        AnchorEncoder(obs_shapes=SHAPES, action_dim=2, n_anchor_steps=0, **SMALL)


def test_anchors_are_steps_of_the_seeker_in_the_dynamics():
    encoder = AnchorEncoder(obs_shapes=SHAPES, action_dim=3, n_anchor_steps=2, **SMALL)
    # Dynamics s' = s + (a, 0, 0), and a seeker that always acts with tanh(0.5).
    with torch.no_grad():
        for parameter in [*encoder.seeker.parameters(), *encoder.forward_model.parameters()]:
            parameter.zero_()
        encoder.seeker[-2].bias.fill_(0.5)
    encoder.forward_model.forward = lambda obs, action: (
        torch.nn.functional.pad(action, (0, 3))[None],
        None,
        None,
    )
    obs = observed()
    difference, _ = encoder.split(obs)
    expected = torch.tensor([-2 * 0.46211716] * 3 + [0.0] * 2)
    torch.testing.assert_close(difference, expected.expand_as(difference))


def test_the_predictor_is_its_definition_for_every_network():
    net = Bilinear(n=2, n_in=3, width=5, n_layers=1, rank=4, activation="relu")
    difference, anchor = torch.randn(7, 3), torch.randn(7, 3)
    found = net(difference, anchor)
    for k in range(2):

        def rows(stack, x, k=k):
            first, last = stack.layers
            h = torch.relu(x @ first.weight[k] + first.bias[k])
            return (h @ last.weight[k] + last.bias[k]).view(7, 5, 4)

        expected = torch.einsum("btr,btr->bt", rows(net.f, difference), rows(net.g, anchor))
        torch.testing.assert_close(found[k], expected)
        torch.testing.assert_close(net(difference, anchor, slice(k, k + 1))[0], expected)


def test_linear_functions_are_predicted_whatever_the_anchor():
    # f = (1, difference), g = (w anchor, w): <f, g> = w (anchor + difference), for every split.
    net = Bilinear(n=1, n_in=2, width=1, n_layers=1, rank=3, activation="relu")
    w = torch.tensor([2.0, -1.0])
    net.f.forward = lambda x, chosen: torch.cat([torch.ones(len(x), 1), x], 1)[None]
    net.g.forward = lambda x, chosen: torch.cat([(x @ w)[:, None], w.expand(len(x), 2)], 1)[None]
    s, anchor = torch.randn(50, 2), torch.randn(50, 2)
    torch.testing.assert_close(net(s - anchor, anchor)[0, :, 0], s @ w)


def test_values_see_both_parts_and_the_action_in_both():
    q = TransductiveQNetwork(
        n_obs_steps=1, obs_dim=6, n_actions=1, action_dim=2, width=8, basis_width=4, rank=2
    )
    features, actions = torch.randn(5, 1, 6), torch.randn(5, 1, 2)
    found = q(features, actions)
    assert found.shape == (2, 5)
    torch.testing.assert_close(q(features, actions, only=1)[0], found[1])
    difference = torch.cat([features[:, 0, :3], actions[:, 0]], 1)
    anchor = torch.cat([features[:, 0, 3:], actions[:, 0]], 1)
    torch.testing.assert_close(
        q.inputs(features, actions, slice(None)), q.predictor(difference, anchor)
    )
    value = TransductiveValueNetwork(n_obs_steps=1, obs_dim=6, width=8, basis_width=4, rank=2)
    assert torch.equal(value(features), torch.zeros(5))
    with pytest.raises(UsageError, match="difference and anchor"):
        TransductiveQNetwork(n_obs_steps=1, obs_dim=5, n_actions=1, action_dim=2)


def test_encoders_take_the_anchors_of_a_seeker_of_their_size():
    network = AnchorNetwork(action_dim=2, horizon=1, n_obs_steps=1, obs_dim=3, **SMALL)
    encoder = TransductiveEncoder(
        obs_shapes=SHAPES, action_dim=2, keys=["state"], basis_width=4, **SMALL
    )
    encoder.load_anchors(network)
    state = torch.randn(6, 1, 3)
    action = network(torch.zeros(6, 1, 2), torch.zeros(6), state)
    expected = network.forward_model.next_obs(state[:, 0], action[:, 0])
    torch.testing.assert_close(encoder.split({"state": state})[1][:, 0], expected)
    assert encoder({"state": state}).shape == (6, 1, 4)
    wider = AnchorEncoder(obs_shapes=SHAPES, action_dim=2, **SMALL)
    with pytest.raises(CheckpointError, match="other sizes"):
        wider.load_anchors(network)
    with pytest.raises(UsageError, match="single steps"):
        AnchorNetwork(action_dim=2, horizon=4, n_obs_steps=1, obs_dim=3)


def test_dynamics_recover_a_linear_system_forward_and_in_reverse():
    torch.manual_seed(0)
    matrix = torch.tensor([[0.9, 0.2], [-0.1, 0.8]])
    drive = torch.tensor([[0.3], [0.5]])
    sizes = {"obs_dim": 2, "action_dim": 1, "n_models": 2, "width": 32, "n_layers": 2}
    forward = DynamicsEnsemble(**sizes, outcomes=True)
    reverse = DynamicsEnsemble(**sizes, outcomes=False)
    optimizer = torch.optim.Adam([*forward.parameters(), *reverse.parameters()], lr=5e-3)
    noise = 0.05

    def steps(n):
        s, a = torch.rand(n, 2) * 2 - 1, torch.rand(n, 1) * 2 - 1
        return s, a, s @ matrix.T + a @ drive.T, s[:, 0] + noise * torch.randn(n), s[:, 1] > 0.5

    for k in range(500):
        s, a, after, reward, over = steps(128)
        loss, _ = forward.loss(s, a, after, reward=reward, terminated=over)
        back, _ = reverse.loss(after, a, s)
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - k / 500)
        optimizer.zero_grad()
        (loss + back).backward()
        optimizer.step()
    s, a, after, reward, over = steps(500)
    with torch.no_grad():
        assert float((forward.next_obs(s, a) - after).square().mean().sqrt()) < 0.03
        assert float((reverse.next_obs(after, a) - s).square().mean().sqrt()) < 0.03
        _, log_std, logits = forward(s, a)
        # The reward's noise is found, and where the task is over.
        assert float(log_std[..., 2].exp().mean()) == pytest.approx(noise, rel=0.3)
        assert float(((logits > 0) == over).float().mean()) > 0.95
    generator = torch.Generator().manual_seed(0)
    drawn = forward.imagine(s, a, generator)
    assert float((drawn.reward - s[:, 0]).std()) == pytest.approx(noise, rel=0.4)
    torch.testing.assert_close(drawn.spread, log_std.exp().square().sum(-1).sqrt().amax(0))
