"""A task as an evaluation sees it: slots that run episodes, and the metrics that they report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from genpolicy.errors import CheckpointError, UsageError
from genpolicy.shapes import TaskSpec

__all__ = ["EvaluationTask", "Slots", "check_spaces"]


class Slots(Protocol):
    """Environments of one task side by side, reset and stepped slot by slot.

    ``genpolicy.envs.vector.SeededVectorEnv`` documents the methods. Row ``i`` depends on the seed
    and the actions of slot ``i`` alone. When a simulator fails, the call raises and the slots
    cannot be used any more.
    """

    n_envs: int

    @property
    def observation_space(self) -> Any:
        """The ``gymnasium.spaces.Dict`` of one slot."""
        ...

    @property
    def action_space(self) -> Any:
        """The ``gymnasium.spaces.Box`` of one slot."""
        ...

    def reset(
        self, indices: Sequence[int], seeds: Sequence[int]
    ) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        """Start episodes; return observations of all slots and the info of each slot reset."""
        ...

    def step(
        self, actions: np.ndarray, active: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step the active slots; return observations, rewards, terminated, truncated, infos."""
        ...

    def render(self) -> Sequence[np.ndarray]:
        """Return one picture ``(height, width, 3)`` uint8 per slot."""
        ...

    def close(self) -> None:
        """Free the simulators."""
        ...


@dataclass(frozen=True)
class EvaluationTask:
    """What ``evaluate`` needs to know of a task. Tasks of ``genpolicy.envs`` are named instead.

    Args:
        name: of the task.
        make_slots: ``make_slots(n_envs, workers)`` builds the slots.
        primary: the metric that results are ranked by.
        rates: metrics that are 0 or 1 in every episode.
        simulators: versions of the packages that decide the numbers.
        note: how its numbers compare with published ones.
        steps_per_second: control steps in a second of simulated time, for videos.
        settings: how the environment differs from the task's standard; empty for the standard.
    """

    name: str
    make_slots: Callable[[int, bool], Slots]
    primary: str
    rates: tuple[str, ...] = ("success",)
    simulators: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    steps_per_second: float = 10.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def named(cls, name: str, **settings: Any) -> EvaluationTask:
        """Return a task of ``genpolicy.envs``.

        Args:
            name: a key of ``genpolicy.envs.registry.ENVS``.
            settings: keyword arguments of the environment's class.

        Raises:
            UsageError: for an unknown task.
        """
        from genpolicy.envs import registry

        entry = registry.env_entry(name)

        def make_slots(n_envs: int, workers: bool) -> Slots:
            return registry.make_vector_env(name, n_envs, workers=workers, **settings)

        return cls(
            name=name,
            make_slots=make_slots,
            primary=entry.primary,
            simulators=entry.versions(),
            note=entry.note,
            steps_per_second=entry.steps_per_second,
            settings=settings,
        )


def check_spaces(
    spec: TaskSpec, slots: Slots, *, task: str, n_action_steps: int, is_loaded: bool
) -> None:
    """Check that a policy fits an environment, before the first rollout.

    Args:
        spec: of the policy.
        slots: of the task.
        task: name of the task, for the message.
        n_action_steps: actions to execute per chunk.
        is_loaded: whether the policy comes from a checkpoint, which is then at fault.

    Raises:
        CheckpointError: naming both sides, for a loaded policy that does not fit.
        UsageError: naming both sides, for any other; and for too many ``n_action_steps``.
    """
    needed = spec.n_obs_steps - 1 + n_action_steps
    if n_action_steps < 1 or needed > spec.horizon:
        raise UsageError(
            f"n_action_steps is {n_action_steps}, expected 1 to "
            f"{spec.horizon - spec.n_obs_steps + 1} for horizon {spec.horizon} and "
            f"{spec.n_obs_steps} observations"
        )
    spaces = slots.observation_space.spaces
    problems = [
        f"{key!r} is {spec.obs_shapes[key]} for the policy and "
        f"{tuple(spaces[key].shape) if key in spaces else 'absent'} in the environment"
        for key in spec.obs_shapes
        if key not in spaces or tuple(spaces[key].shape) != spec.obs_shapes[key]
    ]
    action_shape = tuple(slots.action_space.shape)
    if action_shape != (spec.action_dim,):
        problems.append(
            f"an action has {spec.action_dim} entries for the policy and shape {action_shape} in "
            "the environment"
        )
    if problems:
        message = (
            f"the policy was made for task {spec.task!r} and does not fit the environment "
            f"{task!r} (observations {sorted(spaces)}): " + "; ".join(problems)
        )
        raise CheckpointError(message) if is_loaded else UsageError(message)
