"""A critic steers policies it was not trained with: order statistics, Gaussians, refusals."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from genpolicy import compose
from genpolicy.data.episodes import DataSource, Episodes
from genpolicy.data.normalizer import Normalizer
from genpolicy.denoisers import FlowMapDenoiser, ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.evaluation.identity import identify_policy
from genpolicy.networks import LowDimEncoder
from genpolicy.paths import LinearPath
from genpolicy.policies import ComposedPolicy, Critic, CriticCard, GenerativePolicy, load_policy
from genpolicy.policies.checkpoint import save
from genpolicy.sampling import Sampler
from genpolicy.shapes import TaskSpec
from tests.oracles import GaussianDenoiser

SPEC = TaskSpec(
    task="toy", obs_shapes={"s": (2,)}, action_dim=1, n_obs_steps=1, horizon=1, n_action_steps=1
)


def statistics(low, high):
    """A normalizer of actions in [low, high]."""
    episodes = Episodes.from_arrays(
        obs={"s": np.array([[-1.0, -1.0], [1.0, 1.0]])},
        actions=np.array([[low], [high]]),
        episode_ends=[2],
        source=DataSource("toy", "generated"),
    )
    return Normalizer.fit(episodes)


class Identity(nn.Module):
    """The action is the noise itself."""

    def forward(self, x, time, obs):
        return x


class ExactVelocity(nn.Module):
    """The velocity of Gaussian data on LinearPath."""

    def __init__(self, mean, std):
        super().__init__()
        self.exact = GaussianDenoiser(LinearPath(), mean, std)

    def forward(self, x, time, obs):
        t = time / 1000.0
        return (x - self.exact(x, t)) / t[:, None, None]


class FirstEntry(nn.Module):
    """Q is a line in the first valued action, with a second critic above it."""

    n_critics = 2

    def __init__(self, slope=1.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, features, actions, only=None):
        value = self.slope * actions[:, 0, 0]
        return torch.stack([value, value + 1.0])


def critic_of(normalizer, spec=SPEC, slope=1.0):
    encoder = LowDimEncoder(obs_shapes=spec.obs_shapes)
    found = Critic(spec=spec, normalizer=normalizer, encoder=encoder, q=FirstEntry(slope))
    return found.eval().requires_grad_(False)


def policy_of(denoiser, sampler, normalizer, spec=SPEC, rows_per_block=64):
    policy = GenerativePolicy(
        spec=spec,
        normalizer=normalizer,
        encoder=LowDimEncoder(obs_shapes=spec.obs_shapes),
        denoiser=denoiser,
        sampler=sampler,
        rows_per_block=rows_per_block,
    )
    return policy.eval()


@pytest.fixture
def normals():
    """A policy whose actions are standard normal, unclipped, and its normalizer."""
    normalizer = statistics(-1.0, 1.0)
    denoiser = FlowMapDenoiser(network=Identity(), path=LinearPath(), boundary="none")
    denoiser.anchor = nn.Parameter(torch.zeros(1))
    return policy_of(denoiser, Sampler(rule="renoise", n_steps=1, clip=False), normalizer)


@pytest.mark.parametrize(("n", "expected"), [(1, 0.0), (4, 1.029375), (50, 2.249074)])
def test_the_best_of_n_is_the_largest_order_statistic(normals, n, expected):
    best = compose.best_of(normals, critic_of(normals.normalizer), n=n)
    n_rows = 400
    chunk = best.sample({"s": torch.zeros(n_rows, 1, 2)}, seeds=range(n_rows))
    assert float(chunk.mean()) == pytest.approx(expected, abs=0.12)
    assert best.nfe == n


def test_a_temperature_lies_between_the_mean_and_the_best(normals):
    critic, obs = critic_of(normals.normalizer), {"s": torch.zeros(200, 1, 2)}
    soft = compose.best_of(normals, critic, n=50, temperature=1.0)
    # Weights exp(a) tilt N(0, 1) to N(1, 1), up to the 50 candidates there are.
    assert float(soft.sample(obs, seeds=range(200)).mean()) == pytest.approx(0.98, abs=0.22)
    assert torch.equal(soft.sample(obs, seeds=range(200)), soft.sample(obs, seeds=range(200)))


def test_rows_do_not_depend_on_each_other(normals):
    best = compose.best_of(normals, critic_of(normals.normalizer), n=5, temperature=0.5)
    obs = {"s": torch.randn(7, 1, 2)}
    whole = best.sample(obs, seeds=range(7))
    for row in (0, 3, 6):
        alone = best.sample({"s": obs["s"][row : row + 1]}, seeds=[row])
        assert torch.equal(alone[0], whole[row])
    block = best.sample_block(obs, list(range(7)))
    torch.testing.assert_close(best.normalizer.denormalize_action(block), whole)
    assert best.sample({"s": torch.zeros(0, 1, 2)}, seeds=[]).shape == (0, 1, 1)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_guidance_tilts_a_policy_in_other_units_than_the_critics(scale):
    # Actions are physical N(1, 0.8^2) (normalized N(0.25, 0.2^2) of [-4, 4]); the critic was
    # trained on data in [-2, 2], where Q = normalized action = a/2.
    normalizer = statistics(-4.0, 4.0)
    path = LinearPath(t_min=0.001, t_max=0.999)
    denoiser = ParameterizedDenoiser(
        network=ExactVelocity(0.25, 0.2), path=path, predicts="velocity"
    )
    denoiser.anchor = nn.Parameter(torch.zeros(1))
    sampler = Sampler(rule="ddim", n_steps=200, grid="log_snr", clip=False)
    policy = policy_of(denoiser, sampler, normalizer, rows_per_block=500)
    critic = critic_of(statistics(-2.0, 2.0))
    options = {"max_ratio": None, "interval": (-1e9, 1e9)}
    guided = compose.value_guided(policy, critic, scale=scale, options=options)
    obs = {"s": torch.zeros(1000, 1, 2)}
    chunk = guided.sample(obs, seeds=range(1000))
    base = policy.sample(obs, seeds=range(1000))
    # p exp(scale a/2): the mean moves by scale/2 times the variance.
    moved = float((chunk - base).mean())
    assert moved == pytest.approx(0.5 * scale * 0.64, rel=0.03)
    assert float(chunk.std()) == pytest.approx(float(base.std()), rel=0.02)
    assert torch.equal(
        compose.value_guided(policy, critic, scale=0.0).sample(obs, seeds=range(1000)), base
    )


def test_a_critic_of_single_actions_values_chunks(normals):
    long = dataclasses.replace(SPEC, n_obs_steps=2, horizon=4, n_action_steps=2)
    policy = policy_of(normals.denoiser, normals.sampler, normals.normalizer, spec=long)
    best = compose.best_of(policy, critic_of(normals.normalizer), n=20)
    chunk = best.sample({"s": torch.zeros(600, 2, 2)}, seeds=range(600))
    means = chunk.mean(0).flatten().tolist()
    assert means[1] == pytest.approx(1.867, abs=0.1)  # the current action is chosen
    assert [means[0], *means[2:]] == pytest.approx([0, 0, 0], abs=0.15)


def test_what_does_not_fit_is_refused(normals):
    critic = critic_of(normals.normalizer)
    with pytest.raises(UsageError, match="n_candidates is 0"):
        compose.best_of(normals, critic, n=0)
    with pytest.raises(UsageError, match="consistency"):
        compose.value_guided(normals, critic, scale=1.0)
    other = critic_of(normals.normalizer, dataclasses.replace(SPEC, obs_shapes={"other": (2,)}))
    with pytest.raises(UsageError, match="the critic sees 'other'"):
        compose.best_of(normals, other, n=2)
    longer = dataclasses.replace(SPEC, horizon=3, n_action_steps=3)
    with pytest.raises(UsageError, match="values 3 actions"):
        compose.best_of(normals, critic_of(normals.normalizer, longer), n=2)
    with pytest.raises(UsageError, match="cannot be a member"):
        compose.best_of(normals, critic, n=2).bind({"s": torch.zeros(1, 1, 2)})
    with pytest.raises(UsageError, match="got 0 steps"):
        critic(torch.zeros(1, 1, 1), {"s": torch.zeros(1, 0, 2)})
    with pytest.raises(UsageError, match="no state value"):
        critic.state_value(torch.zeros(1, 1, 2))


def test_compositions_with_a_critic_are_saved_and_identified(loaded_flow, flow_critic, tmp_path):
    obs = loaded_flow.spec.blank_obs(2)
    guided = compose.value_guided(loaded_flow, flow_critic, scale=0.3, options={"max_ratio": 0.5})
    for number, made in enumerate((guided, compose.best_of(loaded_flow, flow_critic, n=3))):
        again = load_policy(save(made, tmp_path / str(number)))
        assert torch.equal(made.sample(obs, seeds=[1, 2]), again.sample(obs, seeds=[1, 2]))
        assert identify_policy(again).to_json() == identify_policy(made).to_json()
        assert "critic" in str(identify_policy(made).settings).lower()
        assert "best of 3" in str(compose.explain(made)) or "ValueGuidance" in str(
            compose.explain(made)
        )
    assert isinstance(load_policy(tmp_path / "0"), ComposedPolicy)


@pytest.fixture
def flow_critic(loaded_flow):
    """A trained critic's stand-in for the Push-T policies of this folder, with a card."""
    from genpolicy.policies import build_critic

    settings = {
        "encoder": {"_target_": "genpolicy.networks.LowDimEncoder"},
        "q": {"_target_": "genpolicy.networks.QNetwork", "width": 16},
        "value": None,
        "aggregate": "mean",
    }
    critic = build_critic(settings, spec=loaded_flow.spec, normalizer=loaded_flow.normalizer)
    critic.card = CriticCard(
        critic=settings,
        spec=loaded_flow.spec,
        normalizer=loaded_flow.normalizer.to_json(),
        discount=0.99,
        reward={"name": "none", "gain": 1.0, "offset": 0.0},
    )
    return critic.eval().requires_grad_(False)


@pytest.fixture
def loaded_flow(checkpoint):
    return load_policy(checkpoint)
