"""D4RL's locomotion and adroit data made again, from policies of others and current simulators.

D4RL's recipe: run policies of known strength and write down what they do. The policies are not
D4RL's (those were never all published), nor is the simulator, so the data is *regenerated*: the
file says so, with the policies' digests and the simulator's versions, and every score of a policy
trained on it repeats it.

Which policies stand in for which kind of data is in ``genpolicy.d4rl_tasks``: ``expert`` and
``medium`` one policy each, ``medium-expert`` half of the steps of each, ``medium-replay`` equal
parts of six policies of rising strength with noise (a replay buffer holds what ever weaker policies
did; the mix only resembles it), ``random`` uniform actions, and adroit's ``expert``. Actions are
drawn from the policies' distributions, as D4RL did.

Each episode has a seed of its own, from which follow its start and all its actions, so the file
does not depend on the number of processes.

Source: Fu et al. 2020, arXiv 2004.07219, section 4; Farama-Foundation/D4RL, scripts/generation.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from genpolicy.d4rl_tasks import D4RL_TASKS, D4RLTask, resolve_d4rl
from genpolicy.envs import env_entry, make_env
from genpolicy.errors import DataError, UsageError, nearest
from genpolicy.generators.actors import Actor, actor_path, load_actor
from genpolicy.generators.pool import in_order

__all__ = ["make_d4rl_data", "policy_digests"]

_RANDOM = "random"


class _Job(NamedTuple):
    """One episode: a pure function of these."""

    task: str
    part: int
    policy: str
    deterministic: bool
    noise_std: float
    seed: int


def make_d4rl_data(
    task: str,
    *,
    seed: int,
    path: str | Path,
    policies: str = "",
    n_steps: int = 200_000,
    n_workers: int = 1,
    deterministic: int = 0,
    progress: bool = True,
) -> Path:
    """Make the data of a D4RL task again and write it as D4RL HDF5.

    The file holds observations, actions, rewards, terminals, timeouts, ``infos/qpos`` and
    ``infos/qvel``, one row a step. The last episode of each policy's part is cut to the number of
    rows, and counts as ended by time.

    Args:
        task: a name of ``D4RL_TASKS`` with a recipe, for example ``"d4rl/hopper-medium-expert"``.
        seed: decides every number in the file, given the policies and simulators.
        path: the file; one that exists is replaced.
        policies: folder with the policies that the recipe names, see ``generators.actors``.
        n_steps: rows, at least 1 for each policy of the recipe. D4RL's files have 10^6, or
            2 * 10^6 for medium-expert.
        n_workers: processes; 1 collects in this one. A script that uses more needs
            multiprocessing's guard, ``if __name__ == "__main__":``.
        deterministic: 1 takes the modes of the policies instead of drawing actions.
        progress: show a progress bar.

    Returns:
        The path of the file.

    Raises:
        UsageError: for a task without recipe, a setting out of range or a policy that is not there.
        DataError: for a policy that does not fit the task.
        SimulatorError: when the simulator is not installed.
    """
    known = _task_of(task)
    if n_steps < len(known.recipe) or n_workers < 1:
        raise UsageError(
            f"n_steps is {n_steps} and n_workers {n_workers}, expected at least "
            f"{len(known.recipe)} and 1"
        )
    digests = policy_digests(task, policies)
    parts: list[dict[str, np.ndarray]] = []
    with tqdm(total=n_steps, unit="step", desc=known.task, disable=not progress) as bar:
        for episode in _collect(known, policies, n_steps, seed, bool(deterministic), n_workers):
            parts.append(episode)
            bar.update(len(episode["rewards"]))
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    # Imported here, not above: torch comes with it, and the workers have no use for that.
    from genpolicy import __version__
    from genpolicy.data.d4rl import write_d4rl
    from genpolicy.data.episodes import DataSource

    versions = {"genpolicy": __version__, "numpy": np.__version__}
    details = {
        "generator": "genpolicy.generators.make_d4rl_data",
        "note": f"regenerated: not D4RL's {known.d4rl_name}, but policies of others in "
        f"{known.env_id}",
        "simulator": known.env_id,
        "recipe": ",".join(known.recipe),
        "recipe_noise": known.recipe_noise,
        "policies": digests,
        "deterministic": int(deterministic),
        "seed": int(seed),
        "n_steps": int(n_steps),
        "versions": json.dumps(versions | env_entry(known.task).versions(), sort_keys=True),
    }
    write_d4rl(
        path,
        **{key: arrays.pop(key) for key in ("observations", "actions", "rewards")},
        **{key: arrays.pop(key) for key in ("terminals", "timeouts")},
        infos={key.removeprefix("infos/"): value for key, value in arrays.items()},
        source=DataSource(name=known.task, kind="regenerated", path=str(path), details=details),
    )
    return Path(path)


def policy_digests(task: str, policies: str) -> str:
    """Return the policies of a task's recipe with their SHA-256, ``name=digest`` by commas.

    Raises:
        UsageError: for a task without recipe, or a policy that is not there.
        DataError: for a policy that does not fit the task's others or is damaged.
    """
    found = []
    for name in _task_of(task).recipe:
        if name == _RANDOM:
            found.append(_RANDOM)
            continue
        if not policies:
            raise UsageError(
                f"{task} is made with policies of others; give the folder of "
                f"{', '.join(f'{n}.npz' for n in _task_of(task).recipe)} as policies=DIR"
            )
        found.append(f"{name}={load_actor(actor_path(policies, name))[1]}")
    return ",".join(found)


def _task_of(task: str) -> D4RLTask:
    known = D4RL_TASKS.get(resolve_d4rl(task).task)
    if known is None or not known.recipe:
        makers = [name for name, one in D4RL_TASKS.items() if one.recipe]
        raise UsageError(f"there is no recipe for the data of {task!r}; {nearest(task, makers)}")
    return known


def _collect(
    task: D4RLTask, policies: str, n_steps: int, seed: int, deterministic: bool, n_workers: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the episodes of a recipe, policy after policy; the last of each is cut."""
    from genpolicy.seeding import derive_seed  # torch comes with it, workers have no use for it

    n_parts = len(task.recipe)
    left = [(k + 1) * n_steps // n_parts - k * n_steps // n_parts for k in range(n_parts)]

    def jobs() -> Iterator[_Job]:
        for part, name in enumerate(task.recipe):
            file = "" if name == _RANDOM else str(actor_path(policies, name))
            for episode in itertools.count():
                if left[part] == 0:
                    break
                start = derive_seed(seed, task.task, name, episode)
                yield _Job(task.task, part, file, deterministic, task.recipe_noise, start)

    for part, episode in in_order(_episode, jobs(), n_workers=n_workers):
        n_rows = min(left[part], len(episode["rewards"]))  # 0 for those begun ahead in vain
        if n_rows == 0:
            continue
        left[part] -= n_rows
        if n_rows < len(episode["rewards"]):
            episode = {key: value[:n_rows].copy() for key, value in episode.items()}
            episode["timeouts"][-1] = True
        yield episode


@functools.lru_cache(maxsize=1)
def _env_of(task: str) -> Any:
    """Return this process's environment of a task."""
    return make_env(task)


@functools.lru_cache(maxsize=8)
def _actor_of(path: str) -> Actor:
    return load_actor(path)[0]


def _episode(job: _Job) -> tuple[int, dict[str, np.ndarray]]:
    """Run one episode; return which part of the recipe it is of, and its rows."""
    env = _env_of(job.task)
    rng = np.random.default_rng([job.seed, 1])
    actor = _actor_of(job.policy) if job.policy else None
    n_actions = env.action_space.shape[0]
    obs = env.reset(seed=job.seed)[0]["state"]
    if actor is not None and (actor.obs_dim, actor.action_dim) != (len(obs), n_actions):
        raise DataError(
            f"{job.policy}: {actor.obs_dim} observations and {actor.action_dim} actions, "
            f"{job.task} has {len(obs)} and {n_actions}"
        )
    rows: dict[str, list[Any]] = {
        key: [] for key in ("observations", "actions", "rewards", "infos/qpos", "infos/qvel")
    }
    terminated = truncated = False
    step = 0
    while not (terminated or truncated):
        if actor is None:
            action = rng.uniform(-1.0, 1.0, n_actions)
        else:
            action = actor.action(obs, step=step, rng=None if job.deterministic else rng)
        if job.noise_std > 0:
            action = np.clip(action + job.noise_std * rng.standard_normal(n_actions), -1.0, 1.0)
        action = action.astype(np.float32)  # what is executed is what is written
        state = env.state
        rows["observations"].append(obs)
        rows["actions"].append(action)
        rows["infos/qpos"].append(state["qpos"])
        rows["infos/qvel"].append(state["qvel"])
        observed, reward, terminated, truncated, _ = env.step(action)
        rows["rewards"].append(reward)
        obs, step = observed["state"], step + 1
    episode: dict[str, Any] = {key: np.asarray(value, np.float32) for key, value in rows.items()}
    ends = np.zeros(step, dtype=bool)
    ends[-1] = True
    episode["terminals"] = ends & terminated
    episode["timeouts"] = ends & truncated
    return job.part, episode
