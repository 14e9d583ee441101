"""Networks as posterior means: exact networks, EDM preconditioning, times, refusals."""

import itertools
from typing import get_args

import pytest
import torch
from torch import nn

from genpolicy.denoisers import Denoiser, ParameterizedDenoiser, as_tracking
from genpolicy.denoisers.base import TrackingDenoiser
from genpolicy.errors import UsageError
from genpolicy.paths import (
    CosinePath,
    KarrasPath,
    LinearPath,
    Prediction,
    TabulatedPath,
    VPPath,
    convert,
)
from tests.oracles import GaussianDenoiser
from tests.unchecked import unchecked

PATHS = {
    "linear": LinearPath(t_min=0.001, t_max=0.999),
    "cosine": CosinePath(),
    "vp": VPPath(),
    "karras": KarrasPath(),
    "ddpm": TabulatedPath(),
}


class Recorder(nn.Module):
    """Remembers what it was called with and returns a constant."""

    def __init__(self, output: float = 0.0) -> None:
        super().__init__()
        self.output = output

    def forward(self, x, time, obs):
        self.seen = (x, time, obs)
        return torch.full_like(x, self.output)


class ExactNetwork(nn.Module):
    """Predicts exactly for Gaussian data."""

    def __init__(self, oracle: GaussianDenoiser, predicts: str) -> None:
        super().__init__()
        self.oracle, self.predicts = oracle, predicts

    def forward(self, x, time, obs):
        t = time / 1000.0
        clean = self.oracle(x, t)
        return convert(clean, x, t, path=self.oracle.path, predicts="clean", to=self.predicts)


def batch(path, n=5, dtype=torch.float64):
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(n, 3, 2, generator=draw, dtype=dtype)
    return x, torch.linspace(path.t_min, path.t_max, n, dtype=dtype)


@pytest.mark.parametrize(("name", "predicts"), list(itertools.product(PATHS, get_args(Prediction))))
def test_an_exact_network_of_any_type_gives_the_exact_denoiser(name, predicts):
    oracle = GaussianDenoiser(PATHS[name], mean=0.3, std=0.4)
    network = ExactNetwork(oracle, predicts)
    denoiser = ParameterizedDenoiser(network=network, path=oracle.path, predicts=predicts)
    x, t = batch(oracle.path)
    torch.testing.assert_close(denoiser(x, t, None), oracle(x, t), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("name", ["linear", "cosine", "karras", "ddpm"])
def test_edm_preconditioning_is_the_published_one_in_its_own_coordinates(name):
    """y = x/alpha, s = sigma/alpha: D = c_skip y + c_out F(c_in y, ln(s)/4)."""
    path, sd, output = PATHS[name], 0.7, 1.3
    network = Recorder(output)
    denoiser = ParameterizedDenoiser(
        network=network, path=path, predicts="clean", precondition="edm", sigma_data=sd
    )
    x, t = batch(path)
    out = denoiser(x, t, None)
    alpha, sigma = (v.reshape(-1, 1, 1) for v in path.alpha_sigma(t))
    y, s = x / alpha, sigma / alpha
    c_skip, c_out = sd**2 / (s**2 + sd**2), s * sd / (s**2 + sd**2).sqrt()
    torch.testing.assert_close(out, c_skip * y + c_out * output)
    torch.testing.assert_close(network.seen[0], y / (s**2 + sd**2).sqrt())
    inside = s.flatten().clamp(1e-4, 1e4)
    torch.testing.assert_close(network.seen[1], 1000.0 * inside.log() / 4)


def test_edm_preconditioning_is_finite_at_both_ends_of_the_straight_line():
    network = Recorder(1.0)
    denoiser = ParameterizedDenoiser(
        network=network, path=LinearPath(), predicts="clean", precondition="edm"
    )
    x = torch.ones(2, 1, 1)
    out = denoiser(x, torch.tensor([0.0, 1.0]), None)
    assert out.flatten().tolist() == pytest.approx([1.0, 0.5])  # x itself, and sigma_data F
    assert bool(torch.isfinite(network.seen[1]).all())


def test_the_network_sees_scaled_times_and_the_condition():
    network = Recorder()
    path = TabulatedPath(n_levels=50)
    denoiser = ParameterizedDenoiser(
        network=network, path=path, predicts="noise", time_scale=50.0, time_shift=-1.0
    )
    cond = torch.ones(2, 1, 4)
    t = torch.tensor([path.time_of_level(0), path.time_of_level(49)], dtype=torch.float64)
    denoiser.raw(torch.ones(2, 3, 1, dtype=torch.float64), t, cond)
    x, time, obs = network.seen
    assert time.tolist() == pytest.approx([0.0, 49.0])
    assert obs is cond
    assert x.shape == (2, 3, 1)


def test_weights_are_those_of_the_network_alone():
    denoiser = ParameterizedDenoiser(
        network=nn.Linear(2, 2), path=TabulatedPath(), predicts="noise"
    )
    assert set(denoiser.state_dict()) == {"network.weight", "network.bias"}


def test_it_is_a_denoiser_and_no_tracking_one():
    denoiser = ParameterizedDenoiser(network=Recorder(), path=LinearPath(), predicts="velocity")
    assert isinstance(denoiser, Denoiser)
    assert not isinstance(denoiser, TrackingDenoiser)
    assert denoiser.kind == "posterior_mean"


def test_a_plain_denoiser_lifts_to_a_tracking_one():
    oracle = GaussianDenoiser(LinearPath())
    lifted = as_tracking(oracle)
    assert isinstance(lifted, TrackingDenoiser)
    assert as_tracking(lifted) is lifted
    x, t = batch(oracle.path)
    carry = lifted.start(x, None)
    out, carry = lifted.denoise(x, t, None, carry)
    assert carry is None
    assert torch.equal(out, oracle(x, t))
    assert (lifted.kind, lifted.path) == (oracle.kind, oracle.path)


def test_gradients_reach_the_weights_and_the_input():
    denoiser = ParameterizedDenoiser(network=_Scale(), path=TabulatedPath(), predicts="v")
    x, t = batch(denoiser.path, dtype=torch.float32)
    x.requires_grad_(True)
    denoiser(x, t, None).square().sum().backward()
    assert x.grad is not None
    assert denoiser.network.factor.grad is not None


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, time, obs):
        return self.factor * x


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"predicts": "noise"}, r"LinearPath\(t_max=0.999\)"),
        ({"predicts": "velocity", "precondition": "edm"}, "use predicts='clean'"),
        ({"predicts": "clean", "precondition": "karras"}, "valid names: edm, none"),
        ({"predicts": "clean", "sigma_data": 0.0}, "sigma_data is 0.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        unchecked(ParameterizedDenoiser)(network=Recorder(), path=LinearPath(), **settings)
