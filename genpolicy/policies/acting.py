"""Acting one step at a time: observations remembered, chunks executed in part, bounds kept.

``ActionQueue`` is the state of one episode; the evaluation keeps one per slot. ``Actor`` is one
policy that acts alone, outside of an evaluation: on a robot, in another simulator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from genpolicy.errors import NumericsError, UsageError
from genpolicy.policies.base import Policy
from genpolicy.seeding import derive_seed
from genpolicy.shapes import TaskSpec

__all__ = ["ActionQueue", "Actor"]

_Rows = Mapping[str, NDArray[np.generic]]


class ActionQueue:
    """What an episode remembers and what it is going to do.

    ``n_chunks`` counts the chunks, ``n_clipped`` the actions that left the bounds.

    Args:
        spec: of the policy.
        n_action_steps: actions executed per chunk.
    """

    def __init__(self, spec: TaskSpec, *, n_action_steps: int) -> None:
        self.spec, self.n_action_steps = spec, n_action_steps
        self.n_chunks = self.n_clipped = 0
        self._history: deque[_Rows] = deque(maxlen=spec.n_obs_steps)
        self._queue: deque[np.ndarray] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether the policy has to be asked before the next action."""
        return not self._queue

    def observe(self, obs: _Rows) -> None:
        """Remember an observation; before the first step every remembered one is the first."""
        n = 1 if self._history else self.spec.n_obs_steps
        self._history.extend([obs] * n)

    def remembered(self, key: str) -> np.ndarray:
        """Return the observations ``(n_obs_steps, *shape)`` of a key, the oldest first."""
        rows = np.stack([obs[key] for obs in self._history])
        return rows.astype(np.float32) if rows.dtype == np.float64 else rows

    def plan(self, chunk: np.ndarray) -> np.ndarray:
        """Queue the part of a chunk ``(horizon, action)`` that is executed, and return it."""
        first = self.spec.n_obs_steps - 1
        executed = chunk[first : first + self.n_action_steps]
        self._queue.extend(executed)
        self.n_chunks += 1
        return executed

    def drop(self) -> None:
        """Forget the rest of the plan."""
        self._queue.clear()

    def take(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return the next action within bounds, ``(action,)``."""
        wanted = self._queue.popleft()
        action = np.clip(wanted, low, high)
        self.n_clipped += bool((action != wanted).any())
        return action


class Actor:
    """One policy acting step by step.

    Args:
        policy: what to run.
        low: lower bounds of actions, ``(action,)`` or one number, in physical units.
        high: upper bounds.
        n_action_steps: actions executed per chunk; None for the policy's own.
        on_unsafe: called with the reason when an observation or a planned action is not finite;
            returns the action to execute instead, for example one that holds still. The plan is
            dropped and made anew at the next step. None raises instead.

    Raises:
        UsageError: for bounds of another shape, or more actions than a chunk has.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        low: ArrayLike,
        high: ArrayLike,
        n_action_steps: int | None = None,
        on_unsafe: Callable[[str], np.ndarray] | None = None,
    ) -> None:
        spec = policy.spec
        shape = (spec.action_dim,)
        try:
            self._low = np.broadcast_to(np.asarray(low, np.float32), shape)
            self._high = np.broadcast_to(np.asarray(high, np.float32), shape)
        except ValueError as error:
            raise UsageError(f"Actor: bounds do not fit actions of shape {shape}") from error
        executed = spec.n_action_steps if n_action_steps is None else n_action_steps
        longest = spec.horizon - spec.n_obs_steps + 1
        if not 1 <= executed <= longest:
            raise UsageError(f"Actor: n_action_steps is {executed}, expected 1 to {longest}")
        self.policy, self.n_action_steps, self.on_unsafe = policy, executed, on_unsafe
        self.reset(seed=0)

    def reset(self, *, seed: int) -> None:
        """Begin an episode; the seed decides the policy's noise, as in an evaluation."""
        self._seed = seed
        self.queue = ActionQueue(self.policy.spec, n_action_steps=self.n_action_steps)

    def act(self, obs: Mapping[str, ArrayLike]) -> np.ndarray:
        """Return the action for an observation, ``(action,)`` within the bounds.

        Args:
            obs: by key ``(*shape)``, in physical units.

        Raises:
            NumericsError: for what is not finite, without ``on_unsafe``.
            UsageError: for a missing key.
        """
        spec = self.policy.spec
        missing = sorted(set(spec.obs_shapes) - set(obs))
        if missing:
            raise UsageError(f"Actor: there is no observation {missing[0]!r}; got {sorted(obs)}")
        rows = {key: np.asarray(obs[key]) for key in spec.obs_shapes}
        for key, value in rows.items():
            if not np.isfinite(value).all():
                return self._stop(f"observation {key!r} is not finite")
        self.queue.observe(rows)
        if self.queue.is_empty:
            seen = {key: torch.from_numpy(self.queue.remembered(key))[None] for key in rows}
            noise = derive_seed(self._seed, "policy", self.queue.n_chunks)
            try:
                chunk = self.policy.sample(seen, seeds=[noise])[0]
            except NumericsError as error:
                return self._stop(str(error))
            executed = self.queue.plan(chunk.detach().to("cpu", torch.float32).numpy())
            if not np.isfinite(executed).all():
                return self._stop("the policy's action is not finite")
        return self.queue.take(self._low, self._high)

    def _stop(self, reason: str) -> np.ndarray:
        if self.on_unsafe is None:
            raise NumericsError(f"Actor: {reason}; stop the robot, or give on_unsafe")
        self.queue.drop()
        return np.clip(np.asarray(self.on_unsafe(reason), np.float32), self._low, self._high)
