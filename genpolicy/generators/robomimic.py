"""Demonstrations of scripted experts in robosuite, in robomimic's file format.

Attempt ``i`` has the seed ``derive_seed(seed, task, i)``, which decides its start state, strategy,
displaced way points and noise. Attempts that do not succeed are left out, and the first ``n_demos``
successes by number are kept: neither the number of workers nor their speed changes a bit of the
result.

Noise is Gaussian on the six motion entries of an action, where the expert's script allows it, and
the actions in the file are those that were executed, noise included, so that they replay. The mask
``strategy_NAME`` selects the demonstrations of one strategy, ``train`` and ``valid`` nine of ten and
the tenth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from genpolicy.envs.registry import env_entry
from genpolicy.errors import UsageError, nearest
from genpolicy.generators.robosuite_experts import expert_of
from genpolicy.robomimic_tasks import robomimic_task

__all__ = ["make_robomimic"]

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
    from genpolicy.data.episodes import DataSource
    from genpolicy.data.robomimic_file import Demo, write_robomimic

    versions = {"genpolicy": __version__, "numpy": np.__version__, **env_entry(task).versions()}
    kept: list[tuple[int, str]] = []
    n_attempts = 0

    def demos() -> Iterator[Demo]:
        nonlocal n_attempts
        with tqdm(total=n_demos, unit="demo", desc=task, disable=not progress) as bar:
            for attempt in _attempts(settings, seed, n_demos, n_workers):
                n_attempts += 1
                if not attempt.is_success:
                    bar.set_postfix(failed=n_attempts - len(kept))
                    continue
                kept.append((attempt.seed, attempt.strategy))
                bar.update()
                attributes = {"seed": attempt.seed, "strategy": attempt.strategy}
                yield Demo(**attempt.arrays, attributes=attributes)
                if len(kept) == n_demos:
                    return

    masks: dict[str, list[int]] = _LateMasks(kept, n_demos)
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
        masks=masks,
        source=DataSource(name=task, kind="generated", path=str(path), details=details),
    )
