"""The rollout loop: episodes in slots, chunks of actions from one batched call, records out.

An episode is a function of its seed, the policy and the task. Slots only decide when it runs:
observations, queues and noise belong to the episode, a finished slot takes the next seed at once,
and an episode that is running is never cut short by others.

Simulators in workers form two lanes: while those of one take a step, the policy plans for the
other. A simulator that fails ends the episodes of its lane only; they start again from their seeds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from genpolicy.errors import (
    GenpolicyError,
    IncompleteEvaluationError,
    NumericsError,
    SimulatorError,
    UsageError,
)
from genpolicy.evaluation.records import EpisodeRecord
from genpolicy.evaluation.task import EvaluationTask, Slots
from genpolicy.policies.acting import ActionQueue
from genpolicy.seeding import derive_seed

if TYPE_CHECKING:
    from genpolicy.policies import Policy

__all__ = ["Engine", "Listener"]

_Rows = Mapping[str, np.ndarray]

_LANES = 2
"""Groups of workers that take turns; one plans while the other simulates."""


class Listener(Protocol):
    """Sees every observation and action of the episodes, for pictures and videos."""

    def started(self, seed: int, obs: _Rows, slots: Slots, slot: int) -> None:
        """An episode begins, maybe again after a failure; ``obs`` is its first observation."""
        ...

    def stepped(
        self,
        seed: int,
        action: np.ndarray,
        obs: _Rows,
        reward: float,
        slots: Slots,
        slot: int,
    ) -> None:
        """``action`` was executed and led to ``obs`` and ``reward``."""
        ...


class _SlotsFailedError(Exception):
    """The simulator failed; all slots are lost."""


@dataclass
class _Episode:
    """A running episode."""

    seed: int
    queue: ActionQueue
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    n_steps: int = 0
    rewards: float = 0.0

    def record(
        self, *, terminated: bool = False, truncated: bool = False, tags: Sequence[str] = ()
    ) -> EpisodeRecord:
        """Return the record of this episode, which is a failure when it has tags."""
        own = {"return": self.rewards, "clipped_actions": float(self.queue.n_clipped)}
        failed = {"success": 0.0} if tags else {}
        return EpisodeRecord(
            seed=self.seed,
            n_steps=self.n_steps,
            n_chunks=self.queue.n_chunks,
            n_clipped=self.queue.n_clipped,
            terminated=terminated,
            truncated=truncated,
            metrics={**self.metrics, **own, **failed},
            tags=tuple(tags),
        )


@dataclass
class _Lane:
    """Slots that are stepped together, and the step that they are taking."""

    slots: Slots
    running: dict[int, _Episode] = field(default_factory=dict[int, _Episode])
    actions: np.ndarray | None = None
    step: Future[Any] | None = None

    def settle(self) -> None:
        """Wait for a step that is being taken, whatever comes of it."""
        if self.step is not None:
            self.step.exception()
        self.actions = self.step = None


def _row(obs: _Rows, slot: int) -> dict[str, np.ndarray]:
    return {key: np.array(rows[slot]) for key, rows in obs.items()}


def _not_finite(
    obs: _Rows, reward: float = 0.0, metrics: Mapping[str, float] | None = None
) -> list[str]:
    """Return a tag for each part of a step that is not finite."""
    keys = [
        key
        for key, value in sorted(obs.items())
        if np.issubdtype(value.dtype, np.inexact) and not np.isfinite(value).all()
    ]
    tags = [f"non-finite observation: {key}" for key in keys]
    if not np.isfinite(reward):
        tags.append("non-finite reward")
    names = [name for name, value in sorted((metrics or {}).items()) if not np.isfinite(value)]
    return tags + [f"non-finite metric: {name}" for name in names]


class Engine:
    """Runs one episode per seed.

    Args:
        policy: what to run; asked once per step for all slots whose queue is empty.
        task: where to run it.
        seeds: distinct episode seeds.
        n_envs: slots; changes how long it takes and nothing else.
        n_action_steps: actions executed per chunk.
        workers: whether each slot has a process of its own; lanes take turns then.
        max_restarts: failures of the simulator tolerated per episode.
        check: called once with the first slots, before any episode.
        on_restart: called with the interrupted seeds and the reason after each failure.
        listener: sees every step; None for nobody.
    """

    def __init__(
        self,
        policy: Policy,
        task: EvaluationTask,
        seeds: Sequence[int],
        *,
        n_envs: int,
        n_action_steps: int,
        workers: bool = False,
        max_restarts: int = 3,
        check: Callable[[Slots], None] | None = None,
        on_restart: Callable[[Sequence[int], str], None] | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.policy = policy
        self.task = task
        self.n_envs = max(1, min(n_envs, len(seeds)))
        self.n_action_steps = n_action_steps
        self.workers = workers
        self.max_restarts = max_restarts
        self.check = check
        self.on_restart = on_restart
        self.listener = listener
        self._pending = deque(seeds)
        self._n_failures = dict.fromkeys(seeds, 0)

    def run(self) -> Iterator[list[EpisodeRecord]]:
        """Yield records as episodes finish, those of one step together.

        Raises:
            NumericsError: for an action that is not finite, naming the episodes and steps.
            IncompleteEvaluationError: when an episode met more than ``max_restarts`` failures.
        """
        n_lanes = min(_LANES, self.n_envs) if self.workers else 1
        sizes = [len(part) for part in np.array_split(np.arange(self.n_envs), n_lanes)]
        lanes: list[_Lane] = []
        pool = ThreadPoolExecutor(n_lanes) if self.workers else None
        try:
            for size in sizes:
                lanes.append(_Lane(self.task.make_slots(size, self.workers)))
            if self.check is not None:
                self.check(lanes[0].slots)
            while self._pending or any(lane.running for lane in lanes):
                for lane in lanes:
                    finished: list[EpisodeRecord] = []
                    try:
                        self._receive(lane, finished)
                        self._start(lane, finished)
                        self._send(lane, pool)
                    except _SlotsFailedError as failure:
                        lane.settle()
                        lane.slots.close()
                        self._requeue(lane, failure)
                        lane.slots = self.task.make_slots(lane.slots.n_envs, self.workers)
                    if finished:
                        yield finished
        finally:
            for lane in lanes:
                lane.settle()
                lane.slots.close()
            if pool is not None:
                pool.shutdown()

    def _requeue(self, lane: _Lane, failure: _SlotsFailedError) -> None:
        """Put the interrupted episodes back in front of the queue, in their order."""
        seeds = [episode.seed for _, episode in sorted(lane.running.items())]
        lane.running.clear()
        self._pending.extendleft(reversed(seeds))
        for seed in seeds:
            self._n_failures[seed] += 1
        if self.on_restart is not None:
            self.on_restart(seeds, str(failure))
        if max(self._n_failures.values()) > self.max_restarts:
            raise IncompleteEvaluationError(
                f"the simulator of {self.task.name} failed {self.max_restarts + 1} times while "
                f"episodes {seeds} were running, at last with: {failure}"
            ) from failure

    def _start(self, lane: _Lane, finished: list[EpisodeRecord]) -> None:
        """Give the next seeds to free slots; episodes that are broken from the start end here."""
        free = [i for i in range(lane.slots.n_envs) if i not in lane.running]
        free = free[: len(self._pending)]
        if not free:
            return
        seeds = [self._pending.popleft() for _ in free]
        for slot, seed in zip(free, seeds, strict=True):
            queue = ActionQueue(self.policy.spec, n_action_steps=self.n_action_steps)
            lane.running[slot] = _Episode(seed, queue)
        obs, infos = self._call(lane.slots.reset, free, seeds)
        for slot, info in zip(free, infos, strict=True):
            episode, first = lane.running[slot], _row(obs, slot)
            metrics = self._metrics(info)
            tags = _not_finite(first, 0.0, metrics)
            episode.metrics = {k: v if np.isfinite(v) else 0.0 for k, v in metrics.items()}
            if tags:
                finished.append(lane.running.pop(slot).record(tags=tags))
                continue
            episode.queue.observe(first)
            if self.listener is not None:
                self.listener.started(episode.seed, first, lane.slots, slot)

    def _send(self, lane: _Lane, pool: ThreadPoolExecutor | None) -> None:
        """Plan where needed and begin one step of every running episode of a lane."""
        if not lane.running:
            return
        self._fill_queues(lane)
        space = lane.slots.action_space
        actions = np.zeros((lane.slots.n_envs, *space.shape), dtype=np.float32)
        active = np.zeros(lane.slots.n_envs, dtype=bool)
        for slot, episode in lane.running.items():
            actions[slot] = episode.queue.take(space.low, space.high)
            active[slot] = True
        lane.actions = actions
        if pool is not None:
            lane.step = pool.submit(lane.slots.step, actions, active)

    def _receive(self, lane: _Lane, finished: list[EpisodeRecord]) -> None:
        """Finish the step of a lane and add the episodes that are over."""
        if lane.actions is None:
            return
        actions, step = lane.actions, lane.step
        lane.actions = lane.step = None
        active = np.isin(np.arange(lane.slots.n_envs), list(lane.running))
        obs, rewards, terminated, truncated, infos = (
            self._call(lane.slots.step, actions, active)
            if step is None
            else self._call(step.result)
        )
        for slot, episode in sorted(lane.running.items()):
            after, reward = _row(obs, slot), float(rewards[slot])
            metrics = self._metrics(infos[slot])
            episode.n_steps += 1
            if self.listener is not None:
                self.listener.stepped(episode.seed, actions[slot], after, reward, lane.slots, slot)
            if tags := _not_finite(after, reward, metrics):
                finished.append(lane.running.pop(slot).record(tags=tags))
                continue
            episode.queue.observe(after)
            episode.rewards += reward
            episode.metrics = metrics
            if terminated[slot] or truncated[slot]:
                record = episode.record(
                    terminated=bool(terminated[slot]), truncated=bool(truncated[slot])
                )
                finished.append(record)
                del lane.running[slot]

    def _fill_queues(self, lane: _Lane) -> None:
        """Ask the policy, in one call, for a chunk in every episode whose queue is empty."""
        asking = [lane.running[slot] for slot in sorted(lane.running)]
        asking = [episode for episode in asking if episode.queue.is_empty]
        if not asking:
            return
        spec = self.policy.spec
        obs: dict[str, Tensor] = {}
        for key in spec.obs_shapes:
            rows = np.stack([episode.queue.remembered(key) for episode in asking])
            obs[key] = torch.from_numpy(rows)  # (batch, n_obs_steps, *shape)
        seeds = [derive_seed(episode.seed, "policy", episode.queue.n_chunks) for episode in asking]
        where = ", ".join(f"seed {e.seed} at step {e.n_steps}" for e in asking)
        try:
            chunk = self.policy.sample(obs, seeds=seeds)
        except NumericsError as error:
            raise NumericsError(f"{error}; the rows are episodes {where}") from error
        wanted = (len(asking), spec.horizon, spec.action_dim)
        if tuple(chunk.shape) != wanted:
            raise UsageError(f"the policy returned a chunk {tuple(chunk.shape)}, expected {wanted}")
        planned = chunk.detach().to("cpu", torch.float32).numpy()
        for episode, rows in zip(asking, planned, strict=True):
            actions = episode.queue.plan(rows)
            if not np.isfinite(actions).all():
                step = episode.n_steps + int(np.argmax(~np.isfinite(actions).all(axis=1)))
                raise NumericsError(
                    f"the policy's action for seed {episode.seed} at step {step} is not finite; "
                    "check the checkpoint's weights and the observations"
                )

    def _metrics(self, info: Mapping[str, Any]) -> dict[str, float]:
        metrics = info.get("metrics")
        if not isinstance(metrics, Mapping) or self.task.primary not in metrics:
            raise SimulatorError(
                f"the environment {self.task.name} reported {sorted(info)} without "
                f"info['metrics'][{self.task.primary!r}]; every reset and step has to report it"
            )
        return {str(name): float(value) for name, value in metrics.items()}

    @staticmethod
    def _call(function: Callable[..., Any], *args: Any) -> Any:
        """Call into the simulator; anything but a wrong use of it is a failure to recover from."""
        try:
            return function(*args)
        except SimulatorError as error:
            raise _SlotsFailedError(str(error)) from error
        except GenpolicyError:
            raise
        except Exception as error:
            raise _SlotsFailedError(f"{type(error).__name__}: {error}") from error
