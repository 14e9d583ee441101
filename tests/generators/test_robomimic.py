"""Scripted experts: they succeed, and their files replay and do not depend on the workers."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from genpolicy.data.registry import load_dataset
from genpolicy.data.robomimic_check import check_robomimic
from genpolicy.data.robomimic_file import open_robomimic
from genpolicy.errors import DataError, UsageError

pytestmark = [
    pytest.mark.sim,
    pytest.mark.skipif(find_spec("robosuite") is None, reason="needs the [robosuite] extra"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from genpolicy.generators import make_robomimic

    path = tmp_path_factory.mktemp("made") / "lift.hdf5"
    return make_robomimic("robomimic/lift", seed=1, path=path, n_demos=3, progress=False)


def open_demos(path, mask):
    with open_robomimic(path) as file:
        return file.selected(mask) if mask in file.filter_keys() else ()


def test_the_file_holds_what_a_robomimic_file_holds(made):
    report = check_robomimic(made)
    assert report.problems == ()
    assert report.notes == ()
    assert report.facts["solved"] == "3 of 3 have a reward above 0"
    episodes = load_dataset("robomimic/lift", made)
    assert (episodes.n_episodes, episodes.source.kind) == (3, "generated")
    assert episodes.terminated[episodes.episode_ends - 1].all()
    assert np.abs(episodes.actions).max() <= 1.0
    assert load_dataset("robomimic/lift", made, actions="absolute_6d").action_dim == 10
    meant = load_dataset("robomimic/lift", made, actions="intended")
    noise = (episodes.actions - meant.actions)[:, :6]
    assert 0.02 < noise.std() < 0.1  # 0.1 where the script allows all of it
    np.testing.assert_array_equal(episodes.actions[:, 6], meant.actions[:, 6])
    masks = [f"strategy_{word}" for word in ("near", "far")]
    n_each = [len(open_demos(made, mask)) for mask in masks]
    assert sum(n_each) == 3
    with pytest.raises(DataError, match="recorded in Lift, expected PickPlaceCan"):
        load_dataset("robomimic/can", made)
    with open_robomimic(made) as file:
        demo = file.demo("demo_0")
        assert demo.attributes["strategy"] in "".join(demo.filter_keys)
        # The observations belong to the states: the cube's position is in both. Sensors are read
        # at the start of the last physics step, 2 ms before the state.
        np.testing.assert_allclose(demo.obs["object"][:, :3], demo.states[:, 10:13], atol=2e-3)
        np.testing.assert_allclose(demo.obs["object"][0, :3], demo.states[0, 10:13], atol=1e-6)
        np.testing.assert_array_equal(demo.obs["object"][1:], demo.next_obs["object"][:-1])


def test_replays_solve_the_task_and_follow_the_recorded_states(made):
    from genpolicy.generators.replay import replay_demos

    results = replay_demos(made, n_demos=2)
    assert [result.name for result in results] == ["demo_0", "demo_1"]
    assert all(result.is_success for result in results)
    assert max(result.state_error for result in results) < 1e-4
    with pytest.raises(UsageError, match="n_demos 0"):
        replay_demos(made, n_demos=0)


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(made, tmp_path):
    from genpolicy.generators import make_robomimic

    other = make_robomimic(
        "robomimic/lift", seed=1, path=tmp_path / "b", n_demos=3, n_workers=2, progress=False
    )
    assert other.read_bytes() == made.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lift", "can", "square", "stack", "door"])
def test_experts_succeed_with_every_strategy(name):
    from genpolicy.envs import make_env
    from genpolicy.generators.robosuite_experts import expert_of

    env = make_env(f"robomimic/{name}")
    kind = expert_of(name)
    solved = 0
    for seed, strategy in enumerate(kind.strategies):
        env.reset(seed=seed)
        expert = kind(env, strategy=strategy, rng=np.random.default_rng(seed))
        for command in expert.script():
            _, _, terminated, truncated, _ = env.step(expert.arm.action(command))
            if terminated or truncated:
                solved += terminated
                break
    assert solved >= len(kind.strategies) - 1
    with pytest.raises(UsageError, match="has no strategy"):
        kind(env, strategy="sideways", rng=np.random.default_rng(0))
    env.close()


def test_settings_are_checked_before_anything_runs(tmp_path):
    from genpolicy.generators import make_robomimic

    for settings, text in (
        ({"n_demos": 0}, "n_demos is 0"),
        ({"noise_std": -1.0}, "noise_std is -1"),
        ({"strategies": "near-ovr"}, "did you mean 'near-over'"),
    ):
        with pytest.raises(UsageError, match=text):
            make_robomimic("robomimic/lift", seed=0, path=tmp_path / "x", **settings)
    with pytest.raises(UsageError, match="no scripted expert for robomimic/tool_hang"):
        make_robomimic("robomimic/tool_hang", seed=0, path=tmp_path / "x")
