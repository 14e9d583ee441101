"""Small untrained policies of every kind, with a fitted normalizer."""

import numpy as np
import pytest
import torch

from genpolicy.data.episodes import DataSource, Episodes
from genpolicy.data.normalizer import Normalizer
from genpolicy.policies import PolicyCard, build_policy, save_policy
from genpolicy.shapes import TaskSpec

SPEC = TaskSpec(
    task="pusht",
    obs_shapes={"agent_pos": (2,), "keypoints": (18,)},
    action_dim=2,
    n_obs_steps=2,
    horizon=16,
    n_action_steps=8,
)
NETWORK = {"_target_": "genpolicy.networks.ResidualMLP", "width": 64, "n_blocks": 2}


def config(kind="flow", network=None):
    """Return a ``build_policy`` configuration."""
    linear = {"_target_": "genpolicy.paths.LinearPath"}
    sampler = {"_target_": "genpolicy.sampling.Sampler"}
    kinds = {
        "flow": (linear, "ParameterizedDenoiser", {"predicts": "velocity"}, ("euler", 10)),
        "diffusion": (
            {"_target_": "genpolicy.paths.CosinePath"},
            "ParameterizedDenoiser",
            {"predicts": "v"},
            ("ddpm", 8),
        ),
        "consistency": (linear, "FlowMapDenoiser", {"boundary": "linear"}, ("renoise", 2)),
    }
    path, denoiser, options, (rule, n_steps) = kinds[kind]
    return {
        "encoder": {"_target_": "genpolicy.networks.LowDimEncoder"},
        "network": network or NETWORK,
        "path": path,
        "denoiser": {"_target_": f"genpolicy.denoisers.{denoiser}", **options},
        "sampler": {**sampler, "rule": rule, "n_steps": n_steps},
    }


@pytest.fixture(scope="session")
def normalizer():
    """Statistics of random data."""
    rng = np.random.default_rng(0)
    episodes = Episodes.from_arrays(
        obs={
            "agent_pos": rng.uniform(0, 512, (50, 2)).astype(np.float32),
            "keypoints": rng.uniform(0, 512, (50, 18)).astype(np.float32),
        },
        actions=rng.uniform(0, 512, (50, 2)).astype(np.float32),
        terminated=np.zeros(50, bool),
        truncated=np.zeros(50, bool),
        episode_ends=np.array([50]),
        source=DataSource(name="pusht", kind="generated"),
    )
    return Normalizer.fit(episodes)


@pytest.fixture
def make_policy(normalizer):
    """Return a function: kind to a policy with seeded random weights."""

    def make(kind="flow", **changes):
        torch.manual_seed(1)
        return build_policy({**config(kind), **changes}, spec=SPEC, normalizer=normalizer).eval()

    return make


@pytest.fixture
def checkpoint(tmp_path, make_policy, normalizer):
    """A saved flow policy, its folder."""
    card = PolicyCard(policy=config(), spec=SPEC, normalizer=normalizer.to_json())
    weights = make_policy().state_dict()
    raw = {k: v + 1 if v.is_floating_point() else v for k, v in weights.items()}
    return save_policy(tmp_path / "ckpt", card, {"ema": weights, "raw": raw})


@pytest.fixture
def checkpoint_of(tmp_path, make_policy, normalizer):
    """Return a function: kind to the folder of a saved policy of that kind."""

    def save_one(kind):
        card = PolicyCard(policy=config(kind), spec=SPEC, normalizer=normalizer.to_json())
        weights = make_policy(kind).state_dict()
        return save_policy(tmp_path / f"parent-{kind}", card, {"ema": weights})

    return save_one


def build(kind, normalizer, *, seed=0, spec=SPEC):
    torch.manual_seed(seed)
    policy = build_policy(config(kind), spec=spec, normalizer=normalizer)
    for parameter in policy.denoiser.parameters():  # zero-initialised outputs would hide mistakes
        torch.nn.init.normal_(parameter, std=0.1)
    return policy.eval().requires_grad_(False)


def observations(spec=SPEC, n=5):
    generator = torch.Generator().manual_seed(3)
    return {
        key: 512 * torch.rand(n, spec.n_obs_steps, *shape, generator=generator)
        for key, shape in spec.obs_shapes.items()
    }


@pytest.fixture
def flow(normalizer):
    return build("flow", normalizer, seed=1)


@pytest.fixture
def diffusion(normalizer):
    return build("diffusion", normalizer, seed=2)
