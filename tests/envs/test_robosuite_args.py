"""Recipes of older robosuite releases become those of the current one; no simulator runs."""

from __future__ import annotations

import copy

import pytest

from genpolicy.envs.robosuite_args import (
    absolute_env_args,
    env_args_differences,
    modern_env_args,
)
from genpolicy.errors import SimulatorError, UsageError
from genpolicy.robomimic_tasks import ROBOMIMIC_TASKS, robomimic_task

# What robomimic's files of 2021 hold (robosuite 1.2): one controller of one arm.
OLD = {
    "env_name": "Lift",
    "type": 1,
    "env_version": "1.4.1",
    "env_kwargs": {
        "robots": ["Panda"],
        "controller_configs": {
            "type": "OSC_POSE",
            "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
            "kp": 150,
            "damping": 1,
            "damping_limits": [0, 10],
            "control_delta": True,
        },
        "control_freq": 20,
    },
}


def part(env_args, robot=None):
    config = env_args["env_kwargs"]["controller_configs"]
    return (config if robot is None else config[robot])["body_parts"]["right"]


def test_an_old_controller_becomes_the_robots():
    before = copy.deepcopy(OLD)
    new = modern_env_args(OLD)
    assert before == OLD
    assert new["env_kwargs"]["controller_configs"]["type"] == "BASIC"
    arm = part(new)
    assert (arm["type"], arm["input_type"], arm["input_ref_frame"]) == (
        "OSC_POSE",
        "delta",
        "world",
    )
    assert (arm["damping_ratio"], arm["damping_ratio_limits"]) == (1, [0, 10])
    assert not {"damping", "damping_limits", "control_delta"} & set(arm)
    assert arm["gripper"] == {"type": "GRIP"}
    assert arm["interpolation"] is None  # robosuite 1.5 asks for it
    assert new["env_kwargs"]["lite_physics"] is False
    assert modern_env_args(new) == new


def test_absolute_controllers_of_old_files_stay_absolute():
    old = copy.deepcopy(OLD)
    old["env_kwargs"]["controller_configs"]["control_delta"] = False
    assert part(modern_env_args(old))["input_type"] == "absolute"


def test_a_mixed_recipe_is_converted_where_it_is_old():
    mixed = robomimic_task("lift").env_args(version="1.5.2")
    arm = part(mixed)
    del arm["input_type"], arm["input_ref_frame"]
    arm["control_delta"] = True
    found = modern_env_args(mixed)
    assert (part(found)["input_type"], part(found)["input_ref_frame"]) == ("delta", "world")
    assert "lite_physics" not in found["env_kwargs"]


def test_current_recipes_are_left_alone():
    for task in ROBOMIMIC_TASKS.values():
        args = task.env_args(version="1.5.1")
        assert modern_env_args(args) == args
    base = robomimic_task("lift").env_args()
    part(base)["input_ref_frame"] = "base"
    assert part(modern_env_args(base))["input_ref_frame"] == "base"


def test_two_old_arms():
    old = copy.deepcopy(OLD)
    old["env_name"] = "TwoArmTransport"
    config = old["env_kwargs"]["controller_configs"]
    old["env_kwargs"] |= {
        "robots": ["Panda", "Panda"],
        "controller_configs": [config, copy.deepcopy(config)],
        "env_configuration": "single-arm-opposed",
    }
    new = modern_env_args(old)
    assert [part(new, i)["input_ref_frame"] for i in (0, 1)] == ["world", "world"]
    assert new["env_kwargs"]["env_configuration"] == "opposed"
    assert [part(absolute_env_args(old), i)["input_type"] for i in (0, 1)] == ["absolute"] * 2


def test_other_simulators_and_empty_recipes_are_refused():
    with pytest.raises(SimulatorError, match="type 2, expected 1"):
        modern_env_args({**OLD, "type": 2})
    with pytest.raises(SimulatorError, match="robots None and controller_configs None"):
        modern_env_args({"env_name": "Lift", "env_kwargs": {}})


def test_differences_are_those_that_matter():
    args = robomimic_task("lift").env_args(version="1.5.1")
    assert env_args_differences(args, args) == []
    shown = copy.deepcopy(args)
    shown["env_kwargs"] |= {"has_renderer": True, "camera_names": ["agentview"]}
    shown["env_version"] = "1.5.7"
    assert env_args_differences(args, shown) == []
    changed = copy.deepcopy(args)
    part(changed)["kp"] = 300
    changed["env_version"] = "1.6.0"
    changed["env_kwargs"]["control_freq"] = 10
    text = " ".join(env_args_differences(args, changed))
    for piece in ("robosuite 1.5.1 and 1.6.0", "control_freq: 20 and 10", "kp 150 and 300"):
        assert piece in text
    assert "environment Lift and Stack" in " ".join(
        env_args_differences(args, robomimic_task("stack").env_args(version="1.5.1"))
    )
    # An old recipe and the one it stands for agree, but for the physics that the release had.
    assert env_args_differences(OLD, modern_env_args(OLD)) == []


def test_the_tasks_say_what_policies_see():
    lift = robomimic_task("lift")
    assert lift.low_dim_keys == (
        "object",
        "robot0_eef_pos",
        "robot0_eef_quat",
        "robot0_gripper_qpos",
    )
    assert robomimic_task("transport").image_keys[:2] == (
        "shouldercamera0_image",
        "robot0_eye_in_hand_image",
    )
    assert len(robomimic_task("transport").low_dim_keys) == 7
    limits = {name: task.max_steps for name, task in ROBOMIMIC_TASKS.items()}
    assert {limits[name] for name in ("lift", "can", "square")} == {400}
    assert {limits[name] for name in ("transport", "tool_hang")} == {700}
    with pytest.raises(UsageError, match="did you mean 'square'"):
        robomimic_task("sqare")
