"""Anchor seeking and MOPO on problems whose answer is known, and COCOA in real runs."""

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule

from genpolicy import compose
from genpolicy.algorithms.anchor_seeking import anchor_network
from genpolicy.cli.compose_config import compose_config
from genpolicy.data.batches import BatchStream
from genpolicy.data.d4rl import write_d4rl
from genpolicy.data.episodes import DataSource
from genpolicy.errors import CheckpointError, UsageError
from genpolicy.networks import AnchorEncoder, Imagined, TransductiveEncoder
from genpolicy.policies import load_critic, load_policy, read_card
from genpolicy.policies.checkpoint import save
from genpolicy.training import resume, train
from tests.algorithms.test_bandits import actions_of, built, fit

SMALL = {"seeker_width": 24, "n_models": 2, "dynamics_width": 32, "dynamics_layers": 2}


def small(prefix):
    return [f"{prefix}.{key}={value}" for key, value in SMALL.items()]


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A point near the origin, moved by its actions: s' = s + 0.2 a; the reward is -|s|^2."""
    rng = np.random.default_rng(0)
    n, length = 3000, 10
    actions = rng.uniform(-1, 1, (n, 2))
    observations = np.zeros((n, 4))
    for row in range(n):
        if row % length == 0:
            observations[row, :2] = rng.normal(scale=0.3, size=2)
        else:
            observations[row, :2] = observations[row - 1, :2] + 0.2 * actions[row - 1]
    last = np.arange(n) % length == length - 1
    path = tmp_path_factory.mktemp("data") / "plane.hdf5"
    write_d4rl(
        path,
        observations=observations.astype(np.float32),
        actions=actions.astype(np.float32),
        rewards=-(observations[:, :2] ** 2).sum(1).astype(np.float32),
        terminals=np.zeros(n, bool),
        timeouts=last,
        infos={"goal": np.zeros((n, 2), np.float32)},
        source=DataSource("maze2d-umaze", "generated"),
    )
    return path


def overrides(path, tmp_path, name, run, *more):
    return compose_config(
        "train",
        [
            f"experiment=maze2d_umaze_{name}",
            f"data.path={path}",
            f"run_dir='{tmp_path / run}'",
            "data.batch_size=16",
            "data.val_ratio=0.1",
            "trainer.max_steps=4",
            "save.every=2",
            "log_every=1",
            "logger=none",
            *more,
        ],
    )


@pytest.fixture
def anchors(plane, tmp_path):
    """A run of anchor seeking, two steps for the dynamics and two for the seeker."""
    steps = ["algorithm.n_dynamics_steps=2", *small("policy.network")]
    config = overrides(plane, tmp_path, "anchor_seeking", "anchors", *steps)
    return train(config, progress=False)


def test_the_seeker_leads_back_to_the_data(plane, monkeypatch):
    module, data = built(
        "anchor_seeking",
        plane,
        "algorithm.n_dynamics_steps=300",
        "algorithm.n_reverse_steps=6",
        "data.batch_size=64",
        *small("policy.network"),
        plain=True,
    )
    fit(module, data, 600, monkeypatch)
    limit = data.episodes.obs["state"][:, :2]
    batch = BatchStream(data.train_windows, batch_size=256, seed=1).batch(0)
    generator = torch.Generator().manual_seed(0)
    off, action = module.reverse_rollouts(batch, generator)
    off, action = off[-256:], action[-256:]  # the last of six steps away
    normalizer = module.policy.normalizer
    where = normalizer.denormalize_obs({"state": off[:, None]})["state"][:, 0, :2]
    assert float(where.norm(dim=1).mean()) > 1.5 * float(np.linalg.norm(limit, axis=1).mean())
    # Off the data the learned action points at the data, which lies around the origin.
    angle = torch.arange(0, 6.28, 0.4)
    start = torch.zeros(len(angle), 1, 4)
    start[:, 0, 0], start[:, 0, 1] = 1.5 * angle.cos(), 1.5 * angle.sin()
    obs = {"state": start, "goal": torch.zeros(len(angle), 1, 2)}
    found = module.policy.sample(obs, seeds=range(len(angle)))[:, 0]
    cosine = torch.cosine_similarity(found, -start[:, 0, :2], dim=-1)
    assert float(cosine.mean()) > 0.9
    # So anchors, a step of the seeker in the forward dynamics, are nearer to it.
    encoder = AnchorEncoder(obs_shapes=data.spec.obs_shapes, action_dim=2, keys=["state"], **SMALL)
    encoder.load_anchors(module.network)
    _, anchor = encoder.split(normalizer.normalize_obs(obs))
    there = normalizer.denormalize_obs({"state": anchor})["state"][:, 0, :2]
    assert float(there.norm(dim=1).mean()) < 1.45


def test_directions_lead_away_from_where_the_data_came_from(plane):
    module, _ = built("anchor_seeking", plane, *small("policy.network"), plain=True)
    action = torch.tensor([[1.0, 0.0]] * 50 + [[0.0, 1.0]] * 50 + [[-1.0, 0.0]] * 50)
    found = module.directions(action, torch.Generator().manual_seed(0))
    assert torch.equal(found[:50], torch.tensor([[-1.0, 0.0]]).expand(50, 2))
    assert torch.equal(found[100:], torch.tensor([[1.0, 0.0]]).expand(50, 2))


def test_imagined_transitions_are_the_models(plane, anchors, monkeypatch):
    module, data = built(
        "mopo",
        plane,
        f"algorithm.dynamics_from='{anchors}'",
        "algorithm.penalty=2.0",
        "algorithm.n_model_steps=3",
        "data.val_ratio=0.1",
    )
    data.normalizer = module.models()[0].normalizer
    batch = BatchStream(data.train_windows, batch_size=8, seed=0).batch(0)
    monkeypatch.setattr(LightningModule, "global_step", property(lambda self: 0))
    network = module.models()[1]
    with torch.no_grad():
        network.forward_model.models.layers[-1].weight.zero_()
        bias = network.forward_model.models.layers[-1].bias
        # Each step adds 0.1 to every feature and pays 1, certain to exp(-5); it never ends.
        bias.zero_()
        bias[..., :4], bias[..., 4] = 0.1, 1.0
        bias[..., 5:10], bias[..., 10] = -50.0, -50.0
    found = module.imagined(batch, torch.Generator().manual_seed(0))
    assert found["reward"].shape == (24,)
    spread = 5**0.5 * np.exp(-5.0)
    torch.testing.assert_close(
        found["reward"], torch.full((24,), 1.0 - 2.0 * spread), atol=0.03, rtol=0
    )
    torch.testing.assert_close(found["bootstrap"], torch.full((24,), 0.99))
    assert torch.equal(found["obs"]["state"][:8], batch["obs"]["state"])
    assert torch.equal(found["obs"]["state"][8:16], found["next_obs"]["state"][:8])
    assert torch.equal(found["next_obs"]["goal"][:8], batch["obs"]["goal"])
    normalizer = module.policy.normalizer
    moved = normalizer.normalize_obs(found["next_obs"])["state"]
    stood = normalizer.normalize_obs(found["obs"])["state"]
    step = (moved - stood)[..., :2]  # velocities are constant in this data
    torch.testing.assert_close(step, torch.full_like(step, 0.1), atol=0.04, rtol=0)
    with torch.no_grad():
        bias[..., 10] = 50.0  # every first step ends the task
    found = module.imagined(batch, torch.Generator().manual_seed(0))
    assert found["reward"].shape == (8,)
    assert not found["bootstrap"].any()


def test_mopo_reaches_the_optimum_of_its_model(plane, anchors, monkeypatch):
    module, data = built(
        "mopo",
        plane,
        f"algorithm.dynamics_from='{anchors}'",
        "algorithm.real_fraction=0.01",
        "algorithm.n_model_steps=1",
        "algorithm.explore_std=0.3",
        "data.val_ratio=0.1",
    )
    best = torch.tensor([0.5, -0.5])

    def imagine(obs, action, generator):
        """A bandit: every step ends, and pays by its distance to the best action."""
        reward = -(action - best).square().sum(-1)
        return Imagined(obs, reward, torch.ones(len(obs)), torch.zeros(len(obs)))

    module.models()[1].forward_model.imagine = imagine
    fit(module, data, 300, monkeypatch)
    found = module.policy.normalizer.normalize_action(actions_of(module.policy, 0.0))
    torch.testing.assert_close(found.mean(0), best, atol=0.2, rtol=0)


def test_the_models_of_another_split_are_refused(plane, anchors):
    start = f"algorithm.dynamics_from='{anchors}'"
    with pytest.raises(CheckpointError, match="other statistics"):
        built("mopo", plane, start, "data.val_ratio=0.7")


def _state(run, kind="raw"):
    policy, critic = load_policy(run, weights=kind), load_critic(run, weights=kind)
    return {**policy.state_dict(), **{f"q.{k}": v for k, v in critic.state_dict().items()}}


@pytest.mark.parametrize(("base", "kind"), [("iql", "iql"), ("td3_bc", "twin"), ("mopo", "twin")])
def test_bases_with_anchors_train_save_reload_and_resume(plane, anchors, tmp_path, base, kind):
    more = [
        f"cocoa={kind}",
        f"cocoa.anchors='{anchors}'",
        "policy.network.width=16",
        "critic.q.width=16",
        "policy.encoder.basis_width=8",
        *small("policy.encoder"),
        *([f"algorithm.dynamics_from='{anchors}'"] if base == "mopo" else []),
    ]
    whole = train(overrides(plane, tmp_path, base, "whole", *more), progress=False)
    config = overrides(plane, tmp_path, base, "part", *more)
    part = train({**config, "trainer": {**config["trainer"], "max_steps": 2}}, progress=False)
    text = (part / "config.json").read_text()
    (part / "config.json").write_text(text.replace('"max_steps": 2', '"max_steps": 4'))
    if base != "mopo":  # whose models the run does not copy
        anchors.rename(anchors.with_name("moved"))
    resume(part, progress=False)
    if base != "mopo":
        anchors.with_name("moved").rename(anchors)
    for weights in ("raw", "ema"):
        first, second = _state(whole, weights), _state(part, weights)
        assert all(torch.equal(first[key], second[key]) for key in first)
    policy, critic = load_policy(whole), load_critic(whole)
    encoder, network = policy.encoder, load_policy(anchors).denoiser.network
    assert isinstance(encoder, TransductiveEncoder)
    for owner in (encoder, critic.encoder):  # as they were trained, and no further
        assert torch.equal(owner.seeker[0].weight, network.seeker[0].weight)
    obs = {"state": torch.randn(5, 1, 4), "goal": torch.zeros(5, 1, 2)}
    chunk = policy.sample(obs, seeds=range(5))
    assert chunk.shape == (5, 1, 2)
    assert torch.equal(chunk[2:3], policy.sample({k: v[2:3] for k, v in obs.items()}, seeds=[2]))
    assert critic(chunk, obs).shape == (5,)
    best = compose.best_of(policy, critic, n=3)
    assert torch.equal(
        load_policy(save(best, tmp_path / "best")).sample(obs, seeds=range(5)),
        best.sample(obs, seeds=range(5)),
    )
    assert read_card(whole).training["cocoa"]["anchors"] == str(anchors)


def test_what_does_not_fit_is_refused(plane, anchors, tmp_path):
    def run(base, *more):
        train(overrides(plane, tmp_path, base, "refused", *more), progress=False)

    with pytest.raises(CheckpointError, match="other sizes"):
        run("td3_bc", "cocoa=twin", f"cocoa.anchors='{anchors}'")
    with pytest.raises(UsageError, match=r"same policy\.encoder\.keys"):
        sizes = [*small("policy.encoder"), "policy.encoder.keys=[state,goal]"]
        run("td3_bc", "cocoa=twin", f"cocoa.anchors='{anchors}'", *sizes)
    with pytest.raises(UsageError, match="critic's encoder is a LowDimEncoder"):
        wrong = overrides(
            plane,
            tmp_path,
            "td3_bc",
            "refused",
            "cocoa=twin",
            f"cocoa.anchors='{anchors}'",
            *small("policy.encoder"),
        )
        wrong["critic"] = overrides(plane, tmp_path, "td3_bc", "refused")["critic"]
        train(wrong, progress=False)
    with pytest.raises(UsageError, match="network=anchors"):
        anchor_network(built("td3_bc", plane)[0].policy, who="a test")
    with pytest.raises(UsageError, match="action_normalizer=min_max"):
        built("anchor_seeking", plane, "data.action_normalizer=mean_std", plain=True)
