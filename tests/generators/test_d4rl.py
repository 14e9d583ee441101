"""Data made again from policies of others: the policies, the file, and the label on every score."""

from __future__ import annotations

import numpy as np
import pytest

from genpolicy.cli.main import main
from genpolicy.data.registry import load_dataset
from genpolicy.envs import make_env
from genpolicy.errors import DataError, UsageError
from genpolicy.evaluation import EvalResult, evaluate
from genpolicy.generators import ActorPolicy, load_actor, make_d4rl_data
from genpolicy.generators.actors import Actor

OBS, ACTION, HIDDEN = 11, 3, 5
FORMS = ("squashed_gaussian_relu", "gaussian_tanh", "gaussian_relu", "linear", "adroit")


def _arrays(form, *, obs=OBS, action=ACTION, seed=0, time=False):
    rng = np.random.default_rng(seed)
    width = obs + time

    def draw(*shape):
        return rng.normal(size=shape) / 3

    if form == "linear":
        return {"kind": np.array(form), "W": draw(action, width)}
    trunk = {"W0": draw(HIDDEN, width), "b0": draw(HIDDEN)}
    trunk |= {"W1": draw(HIDDEN, HIDDEN), "b1": draw(HIDDEN)}
    if form == "adroit":
        ends = {"in_shift": draw(obs), "in_scale": 1 + draw(obs) ** 2, "out_shift": draw(action)}
        ends |= {"W2": draw(action, HIDDEN), "b2": draw(action)}
        return trunk | ends | {"out_scale": 1 + draw(action) ** 2, "log_std": draw(action) - 2}
    trunk |= {"kind": np.array(form), "Wmu": draw(action, HIDDEN), "bmu": draw(action)}
    if form == "squashed_gaussian_relu":
        trunk |= {"Wls": draw(action, HIDDEN), "bls": draw(action)}
    else:
        trunk |= {"log_std": draw(action) - 2}
        trunk |= {"obs_mean": draw(width), "obs_var": 1 + draw(width) ** 2}
        trunk |= {"obs_eps": np.array(1e-8), "obs_clip": np.array(1.5)}
    return trunk | ({"time_feature_max_steps": np.array(1000)} if time else {})


def _mean(form, a, obs):
    """The mode before squashing and clipping, layer by layer."""
    if form == "linear":
        return a["W"] @ obs
    x = (obs - a["in_shift"]) / (a["in_scale"] + 1e-8) if form == "adroit" else obs
    if "obs_mean" in a:
        x = np.clip((x - a["obs_mean"]) / np.sqrt(a["obs_var"] + 1e-8), -1.5, 1.5)
    for weight, bias in (("W0", "b0"), ("W1", "b1")):
        x = a[weight] @ x + a[bias]
        x = np.tanh(x) if form in ("gaussian_tanh", "adroit") else x * (x > 0)
    if form == "adroit":
        return (a["W2"] @ x + a["b2"]) * a["out_scale"] + a["out_shift"]
    return a["Wmu"] @ x + a["bmu"]


@pytest.mark.parametrize("form", FORMS)
def test_actions_are_those_of_the_documented_forms(form):
    a = _arrays(form)
    actor = Actor(a, name=form)
    assert (actor.obs_dim, actor.action_dim, actor.needs_time) == (OBS, ACTION, False)
    obs = np.random.default_rng(1).normal(size=OBS)
    mean = _mean(form, a, obs)
    if form == "squashed_gaussian_relu":
        assert actor.action(obs) == pytest.approx(np.tanh(mean))
    else:
        assert actor.action(obs) == pytest.approx(np.clip(mean, -1, 1))
    draws = np.stack([actor.action(obs, rng=np.random.default_rng(k)) for k in range(2000)])
    assert np.abs(draws).max() <= 1
    if form in ("gaussian_tanh", "gaussian_relu", "adroit"):
        inner = (np.abs(mean) < 0.3).nonzero()[0]
        assert draws.std(axis=0)[inner] == pytest.approx(np.exp(a["log_std"])[inner], rel=0.1)
    elif form == "linear":
        assert (draws == draws[0]).all()
    else:
        assert draws.std(axis=0).min() > 0.1


def test_the_time_that_is_left_is_appended_before_normalising():
    a = _arrays("gaussian_tanh", time=True)
    actor = Actor(a, name="timed")
    obs = np.random.default_rng(1).normal(size=OBS)
    assert (actor.obs_dim, actor.needs_time) == (OBS, True)
    for step in (0, 250, 999):
        timed = np.append(obs, 1 - step / 1000)
        expected = np.clip(_mean("gaussian_tanh", a, timed), -1, 1)
        assert actor.action(obs, step=step) == pytest.approx(expected)


def test_files_that_are_no_policy_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected one of squashed_gaussian_relu"):
        Actor({"kind": np.array("transformer")}, name="x")
    with pytest.raises(DataError, match="lacks bmu"):
        Actor({k: v for k, v in _arrays("gaussian_tanh").items() if k != "bmu"}, name="x")
    np.savez(tmp_path / "pickled.npz", kind=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("pickled", "text"):
        with pytest.raises(DataError, match=r"not a readable \.npz of plain arrays"):
            load_actor(tmp_path / f"{name}.npz")
    with pytest.raises(DataError, match=r"expected \(11,\)"):
        Actor(_arrays("linear"), name="x").action(np.zeros(4))


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    np.savez(folder / "hopper_sac.npz", **_arrays("squashed_gaussian_relu", seed=1))
    np.savez(folder / "hopper_tqc.npz", **_arrays("gaussian_tanh", seed=2))
    np.savez(folder / "door.npz", **_arrays("adroit", obs=39, action=28))
    return folder


def _make(policies, path, **settings):
    defaults = {"seed": 3, "n_steps": 150, "policies": str(policies), "progress": False}
    return make_d4rl_data("d4rl/hopper-medium-expert", path=path, **(defaults | settings))


@pytest.mark.sim
def test_a_file_says_what_it_is_and_does_not_depend_on_the_workers(policies, tmp_path):
    one = _make(policies, tmp_path / "one.hdf5")
    two = _make(policies, tmp_path / "two.hdf5", n_workers=2)
    assert one.read_bytes() == two.read_bytes()
    episodes = load_dataset("d4rl/hopper-medium-expert", one)
    source = episodes.source
    assert (source.kind, source.name) == ("regenerated", "d4rl/hopper-medium-expert")
    assert source.details["note"].startswith("regenerated: not D4RL's hopper-medium-expert-v2")
    assert source.details["simulator"] == "Hopper-v4"
    for text in ("hopper_sac=", "hopper_tqc="):
        assert text in source.details["policies"]
    assert '"mujoco": ' in source.details["versions"]
    assert episodes.n_steps == 150
    assert 75 in episodes.episode_ends  # half of the steps each
    last = episodes.episode_ends - 1
    assert (episodes.terminated[last] ^ episodes.truncated[last]).all()
    other = load_dataset("d4rl/hopper-medium-expert", _make(policies, tmp_path / "b", seed=4))
    assert other.fingerprint != episodes.fingerprint


@pytest.mark.sim
def test_the_recorded_actions_lead_to_the_recorded_rewards(policies, tmp_path):
    path = make_d4rl_data(
        "d4rl/door-expert",
        seed=0,
        path=tmp_path / "door.hdf5",
        policies=str(policies),
        n_steps=30,
        progress=False,
    )
    import h5py

    with h5py.File(path) as file:
        recorded = {key: file[key][()] for key in ("observations", "actions", "rewards")}
    from genpolicy.seeding import derive_seed

    env = make_env("d4rl/door-expert")
    obs, _ = env.reset(seed=derive_seed(0, "d4rl/door-expert", "door", 0))
    for row in range(30):
        assert np.array_equal(obs["state"], recorded["observations"][row])
        obs, reward, *_ = env.step(recorded["actions"][row])
        assert reward == pytest.approx(recorded["rewards"][row], abs=1e-5)


@pytest.mark.sim
def test_random_data_needs_no_policies(tmp_path):
    path = make_d4rl_data(
        "d4rl/hopper-random", seed=0, path=tmp_path / "r", n_steps=60, progress=False
    )
    actions = load_dataset("d4rl/hopper-random", path).actions
    assert np.abs(actions).max() <= 1
    assert actions.std() == pytest.approx(1 / np.sqrt(3), rel=0.15)


def test_what_cannot_be_made_is_refused(policies, tmp_path):
    with pytest.raises(UsageError, match=r"hopper_sac\.npz, hopper_tqc\.npz as policies=DIR"):
        _make("", tmp_path / "x")
    with pytest.raises(UsageError, match=r"there is no hopper_sac\.npz"):
        _make(tmp_path, tmp_path / "x")
    with pytest.raises(UsageError, match="expected at least 2 and 1"):
        _make(policies, tmp_path / "x", n_steps=1)
    with pytest.raises(UsageError, match="no recipe for the data of 'd4rl/pen-human'"):
        make_d4rl_data("d4rl/pen-human", seed=0, path=tmp_path / "x", policies=str(policies))


@pytest.mark.sim
def test_a_policy_of_another_task_is_refused(policies, tmp_path):
    np.savez(tmp_path / "pen.npz", **_arrays("adroit"))
    with pytest.raises(DataError, match="11 observations and 3 actions, d4rl/pen-expert has 45"):
        make_d4rl_data(
            "d4rl/pen-expert", seed=0, path=tmp_path / "x", policies=str(tmp_path), progress=False
        )


@pytest.mark.sim
def test_every_score_on_regenerated_data_is_labelled(policies, tmp_path, capsys):
    """From `data make` over `train` to `evaluate`: card, printed result and JSON."""
    data, run = tmp_path / "data.hdf5", tmp_path / "run"
    make = ["data", "make", "d4rl/hopper-medium-expert", f"policies={policies}", "n=300"]
    assert main([*make, f"path={data}"]) == 0
    assert main([*make, f"path={data}"]) == 0
    assert "is there already, with these settings" in capsys.readouterr().out
    np.savez(policies / "hopper_tqc.npz", **_arrays("gaussian_tanh", seed=9))
    assert main([*make, f"path={data}"]) == 3
    assert "exists with other settings (policies" in capsys.readouterr().err
    train = ["train", "experiment=d4rl_hopper_medium_expert", f"data.path={data}"]
    small = ["policy.network.width=8", "policy.network.n_blocks=1", "data.batch_size=16"]
    quick = ["trainer.max_steps=2", "save.every=2", "logger=none", f"run_dir={run}"]
    assert main([*train, *small, *quick]) == 0
    capsys.readouterr()
    assert main(["evaluate", f"checkpoint={run}/last", "n_episodes=2", f"out={tmp_path}/out"]) == 0
    out = capsys.readouterr().out
    assert "d4rl/hopper-medium-expert was REGENERATED, it is not the published data" in out
    assert "NOT comparable with published scores: Gymnasium's v4 robots" in out
    import json

    result = EvalResult.from_json(json.loads((tmp_path / "out" / "result.json").read_text()))
    assert [text.split()[1] for text in result.caveats] == ["was", "comparable"]


@pytest.mark.sim
def test_actors_are_policies_that_can_be_evaluated(policies, tmp_path):
    policy = ActorPolicy(task="d4rl/hopper-medium", path=policies / "hopper_sac.npz")
    result = evaluate(policy, "d4rl/hopper-medium", seeds=range(3), n_envs=2)
    assert result.caveats == (result.note,)
    again = evaluate(policy, "d4rl/hopper-medium", seeds=range(3), n_envs=3)
    assert again.values("return") == result.values("return")
    modes = ActorPolicy(
        task="d4rl/hopper-medium", path=policies / "hopper_sac.npz", deterministic=True
    )
    other = evaluate(modes, "d4rl/hopper-medium", seeds=range(3), n_envs=2)
    assert other.values("return") != result.values("return")
    np.savez(tmp_path / "timed.npz", **_arrays("gaussian_tanh", time=True))
    with pytest.raises(UsageError, match="depends on the step"):
        ActorPolicy(task="d4rl/hopper-medium", path=tmp_path / "timed.npz")
