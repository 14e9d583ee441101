"""Presets of offline RL: any experiment becomes one of the algorithm, with published settings."""

import pytest

from genpolicy.cli.by_task import by_task
from genpolicy.cli.compose_config import compose_config, option_names
from genpolicy.errors import UsageError
from genpolicy.policies import build_critic, build_policy
from genpolicy.shapes import TaskSpec
from tests.configs.test_components import KINDS, _normalizer

PRESETS = sorted(set(option_names("method")) - set(KINDS))
NEEDS = ["algorithm.behavior=x", "algorithm.critic_from=x"]


def _composed(*overrides):
    eda = any(o in ("method=eda", "algorithm=eda") for o in overrides)
    return compose_config("train", [*overrides, *(NEEDS if eda else [])])


def test_every_algorithm_with_a_critic_has_a_preset():
    assert set(PRESETS) == {
        *("iql", "td3_bc", "rebrac", "diffusion_ql", "consistency_ac", "idql", "fql"),
        *("eda", "eda_behavior"),
    }


@pytest.mark.parametrize("method", PRESETS)
def test_a_preset_turns_any_experiment_into_its_algorithm(method):
    plain = _composed("experiment=maze2d_umaze", f"method={method}")
    for experiment in ("maze2d_umaze_iql", "pusht_diffusion"):
        config = _composed(f"experiment={experiment}", f"method={method}")
        for part in ("algorithm", "critic", "trainer", "optimizer", "ema"):
            if part == "critic" and config[part] is not None:
                assert {**config[part], "encoder": 0} == {**plain[part], "encoder": 0}
            else:
                assert config[part] == plain[part], part
        assert config["policy"] | {"encoder": 0} == plain["policy"] | {"encoder": 0}
        assert (config["data"]["transitions"], config["data"]["horizon"]) == (True, 1)
        assert config["run_dir"] == f"runs/{experiment}-{method}/seed-0"


def test_settings_of_the_command_line_are_not_dropped():
    config = _composed("experiment=pusht_diffusion", "algorithm=fql", "policy.network.dropout=0.3")
    assert config["policy"]["network"]["dropout"] == 0.3  # which MLP then refuses
    config = _composed("experiment=pusht_diffusion", "algorithm=fql")
    assert "dropout" not in config["policy"]["network"]


@pytest.mark.parametrize("method", PRESETS)
def test_a_preset_builds_its_policy_and_critic(method):
    config = _composed("experiment=maze2d_umaze", f"method={method}", "policy.network.width=16")
    spec = TaskSpec(
        task="maze2d-umaze",
        obs_shapes={"state": (4,)},
        action_dim=2,
        n_obs_steps=1,
        horizon=1,
        n_action_steps=1,
    )
    policy = build_policy(config["policy"], spec=spec, normalizer=_normalizer())
    assert policy.sampler.nfe(policy.denoiser.path) <= 15
    if config["critic"] is not None:
        critic = build_critic(config["critic"], spec=spec, normalizer=_normalizer())
        needs_value = method in ("iql", "idql")
        assert (critic.value is not None) == needs_value


def test_an_algorithm_named_alone_brings_its_preset():
    def alike(*pair):
        return _composed(*pair[0]) == _composed(*pair[1])

    base = "experiment=maze2d_umaze"
    assert alike((base, "algorithm=fql"), (base, "method=fql"))
    assert alike((base, "algorithm=dql"), (base, "method=diffusion_ql"))
    same = "experiment=maze2d_umaze_fql"
    assert alike((same, "algorithm=fql"), (same,))
    parts = (base, "algorithm=iql", "critic=iql", "denoiser=one_step", "sampler=one_step")
    assert _composed(*parts)["trainer"]["max_steps"] == 20000
    assert _composed(base, "algorithm=diffusion_bc")["trainer"]["max_steps"] == 20000


PUBLISHED = [
    ("iql", "antmaze-medium-play", "algorithm.expectile", 0.9),
    ("iql", "hopper-medium", "data.reward", "iql_locomotion"),
    ("iql", "kitchen-complete", "algorithm.beta", 2.0),
    ("diffusion_ql", "antmaze-umaze", "algorithm.max_q_backup", 1),
    ("diffusion_ql", "antmaze-umaze-diverse", "algorithm.max_q_backup", 10),
    ("diffusion_ql", "halfcheetah-medium-expert", "trainer.gradient_clip_val", 7.0),
    ("diffusion_ql", "pen-human", "algorithm.eta", 0.15),
    ("diffusion_ql", "kitchen-complete", "trainer.max_steps", 250000),
    ("consistency_ac", "hopper-medium-replay", "algorithm.eta", 0.1),
    ("consistency_ac", "walker2d-medium-replay", "algorithm.normalize_targets", False),
    ("consistency_ac", "kitchen-mixed", "algorithm.eta", 0.5),
    ("fql", "antmaze-large-play", "algorithm.alpha", 3.0),
    ("fql", "door-cloned", "critic.aggregate", "min"),
    ("fql", "hopper-medium", "algorithm.normalize_q", True),
    ("idql", "walker2d-medium", "algorithm.n_candidates", 256),
    ("eda", "walker2d-medium-expert", "algorithm.beta", 0.3),
    ("eda", "kitchen-partial", "algorithm.beta", 3.0),
]


@pytest.mark.parametrize(("method", "task", "key", "value"), PUBLISHED)
def test_settings_by_task_are_those_published(method, task, key, value):
    found = _composed("experiment=maze2d_umaze", f"method={method}", f"data.task=d4rl/{task}")
    for name in key.split("."):
        found = found[name]
    assert found == value


def test_the_longest_beginning_of_a_task_decides():
    table = {"otherwise": 0, "ant": 1, "antmaze-umaze": 2}
    assert [by_task(t, table) for t in ("d4rl/antmaze-umaze-diverse", "antmaze-large", "a")] == [
        2,
        1,
        0,
    ]
    with pytest.raises(UsageError, match="no setting for the task 'x'"):
        by_task("x", {"ant": 1})
