"""Every algorithm on problems whose answer is known: a bandit, and a loop without end."""

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule

from genpolicy.algorithms.critics import acting_policy
from genpolicy.cli.compose_config import compose_config
from genpolicy.data.batches import BatchStream
from genpolicy.data.d4rl import write_d4rl
from genpolicy.data.datamodule import WindowDataModule
from genpolicy.data.episodes import DataSource
from genpolicy.paths import LinearPath
from genpolicy.seeding import derive_seed
from genpolicy.training.fit import _build_algorithm, _data_settings
from tests.oracles import GaussianDenoiser

BEST = 0.5
N_STEPS = 300

# What is strong enough to move a policy from uniform data to the optimum in few steps.
SETTINGS = {
    "iql": [
        # Weights that are not cut: a plateau of equal ones, ended by the actions' range, has its
        # mean nearer to 0.
        "algorithm.beta=0.1",
        "algorithm.max_weight=1.0e+9",
        "algorithm.expectile=0.5",
        "algorithm.target_rate=0.05",
        "data.batch_size=256",
    ],
    "td3_bc": ["algorithm.q_weight=1.0", "algorithm.actor_penalty=0.05"],
    "rebrac": ["algorithm.q_weight=1.0", "algorithm.actor_penalty=0.05"],
    "diffusion_ql": ["algorithm.eta=5.0"],
    "consistency_ac": [
        "algorithm.eta=5.0",
        "algorithm.settings.weighting=uniform",
        "algorithm.settings.curriculum.last=20",
    ],
    "idql": ["algorithm.n_candidates=32", "algorithm.target_rate=0.05"],
    "fql": ["algorithm.alpha=0.1", "algorithm.n_flow_steps=4"],
}


@pytest.fixture(scope="module")
def bandit(tmp_path_factory):
    """One-step episodes: two contexts, actions uniform, reward -|a - best|^2 with best +-0.5."""
    rng = np.random.default_rng(0)
    n = 3000
    context = rng.choice([-1.0, 1.0], n)
    actions = rng.uniform(-1, 1, (n, 2))
    best = BEST * np.stack([context, -context], axis=1)
    observations = np.zeros((n, 4))
    observations[:, 0] = context
    path = tmp_path_factory.mktemp("data") / "bandit.hdf5"
    write_d4rl(
        path,
        observations=observations.astype(np.float32),
        actions=actions.astype(np.float32),
        rewards=-((actions - best) ** 2).sum(1).astype(np.float32),
        terminals=np.ones(n, bool),
        timeouts=np.zeros(n, bool),
        infos={"goal": rng.normal(size=(n, 2)).astype(np.float32)},
        source=DataSource("maze2d-umaze", "generated"),
    )
    return path


def built(name, path, *overrides, plain=False):
    """Return an algorithm on data, and the data; ``plain`` ones have no sizes to make small."""
    sizes = ["policy.network.width=48", "critic.q.width=48", "critic.q.n_layers=2"]
    config = compose_config(
        "train",
        [
            f"experiment=maze2d_umaze_{name}",
            f"data.path={path}",
            "data.val_ratio=0.0",
            "data.batch_size=64",
            *([] if plain else sizes),
            f"trainer.max_steps={N_STEPS}",
            "optimizer.lr=3e-3",
            "optimizer.warmup_steps=20",
            *overrides,
        ],
    )
    data = WindowDataModule(**_data_settings(config), seed=derive_seed(0, "data"))
    data.setup("fit")
    return _build_algorithm(config, data, 0), data


def fit(module, data, n_steps, monkeypatch):
    """Train without a trainer: batches, losses and the optimizer are those of a run."""
    step = {"n": 0}
    monkeypatch.setattr(LightningModule, "global_step", property(lambda self: step["n"]))
    stream = BatchStream(data.train_windows, batch_size=data.batch_size, seed=0)
    settings = module.configure_optimizers()
    optimizer, scheduler = settings["optimizer"], settings["lr_scheduler"]["scheduler"]
    module.train()
    for k in range(n_steps):
        step["n"] = k
        out = module.training_step(stream.batch(k), 0)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        scheduler.step()
    module.eval()
    return out["metrics"]


def actions_of(policy, context, n=100):
    state = torch.zeros(n, 1, 4)
    state[..., 0] = context
    return policy.sample({"state": state, "goal": torch.zeros(n, 1, 2)}, seeds=range(n))[:, 0]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_policy_class_reaches_the_optimum_of_a_bandit(bandit, name, monkeypatch):
    module, data = built(name, bandit, *SETTINGS[name])
    fit(module, data, N_STEPS, monkeypatch)
    policy = acting_policy(module)
    for context in (-1.0, 1.0):
        found = actions_of(policy, context)
        best = torch.tensor([BEST * context, -BEST * context])
        # Imitation gives a mean of 0 and, but for deterministic policies, a regret of 1.17.
        torch.testing.assert_close(found.mean(0), best, atol=0.2, rtol=0)
        assert float((found - best).square().sum(1).mean()) < 0.2


def test_a_policy_that_acts_between_updates_acts_with_its_newest_weights(bandit, monkeypatch):
    module, data = built("rebrac", bandit)
    before = actions_of(module.policy, 1.0, n=4)
    fit(module, data, 3, monkeypatch)
    after = actions_of(module.policy, 1.0, n=4)
    assert not torch.equal(before, after)
    module.policy.compiled = None  # a program written anew
    assert torch.equal(after, actions_of(module.policy, 1.0, n=4))


def test_without_weight_on_imitation_only_the_value_moves_the_policy(bandit, monkeypatch):
    module, data = built("consistency_ac", bandit, "algorithm.imitation_weight=0.0")
    batch = BatchStream(data.train_windows, batch_size=16, seed=0).batch(0)
    monkeypatch.setattr(LightningModule, "global_step", property(lambda self: 0))
    with torch.no_grad():
        module.critic.q.layers[0].weight.zero_()  # a constant value moves nothing
    out = module.training_step(batch, 0)
    assert "imitation_loss" not in out["metrics"]
    out["loss"].backward()
    assert all(not p.grad.any() for p in module.policy.parameters() if p.grad is not None)


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """A task without end: reward 1 at every step, recorded in pieces of five steps."""
    rng = np.random.default_rng(0)
    n = 1500
    path = tmp_path_factory.mktemp("data") / "loop.hdf5"
    write_d4rl(
        path,
        observations=np.zeros((n, 4), np.float32) + rng.normal(size=(n, 4)).astype(np.float32),
        actions=rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        rewards=np.ones(n, np.float32),
        terminals=np.zeros(n, bool),
        timeouts=np.arange(n) % 5 == 4,
        infos={"goal": np.zeros((n, 2), np.float32)},
        source=DataSource("maze2d-umaze", "generated"),
    )
    return path


@pytest.mark.parametrize("name", ["iql", "fql"])
def test_time_limits_bootstrap(loop, name, monkeypatch):
    # With discount 0.5 the value is 2 everywhere; were a piece's end the task's, it would be less.
    overrides = ["data.discount=0.5", "algorithm.target_rate=0.1"]
    module, data = built(name, loop, *overrides)
    metrics = fit(module, data, 200, monkeypatch)
    assert float(metrics["q"]) == pytest.approx(2.0, abs=0.05)


def test_without_weight_on_the_critic_diffusion_ql_is_imitation(bandit, monkeypatch):
    module, data = built("diffusion_ql", bandit, "algorithm.eta=0.0")
    batch = BatchStream(data.train_windows, batch_size=16, seed=0).batch(0)
    monkeypatch.setattr(LightningModule, "global_step", property(lambda self: 0))
    found = torch.autograd.grad(
        module.training_step(batch, 0)["loss"], list(module.policy.parameters())
    )
    # A constant critic adds nothing either: its gradient with respect to actions is 0.
    weighted, _ = built("diffusion_ql", bandit, "algorithm.eta=5.0")
    weighted.load_state_dict(module.state_dict())
    with torch.no_grad():
        for critic in (weighted.critic, weighted.critic_target.copy):
            critic.q.layers[0].weight.zero_()
    same = torch.autograd.grad(
        weighted.training_step(batch, 0)["loss"], list(weighted.policy.parameters())
    )
    for first, second in zip(found, same, strict=True):
        torch.testing.assert_close(first, second)


def test_each_critic_is_followed_half_of_the_time(bandit):
    from genpolicy.algorithms.critics import improve

    module, data = built("diffusion_ql", bandit)
    batch = BatchStream(data.train_windows, batch_size=4, seed=0).batch(0)
    with torch.no_grad():
        last = module.critic.q.layers[-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([2.0, 10.0]).view(2, 1, 1))
    generator = torch.Generator().manual_seed(0)
    chunk = torch.zeros(4, 1, 2)
    found = [float(improve(module.critic, batch, chunk, generator)) for _ in range(200)]
    assert {round(v, 4) for v in found} == {-0.2, -5.0}
    assert 60 < sum(v < -1 for v in found) < 140
    assert float(improve(module.critic, batch, chunk, None)) == pytest.approx(-1.0)


def test_the_critics_gradient_reaches_every_step_of_the_chain_and_no_critic(bandit):
    from genpolicy.algorithms.common import draw_chunks
    from genpolicy.algorithms.critics import improve

    module, data = built("diffusion_ql", bandit, "policy.sampler.clip=false")
    batch = BatchStream(data.train_windows, batch_size=16, seed=0).batch(0)
    seen = []
    original = module.denoiser.raw

    def watched(x_t, t, cond):
        out = original(x_t, t, cond)
        out.retain_grad()
        seen.append(out)
        return out

    module.denoiser.raw = watched
    generator = torch.Generator().manual_seed(0)
    cond = module.policy.encode(batch["obs"])
    chunk = draw_chunks(module.policy, module.denoiser, cond, generator)
    improve(module.critic, batch, chunk, generator).backward()
    assert len(seen) == 5
    assert all(float(out.grad.abs().max()) > 0 for out in seen)
    assert all(p.grad is None for p in module.critic.parameters())
    assert all(p.requires_grad for p in module.critic.parameters())


class Velocity(torch.nn.Module):
    """The velocity of data N(0.5, 0.2^2) on LinearPath."""

    def forward(self, x, time, obs):
        t = time / 1000.0
        return (x - GaussianDenoiser(LinearPath())(x, t)) / t[:, None, None]


class Affine(torch.nn.Module):
    """b + k z."""

    def __init__(self):
        super().__init__()
        self.b = torch.nn.Parameter(torch.tensor(0.0))
        self.k = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x, time, obs):
        return self.b + self.k * x


class Line(torch.nn.Module):
    """Two critics c times the mean action."""

    n_critics = 2

    def __init__(self, slope):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope))

    def forward(self, features, actions, only=None):
        return (self.slope * actions.mean((1, 2))).expand(2, -1)


def test_fql_reaches_its_optimum_in_closed_form(bandit):
    # Ten Euler steps map z to 0.5 + 0.154175311 z; with Q = c a: b = 0.5 + c/(2 alpha).
    module, _ = built("fql", bandit, "algorithm.normalize_q=false", "algorithm.alpha=10.0")
    module.flow.network, module.critic.q = Velocity(), Line(2.0)
    module.policy.denoiser.network = student = Affine()
    batch = {"obs": {"state": torch.zeros(4000, 1, 4), "goal": torch.zeros(4000, 1, 2)}}
    optimizer = torch.optim.LBFGS(student.parameters(), max_iter=20)

    def closure():
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(0)
        distance, raised, _ = module.policy_losses(batch, generator)
        loss = module.alpha * distance + raised
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(student.b.detach()) == pytest.approx(0.6, abs=2e-3)
    # With noise of its own for the target, k would be 0.
    assert float(student.k.detach()) == pytest.approx(0.154175311, abs=2e-3)


def test_losses_of_fql_reach_their_own_parts_alone(bandit, monkeypatch):
    module, data = built("fql", bandit)
    batch = BatchStream(data.train_windows, batch_size=8, seed=0).batch(0)
    generator = torch.Generator().manual_seed(0)
    distance, raised, _ = module.policy_losses(batch, generator)
    (distance + raised).backward()
    assert all(p.grad is None for p in [*module.flow.parameters(), *module.critic.parameters()])
    assert all(p.grad is not None for p in module.policy.denoiser.parameters())
    module.zero_grad()
    module.loss(batch, generator)[0].backward()
    assert all(p.grad is None for p in module.policy.denoiser.parameters())
    assert all(p.grad is not None for p in module.flow.parameters())


def test_the_chain_of_diffusion_ql_has_its_published_schedule(bandit):
    module, _ = built("diffusion_ql", bandit)
    times = torch.tensor(module.policy.sampler.times[:-1], dtype=torch.float64)
    alpha, _ = module.denoiser.path.alpha_sigma(times)
    published = [0.006409, 0.038852, 0.158500, 0.435178, 0.804125]
    assert alpha.square().tolist() == pytest.approx(published, abs=1e-6)
    trained = module.times.sample(200, module.denoiser.path, torch.Generator().manual_seed(0))
    assert set(trained.mul(5).round().int().tolist()) == {1, 2, 3, 4, 5}
