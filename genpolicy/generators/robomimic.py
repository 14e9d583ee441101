"""Demonstrations of scripted experts in robosuite, in robomimic's file format.

Attempt ``i`` has the seed ``derive_seed(seed, task, i)``, which decides its start state, strategy,
displaced way points and noise. Attempts that do not succeed are left out, and the first ``n_demos``
successes by number are kept: neither the number of workers nor their speed changes a bit of the
result.

Noise is Gaussian on the six motion entries of an action, where the expert's script allows it, and
the actions in the file are those that were executed, noise included, so that they replay. The array
``actions_intended`` holds what the expert meant to do in the states that the noise led to: labels
without noise, from states around the expert's own. The mask ``strategy_NAME`` selects the
demonstrations of one strategy, ``strategy_near`` those with that word in it, ``train`` nine of ten
and ``valid`` the tenth.

Source of ``actions_intended``: Laskey et al. 2017, arXiv 1703.09327 (DART).
"""

from __future__ import annotations

import atexit
import functools
import importlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from genpolicy.envs.registry import env_entry
from genpolicy.envs.robomimic import RobomimicEnv
from genpolicy.errors import SimulatorError, UsageError, nearest
from genpolicy.generators.pool import in_order
from genpolicy.generators.robosuite_experts import expert_of
from genpolicy.robomimic_tasks import robomimic_task

__all__ = ["make_robomimic"]

_FAILURES = 3
"""Attempts that may fail for one that succeeds."""

_ROWS = ("actions", "states", "rewards", "abs", "intended")

_EXTRA_OBS = ("robot0_gripper_qvel", "robot0_joint_pos", "robot0_joint_vel")


@dataclass(frozen=True)
class _Settings:
    """What decides the content of a file, apart from its seed and its number of demonstrations."""

    task: str
    images: bool
    strategies: tuple[str, ...]
    noise_std: float
    max_steps: int


@dataclass(frozen=True, eq=False)
class _Attempt:
    """One episode of the expert; arrays only where it succeeded."""

    seed: int
    strategy: str
    is_success: bool
    arrays: dict[str, Any]


def make_robomimic(
    task: str,
    *,
    seed: int,
    path: str | Path,
    n_demos: int = 200,
    n_workers: int = 1,
    strategies: str = "all",
    noise_std: float = 0.1,
    max_steps: int = 400,
    progress: bool = True,
) -> Path:
    """Collect ``n_demos`` successful demonstrations and write them to a file, atomically.

    Args:
        task: name of the data set, ``"robomimic/lift"`` or ``"robomimic/lift-image"``.
        seed: decides every number in the file.
        path: the file; one that exists is replaced.
        n_demos: demonstrations, at least 1.
        n_workers: processes; 1 collects in this one. A script that uses more needs
            multiprocessing's guard, ``if __name__ == "__main__":``.
        strategies: those of the expert to draw from, separated by commas, or ``"all"``.
        noise_std: standard deviation of the noise, in units of actions.
        max_steps: steps after which an attempt has failed.
        progress: show a progress bar.

    Returns:
        The path of the file.

    Raises:
        UsageError: for a task without an expert or a setting out of range.
        SimulatorError: when robosuite is not installed, or the expert keeps failing.
    """
    name = task.removeprefix("robomimic/").removesuffix("-image")
    for label, value, low in (
        ("n_demos", n_demos, 1),
        ("n_workers", n_workers, 1),
        ("noise_std", noise_std, 0),
        ("max_steps", max_steps, 1),
    ):
        if value < low:
            raise UsageError(f"{label} is {value}, expected at least {low}")
    known = expert_of(name).strategies
    chosen = known if strategies == "all" else tuple(strategies.split(","))
    for strategy in chosen:
        if strategy not in known:
            raise UsageError(f"{task} has no strategy {strategy!r}; {nearest(strategy, known)}")
    settings = _Settings(name, task.endswith("-image"), chosen, float(noise_std), int(max_steps))
    from genpolicy import __version__
    from genpolicy.data.robomimic_file import Demo, write_robomimic
    from genpolicy.seeding import derive_seed

    versions = {"genpolicy": __version__, "numpy": np.__version__, **env_entry(task).versions()}

    jobs = ((settings, derive_seed(seed, f"robomimic/{name}", i)) for i in itertools.count())

    def demos() -> Iterator[Demo]:
        n_kept = n_failed = 0
        with tqdm(total=n_demos, unit="demo", desc=task, disable=not progress) as bar:
            for attempt in in_order(_attempt, jobs, n_workers=min(n_workers, n_demos)):
                if not attempt.is_success:
                    n_failed += 1
                    bar.set_postfix(failed=n_failed)
                    if n_failed > _FAILURES * (n_kept + 10):
                        raise SimulatorError(
                            f"the expert of {task} failed {n_failed} times and succeeded "
                            f"{n_kept} times; lower noise_std or raise max_steps"
                        )
                    continue
                split = "valid" if n_kept % 10 == 9 else "train"
                yield Demo(
                    **attempt.arrays,
                    attributes={"seed": str(attempt.seed), "strategy": attempt.strategy},
                    filter_keys=(split, *_masks(attempt.strategy)),
                )
                n_kept += 1
                bar.update()
                if n_kept == n_demos:
                    return

    details = {
        "generator": "genpolicy.generators.make_robomimic",
        "seed": int(seed),
        "n_demos": int(n_demos),
        "versions": json.dumps(versions, sort_keys=True),
        **{k: v for k, v in asdict(settings).items() if k not in ("task", "strategies", "images")},
        "strategies": strategies,
    }
    return write_robomimic(
        path,
        demos(),
        env_args=robomimic_task(name).env_args(version=versions["robosuite"]),
        attributes={"kind": "generated", "task": task, **details},
    )


@functools.lru_cache(maxsize=1)
def _environment(task: str, images: bool, max_steps: int) -> RobomimicEnv:
    """Return this process's environment; a reset makes it forget what it did before."""
    known = robomimic_task(task)
    keys = (*known.low_dim_keys, *_EXTRA_OBS)
    if images:
        keys = (*keys, *(key for key in known.image_keys if key not in keys))
    env = RobomimicEnv(task=task, obs_keys=keys, max_steps=max_steps)
    atexit.register(env.close)  # before the libraries that it draws with are gone
    return env


def _attempt(job: tuple[_Settings, int]) -> _Attempt:
    """Run one episode: a pure function of the settings and a seed."""
    settings, seed = job
    rng = np.random.default_rng(seed)
    env = _environment(settings.task, settings.images, settings.max_steps)
    strategy = settings.strategies[rng.integers(len(settings.strategies))]
    obs, _ = env.reset(seed=seed)
    model = _portable(env.model_xml)
    expert = expert_of(settings.task)(env, strategy=strategy, rng=rng)
    rows: dict[str, list[Any]] = {name: [] for name in _ROWS}
    seen = [obs]
    is_success = False
    for command in expert.script():
        rows["states"].append(env.simulator_state)
        action = expert.arm.action(command)
        rows["intended"].append(action.copy())
        action[:-1] += settings.noise_std * command.noise * rng.standard_normal(len(action) - 1)
        action = np.clip(action, -1.0, 1.0)
        obs, reward, is_success, is_cut, _ = env.step(action)
        rows["actions"].append(action)
        rows["rewards"].append(reward)
        rows["abs"].append(env.goal_pose())
        seen.append(obs)
        if is_success or is_cut:
            break
    if not is_success:
        return _Attempt(seed, strategy, False, {})
    dones = np.zeros(len(rows["actions"]), np.int64)
    dones[-1] = 1
    arrays = {
        "actions": np.stack(rows["actions"]),
        "states": np.stack(rows["states"]),
        "rewards": np.array(rows["rewards"]),
        "dones": dones,
        "obs": {key: np.stack([o[key] for o in seen[:-1]]) for key in obs},
        "next_obs": {key: np.stack([o[key] for o in seen[1:]]) for key in obs},
        "model_file": model,
        "extra": {
            "actions_abs": np.stack(rows["abs"]),
            "actions_intended": np.stack(rows["intended"]),
        },
    }
    return _Attempt(seed, strategy, True, arrays)


def _masks(strategy: str) -> list[str]:
    """Return the masks of a strategy: its own, and one for each of its words."""
    return [f"strategy_{name}" for name in dict.fromkeys((strategy, *strategy.split("-")))]


def _portable(xml: str) -> str:
    """Return a scene's XML with asset paths that begin at the folder of robosuite."""
    robosuite: Any = importlib.import_module("robosuite")
    return xml.replace(f"{Path(robosuite.__file__).parents[1]}/", "")
