"""Advantage-weighted regression: its minimum is the tilted density, returns, resuming."""

import numpy as np
import pytest
import torch
from torch import nn

from genpolicy.algorithms.awr import advantage_weights
from genpolicy.data.d4rl import write_d4rl
from genpolicy.data.episodes import DataSource, Episodes
from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.errors import DataError, UsageError
from genpolicy.losses import PredictionWeighting, UniformTimes, denoising_loss
from genpolicy.paths import LinearPath
from genpolicy.policies import load_policy
from genpolicy.training import resume, train

OBS = {"state": torch.randn(3, 1, 4), "goal": torch.randn(3, 1, 2)}


class AffineVelocity(nn.Module):
    """The velocity of Gaussian data N(mean, 1) on LinearPath; the mean is learned."""

    def __init__(self, mean):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))

    def forward(self, x, time, obs):
        t = (time / 1000.0)[:, None, None]
        spread = (1 - t) ** 2 + t**2
        clean = self.mean + (1 - t) / spread * (x - (1 - t) * self.mean)
        return (x - clean) / t.clamp(min=1e-3)


@pytest.mark.parametrize(("slope", "beta"), [(1.0, 1.0), (0.5, 0.4)])
def test_the_minimum_is_the_density_tilted_by_the_advantage(slope, beta):
    actions = torch.randn(200_000, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    weights, _ = advantage_weights(slope * actions.flatten(), beta=beta, max_weight=1e9)

    def gradient(mean, row_weights):
        network = AffineVelocity(mean)
        denoiser = ParameterizedDenoiser(network=network, path=LinearPath(), predicts="velocity")
        loss, _ = denoising_loss(
            denoiser,
            actions,
            None,
            times=UniformTimes(low=0.3, high=0.9),
            weighting=PredictionWeighting(),
            generator=torch.Generator().manual_seed(1),
            row_weights=row_weights,
        )
        loss.backward()
        return network.mean.grad.item()

    tilted = slope / beta  # N(0, 1) exp(k a/beta) is N(k/beta, 1)
    assert gradient(tilted, weights) == pytest.approx(0.0, abs=0.05)
    assert gradient(0.0, None) == pytest.approx(0.0, abs=0.01)
    assert abs(gradient(0.0, weights)) > 0.3
    assert abs(gradient(tilted, None)) > 0.3


def test_weights_have_mean_one_and_a_limit():
    advantage = torch.tensor([-1.0, 0.0, 1.0, 50.0])
    weights, clipped = advantage_weights(advantage, beta=1.0, max_weight=20.0)
    assert weights.mean().item() == pytest.approx(1.0)
    assert clipped.item() == pytest.approx(0.25)
    assert (weights[3] / weights[1]).item() == pytest.approx(20.0)
    assert (weights[2] / weights[1]).item() == pytest.approx(np.e, rel=1e-5)


def test_returns_end_with_the_episode():
    rewards = np.array([1.0, 2.0, 3.0, 10.0, 20.0], np.float32)
    episodes = Episodes.from_arrays(
        obs={"x": np.zeros((5, 1), np.float32)},
        actions=np.zeros((5, 1), np.float32),
        rewards=rewards,
        episode_ends=[3, 5],
        source=DataSource("test", "generated"),
    )
    np.testing.assert_allclose(episodes.returns_to_go(0.5), [2.75, 3.5, 3.0, 20.0, 20.0])
    np.testing.assert_allclose(episodes.returns_to_go(), [6, 5, 3, 30, 20])
    np.testing.assert_allclose(episodes.returns_to_go(0.0), rewards)
    with pytest.raises(UsageError, match="discount"):
        episodes.returns_to_go(1.5)
    without = Episodes.from_arrays(
        obs=episodes.obs, actions=episodes.actions, episode_ends=[3, 5], source=episodes.source
    )
    with pytest.raises(DataError, match="no rewards"):
        without.returns_to_go()


AWR = ["algorithm=awr", "data.discount=0.9", "algorithm.value_warmup=2", "algorithm.beta=0.5"]


@pytest.fixture
def rewarded(tmp_path):
    """A file of walks whose rewards grow with the first action."""
    rng = np.random.default_rng(0)
    n, length = 240, 24
    ends = np.arange(n) % length == length - 1
    actions = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    write_d4rl(
        tmp_path / "rewarded.hdf5",
        observations=rng.normal(size=(n, 4)).astype(np.float32),
        actions=actions,
        rewards=actions[:, 0],
        terminals=np.zeros(n, bool),
        timeouts=ends,
        infos={"goal": np.repeat(rng.normal(size=(10, 2)), length, axis=0).astype(np.float32)},
        source=DataSource("maze2d-umaze", "generated"),
    )
    return tmp_path / "rewarded.hdf5"


@pytest.mark.parametrize("denoiser", [[], ["path=cosine", "denoiser=v", "sampler=ddim"]])
def test_a_run_trains_and_starts_from_a_base(tiny_config, rewarded, denoiser):
    where = [f"data.path={rewarded}"]
    base = train(tiny_config(*denoiser, *_bc(denoiser), *where, run="base"), progress=False)
    start = [*AWR, *denoiser, f"algorithm.init_from='{base / 'last'}'", *where]
    tuned = load_policy(train(tiny_config(*start, run="tuned"), progress=False))
    assert tuned.sample(OBS, seeds=range(3)).isfinite().all()
    assert not torch.equal(
        tuned.sample(OBS, seeds=range(3)), load_policy(base).sample(OBS, seeds=range(3))
    )


def _bc(denoiser):
    return ["algorithm=diffusion_bc"] if denoiser else []


def test_a_stopped_run_continues_bit_for_bit(tiny_config, rewarded):
    whole = train(tiny_config(*AWR, f"data.path={rewarded}", run="whole"), progress=False)
    config = tiny_config(*AWR, f"data.path={rewarded}", run="part")
    short = {**config, "trainer": {**config["trainer"], "max_steps": 4}}
    part = train(short, progress=False)
    text = (part / "config.json").read_text()
    (part / "config.json").write_text(text.replace('"max_steps": 4', '"max_steps": 6'))
    resume(part, progress=False)
    first, second = (load_policy(run, weights="raw").state_dict() for run in (whole, part))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_windows_without_returns_are_refused(tiny_config):
    with pytest.raises(UsageError, match=r"data\.discount"):
        train(tiny_config("algorithm=awr"), progress=False)
    with pytest.raises(UsageError, match="beta"):
        train(tiny_config(*AWR[:2], "algorithm.beta=0.0"), progress=False)
