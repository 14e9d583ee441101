"""A policy is evaluated in the environment of its data, or not at all unless it is allowed."""

from __future__ import annotations

import copy

import pytest

from genpolicy.envs import ENVS
from genpolicy.envs.registry import EnvEntry
from genpolicy.errors import SimulatorError
from genpolicy.evaluation.recorded_env import recorded_settings, task_of_policy
from genpolicy.robomimic_tasks import robomimic_task

RECORDED = {"env_args": robomimic_task("can").env_args(version="1.5.1")}


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.setattr(EnvEntry, "versions", lambda self: {"robosuite": "1.5.1"})


def test_the_recorded_environment_is_used_for_every_variant_of_the_task():
    for task in ("robomimic/can", "robomimic/can_ph", "robomimic/can-image"):
        setting = task_of_policy(task, trained_on="robomimic/can_ph", env=RECORDED)
        assert setting.settings == RECORDED
        assert "NOT" not in setting.note
        assert setting.steps_per_second == 20.0
    assert recorded_settings(RECORDED, trained_on="robomimic/can", task="robomimic/lift") == {}
    assert recorded_settings({}, trained_on="pusht", task="pusht") == {}
    assert task_of_policy("pusht", trained_on="pusht", env={}).settings == {}


def test_another_release_or_controller_is_an_error_unless_allowed():
    older = copy.deepcopy(RECORDED)
    older["env_args"]["env_version"] = "1.4.1"
    ask = {"trained_on": "robomimic/can", "env": older}
    with pytest.raises(SimulatorError, match=r"robosuite 1.4.1 and 1.5.1.*allow_env_mismatch"):
        task_of_policy("robomimic/can", **ask)
    setting = task_of_policy("robomimic/can", **ask, allow_mismatch=True)
    assert setting.note.startswith("NOT the environment of the data (data and here: robosuite 1.4")

    stiffer = copy.deepcopy(RECORDED["env_args"])
    stiffer["env_kwargs"]["controller_configs"]["body_parts"]["right"]["kp"] = 300
    ask = {"trained_on": "robomimic/can", "env": RECORDED, "overrides": {"env_args": stiffer}}
    with pytest.raises(SimulatorError, match="kp 150 and 300"):
        task_of_policy("robomimic/can", **ask)
    assert "kp" in task_of_policy("robomimic/can", **ask, allow_mismatch=True).note


def test_a_policy_of_absolute_actions_is_not_run_with_deltas():
    env = {**RECORDED, "actions": "absolute_6d"}
    setting = task_of_policy("robomimic/can", trained_on="robomimic/can", env=env)
    assert setting.settings["actions"] == "absolute_6d"
    with pytest.raises(SimulatorError, match="actions 'absolute_6d' and 'recorded'"):
        task_of_policy(
            "robomimic/can",
            trained_on="robomimic/can",
            env=env,
            overrides={"actions": "recorded"},
        )


def test_settings_that_are_no_difference_may_be_overridden():
    setting = task_of_policy(
        "robomimic/can", trained_on="robomimic/can", env=RECORDED, overrides={"max_steps": 50}
    )
    assert setting.settings["max_steps"] == 50
    families = {name.partition("/")[0] for name in ENVS if "/" in name}
    assert families == {"d4rl", "robomimic"}


@pytest.mark.parametrize("task", ["d4rl/kitchen-mixed", "kitchen-complete-v0"])
def test_a_policy_of_the_kitchen_keeps_its_observations_in_the_other_kitchens(task):
    full = {"obs": "full"}
    trained = "d4rl/kitchen-complete"
    assert recorded_settings(full, trained_on=trained, task=task) == full
    assert task_of_policy(task, trained_on=trained, env=full).settings == full
    assert recorded_settings(full, trained_on=trained, task="d4rl/door-human") == {}
