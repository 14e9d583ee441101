"""Exact log-densities: Gaussian policies, integrals, and scalar networks."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from genpolicy.data.episodes import DataSource, Episodes
from genpolicy.data.normalizer import Normalizer
from genpolicy.denoisers import FlowMapDenoiser, ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import (
    PredictionWeighting,
    UniformTimes,
    alignment_loss,
    denoising_loss,
)
from genpolicy.networks import EnergyMLP, LowDimEncoder
from genpolicy.paths import LinearPath, VPPath, convert, expand_t
from genpolicy.policies import GenerativePolicy, log_density, scalar_log_density
from genpolicy.policies.density import energy_of
from genpolicy.sampling import Sampler
from genpolicy.shapes import TaskSpec
from tests.oracles import GaussianDenoiser


class Exact(nn.Module):
    """Predicts exactly for Gaussian data."""

    def __init__(self, path, predicts, mean, std):
        super().__init__()
        self.path, self.predicts = path, predicts
        self.exact = GaussianDenoiser(path, mean, std)

    def forward(self, x, time, obs):
        t = time / 1000.0
        return convert(self.exact(x, t), x, t, path=self.path, predicts="clean", to=self.predicts)


def policy_of(network, path, predicts, *, scale=1.0, action_dim=1):
    """A policy whose normalized actions are scale times smaller than physical ones."""
    spec = TaskSpec(
        task="toy",
        obs_shapes={"s": (1,)},
        action_dim=action_dim,
        n_obs_steps=1,
        horizon=1,
        n_action_steps=1,
    )
    episodes = Episodes.from_arrays(
        obs={"s": np.array([[-1.0], [1.0]])},
        actions=np.array([[-scale] * action_dim, [scale] * action_dim]),
        episode_ends=[2],
        source=DataSource("toy", "generated"),
    )
    denoiser = ParameterizedDenoiser(network=network, path=path, predicts=predicts)
    return GenerativePolicy(
        spec=spec,
        normalizer=Normalizer.fit(episodes),
        encoder=LowDimEncoder(obs_shapes=spec.obs_shapes),
        denoiser=denoiser,
        sampler=Sampler(),
    ).eval()


def normal(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))


@pytest.mark.parametrize(
    ("path", "predicts"),
    [(VPPath(), "noise"), (LinearPath(t_min=0.001, t_max=0.999), "velocity")],
)
def test_the_density_of_a_gaussian_policy_is_exact(path, predicts):
    policy = policy_of(Exact(path, predicts, 0.25, 0.2), path, predicts, scale=2.0, action_dim=2)
    actions = torch.tensor([[0.5, 0.5], [0.9, 0.1], [-0.5, 1.0]])[:, None]
    found = log_density(policy, {"s": torch.zeros(3, 1, 1)}, actions, n_steps=60)
    # Physical actions are N(0.5, 0.4^2) for each of two entries, at the noise of t_min.
    expected = normal(actions.double(), 0.5, 0.4).sum((1, 2))
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0.01)


def test_limits_are_refused():
    path = VPPath()
    policy = policy_of(Exact(path, "noise", 0.0, 1.0), path, "noise")
    obs, actions = {"s": torch.zeros(1, 1, 1)}, torch.zeros(1, 1, 1)
    with pytest.raises(UsageError, match="network=energy"):
        scalar_log_density(policy, obs, actions)
    policy.denoiser = FlowMapDenoiser(network=nn.Identity(), path=path)
    with pytest.raises(UsageError, match="no ODE"):
        log_density(policy, obs, actions)


@pytest.fixture(scope="module")
def trained():
    """A scalar network fitted to N(s/4, 0.3^2), where s is the observation."""
    torch.manual_seed(0)
    path = VPPath(t_min=0.01)
    network = EnergyMLP(
        action_dim=1, horizon=1, n_obs_steps=1, obs_dim=1, width=32, n_blocks=2, expansion=2
    )
    policy = policy_of(network, path, "noise")
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 700)
    generator = torch.Generator().manual_seed(0)
    for _ in range(700):
        s = torch.rand(512, 1, 1, generator=generator) * 2 - 1
        clean = s / 4 + 0.3 * torch.randn(512, 1, 1, generator=generator)
        loss, _ = denoising_loss(
            policy.denoiser,
            clean,
            policy.encode({"s": s}),
            times=UniformTimes(low=None, high=None),
            weighting=PredictionWeighting(),
            generator=generator,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return policy


@pytest.mark.parametrize("s", [-1.0, 0.5])
def test_a_trained_scalar_is_the_log_density(trained, s):
    grid = torch.linspace(-1.5, 1.5, 301)
    obs = {"s": torch.full((301, 1, 1), s)}
    expected = normal(grid.double(), s / 4, 0.3)
    bulk = expected > expected.max() - 2.5
    # The exact density along the ODE integrates to 1, trained well or not.
    exact = log_density(trained, obs, grid[:, None, None], n_steps=40)
    assert float(torch.trapezoid(exact.exp(), grid.double())) == pytest.approx(1.0, abs=5e-3)
    torch.testing.assert_close(exact[bulk], expected[bulk], atol=0.3, rtol=0)
    # The scalar, normalized on the grid, is the same function.
    with torch.no_grad():
        scalar = scalar_log_density(trained, obs, grid[:, None, None], t=0.05).double()
    scalar = scalar - torch.trapezoid((scalar - scalar.max()).exp(), grid.double()).log()
    scalar = scalar - scalar.max()
    _, sigma = trained.path.alpha_sigma(torch.tensor(0.05, dtype=torch.float64))
    alpha = (1 - sigma**2).sqrt()
    wide = normal(grid.double(), alpha * s / 4, (alpha**2 * 0.09 + sigma**2).sqrt())
    torch.testing.assert_close(scalar[bulk], (wide - wide.max())[bulk], atol=0.35, rtol=0)


@pytest.mark.parametrize("slope", [2.0])
def test_alignment_tilts_the_behaviour_by_the_values(trained, slope):
    # With Q = slope a and beta 1 the optimum is N(s/4 + slope 0.09, 0.3^2).
    tuned = copy.deepcopy(trained)
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    generator = torch.Generator().manual_seed(1)
    path, n = tuned.path, 32
    for _ in range(150):
        s = (torch.rand(32, 1, 1, generator=generator) * 2 - 1).repeat_interleave(n, 0)
        clean = s / 4 + 0.3 * torch.randn(32 * n, 1, 1, generator=generator)
        t = UniformTimes(low=None, high=None).sample(32, path, generator).repeat_interleave(n)
        alpha, sigma = path.alpha_sigma(t)
        noise = torch.randn(clean.shape, generator=generator)
        x_t = expand_t(alpha, clean) * clean + expand_t(sigma, clean) * noise
        cond = tuned.encode({"s": s})
        with torch.no_grad():
            base = energy_of(trained.denoiser, x_t, t, cond)
        tilt = (energy_of(tuned.denoiser, x_t, t, cond) - base).view(-1, n)
        loss = alignment_loss(tilt, slope * clean.view(-1, n))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    tuned = tuned.with_sampler(rule="ddim", n_steps=30, grid="log_snr")
    obs = {"s": torch.zeros(400, 1, 1)}
    moved = (
        tuned.sample(obs, seeds=range(400)).mean()
        - trained.with_sampler(rule="ddim", n_steps=30, grid="log_snr")
        .sample(obs, seeds=range(400))
        .mean()
    )
    assert float(moved.detach()) == pytest.approx(0.09 * slope, abs=0.05)
