"""The controller and the random policy as policies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genpolicy.envs import make_env
from genpolicy.errors import UsageError
from genpolicy.generators import ControllerPolicy, RandomPolicy, WaypointController
from genpolicy.policies.base import Policy

pytestmark = pytest.mark.sim


def batch(rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Stack observations to (batch, 1, *shape)."""
    return {key: torch.tensor(np.stack([row[key] for row in rows]))[:, None] for key in rows[0]}


def run(policy: Policy, task: str, seed: int, **settings: int) -> dict[str, float]:
    """Roll out one episode, executing whole chunks, and return its metrics."""
    env = make_env(task, **settings)
    obs, info = env.reset(seed=seed)
    n_steps = 0
    while n_steps < env.max_steps:
        for action in policy.sample(batch([obs]), seeds=[seed + n_steps])[0].numpy():
            obs, _, terminated, truncated, info = env.step(action)
            n_steps += 1
            if terminated or truncated:
                return info["metrics"]
    raise AssertionError("the episode did not end")


def test_they_are_policies():
    for policy in (ControllerPolicy(task="maze2d-umaze"), RandomPolicy(task="pusht")):
        assert isinstance(policy, Policy)
    assert RandomPolicy(task="pusht").spec.obs_shapes == {"keypoints": (18,), "agent_pos": (2,)}
    assert ControllerPolicy(task="maze2d-large").spec.obs_shapes == {"state": (4,), "goal": (2,)}


def test_the_controller_scores_above_the_reference_and_random_actions_near_zero():
    controller = ControllerPolicy(task="maze2d-umaze")
    scores = [run(controller, "maze2d-umaze", seed)["d4rl_score"] for seed in range(8)]
    assert np.mean(scores) > 130
    policy = RandomPolicy(task="maze2d-umaze", horizon=10)
    scores = [run(policy, "maze2d-umaze", seed)["d4rl_score"] for seed in range(12)]
    assert np.mean(scores) < 60


def test_random_actions_fill_the_action_space_of_pusht():
    policy = RandomPolicy(task="pusht", horizon=50)
    obs = batch([make_env("pusht").reset(seed=0)[0]] * 20)
    chunk = policy.sample(obs, seeds=range(20))
    assert chunk.shape == (20, 50, 2)
    assert chunk.dtype == torch.float32
    assert 0 <= chunk.min() < 15
    assert 497 < chunk.max() <= 512
    assert chunk.mean().item() == pytest.approx(256, abs=12)


def test_chunks_equal_asking_at_every_step():
    single = ControllerPolicy(task="maze2d-medium")
    chunked = ControllerPolicy(task="maze2d-medium", horizon=12)
    env = make_env("maze2d-medium")
    obs, _ = env.reset(seed=8)
    for _ in range(4):
        chunk = chunked.sample(batch([obs]))[0].numpy()
        for planned in chunk:
            asked = single.sample(batch([obs]))[0, 0].numpy()
            np.testing.assert_allclose(planned, asked, atol=1e-3)
            obs = env.step(planned)[0]


@pytest.mark.parametrize("kind", ["controller", "random"])
def test_rows_depend_on_their_observation_and_seed_alone(kind: str):
    policy: Policy = (
        ControllerPolicy(task="maze2d-umaze", horizon=5, noise_std=0.3)
        if kind == "controller"
        else RandomPolicy(task="maze2d-umaze", horizon=5)
    )
    env = make_env("maze2d-umaze")
    rows = [env.reset(seed=seed)[0] for seed in range(6)]
    seeds = [40, 41, 42, 43, 44, 45]
    chunk = policy.sample(batch(rows), seeds=seeds)
    assert chunk.shape == (6, 5, 2)
    order = [3, 0, 5]
    again = policy.sample(batch([rows[i] for i in order]), seeds=[seeds[i] for i in order])
    assert torch.equal(again, chunk[order])
    reseeded = policy.sample(batch(rows), seeds=[7, *seeds[1:]])
    assert not torch.equal(reseeded[0], chunk[0])
    assert torch.equal(reseeded[1:], chunk[1:])


def test_it_is_the_controller_that_collects_data():
    policy = ControllerPolicy(task="maze2d-umaze")
    obs, _ = make_env("maze2d-umaze").reset(seed=2)
    expected = WaypointController(task="maze2d-umaze").action(obs["state"], obs["goal"])
    np.testing.assert_allclose(policy.sample(batch([obs]))[0, 0], expected, atol=1e-6)


def test_misuse_is_refused():
    policy = ControllerPolicy(task="maze2d-umaze")
    obs = batch([make_env("maze2d-umaze").reset(seed=2)[0]])
    with pytest.raises(UsageError, match="seeds"):
        policy.sample(obs, seeds=[1, 2])
    with pytest.raises(UsageError, match="'goal'"):
        policy.sample({"state": obs["state"]})
    with pytest.raises(UsageError, match="noise_std"):
        ControllerPolicy(task="maze2d-umaze", noise_std=-1.0)
    with pytest.raises(UsageError, match="no environment"):
        RandomPolicy(task="pushbt-xyz")
