"""What every network promises: shapes, rows, gradients, precision, one more time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genpolicy.config import build
from genpolicy.errors import UsageError
from genpolicy.networks import load_teacher_weights

DIMS = {"action_dim": 3, "horizon": 8, "n_obs_steps": 2, "obs_dim": 5}
SETTINGS = {
    "mlp": ("MLP", {"width": 16}),
    "mlp_fourier": ("MLP", {"width": 16, "time_features": "fourier"}),
    "residual_mlp": ("ResidualMLP", {"width": 16, "time_dim": 8}),
    "residual_mlp_film": ("ResidualMLP", {"width": 16, "time_dim": 8, "conditioning": "film"}),
    "residual_mlp_bare": ("ResidualMLP", {"width": 16, "time_dim": 8, "layer_norm": False}),
    "unet1d": ("ConditionalUnet1D", {"dims": [8, 16, 16], "time_dim": 8, "n_groups": 4}),
    "unet1d_shift": (
        "ConditionalUnet1D",
        {"dims": [8, 16], "time_dim": 8, "n_groups": 4, "film_scale": False},
    ),
    "transformer": ("ChiTransformer", {"width": 16, "n_layers": 2, "attention_dropout": 0.0}),
    "transformer_open": (
        "ChiTransformer",
        {"width": 16, "n_layers": 1, "causal": False, "attention_dropout": 0.0},
    ),
    "energy": ("EnergyMLP", {"width": 16, "n_blocks": 2, "expansion": 2, "time_dim": 8}),
    "dit": ("DiT", {"width": 16, "n_layers": 2, "time_dim": 8, "time_features": "learned"}),
}


def make(name: str, **changes) -> nn.Module:
    """Build a small network and move every parameter away from a zero initialization."""
    target, settings = SETTINGS[name]
    config = {"_target_": f"genpolicy.networks.{target}", **DIMS, **settings, **changes}
    network = build(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network


def inputs(batch: int = 4, n_times: int = 1):
    x = torch.randn(batch, 8, 3)
    time = torch.rand(batch, n_times) * 100.0
    return x, time[:, 0] if n_times == 1 else time, torch.randn(batch, 2, 5)


every_network = pytest.mark.parametrize("name", SETTINGS)


@every_network
@pytest.mark.parametrize("n_times", [1, 2])
def test_the_output_has_the_shape_and_type_of_the_chunk(name, n_times):
    network = make(name, n_times=n_times)
    x, time, obs = inputs(n_times=n_times)
    out = network(x, time, obs)
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()
    if n_times == 1:
        assert torch.equal(out, network(x, time[:, None], obs))


@every_network
def test_double_precision_stays_double(name):
    network = make(name).double()
    x, time, obs = (value.double() for value in inputs())
    assert network(x, time, obs).dtype == torch.float64


@every_network
def test_the_same_call_gives_the_same_bits_and_draws_no_random_number(name):
    network = make(name).eval()
    given = inputs()
    state = torch.get_rng_state()
    assert torch.equal(network(*given), network(*given))
    assert torch.equal(state, torch.get_rng_state())


@every_network
def test_permuting_the_batch_permutes_the_output(name):
    network = make(name)
    given = inputs(batch=6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = network(*(value[order] for value in given))
    torch.testing.assert_close(permuted, network(*given)[order], atol=1e-5, rtol=1e-4)


@every_network
def test_a_row_does_not_depend_on_the_others(name):
    network = make(name)
    given = inputs()
    alone = network(*(value[1:2] for value in given))
    torch.testing.assert_close(alone, network(*given)[1:2], atol=1e-5, rtol=1e-4)


@every_network
@pytest.mark.parametrize("n_times", [1, 2])
def test_gradients_reach_every_parameter_and_every_input(name, n_times):
    network = make(name, n_times=n_times)
    given = [value.requires_grad_() for value in inputs(n_times=n_times)]
    (network(*given) * torch.randn(4, 8, 3)).sum().backward()
    for label, parameter in network.named_parameters():
        assert parameter.grad is not None, label
        assert parameter.grad.abs().max() > 0, label
    for value in given:
        assert (value.grad.reshape(4, -1).abs().amax(1) > 0).all()


@every_network
def test_bfloat16_autocast_is_close_to_float32(name):
    network = make(name, n_times=2)
    given = inputs(batch=16, n_times=2)
    exact = network(*given)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(*given)
    assert low.shape == exact.shape
    assert (low.float() - exact).norm() < 0.03 * exact.norm()
    low.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    assert all(p.grad.dtype == torch.float32 for p in network.parameters())


@every_network
def test_a_network_of_two_times_starts_as_its_teacher_of_one(name):
    target, settings = SETTINGS[name]
    config = {"_target_": f"genpolicy.networks.{target}", **DIMS, **settings}
    teacher, student = make(name), build({**config, "n_times": 2})
    report = load_teacher_weights(student, teacher.state_dict())
    x, time, obs = inputs(n_times=2)
    assert torch.equal(student(x, time, obs), teacher(x, time[:, 0], obs))
    assert report.copied == sorted(teacher.state_dict())
    assert report.kept
    assert all(".second." in entry for entry in report.kept)
    # The second time is learned from there on.
    (student(x, time, obs) * torch.randn(4, 8, 3)).sum().backward()
    last = student.get_parameter("time.second.2.weight")
    assert last.grad.abs().max() > 0


@every_network
def test_both_times_are_seen(name):
    network = make(name, n_times=2)
    x, time, obs = inputs(n_times=2)
    out = network(x, time, obs)
    for column in (0, 1):
        other = time.clone()
        other[:, column] += 3.0
        assert (network(x, other, obs) - out).abs().flatten(1).amax(1).min() > 1e-6


@every_network
def test_wrong_shapes_are_named(name):
    network = make(name)
    x, time, obs = inputs()
    with pytest.raises(UsageError, match=r"\(4, 6, 3\).*\(batch, 8, 3\)"):
        network(x[:, :6], time, obs)
    with pytest.raises(UsageError, match=r"\(4, 1, 5\).*\(batch, 2, 5\)"):
        network(x, time, obs[:, :1])
    with pytest.raises(UsageError, match="1 rows"):
        network(x[:1], time, obs)
    with pytest.raises(UsageError, match="n_times=1"):
        network(x, time[:, None].expand(4, 2), obs)


@every_network
def test_no_layer_mixes_the_rows_of_a_batch(name):
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LazyLinear)
    assert not [m for m in make(name).modules() if isinstance(m, kinds)]


@every_network
def test_sizes_have_to_be_positive_integers(name):
    for key in DIMS:
        with pytest.raises(UsageError, match=key):
            make(name, **{key: 0})
    with pytest.raises(UsageError, match="n_times is 3"):
        make(name, n_times=3)


@every_network
def test_weights_round_trip_strictly(name):
    one, other = make(name), make(name)
    other.load_state_dict(one.state_dict())
    given = inputs()
    assert torch.equal(one(*given), other(*given))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("residual_mlp", {"dropout": 0.5}),
        ("transformer", {"dropout": 0.5}),
        ("transformer", {"attention_dropout": 0.5}),
        ("dit", {"dropout": 0.5}),
    ],
)
def test_dropout_acts_in_training_only(name, changes):
    given = inputs()
    network = make(name, **changes)
    assert not torch.equal(network(*given), network(*given))
    network.eval()
    assert torch.equal(network(*given), network(*given))
    with pytest.raises(UsageError, match=r"\[0, 1\)"):
        make(name, **dict.fromkeys(changes, 1.0))


def test_unknown_choices_name_the_valid_ones():
    with pytest.raises(UsageError, match=r"'film'"):
        make("residual_mlp", conditioning="fim")
    with pytest.raises(UsageError, match=r"'sinusoidal'"):
        make("mlp", time_features="sinus")
