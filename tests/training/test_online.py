"""Training with interaction: batches, exploration, continued runs, exact resume."""

import json
import shutil

import numpy as np
import pytest
import torch

from genpolicy.cli.compose_config import compose_config
from genpolicy.errors import CheckpointError, UsageError
from genpolicy.policies import load_critic, load_policy, read_card
from genpolicy.policies.exploration import ExploringPolicy
from genpolicy.training import resume, train
from genpolicy.training.online import OnlineSettings
from genpolicy.training.run_folder import RunFolder
from genpolicy.training.state_io import FolderCheckpointIO

pytestmark = pytest.mark.sim
SHORT = ["online.warmup_steps=0", "online.n_candidates=2"]


@pytest.fixture
def config(tiny_maze, tmp_path):
    """Return a function: algorithm and overrides to a very small run, by default an online one."""

    def make(name, *overrides, run="run", online=True):
        return compose_config(
            "train",
            [
                f"experiment=maze2d_umaze_{name}",
                f"data.path={tiny_maze}",
                f"run_dir='{tmp_path / run}'",
                "data.batch_size=8",
                "data.val_ratio=0.0",
                "policy.network.width=16",
                "critic.q.width=16",
                "trainer.max_steps=4",
                "save.every=2",
                "log_every=1",
                "logger=none",
                *(["online=default", *SHORT] if online else []),
                *overrides,
            ],
        )

    return make


def _state(run, kind="raw"):
    policy, critic = load_policy(run, weights=kind), load_critic(run, weights=kind)
    return {**policy.state_dict(), **{f"q.{k}": v for k, v in critic.state_dict().items()}}


def _collected(run):
    state = FolderCheckpointIO().load_checkpoint(RunFolder(run).latest_state())
    return state["callbacks"]["Interaction"]


def _same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


NOT_AGAIN = {"consistency_ac": ["algorithm.settings.curriculum.total_steps=1"]}


@pytest.mark.parametrize("name", ["consistency_ac", "rebrac"])
def test_a_run_is_continued_online_and_resumes_exactly(config, name, tmp_path):
    base = train(config(name, run="base", online=False), progress=False)
    # One episode of maze2d-umaze is 300 steps: one is due before the first update, and another
    # before the third.
    more = [f"online.from='{base}'", "online.updates_per_step=0.00667", *NOT_AGAIN.get(name, [])]
    whole = train(config(name, *more, run="whole"), progress=False)
    part = config(name, *more, run="part")
    stopped = train({**part, "trainer": {**part["trainer"], "max_steps": 2}}, progress=False)
    text = (stopped / "config.json").read_text()
    (stopped / "config.json").write_text(text.replace('"max_steps": 2', '"max_steps": 4'))
    assert _collected(stopped)["n_episodes"] == 1
    base.rename(base.with_name("moved"))  # a resumed run needs the one it continues no more
    resume(stopped, progress=False)
    for kind in ("raw", "ema"):
        assert _same(_state(whole, kind), _state(stopped, kind))
    first, second = _collected(whole), _collected(stopped)
    assert first["n_episodes"] == second["n_episodes"] == 2
    assert _same(first["episodes"]["obs"], second["episodes"]["obs"])
    assert torch.equal(first["episodes"]["actions"], second["episodes"]["actions"])
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (whole, stopped)]
    assert lines[0] == lines[1]
    logged = [json.loads(line) for line in lines[0]]
    assert [x["step"] for x in logged if "online/return" in x] == [1, 3]
    assert read_card(whole).training["online"]["from"] == str(base)


def test_a_continued_run_starts_with_every_weight_of_the_run_it_continues(config):
    base = train(config("fql", run="base", online=False), progress=False)
    still = ["optimizer.lr=1e-12", "trainer.max_steps=2"]
    run = train(config("fql", f"online.from='{base}'", *still), progress=False)
    first, second = _state(base), _state(run)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=1e-8, rtol=0)
    states = [
        FolderCheckpointIO().load_checkpoint(RunFolder(r).latest_state()) for r in (base, run)
    ]
    flows = [
        {k: v for k, v in s["current_model_state"].items() if k.startswith("flow.")} for s in states
    ]
    assert flows[0]
    for name in flows[0]:
        torch.testing.assert_close(flows[0][name], flows[1][name], atol=1e-8, rtol=0)


def test_statistics_are_those_of_the_run_that_is_continued(config):
    base = train(config("rebrac", "data.val_ratio=0.5", run="base", online=False), progress=False)
    run = train(config("rebrac", f"online.from='{base}'", "seed=5"), progress=False)
    assert load_policy(run).normalizer.to_json() == load_policy(base).normalizer.to_json()
    assert load_critic(run).normalizer.to_json() == load_policy(base).normalizer.to_json()


def test_what_is_collected_is_what_the_environment_did(config):
    run = train(config("rebrac", "online.warmup_steps=400", "online.n_envs=2"), progress=False)
    found = _collected(run)["episodes"]
    assert found["episode_ends"].tolist() == [300, 600]
    # A time limit is no end of the task, and its last observation is known.
    assert not found["terminated"].any()
    assert found["truncated"].nonzero().flatten().tolist() == [299, 599]
    assert found["final_obs"]["state"].shape == (2, 4)
    state = found["obs"]["state"]
    # Velocities are the next positions less these, over the 0.01 s of a step.
    speed = (state[1:300, :2] - state[:299, :2]) / 0.01
    torch.testing.assert_close(speed, state[1:300, 2:], atol=1e-3, rtol=0)


def test_purely_online_runs_use_uniform_actions_first(config):
    run = train(
        config(
            "rebrac",
            "online.offline_fraction=0.0",
            "online.warmup_steps=300",
            "online.warmup_actions=uniform",
        ),
        progress=False,
    )
    actions = _collected(run)["episodes"]["actions"]
    policy = load_policy(run)
    chunk = policy.normalizer.normalize_action(actions[:300, None])
    assert float(chunk.mean()) == pytest.approx(0.0, abs=0.1)
    assert float(chunk.std()) == pytest.approx(3**-0.5, abs=0.05)


def test_exploration_disturbs_actions_by_a_function_of_the_seed(config):
    policy = load_policy(train(config("rebrac", online=False), progress=False))
    obs = {"state": torch.zeros(500, 1, 4), "goal": torch.zeros(500, 1, 2)}
    plain = policy.sample(obs, seeds=range(500))
    noisy = ExploringPolicy(policy, noise_std=0.1)
    found = noisy.sample(obs, seeds=range(500))
    assert torch.equal(found[3:5], noisy.sample({k: v[3:5] for k, v in obs.items()}, seeds=[3, 4]))
    error = policy.normalizer.normalize_action(found) - policy.normalizer.normalize_action(plain)
    assert float(error.std()) == pytest.approx(0.1, rel=0.15)
    none = ExploringPolicy(policy, noise_std=0.0)
    assert torch.equal(none.sample(obs, seeds=range(500)), plain)
    with pytest.raises(UsageError, match="noise_std is -1"):
        ExploringPolicy(policy, noise_std=-1.0)


def test_what_does_not_fit_is_refused(config, tmp_path):
    base = train(config("consistency_ac", run="base", online=False), progress=False)
    start = f"online.from='{base}'"
    with pytest.raises(UsageError, match="curriculum"):
        train(config("consistency_ac", start, run="a"), progress=False)
    with pytest.raises(UsageError, match="give both the same settings"):
        train(config("fql", start, run="b"), progress=False)
    with pytest.raises(UsageError, match="discount"):
        train(config("consistency_ac", start, "data.discount=0.9", run="c"), progress=False)
    with pytest.raises(UsageError, match="accumulate_grad_batches"):
        train(config("rebrac", "trainer.accumulate_grad_batches=2", run="d"), progress=False)
    with pytest.raises(UsageError, match=r"online: .* trains no critic"):
        train({**config("rebrac", run="g"), "critic": None}, progress=False)
    with pytest.raises(CheckpointError):
        train(config("rebrac", f"online.from='{tmp_path}'", run="e"), progress=False)
    shutil.rmtree(base / "state")
    with pytest.raises(CheckpointError, match="no training state"):
        train(config("consistency_ac", start, run="f"), progress=False)
    with pytest.raises(UsageError, match="updates_per_step"):
        OnlineSettings(task="maze2d-umaze", updates_per_step=0.0)
    with pytest.raises(UsageError, match="warmup_actions"):
        OnlineSettings(task="maze2d-umaze", warmup_actions="unifrom")


def test_updates_and_environment_steps_keep_their_ratio():
    settings = OnlineSettings(task="maze2d-umaze", warmup_steps=1000, updates_per_step=4.0)
    assert settings.steps_before(0) == 1000.25
    assert settings.steps_before(3) == 1001.0
    assert np.isclose(settings.steps_before(399), 1100.0)
