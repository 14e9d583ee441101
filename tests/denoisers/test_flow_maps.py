"""Consistency and trajectory functions: boundaries, published factors, exact networks."""

import pytest
import torch
from torch import nn

from genpolicy.denoisers import Denoiser, FlowMapDenoiser, TrajectoryDenoiser
from genpolicy.denoisers.preconditioning import edm_output
from genpolicy.errors import UsageError
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, TabulatedPath, VPPath
from tests.oracles import GaussianFlowMap, gaussian_ode
from tests.unchecked import unchecked

PATHS = {
    "linear": LinearPath(),
    "cosine": CosinePath(),
    "vp": VPPath(),
    "karras": KarrasPath(),
    "ddpm": TabulatedPath(),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())


class Constant(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x, time, obs):
        self.time = time
        return torch.full_like(x, self.value)


class Random(nn.Module):
    """A fixed nonlinear function of everything it sees."""

    def forward(self, x, time, obs):
        total = time.reshape(len(x), -1).sum(1).reshape(-1, 1, 1)
        return torch.sin(3.0 * x + 0.01 * total) - 0.4


def draw(n=4, dtype=torch.float64):
    return torch.randn(n, 3, 2, generator=torch.Generator().manual_seed(5), dtype=dtype)


@every_path
@pytest.mark.parametrize("t_end", [None, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_boundary_holds_whatever_the_weights(path, t_end, dtype):
    denoiser = FlowMapDenoiser(network=Random(), path=path, t_end=t_end)
    x = draw(dtype=dtype)
    t = torch.full((4,), denoiser.t_end, dtype=dtype)
    alpha, _ = path.alpha_sigma(t)
    expected = x / alpha.reshape(-1, 1, 1)
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(denoiser(x, t, None), expected, atol=tolerance, rtol=tolerance)


def test_the_boundary_is_exact_on_the_path_of_the_papers():
    denoiser = FlowMapDenoiser(network=Random(), path=KarrasPath())
    x = draw(dtype=torch.float32)
    assert torch.equal(denoiser(x, torch.full((4,), denoiser.t_end), None), x)


def test_published_factors_of_the_consistency_actor():
    path = KarrasPath()
    sigma = torch.tensor([0.5, 2.0, 80.0], dtype=torch.float64)
    t = path.t_of_log_snr(-2 * sigma.log())
    x = torch.ones(3, 1, 1, dtype=torch.float64)

    def denoised(value):
        return FlowMapDenoiser(network=Constant(value), path=path)(x, t, None).flatten()

    skip, both = denoised(0.0), denoised(1.0)
    assert skip.tolist() == pytest.approx([0.502004, 0.058934, 3.906e-5], rel=1e-4)
    assert (both - skip).tolist() == pytest.approx([0.352139, 0.484586, 0.499978], rel=2e-6)


@every_path
def test_outputs_are_finite_at_the_noise_end(path):
    denoiser = FlowMapDenoiser(network=Random(), path=path)
    out = denoiser(draw(), torch.full((4,), path.t_max, dtype=torch.float64), None)
    assert bool(torch.isfinite(out).all())


def test_linear_boundary_is_one_euler_step_of_a_velocity_network():
    denoiser = FlowMapDenoiser(network=Constant(2.0), path=LinearPath(), boundary="linear")
    x, t = draw(), torch.tensor([0.0, 0.2, 0.6, 1.0], dtype=torch.float64)
    expected = x - t.reshape(-1, 1, 1) * 2.0
    torch.testing.assert_close(denoiser(x, t, None), expected)
    torch.testing.assert_close(denoiser.network.time, 1000.0 * t)
    late = FlowMapDenoiser(network=Constant(2.0), path=LinearPath(), boundary="linear", t_end=0.2)
    torch.testing.assert_close(late(x, t, None)[1], x[1] / 0.8)


@every_path
def test_a_jump_of_no_length_returns_the_state_exactly(path):
    denoiser = TrajectoryDenoiser(network=Random(), path=path)
    x = draw()
    t = torch.linspace(path.t_min, path.t_max, 4, dtype=torch.float64)
    assert torch.equal(denoiser.jump(x, t, t, None), x)


def test_a_jump_is_the_published_one_in_its_own_coordinates():
    """G = (s/t) y + (1 - s/t) g, with y = x/alpha and times sigma/alpha."""
    path = CosinePath()
    denoiser = TrajectoryDenoiser(network=Random(), path=path)
    x = draw()
    t = torch.tensor([0.9, 0.5, 0.3, 0.2], dtype=torch.float64)
    s = torch.tensor([0.4, 0.4, 0.1, 0.01], dtype=torch.float64)
    (a_t, s_t), (a_s, s_s) = (
        tuple(v.reshape(-1, 1, 1) for v in path.alpha_sigma(u)) for u in (t, s)
    )
    ratio = (s_s / a_s) / (s_t / a_t)
    inner = denoiser.denoised(x, t, s, None)
    expected = a_s * (ratio * x / a_t + (1 - ratio) * inner)
    torch.testing.assert_close(denoiser.jump(x, t, s, None), expected)


class ExactTrajectory(nn.Module):
    """The output that makes a TrajectoryDenoiser on KarrasPath exact for Gaussian data."""

    def __init__(self, path, mean: float, std: float, sigma_data: float) -> None:
        super().__init__()
        self.path, self.mean, self.std, self.sigma_data = path, mean, std, sigma_data

    def forward(self, scaled, time, obs):
        sigma_t, sigma_s = (time / 250.0).exp().unbind(1)
        t, s = (self.path.t_of_log_snr(-2 * v.log()) for v in (sigma_t, sigma_s))
        x = scaled * (sigma_t**2 + self.sigma_data**2).sqrt().reshape(-1, 1, 1)
        keep = (sigma_s / sigma_t).reshape(-1, 1, 1)
        goal = gaussian_ode(self.path, x, t, s, mean=self.mean, std=self.std)
        inner = (goal - keep * x) / (1 - keep)
        at_rest = edm_output(torch.zeros_like(x), x, t, path=self.path, sigma_data=self.sigma_data)
        per_unit = edm_output(torch.ones_like(x), x, t, path=self.path, sigma_data=self.sigma_data)
        return (inner - at_rest) / (per_unit - at_rest)


def test_an_exact_network_jumps_along_the_trajectory():
    path = KarrasPath()
    network = ExactTrajectory(path, mean=0.3, std=0.4, sigma_data=0.5)
    denoiser = TrajectoryDenoiser(network=network, path=path)
    oracle = GaussianFlowMap(path, mean=0.3, std=0.4, t_end=path.t_min)
    t = torch.tensor([1.0, 0.9, 0.7, 0.6], dtype=torch.float64)
    s = torch.tensor([0.8, 0.5, 0.6, 0.3], dtype=torch.float64)
    x = 5 * draw()
    jumped = denoiser.jump(x, t, s, None)
    torch.testing.assert_close(jumped, oracle.jump(x, t, s), atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(denoiser(x, t, None), oracle(x, t), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("make", [FlowMapDenoiser, TrajectoryDenoiser])
def test_they_are_flow_maps(make):
    denoiser = make(network=Random(), path=KarrasPath())
    assert isinstance(denoiser, Denoiser)
    assert denoiser.kind == "flow_map"
    assert denoiser.t_end == KarrasPath().t_min


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (FlowMapDenoiser, {"boundary": "linear"}, "needs LinearPath, got KarrasPath"),
        (FlowMapDenoiser, {"boundary": "edn"}, "did you mean 'edm'"),
        (FlowMapDenoiser, {"t_end": 0.1}, r"t_end is 0.1, expected a time in \[0.22"),
        (FlowMapDenoiser, {"t_end": 1.0}, "t_end is 1.0"),
        (FlowMapDenoiser, {"sigma_data": -1.0}, "sigma_data is -1.0"),
        (TrajectoryDenoiser, {"t_end": 1.5}, "TrajectoryDenoiser: t_end is 1.5"),
        (TrajectoryDenoiser, {"sigma_data": 0.0}, "sigma_data is 0.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, settings, message):
    with pytest.raises(UsageError, match=message):
        unchecked(make)(network=Random(), path=KarrasPath(), **settings)


def test_without_boundary_the_networks_output_is_the_action():
    denoiser = FlowMapDenoiser(network=Constant(2.0), path=LinearPath(), boundary="none")
    x = torch.randn(3, 2, 1)
    assert torch.equal(denoiser(x, torch.ones(3), None), torch.full_like(x, 2.0))
