"""Maze2d data in D4RL's file format, collected by a noisy waypoint controller.

An episode is one random goal: the controller of ``waypoint`` drives there with clipped Gaussian
noise on its actions, and stays for a random number of steps. The next episode goes on from the
state reached, or, now and then, from a new random state.

Rows follow D4RL: ``actions[t]`` was taken in ``observations[t]``, and ``rewards[t]`` says whether
``observations[t]`` (not the next one) is within 0.5 m of the *task's* fixed target, whatever the
episode's own goal in ``infos/goal`` was (Farama-Foundation/D4RL#194). No row is terminal;
``timeouts`` marks the last row of each episode, whose successor belongs to another goal.

Differences to the official files: staying at the goal is part of the data (D4RL changes the goal at
arrival, so a policy never sees it), waypoints lie only at corners, there are restarts, and
``timeouts`` are stored.

The rows are made in chunks with a seed of their own each: neither the number of workers nor their
speed changes a bit of the result.

Source: Fu et al. 2020, arXiv 2004.07219, section 5; scripts/generation/generate_maze2d_datasets.py
and relabel_maze2d_rewards.py of D4RL.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from genpolicy.envs import env_entry
from genpolicy.envs.maze2d import PointMass
from genpolicy.envs.mazes import GOAL_RADIUS, maze_of
from genpolicy.errors import UsageError
from genpolicy.generators.pool import in_order
from genpolicy.generators.waypoint import WaypointController

__all__ = ["collect_maze2d", "make_maze2d"]

ARRIVAL_RADIUS = 0.1
"""Distance in metres at which the controller counts as having arrived and the stay begins."""


@dataclass(frozen=True)
class _Settings:
    """What decides the content of a file, apart from its seed and its length."""

    task: str
    noise_std: float
    max_stay_steps: int
    restart_probability: float
    p_gain: float
    d_gain: float
    chunk_steps: int


def make_maze2d(
    task: str,
    *,
    seed: int,
    path: str | Path,
    n_steps: int = 1_000_000,
    n_workers: int = 1,
    noise_std: float = 0.5,
    max_stay_steps: int = 50,
    restart_probability: float = 0.1,
    p_gain: float = 10.0,
    d_gain: float = 1.0,
    chunk_steps: int = 10_000,
    progress: bool = True,
) -> Path:
    """Collect ``n_steps`` transitions and write them to an HDF5 file, atomically.

    The file holds observations (n, 4), actions (n, 2), rewards, terminals, timeouts (n,),
    infos/goal, infos/qpos and infos/qvel (n, 2), and in its attributes where it came from.

    Args:
        task: ``"maze2d-umaze"``, ``"maze2d-medium"`` or ``"maze2d-large"``.
        seed: decides every number in the file.
        path: the file; one that exists is replaced.
        n_steps: rows, at least 1.
        n_workers: processes; 1 collects in this one. A script that uses more needs
            multiprocessing's guard, ``if __name__ == "__main__":``.
        noise_std: standard deviation of the noise on actions, before they are clipped to [-1, 1].
            D4RL's script has 0.5 (its option ``noisy``).
        max_stay_steps: the stay at a reached goal is uniform in 0..this.
        restart_probability: chance that an episode starts from a random state.
        p_gain: gain of the controller, see ``WaypointController``.
        d_gain: damping of the controller, see ``WaypointController``.
        chunk_steps: rows that share one seed; each chunk starts from a random state.
        progress: show a progress bar.

    Returns:
        The path of the file.

    Raises:
        UsageError: for an unknown maze or a setting out of range.
        SimulatorError: when MuJoCo is not installed.
    """
    settings = _Settings(
        task=task,
        noise_std=float(noise_std),
        max_stay_steps=int(max_stay_steps),
        restart_probability=float(restart_probability),
        p_gain=float(p_gain),
        d_gain=float(d_gain),
        chunk_steps=int(chunk_steps),
    )
    arrays = _collect(settings, n_steps, seed, n_workers=n_workers, progress=progress)
    # Imported here, not above: torch comes with it, and the workers have no use for that.
    from genpolicy import __version__
    from genpolicy.data.d4rl import write_d4rl
    from genpolicy.data.episodes import DataSource

    versions = {"genpolicy": __version__, "numpy": np.__version__, **env_entry(task).versions()}
    details = {
        "generator": "genpolicy.generators.make_maze2d",
        "seed": int(seed),
        "n_steps": int(n_steps),
        "versions": json.dumps(versions, sort_keys=True),
        **asdict(settings),
    }
    write_d4rl(
        path,
        **{key: arrays.pop(key) for key in ("observations", "actions", "rewards")},
        **{key: arrays.pop(key) for key in ("terminals", "timeouts")},
        infos={key.removeprefix("infos/"): value for key, value in arrays.items()},
        source=DataSource(name=task, kind="generated", path=str(path), details=details),
    )
    return Path(path)


def collect_maze2d(
    task: str, *, n_steps: int, seed: int, noise_std: float = 0.5, max_stay_steps: int = 50
) -> dict[str, np.ndarray]:
    """Return what ``make_maze2d`` would write, as arrays by their names in the file.

    Raises:
        UsageError: for an unknown maze or a setting out of range.
    """
    settings = _Settings(task, noise_std, max_stay_steps, 0.1, 10.0, 1.0, 10_000)
    return _collect(settings, n_steps, seed, n_workers=1, progress=False)


def _collect(
    settings: _Settings, n_steps: int, seed: int, *, n_workers: int, progress: bool
) -> dict[str, np.ndarray]:
    maze_of(settings.task)
    for name, value, low in (
        ("n_steps", n_steps, 1),
        ("n_workers", n_workers, 1),
        ("chunk_steps", settings.chunk_steps, 1),
        ("noise_std", settings.noise_std, 0),
        ("max_stay_steps", settings.max_stay_steps, 0),
    ):
        if value < low:
            raise UsageError(f"{name} is {value}, expected at least {low}")
    if not 0 <= settings.restart_probability <= 1:
        raise UsageError(
            f"restart_probability is {settings.restart_probability}, expected within [0, 1]"
        )
    from genpolicy.seeding import derive_seed

    size = settings.chunk_steps
    jobs = [
        (settings, min(size, n_steps - start), derive_seed(seed, settings.task, start // size))
        for start in range(0, n_steps, size)
    ]
    chunks: list[dict[str, np.ndarray]] = []
    with tqdm(total=n_steps, unit="step", desc=settings.task, disable=not progress) as bar:
        for chunk in in_order(_collect_chunk, jobs, n_workers=min(n_workers, len(jobs))):
            chunks.append(chunk)
            bar.update(len(chunk["rewards"]))
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}


def _collect_chunk(job: tuple[_Settings, int, int]) -> dict[str, np.ndarray]:
    """Collect one chunk: a pure function of the settings, the number of rows and a seed."""
    settings, n_steps, seed = job
    maze = maze_of(settings.task)
    rng = np.random.default_rng(seed)
    cells = maze.start_cells
    point = PointMass(task=settings.task)
    controller = WaypointController(
        task=settings.task, p_gain=settings.p_gain, d_gain=settings.d_gain
    )
    states, goals = np.empty((n_steps, 4)), np.empty((n_steps, 2))
    actions = settings.noise_std * rng.standard_normal((n_steps, 2))
    timeouts = np.zeros(n_steps, dtype=bool)

    def random_place() -> np.ndarray:
        return cells[rng.integers(len(cells))] + rng.uniform(-0.1, 0.1, 2)

    row = 0
    while row < n_steps:
        if row == 0 or rng.random() < settings.restart_probability:
            point.set_state(np.concatenate([random_place(), 0.1 * rng.standard_normal(2)]))
        state = point.state
        goal = random_place()
        last = min(row + maze.max_steps, n_steps) - 1
        stay: int | None = None
        while True:
            states[row], goals[row] = state, goal
            action = np.clip(controller.action(state, goal) + actions[row], -1.0, 1.0)
            actions[row] = action
            if stay is None and np.hypot(*(state[:2] - goal)) <= ARRIVAL_RADIUS:
                stay = int(rng.integers(settings.max_stay_steps + 1))
                last = min(last, row + stay)
            state = point.step(action)
            row += 1
            if row > last:
                break
        timeouts[last] = True

    at_target = np.hypot(*(states[:, :2] - maze.target).T) <= GOAL_RADIUS
    return {
        "observations": states.astype(np.float32),
        "actions": actions.astype(np.float32),
        "rewards": at_target.astype(np.float32),
        "terminals": np.zeros(n_steps, dtype=bool),
        "timeouts": timeouts,
        "infos/goal": goals.astype(np.float32),
        "infos/qpos": states[:, :2].astype(np.float32),
        "infos/qvel": states[:, 2:].astype(np.float32),
    }
