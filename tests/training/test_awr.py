"""Advantage-weighted regression: its minimum is the tilted density, returns, resuming."""

import numpy as np
import pytest
import torch
from torch import nn

from genpolicy.data.d4rl import write_d4rl
from genpolicy.data.datamodule import WindowDataModule
from genpolicy.data.episodes import DataSource, Episodes
from genpolicy.data.windows import WindowDataset
from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.errors import CheckpointError, DataError, UsageError
from genpolicy.losses import (
    PredictionWeighting,
    UniformTimes,
    advantage_weights,
    denoising_loss,
)
from genpolicy.paths import LinearPath
from genpolicy.policies import load_policy, read_card
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


def test_weights_of_advantages_far_below_zero_keep_their_ratios():
    weights, clipped = advantage_weights(
        torch.tensor([-5000.0, -5001.0, -9000.0]), beta=1.0, max_weight=20.0
    )
    assert weights.mean().item() == pytest.approx(1.0)
    assert (weights[0] / weights[1]).item() == pytest.approx(np.e, rel=1e-5)
    assert clipped.item() == 0.0


def test_returns_that_vary_are_sought_and_more_than_guidance_by_a_scale_would():
    # Return a n with an unseen n ~ N(0, 1): E[exp(R/beta) | a] = exp(a^2/(2 beta^2)), so that
    # N(0, 1) gets the variance 1/(1 - 1/beta^2) although all actions have the same mean return.
    # Guidance by w = 2 from N(0, 1) to the density for beta 6 has 1/(1 - 2/36), not 1/(1 - 1/9).
    generator = torch.Generator().manual_seed(0)
    action, unseen = torch.randn(2, 1_000_000, generator=generator, dtype=torch.float64)

    def variance(beta):
        weights, _ = advantage_weights(action * unseen, beta=beta, max_weight=1e9)
        return (weights * action.square()).mean().item()

    assert variance(6.0) == pytest.approx(1 / (1 - 1 / 36), rel=0.01)
    assert variance(3.0) == pytest.approx(1 / (1 - 1 / 9), rel=0.02)
    assert variance(3.0) > 1.03 / (1 - 2 / 36)


@pytest.mark.parametrize("n_obs_steps", [1, 2])
def test_windows_carry_the_return_from_their_current_step(n_obs_steps):
    rng = np.random.default_rng(0)
    ends, discount = np.array([7, 8, 20]), 0.9
    episodes = Episodes.from_arrays(
        obs={"x": np.arange(20, dtype=np.float32)[:, None]},
        actions=np.zeros((20, 1), np.float32),
        rewards=rng.normal(size=20).astype(np.float32),
        episode_ends=ends,
        source=DataSource("test", "generated"),
    )
    sizes = {"n_obs_steps": n_obs_steps, "horizon": 4, "pad_before": n_obs_steps - 1}
    windows = WindowDataset(episodes, **sizes, pad_after=3, discount=discount)
    batch = windows.gather(torch.arange(len(windows)))
    current = batch["obs"]["x"][:, -1, 0].int().tolist()
    assert sorted(set(current)) == list(range(20))
    for row, found in zip(current, batch["returns"].tolist(), strict=True):
        stop = ends[np.searchsorted(ends, row, side="right")]
        expected = sum(discount ** (k - row) * episodes.rewards[k] for k in range(row, stop))
        assert found == pytest.approx(expected, abs=1e-5)
    assert "returns" not in WindowDataset(episodes, **sizes, pad_after=3).gather(torch.arange(2))


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
    with pytest.raises(UsageError, match=r"discount is 1\.5"):
        WindowDataModule(task="maze2d-umaze", seed=0, path="unread", discount=1.5)


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


def test_a_base_of_another_kind_or_data_is_refused(tiny_config, rewarded):
    where = f"data.path={rewarded}"
    base = train(tiny_config(where, "trainer.max_steps=2", run="base"), progress=False)
    start = [*AWR, f"algorithm.init_from='{base / 'last'}'"]
    with pytest.raises(UsageError, match="trained with path LinearPath"):
        train(tiny_config(*start, where, "path=cosine", "denoiser=v", run="a"), progress=False)
    with pytest.raises(UsageError, match="trained with predicts velocity"):
        train(tiny_config(*start, where, "denoiser=clean", run="b"), progress=False)
    with pytest.raises(CheckpointError, match="statistics"):
        train(tiny_config(*start, run="c"), progress=False)


def test_the_figure_of_validation_is_the_policys_loss(tiny_config, rewarded):
    # In units of so small a beta the baseline's error is about 1e6, and would choose the best one.
    overrides = ["algorithm.beta=1e-3", "algorithm.value_warmup=100", f"data.path={rewarded}"]
    run = train(tiny_config(*AWR[:2], *overrides), progress=False)
    assert 0.0 < read_card(run).metrics["val/loss"] < 10.0


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
