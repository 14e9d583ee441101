"""What the environments share: seeds, actions, missing simulators, and the end of an episode."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from genpolicy.errors import NumericsError, SimulatorError, UsageError

__all__ = ["SeededEnv", "check_options", "check_seed", "import_simulator"]


def import_simulator(module: str, *, task: str, extra: str = "sim") -> ModuleType:
    """Import a simulator's module.

    Raises:
        SimulatorError: when it cannot be imported, naming the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SimulatorError(
            f"task {task!r} needs {module}, which cannot be imported ({error}); "
            f"install it with: pip install 'genpolicy[{extra}]'"
        ) from error


def check_seed(seed: int) -> int:
    """Return ``seed`` as an int.

    Raises:
        UsageError: for a negative one.
    """
    if seed < 0:
        raise UsageError(f"got the episode seed {seed}, expected an integer of at least 0")
    return int(seed)


class SeededEnv(gymnasium.Env[Any, np.ndarray], ABC):
    """An environment whose episode is decided by the seed of its reset and by the actions alone.

    Subclasses implement ``_start``, ``_advance``, ``_observe`` and ``_metrics``; this class counts
    steps, truncates, bounds actions and refuses to step an episode that is over.

    Args:
        max_steps: steps after which an episode is truncated, at least 1.
    """

    observation_space: gymnasium.spaces.Dict
    action_space: gymnasium.spaces.Box

    def __init__(self, *, max_steps: int) -> None:
        if max_steps < 1:
            raise UsageError(f"max_steps is {max_steps}, expected at least 1")
        self.max_steps = max_steps
        self._n_steps = 0
        self._n_clipped = 0
        self._return = 0.0
        self._is_over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: decides the whole episode: what ran before, in this environment or another, has
                no influence. None takes the next seed of the environment's own generator.
            options: what the environment documents; None or empty for the task's own start.

        Returns:
            The first observation, and ``{"metrics": ...}`` as it stands before any step.
        """
        super().reset(seed=None if seed is None else check_seed(seed))
        if seed is None:
            seed = int(self.np_random.integers(2**32))
        self._n_steps = self._n_clipped = 0
        self._return = 0.0
        self._is_over = False
        self._start(int(seed), dict(options or {}))
        return self._observe(), self._info()

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Advance one control step.

        Args:
            action: in the units of ``action_space``. Entries outside it are clipped to it, and the
                metric ``clipped_actions`` counts such steps.

        Returns:
            Observation, reward, terminated, truncated, and ``{"metrics": ...}``.

        Raises:
            UsageError: for an action of another shape, or when the episode is over.
            NumericsError: for an action that is not finite.
        """
        if self._is_over:
            raise UsageError("the episode is over, or was never started; call reset first")
        reward, terminated = self._advance(self._bounded(action))
        self._n_steps += 1
        self._return += reward
        truncated = not terminated and self._n_steps >= self.max_steps
        self._is_over = terminated or truncated
        return self._observe(), reward, terminated, truncated, self._info()

    def _bounded(self, action: np.ndarray) -> np.ndarray:
        space = self.action_space
        values = np.asarray(action, dtype=np.float64)
        if values.shape != space.shape:
            raise UsageError(f"got an action of shape {values.shape}, expected {space.shape}")
        if not np.isfinite(values).all():
            raise NumericsError(f"got the action {values.tolist()}, expected finite numbers")
        bounded = np.clip(values, space.low, space.high)
        self._n_clipped += bool((bounded != values).any())
        return bounded

    def _info(self) -> dict[str, Any]:
        metrics = self._metrics()
        metrics["return"] = self._return
        metrics["clipped_actions"] = float(self._n_clipped)
        return {"metrics": metrics}

    @abstractmethod
    def _start(self, seed: int, options: dict[str, Any]) -> None:
        """Put the simulator into the first state of the episode ``seed``."""

    @abstractmethod
    def _advance(self, action: np.ndarray) -> tuple[float, bool]:
        """Run one control step; return (reward, terminated)."""

    @abstractmethod
    def _observe(self) -> dict[str, np.ndarray]:
        """Return the current observation."""

    @abstractmethod
    def _metrics(self) -> dict[str, float]:
        """Return the metrics of the episode so far, ``return`` and ``clipped_actions`` aside."""


def check_options(options: dict[str, Any], known: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return reset options as float64 arrays.

    Args:
        options: what the caller gave.
        known: the shape of each option the environment has.

    Raises:
        UsageError: for an unknown option, a wrong shape, or values that are not finite.
    """
    arrays = {}
    for name, value in options.items():
        if name not in known:
            raise UsageError(f"unknown reset option {name!r}; valid options: {', '.join(known)}")
        array = np.asarray(value, dtype=np.float64)
        if array.shape != known[name] or not np.isfinite(array).all():
            raise UsageError(
                f"reset option {name!r} is {value!r}, expected finite numbers of shape "
                f"{known[name]}"
            )
        arrays[name] = array
    return arrays
