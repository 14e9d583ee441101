"""A policy's row is a function of its observation and its seed, and of nothing else."""

import pytest
import torch

from genpolicy.errors import NumericsError, UsageError
from genpolicy.policies import Policy

KINDS = ["flow", "diffusion", "consistency"]


def _obs(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "agent_pos": torch.rand(n, 2, 2, generator=generator) * 512,
        "keypoints": torch.rand(n, 2, 18, generator=generator) * 512,
    }


def _rows(obs, index):
    return {key: value[index] for key, value in obs.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_the_batch_around_them(make_policy, kind):
    policy, obs = make_policy(kind), _obs(21)
    assert isinstance(policy, Policy)
    whole = policy.sample(obs, seeds=range(21))
    assert whole.shape == (21, 16, 2)
    for index in ([0], [20], [3, 20, 7], list(range(20, -1, -1)), [5] * 9):
        part = policy.sample(_rows(obs, index), seeds=index)
        assert torch.equal(part, whole[index])


def test_a_row_depends_on_its_seed_and_its_observation(make_policy):
    policy, obs = make_policy(), _obs(2)
    a = policy.sample(obs, seeds=[1, 1])
    b = policy.sample(obs, seeds=[1, 2])
    assert torch.equal(a[0], b[0])
    assert not torch.equal(a[1], b[1])
    assert not torch.equal(a[0], a[1])


def test_without_seeds_every_call_is_fresh(make_policy):
    policy, obs = make_policy(), _obs(1)
    assert not torch.equal(policy.sample(obs), policy.sample(obs))


def test_actions_are_within_the_bounds_of_the_data(make_policy):
    policy = make_policy("diffusion")
    chunk = policy.sample(_obs(8), seeds=range(8))
    low, high = (torch.tensor(policy.normalizer.to_json()["action"][k]) for k in ("min", "max"))
    slack = 1e-4 * (high - low)
    assert (chunk >= low - slack).all()
    assert (chunk <= high + slack).all()


def test_sampling_neither_trains_nor_touches_global_randomness(make_policy):
    policy = make_policy(
        network={
            "_target_": "genpolicy.networks.ResidualMLP",
            "width": 16,
            "n_blocks": 1,
            "dropout": 0.5,
        }
    ).train()
    before = torch.get_rng_state()
    a, b = (policy.sample(_obs(2), seeds=[0, 1]) for _ in range(2))
    assert torch.equal(a, b)
    assert policy.training
    assert torch.equal(before, torch.get_rng_state())


def test_another_sampler_on_the_same_weights(make_policy):
    policy = make_policy()
    other = policy.with_sampler(n_steps=3)
    assert other.sampler.nfe(other.denoiser.path) == 3
    assert policy.sampler.n_steps == 10
    assert other.denoiser is policy.denoiser


def test_no_rows_give_no_rows(make_policy):
    assert make_policy().sample(_obs(0), seeds=[]).shape == (0, 16, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: {"agent_pos": o["agent_pos"]}, "keypoints"),
        (lambda o: {**o, "agent_pos": o["agent_pos"][:, :1]}, r"agent_pos.*\(4, 1, 2\)"),
        (lambda o: {**o, "agent_pos": o["agent_pos"][:2]}, "rows"),
    ],
)
def test_observations_that_do_not_fit_are_refused(make_policy, change, message):
    with pytest.raises(UsageError, match=message):
        make_policy().sample(change(_obs(4)), seeds=range(4))


def test_seeds_that_do_not_fit_are_refused(make_policy):
    with pytest.raises(UsageError, match="3 seeds for 4 rows"):
        make_policy().sample(_obs(4), seeds=range(3))


def test_an_action_that_is_not_finite_names_its_row(make_policy):
    obs = _obs(4)
    obs["keypoints"][2] = float("nan")
    with pytest.raises(NumericsError, match=r"rows \[2\]"):
        make_policy().sample(obs, seeds=range(4))
