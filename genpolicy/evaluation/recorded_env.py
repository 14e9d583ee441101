"""Evaluating a policy in the environment that its training data was recorded in.

A data set may say how its environment differs from the task's standard one (``DataSource.env``);
the checkpoint keeps it. robosuite's files hold the whole recipe (``env_args``): an arm that is
driven by another controller, or a simulator of another release, is another task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from genpolicy.d4rl_tasks import D4RL_TASKS, resolve_d4rl
from genpolicy.errors import SimulatorError, UsageError
from genpolicy.evaluation.task import EvaluationTask

__all__ = ["recorded_settings", "task_of_policy"]

_FAMILY = "robomimic/"


def recorded_settings(env: Mapping[str, Any], *, trained_on: str, task: str) -> dict[str, Any]:
    """Return the settings of a task's environment that its training data asks for.

    Args:
        env: ``DataSource.env`` of the data; empty for the standard environment.
        trained_on: task of the data.
        task: task to evaluate on; on another one the data has no say.
    """
    if trained_on.startswith(_FAMILY) and task.startswith(_FAMILY):
        same = _base(trained_on) == _base(task)
    else:
        same = _robot(trained_on) == _robot(task)
    return dict(env) if same else {}


def task_of_policy(
    task: str,
    *,
    trained_on: str,
    env: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    allow_mismatch: bool = False,
) -> EvaluationTask:
    """Return a task in the environment that a policy was trained for.

    Args:
        task: what to evaluate on.
        trained_on: task of the policy's training data.
        env: settings of the environment that the data was recorded in.
        overrides: settings of the environment's class that replace those.
        allow_mismatch: evaluate even though the environment or its simulator's release differs from
            that of the data; the result says so.

    Raises:
        SimulatorError: for such a difference where it is not allowed.
        UsageError: for an unknown task.
    """
    settings = recorded_settings(env, trained_on=trained_on, task=task) | dict(overrides or {})
    setting = EvaluationTask.named(task, **settings)
    differences = _differences(env, settings, trained_on, task, setting.simulators)
    if not differences:
        return setting
    text = "; ".join(differences)
    if not allow_mismatch:
        raise SimulatorError(
            f"{task} here is not the environment that the training data was recorded in ({text}); "
            "install that release, leave out what was overridden, or add allow_env_mismatch=true "
            "to evaluate anyway"
        )
    return dataclasses.replace(
        setting, note=f"NOT the environment of the data ({text}); {setting.note}"
    )


def _differences(
    env: Mapping[str, Any],
    settings: Mapping[str, Any],
    trained_on: str,
    task: str,
    simulators: Mapping[str, str],
) -> list[str]:
    """Return how the environment of the evaluation differs from that of the data."""
    recorded = env.get("env_args")
    if recorded is None or not task.startswith(_FAMILY) or not trained_on.startswith(_FAMILY):
        return []
    from genpolicy.envs.robosuite_args import env_args_differences
    from genpolicy.robomimic_tasks import robomimic_task

    actual = settings.get("env_args") or robomimic_task(_base(task)).env_args()
    version = simulators.get("robosuite", "missing")
    known = {} if version == "missing" else {"env_version": version}
    found = env_args_differences(recorded, {**actual, **known})
    for key in sorted((set(env) | {"actions", "quaternions"}) - {"env_args"}):
        before, now = (where.get(key, "recorded") for where in (env, settings))
        if before != now:
            found.append(f"{key} {before!r} and {now!r}")
    return [f"data and here: {text}" for text in found]


def _robot(task: str) -> str:
    """Return what is simulated in a D4RL task; another task is its own."""
    meant = resolve_d4rl(task).task
    return D4RL_TASKS[meant].robot if meant in D4RL_TASKS else meant


def _base(task: str) -> str:
    """Return the name of the robosuite task of ``robomimic/can_ph`` or ``robomimic/can-image``."""
    from genpolicy.robomimic_tasks import ROBOMIMIC_TASKS

    name = task.removeprefix(_FAMILY).removesuffix("-image")
    for known in ROBOMIMIC_TASKS.values():
        if name == known.name or name.removeprefix(f"{known.name}_") in known.published:
            return known.name
    raise UsageError(f"{task!r} is no robosuite task")
