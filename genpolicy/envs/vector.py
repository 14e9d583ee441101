"""Several environments side by side, reset and stepped slot by slot.

gymnasium's vector environments step every slot and want every finished one reset before the next
step. An evaluation instead leaves slots idle once their seeds have run out, and must not simulate
further in them. So each slot is wrapped: its action says whether it is active, an idle slot repeats
its last observation, and the ends of episodes travel in the info instead of the flags, which
gymnasium therefore never acts upon. Both of its classes then work unchanged, in one process or in
workers.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from genpolicy.envs.registry import make_env
from genpolicy.errors import GenpolicyError, NumericsError, SimulatorError, UsageError

__all__ = ["SeededVectorEnv"]

_Obs = dict[str, np.ndarray]


class _Slot(gymnasium.Wrapper):
    """An environment that can be left idle; see the module."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = gymnasium.spaces.Dict(
            {"action": env.action_space, "is_active": gymnasium.spaces.MultiBinary(1)}
        )
        self._last: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._last, info = self.env.reset(seed=seed, options=options)
        return self._last, info

    def step(self, action: Mapping[str, Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not action["is_active"][0]:
            return self._last, 0.0, False, False, {}
        self._last, reward, terminated, truncated, info = self.env.step(action["action"])
        info = {**info, "terminated": terminated, "truncated": truncated}
        return self._last, float(reward), False, False, info


def _make_slot(task: str, settings: dict[str, Any]) -> _Slot:
    return _Slot(make_env(task, **settings))


def _rows_of(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Undo gymnasium's batching of info dictionaries for one row."""
    found: dict[str, Any] = {}
    for key, value in infos.items():
        mask = infos.get(f"_{key}")
        if key.startswith("_") or (mask is not None and not mask[row]):
            continue
        found[key] = _rows_of(value, row) if isinstance(value, Mapping) else value[row].item()
    return found


class SeededVectorEnv:
    """``n_envs`` slots of one task.

    Results have one row per slot, whatever was reset or stepped; rows of idle slots repeat their
    last observation with reward 0. Row ``i`` depends on the seed and the actions of slot ``i``
    alone, so neither the slot nor ``n_envs`` nor ``workers`` changes an episode.

    Args:
        task: a key of ``ENVS``.
        n_envs: number of slots.
        workers: one process per slot (forkserver, or spawn where there is none).
        settings: keyword arguments of the environment's class.
    """

    def __init__(
        self, task: str, n_envs: int, *, workers: bool, settings: Mapping[str, Any]
    ) -> None:
        make_slot = functools.partial(_make_slot, task, dict(settings))
        self.task = task
        self.n_envs = n_envs
        self._env: SyncVectorEnv | AsyncVectorEnv
        if workers:
            methods = multiprocessing.get_all_start_methods()
            self._env = AsyncVectorEnv(
                [make_slot] * n_envs,
                context="forkserver" if "forkserver" in methods else "spawn",
                autoreset_mode=AutoresetMode.DISABLED,
            )
        else:
            self._env = SyncVectorEnv([make_slot] * n_envs, autoreset_mode=AutoresetMode.DISABLED)
        self.observation_space: gymnasium.spaces.Dict = self._env.single_observation_space  # type: ignore[assignment]
        slot_space = self._env.single_action_space
        self.action_space: gymnasium.spaces.Box = slot_space["action"]  # type: ignore[index]
        self._was_reset = np.zeros(n_envs, dtype=bool)
        self._is_running = np.zeros(n_envs, dtype=bool)

    def reset(
        self,
        indices: Sequence[int],
        seeds: Sequence[int],
        *,
        options: dict[str, Any] | None = None,
    ) -> tuple[_Obs, list[dict[str, Any]]]:
        """Start an episode in some slots.

        Args:
            indices: the slots, each at most once.
            seeds: one seed per slot.
            options: reset options, the same for all of them.

        Returns:
            Observations ``(n_envs, *shape)`` by key (rows of slots that were never reset hold no
            episode), and the info of each reset slot, in the order of ``indices``.

        Raises:
            UsageError: when the indices repeat or are out of range, or the counts differ.
            SimulatorError: when a worker has failed; all of them are ended then.
        """
        slots = [int(i) for i in indices]
        if len(slots) != len(seeds) or not slots:
            raise UsageError(f"got {len(slots)} slots and {len(seeds)} seeds, expected one each")
        if len(set(slots)) != len(slots) or min(slots) < 0 or max(slots) >= self.n_envs:
            raise UsageError(f"got slots {slots}, expected distinct ones below {self.n_envs}")
        slot_seeds: list[int | None] = [None] * self.n_envs
        for slot, seed in zip(slots, seeds, strict=True):
            slot_seeds[slot] = int(seed)
        mask = np.zeros(self.n_envs, dtype=bool)
        mask[slots] = True
        # gymnasium needs an observation of every slot, also of those that stay unused.
        fill = ~self._was_reset & ~mask
        for slot in np.flatnonzero(fill):
            slot_seeds[slot] = 0
        obs, infos = self._call(
            "reset", seed=slot_seeds, options={**(options or {}), "reset_mask": mask | fill}
        )
        self._was_reset[:] = True
        self._is_running[slots] = True
        return obs, [_rows_of(infos, slot) for slot in slots]

    def step(
        self, actions: np.ndarray, active: np.ndarray
    ) -> tuple[_Obs, np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step some slots.

        Args:
            actions: ``(n_envs, action)``; rows of idle slots are ignored.
            active: ``(n_envs,)`` bool: the slots to step.

        Returns:
            Observations ``(n_envs, *shape)`` by key; rewards, terminated and truncated
            ``(n_envs,)``, 0 and False in idle slots; and one info per slot, empty for idle ones.

        Raises:
            UsageError: for wrong shapes, or an active slot whose episode is over.
            NumericsError: for an action of an active slot that is not finite.
            SimulatorError: when a worker has failed; all of them are ended then.
        """
        active = np.asarray(active, dtype=bool)
        rows = np.array(actions, dtype=np.float32)
        wanted = (self.n_envs, *self.action_space.shape)
        if rows.shape != wanted or active.shape != wanted[:1]:
            raise UsageError(
                f"got actions of shape {rows.shape} and active of shape {active.shape}, expected "
                f"{wanted} and {wanted[:1]}"
            )
        if not np.isfinite(rows[active]).all():
            row = int(np.flatnonzero(active & ~np.isfinite(rows).all(axis=1))[0])
            raise NumericsError(f"slot {row} got the action {rows[row].tolist()}, expected finite")
        if (active & ~self._is_running).any():
            slots = np.flatnonzero(active & ~self._is_running).tolist()
            raise UsageError(f"slots {slots} have no running episode; reset them first")
        obs, rewards, _, _, infos = self._call(
            "step", {"action": rows, "is_active": active[:, None].astype(np.int8)}
        )
        per_slot = [_rows_of(infos, i) if active[i] else {} for i in range(self.n_envs)]
        terminated = np.array([info.pop("terminated", False) for info in per_slot])
        truncated = np.array([info.pop("truncated", False) for info in per_slot])
        self._is_running &= ~(terminated | truncated)
        return obs, rewards, terminated, truncated, per_slot

    def render(self) -> tuple[np.ndarray, ...]:
        """Return one picture ``(height, width, 3)`` uint8 per slot."""
        return tuple(self._call("call", "render"))

    def close(self) -> None:
        """End the workers and free the simulators; calling it again does nothing."""
        self._env.close()

    def __enter__(self) -> SeededVectorEnv:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if self._env.closed:
            raise UsageError(f"{name}: these environments of task {self.task!r} are closed")
        if isinstance(self._env, SyncVectorEnv):
            return getattr(self._env, name)(*args, **kwargs)
        try:
            return getattr(self._env, name)(*args, **kwargs)
        except GenpolicyError:
            self._terminate(self._env)
            raise
        except Exception as error:
            self._terminate(self._env)
            raise SimulatorError(
                f"a worker of task {self.task!r} failed during {name} ({error!r}); make the "
                f"environments again and repeat the episodes that were running"
            ) from error

    @staticmethod
    def _terminate(env: AsyncVectorEnv) -> None:
        # gymnasium drops the pipe of a worker that failed, so its own close cannot finish.
        for process in env.processes:
            process.terminate()
            process.join()
        env.closed = True
