"""Open-loop replay of recorded demonstrations: do the actions still solve the task?

An episode starts in the first recorded state, in the recorded scene where the file has it, and
executes the recorded actions. Contacts are chaotic, so another release of the simulator loses some;
a controller that was restored wrongly loses nearly all. Recordings of the installed release are
followed exactly (``free_joints`` of ``RobomimicEnv``), others as robomimic follows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from genpolicy.generators.pool import in_order
from genpolicy.generators.recorded import (
    open_recording,
    recorded_env,
    recorded_in_this_release,
)

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
    recording = open_recording(path, n_demos=n_demos, filter_key=filter_key, n_workers=n_workers)
    jobs = [(str(path), name) for name in recording.names]
    results: list[ReplayedDemo] = []
    with tqdm(total=len(jobs), unit="demo", desc="replay", disable=not progress) as bar:
        for result in in_order(_replay, jobs, n_workers=min(n_workers, len(jobs))):
            results.append(result)
            bar.update()
    return results


def _replay(job: tuple[str, str]) -> ReplayedDemo:
    from genpolicy.data.robomimic_file import open_robomimic

    path, name = job
    with open_robomimic(path) as file:
        demo = file.demo(name, with_obs=False)
    assert demo.states is not None  # checked before the work was given out
    env = recorded_env(path)
    start = {"state": demo.states[0], "model": demo.model_file}
    env.reset(seed=0, options={**start, "free_joints": recorded_in_this_release(env)})
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
