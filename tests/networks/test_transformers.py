"""Attention against torch's own, causality, and how a DiT starts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genpolicy.errors import UsageError
from genpolicy.networks import ChiTransformer, DiT
from genpolicy.networks.attention import Attention
from genpolicy.networks.transformer import _Layer

DIMS = {"action_dim": 2, "horizon": 6, "n_obs_steps": 3, "obs_dim": 4}


def copy_attention(own: Attention, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.copy_(torch.cat([own.query.weight, own.key_value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([own.query.bias, own.key_value.bias]))
    theirs.out_proj.load_state_dict(own.out.state_dict())


@torch.no_grad()
def test_attention_is_that_of_torch():
    own = Attention(width=8, n_heads=2, dropout=0.0)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    copy_attention(own, theirs)
    tokens, memory = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    allowed = torch.arange(5)[:, None] >= torch.arange(4)
    expected, _ = theirs(tokens, memory, memory, attn_mask=~allowed)
    torch.testing.assert_close(own(tokens, memory, allowed), expected, atol=1e-6, rtol=1e-5)
    expected, _ = theirs(tokens, tokens, tokens)
    torch.testing.assert_close(own(tokens), expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_layer_is_the_pre_norm_decoder_layer_of_torch():
    own = _Layer(width=8, n_heads=2, dropout=0.0, inner=0.0)
    theirs = nn.TransformerDecoderLayer(
        8, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    copy_attention(own.attend_self, theirs.self_attn)
    copy_attention(own.attend_memory, theirs.multihead_attn)
    theirs.linear1.load_state_dict(own.feed[0].state_dict())
    theirs.linear2.load_state_dict(own.feed[3].state_dict())
    h, memory = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    causal = torch.arange(5)[:, None] >= torch.arange(5)
    seen = torch.arange(5)[:, None] >= torch.arange(4) - 1
    expected = theirs(h, memory, tgt_mask=~causal, memory_mask=~seen)
    torch.testing.assert_close(own(h, memory, causal, seen), expected, atol=1e-6, rtol=1e-5)


def influence(network: nn.Module, of: str) -> torch.Tensor:
    """Return which output step depends on which step of ``of``, as ``(horizon, steps)`` of bool."""
    x, obs = torch.randn(1, 6, 2), torch.randn(1, 3, 4)
    time = torch.tensor([5.0])

    def function(value: torch.Tensor) -> torch.Tensor:
        given = (value, time, obs) if of == "actions" else (x, time, value)
        return network(*given).sum(-1)[0]

    jacobian = torch.autograd.functional.jacobian(function, x if of == "actions" else obs)
    return jacobian[:, 0].abs().amax(-1) > 0


def test_a_causal_transformer_sees_no_later_action_and_no_later_observation():
    network = ChiTransformer(**DIMS, width=16, n_layers=2, attention_dropout=0.0)
    step = torch.arange(6)[:, None]
    assert torch.equal(influence(network, "actions"), step >= torch.arange(6))
    # Observation s of the window belongs to action s.
    assert torch.equal(influence(network, "observations"), step >= torch.arange(3))


def test_an_open_transformer_and_a_dit_see_everything():
    torch.manual_seed(1)
    transformer = ChiTransformer(**DIMS, width=16, n_layers=1, causal=False, attention_dropout=0.0)
    dit = DiT(**DIMS, width=16, n_layers=1, time_dim=8)
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    for network in (transformer, dit):
        assert influence(network, "actions").all()
        assert influence(network, "observations").all()


def test_the_transformer_starts_as_published():
    network = ChiTransformer(**DIMS, width=64, n_layers=2, n_times=2)
    assert abs(float(network.layers[0].feed[0].weight.detach().std()) - 0.02) < 0.001
    assert abs(float(network.action_positions.detach().std()) - 0.02) < 0.003
    assert not network.out.bias.any()
    assert not network.time.second[2].weight.any()
    assert network.time.second[0].weight.abs().max() > 0.05  # torch's own initialization


def test_a_new_dit_returns_zero_and_learns_everything_from_the_second_step():
    network = DiT(**DIMS, width=16, n_layers=2, time_dim=8)
    given = (torch.randn(4, 6, 2), torch.rand(4), torch.randn(4, 3, 4))
    assert not network(*given).any()
    target = torch.randn(4, 6, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)

    def moved() -> set[str]:
        optimizer.zero_grad()
        (network(*given) - target).square().mean().backward()
        optimizer.step()
        return {name for name, p in network.named_parameters() if p.grad.abs().max() > 0}

    assert moved() == {"out.weight", "out.bias"}
    assert "modulation.weight" in moved()
    moved()
    everything = {name for name, _ in network.named_parameters()}
    assert moved() == everything


def test_widths_have_to_fit_the_heads():
    for kind in (ChiTransformer, DiT):
        with pytest.raises(UsageError, match="width 18 is not divisible by n_heads 4"):
            kind(**DIMS, width=18)
