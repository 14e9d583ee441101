"""Open-loop replay of recorded demonstrations: do the actions still solve the task?

An episode starts in the first recorded state, in the recorded scene where the file has it, and
executes the recorded actions. Contacts are chaotic, so another release of the simulator loses some;
a controller that was restored wrongly loses nearly all.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from genpolicy.envs.robomimic import RobomimicEnv
from genpolicy.errors import DataError, UsageError
from genpolicy.robomimic_tasks import ROBOMIMIC_TASKS

__all__ = ["ReplayedDemo", "replay_demos"]


@dataclass(frozen=True)
class ReplayedDemo:
    """The outcome of one replay.

    Args:
        name: the demonstration's.
        is_success: whether the task's check held after any step.
        n_steps: actions that were executed.
        state_error: largest deviation from the recorded states over the first ten steps, in the
            units of the state; None where there is no second state.
    """

    name: str
    is_success: bool
    n_steps: int
    state_error: float | None


def replay_demos(
    path: str | Path,
    *,
    n_demos: int | None = None,
    filter_key: str | None = None,
    n_workers: int = 1,
    progress: bool = False,
) -> list[ReplayedDemo]:
    """Replay demonstrations of a robomimic file.

    Args:
        path: the file.
        n_demos: the first so many of those selected; None replays all.
        filter_key: mask that selects them; None selects all.
        n_workers: processes; they change nothing but the time.
        progress: show a progress bar.

    Returns:
        One outcome per demonstration, in their order.

    Raises:
        DataError: when the file is damaged, or lacks states or ``env_args``.
        SimulatorError: when the environment cannot be restored.
        UsageError: for counts out of range.
    """
    from genpolicy.data.robomimic_file import open_robomimic

    if n_workers < 1 or (n_demos is not None and n_demos < 1):
        raise UsageError(
            f"n_workers is {n_workers} and n_demos {n_demos}, expected at least 1 each"
        )
    with open_robomimic(path) as file:
        names = file.selected(filter_key)[:n_demos]
        env_args = file.env_args()
        if env_args is None:
            raise DataError(f"{file.path}: there is no env_args, so it cannot be replayed")
        if "states" not in file.group(names[0]):
            raise DataError(f"{file.path}: {names[0]} has no states, so it cannot be replayed")
    known = [task for task in ROBOMIMIC_TASKS.values() if task.env_name == env_args["env_name"]]
    if not known:
        raise DataError(
            f"{path} was recorded in {env_args['env_name']}; expected one of "
            f"{', '.join(task.env_name for task in ROBOMIMIC_TASKS.values())}"
        )
    jobs = [(str(path), name) for name in names]
    results: list[ReplayedDemo] = []
    with tqdm(total=len(jobs), unit="demo", desc="replay", disable=not progress) as bar:
        for result in _run(jobs, min(n_workers, len(jobs))):
            results.append(result)
            bar.update()
    return results


def _run(jobs: Sequence[tuple[str, str]], n_workers: int) -> Iterator[ReplayedDemo]:
    if n_workers == 1:
        yield from map(_replay, jobs)
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    with ProcessPoolExecutor(n_workers, mp_context=context) as pool:
        yield from pool.map(_replay, jobs)


@functools.lru_cache(maxsize=1)
def _environment(path: str) -> RobomimicEnv:
    from genpolicy.data.robomimic_file import open_robomimic

    with open_robomimic(path) as file:
        env_args: dict[str, Any] = file.env_args() or {}
    names = {task.env_name: task.name for task in ROBOMIMIC_TASKS.values()}
    return RobomimicEnv(
        task=names[env_args["env_name"]], env_args=env_args, max_steps=100_000, obs_keys=()
    )


def _replay(job: tuple[str, str]) -> ReplayedDemo:
    from genpolicy.data.robomimic_file import open_robomimic

    path, name = job
    with open_robomimic(path) as file:
        demo = file.demo(name, with_obs=False)
    if demo.states is None:
        raise DataError(f"{path}: {name} has no states, so it cannot be replayed")
    env = _environment(path)
    env.reset(seed=0, options={"state": demo.states[0], "model": demo.model_file})
    errors: list[float] = []
    for step, action in enumerate(demo.actions):
        _, _, is_success, _, _ = env.step(action)
        if step < 10 and step + 1 < len(demo.states):
            # The first entry is the time.
            off = env.simulator_state[1:] - demo.states[step + 1][1:]
            errors.append(float(np.abs(off).max()))
        if is_success:
            return ReplayedDemo(name, True, step + 1, max(errors, default=None))
    return ReplayedDemo(name, False, len(demo.actions), max(errors, default=None))
