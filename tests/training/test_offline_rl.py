"""Algorithms with a critic in real runs: they train, save, reload, resume, act, export, compose."""

import json

import numpy as np
import pytest
import torch

from genpolicy import compose
from genpolicy.cli.compose import run as compose_command
from genpolicy.cli.compose_config import compose_config
from genpolicy.data.d4rl import write_d4rl
from genpolicy.data.episodes import DataSource
from genpolicy.errors import CheckpointError, UsageError
from genpolicy.evaluation.of_checkpoint import evaluate_checkpoint
from genpolicy.policies import (
    SelectedPolicy,
    export_policy,
    load_critic,
    load_policy,
    read_card,
    save_critic,
)
from genpolicy.policies.checkpoint import save
from genpolicy.training import resume, train

OBS = {"state": torch.randn(3, 1, 4), "goal": torch.randn(3, 1, 2)}
ALGORITHMS = ("iql", "td3_bc", "rebrac", "diffusion_ql", "consistency_ac", "idql", "fql")


@pytest.fixture(scope="session")
def steps_file(tmp_path_factory):
    """Ten walks with rewards; the last step of every second one ends the task."""
    rng = np.random.default_rng(0)
    n, length = 240, 24
    last = np.arange(n) % length == length - 1
    over = last & (np.arange(n) // length % 2 == 0)
    path = tmp_path_factory.mktemp("data") / "steps.hdf5"
    actions = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    write_d4rl(
        path,
        observations=rng.normal(size=(n, 4)).astype(np.float32),
        actions=actions,
        rewards=actions[:, 0],
        terminals=over,
        timeouts=last & ~over,
        infos={"goal": np.repeat(rng.normal(size=(10, 2)), length, axis=0).astype(np.float32)},
        source=DataSource("maze2d-umaze", "generated"),
    )
    return path


@pytest.fixture
def rl_config(steps_file, tmp_path):
    """Return a function: name of an algorithm and overrides to a very small run."""

    def config(name, *overrides, run="run"):
        return compose_config(
            "train",
            [
                f"experiment=maze2d_umaze_{name}",
                f"data.path={steps_file}",
                f"run_dir='{tmp_path / run}'",
                "data.batch_size=8",
                "data.val_ratio=0.2",
                "policy.network.width=16",
                "trainer.max_steps=4",
                "save.every=2",
                "log_every=1",
                "logger=none",
                *([] if "eda" in name else ["critic.q.width=16"]),
                *overrides,
            ],
        )

    return config


def _state(run, kind="raw"):
    policy = load_policy(run, weights=kind).state_dict()
    critic = load_critic(run, weights=kind).state_dict()
    return {**policy, **{f"critic.{k}": v for k, v in critic.items()}}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains_saves_reloads_and_resumes(rl_config, name, tmp_path):
    whole = train(rl_config(name, run="whole"), progress=False)
    config = rl_config(name, run="part")
    part = train({**config, "trainer": {**config["trainer"], "max_steps": 2}}, progress=False)
    text = (part / "config.json").read_text()
    (part / "config.json").write_text(text.replace('"max_steps": 2', '"max_steps": 4'))
    resume(part, progress=False)
    for kind in ("raw", "ema"):
        first, second = _state(whole, kind), _state(part, kind)
        assert all(torch.equal(first[key], second[key]) for key in first)
    raw, slow = _state(whole)["critic.q.layers.0.weight"], _state(whole, "ema")
    assert not torch.equal(raw, slow["critic.q.layers.0.weight"])

    policy = load_policy(whole)
    chunk = policy.sample(OBS, seeds=range(3))
    assert chunk.shape == (3, 1, 2)
    assert torch.equal(chunk, load_policy(whole / "last").sample(OBS, seeds=range(3)))
    critic = load_critic(whole / "last")
    assert critic(chunk, OBS).shape == (3,)
    assert read_card(whole).training["step"] == 4
    assert critic.card.training["step"] == 4
    assert critic.card.discount == 0.99
    if name == "iql":  # export of a map without boundary; the others export as their kinds do
        export_policy(policy, tmp_path / "program")
    best = compose.best_of(policy, critic, n=4)
    again = load_policy(save(best, tmp_path / "best"))
    assert isinstance(again, SelectedPolicy)
    assert torch.equal(best.sample(OBS, seeds=range(3)), again.sample(OBS, seeds=range(3)))


def test_acting_takes_few_evaluations(rl_config):
    nfe = {}
    for name in ("consistency_ac", "fql", "iql", "diffusion_ql"):
        run = train(rl_config(name, "trainer.max_steps=2", run=name), progress=False)
        nfe[name] = load_policy(run).nfe
    assert nfe == {"consistency_ac": 2, "fql": 1, "iql": 1, "diffusion_ql": 5}


def test_deterministic_policies_do_not_depend_on_the_seed(rl_config):
    policy = load_policy(train(rl_config("td3_bc", "trainer.max_steps=2"), progress=False))
    assert torch.equal(policy.sample(OBS, seeds=[1, 2, 3]), policy.sample(OBS, seeds=[4, 5, 6]))


def test_generative_policies_can_be_weighted_by_an_implicit_critic(rl_config):
    flow = ["denoiser=velocity", "sampler=euler", "policy.sampler.n_steps=3"]
    run = train(rl_config("iql", *flow, "trainer.max_steps=2"), progress=False)
    assert load_policy(run).kind == "posterior_mean"


def test_chunks_can_be_valued(rl_config):
    sizes = ["data.n_obs_steps=2", "data.horizon=6", "data.n_action_steps=3"]
    run = train(rl_config("fql", *sizes, "trainer.max_steps=2"), progress=False)
    policy, critic = load_policy(run), load_critic(run)
    obs = {key: value.repeat(1, 2, 1) for key, value in OBS.items()}
    chunk = policy.sample(obs, seeds=range(3))
    assert chunk.shape == (3, 6, 2)
    changed = chunk.clone()
    changed[:, [0, 4, 5]] += 1.0  # neither past actions nor those after the executed ones count
    assert torch.equal(critic(changed, obs), critic(chunk, obs))
    changed[:, 2] += 1.0
    assert not torch.equal(critic(changed, obs), critic(chunk, obs))


def test_eda_aligns_a_behaviour_with_a_critic_of_another_run(rl_config, tmp_path):
    behavior = train(rl_config("eda_behavior", run="behavior"), progress=False)
    judge = train(rl_config("iql", run="judge"), progress=False)
    starts = [f"algorithm.behavior='{behavior}'", f"algorithm.critic_from='{judge}'"]
    few = ["algorithm.n_actions=4", "data.train_fraction=0.2"]
    whole = train(rl_config("eda", *starts, *few, run="whole"), progress=False)
    config = rl_config("eda", *starts, *few, run="part")
    part = train({**config, "trainer": {**config["trainer"], "max_steps": 2}}, progress=False)
    text = (part / "config.json").read_text()
    (part / "config.json").write_text(text.replace('"max_steps": 2', '"max_steps": 4'))
    resume(part, progress=False)
    first, second = _state(whole), _state(part)
    assert all(torch.equal(first[key], second[key]) for key in first)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["train/loss"] == pytest.approx(np.log(4), abs=1e-5)
    assert torch.equal(
        load_critic(whole).state_dict()["q.layers.0.weight"],
        load_critic(judge).state_dict()["q.layers.0.weight"],
    )
    policy = load_policy(whole)
    assert policy.sample(OBS, seeds=range(3)).isfinite().all()
    export_policy(policy, tmp_path / "program")
    other = ["network=mlp", "policy.network.width=16", "policy.network.activation=relu"]
    plain = rl_config("eda_behavior", run="plain")
    mlp = compose_config("train", [*other])["policy"]["network"]
    plain["policy"]["network"] = mlp
    wrong = train(plain, progress=False)
    config = rl_config("eda", f"algorithm.behavior='{wrong}'", starts[1], run="wrong")
    config["policy"]["network"] = mlp
    with pytest.raises(UsageError, match="network=energy"):
        train(config, progress=False)


def test_the_command_line_composes_with_a_critic(rl_config, tmp_path, capsys):
    run = train(rl_config("diffusion_ql", "trainer.max_steps=2"), progress=False)
    common = [f"members=['{run}']", f"critic_from='{run}'"]
    assert (
        compose_command([*common, "op=best_of", "n_candidates=3", f"save='{tmp_path / 'b'}'"]) == 0
    )
    assert "best of 3 by a critic" in capsys.readouterr().out
    assert load_policy(tmp_path / "b").n_candidates == 3
    assert compose_command([*common, "op=value_guided", "scale=0.5"]) == 0
    assert "ValueGuidance(critic=Critic, scale=0.5" in capsys.readouterr().out
    with pytest.raises(UsageError, match="takes one member and a critic"):
        compose_command([common[0], "op=best_of", "n_candidates=3"])
    with pytest.raises(UsageError, match="needs scale"):
        compose_command([*common, "op=value_guided"])


def test_imitation_trains_on_transitions_as_well(rl_config):
    config = {**rl_config("consistency_ac", "trainer.max_steps=2"), "critic": None}
    config["algorithm"] = compose_config("train", ["algorithm=consistency_bc_sqrt"])["algorithm"]
    config["algorithm"]["settings"]["curriculum"]["total_steps"] = 2
    assert load_policy(train(config, progress=False)).nfe == 2


@pytest.mark.sim
def test_evaluation_acts_as_the_algorithm_does(rl_config, tmp_path):
    run = train(rl_config("idql", "trainer.max_steps=2"), progress=False)

    def evaluated(*overrides):
        out = tmp_path / f"out{len(overrides)}"
        settings = [f"checkpoint='{run}'", "n_episodes=1", f"out='{out}'", *overrides]
        return evaluate_checkpoint(compose_config("evaluate", settings))[0]

    chosen = evaluated()
    assert chosen.policy.kind == "SelectedPolicy"
    assert chosen.policy.settings["n_candidates"] == 64
    assert evaluated("n_candidates=1").policy.kind == "GenerativePolicy"


def test_settings_that_contradict_each_other_are_refused(rl_config, tiny_config):
    with pytest.raises(UsageError, match=r"data\.transitions=true"):
        train(rl_config("fql", "data.transitions=false", "data.discount=null"), progress=False)
    with pytest.raises(UsageError, match="needs a critic"):
        train({**rl_config("fql", run="a"), "critic": None}, progress=False)
    with pytest.raises(UsageError, match="trains no critic"):
        train(tiny_config("critic=twin", run="b"), progress=False)
    with pytest.raises(UsageError, match="critic=iql"):
        train(rl_config("iql", "critic=twin", run="c"), progress=False)
    with pytest.raises(UsageError, match="init_scale=0"):
        train(rl_config("td3_bc", "policy.sampler.init_scale=1.0", run="d"), progress=False)
    with pytest.raises(UsageError, match="denoiser=one_step"):
        flow = ["denoiser=velocity", "sampler=euler"]
        train(rl_config("fql", *flow, run="e"), progress=False)
    with pytest.raises(UsageError, match="n_steps 2"):
        train(rl_config("fql", "policy.sampler.n_steps=2", run="f"), progress=False)
    with pytest.raises(UsageError, match="flow map with a boundary"):
        one = ["denoiser=one_step", "sampler=one_step", "policy.sampler.times=null", "path=linear"]
        one += ["policy.sampler.n_steps=1"]
        train(rl_config("consistency_ac", *one, run="g"), progress=False)
    with pytest.raises(UsageError, match="leave"):
        train(rl_config("fql", "data.pad_after=0", run="h"), progress=False)


def test_damaged_critics_are_refused(rl_config, tmp_path):
    run = train(rl_config("fql", "trainer.max_steps=2"), progress=False)
    folder = save_critic(load_critic(run), tmp_path / "critic")
    critic = load_critic(folder)
    assert critic.card.training["name"] == "maze2d_umaze_fql"
    card = folder / "critic.json"
    text = card.read_text()
    card.write_text(text.replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(CheckpointError, match="newer version"):
        load_critic(folder)
    card.write_text(text.replace('"discount"', '"discont"'))
    with pytest.raises(CheckpointError, match="damaged"):
        load_critic(folder)
    card.write_text(text)
    weights = folder / "ema.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="altered or damaged"):
        load_critic(folder)
    with pytest.raises(CheckpointError, match=r"holds no critic\.json"):
        load_critic(tmp_path / "nothing")
