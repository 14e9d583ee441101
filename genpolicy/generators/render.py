"""Observations of recorded simulator states: images, and states where a file has none.

Each recorded state is put back into the recorded scene and looked at; no action is executed, so
that pictures show what was recorded, whatever the simulator's release makes of the actions. Arrays
that the file has are kept as they are.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from genpolicy.envs.registry import env_entry
from genpolicy.errors import DataError, UsageError
from genpolicy.generators.pool import in_order
from genpolicy.generators.recorded import open_recording, recorded_env

if TYPE_CHECKING:
    from genpolicy.data.robomimic_file import Demo

__all__ = ["render_demos"]


@dataclass(frozen=True)
class _Settings:
    """What decides the observations of a demonstration.

    Args:
        path: of the recording.
        low_dim_keys: observations that are computed where a demonstration has none.
        cameras: whose images are rendered.
        image_size: their height and width in pixels.
        next_obs: whether observations after each action are kept and rendered, too.
    """

    path: str
    low_dim_keys: tuple[str, ...]
    cameras: tuple[str, ...]
    image_size: int
    next_obs: bool


def render_demos(
    path: str | Path,
    target: str | Path,
    *,
    cameras: Sequence[str] | None = None,
    image_size: int | None = None,
    n_demos: int | None = None,
    filter_key: str | None = None,
    next_obs: bool = False,
    n_workers: int = 1,
    progress: bool = True,
) -> Path:
    """Write a copy of a robomimic file with images, atomically.

    The copy has ``obs/CAMERA_image`` (T, size, size, 3) uint8, the first row at the top, and the
    task's low-dimensional observations where the file had none. Masks, actions, states, rewards,
    dones and scenes are those of the file.

    Args:
        path: a file with states and ``env_args``.
        target: the file to write; one that exists is replaced.
        cameras: by name; None takes the task's.
        image_size: height and width in pixels; None takes the task's.
        n_demos: the first so many of those selected; None takes all.
        filter_key: mask that selects them; None selects all.
        next_obs: also write the observations after each action, which imitation does not need:
            twice the size.
        n_workers: processes; they change nothing but the time.
        progress: show a progress bar.

    Returns:
        The path of the copy.

    Raises:
        DataError: when the file is damaged, or lacks states or ``env_args`` of a known task.
        SimulatorError: when the environment cannot be restored or nothing can be rendered.
        UsageError: for settings out of range, or a target that is the file itself.
    """
    from genpolicy import __version__
    from genpolicy.data.robomimic_file import write_robomimic

    source, target = Path(path).expanduser(), Path(target).expanduser()
    if target.exists() and target.resolve() == source.resolve():
        raise UsageError(f"render: {target} is the recording itself; write to another file")
    recording = open_recording(source, n_demos=n_demos, filter_key=filter_key, n_workers=n_workers)
    task = recording.task
    size = task.image_size if image_size is None else image_size
    chosen = task.cameras if cameras is None else tuple(cameras)
    if size < 1 or not chosen:
        raise UsageError(
            f"render: image_size is {size} and cameras {list(chosen)}, expected at least one of "
            "each"
        )
    settings = _Settings(str(source), task.low_dim_keys, chosen, size, next_obs)
    versions = {"genpolicy": __version__, **env_entry(f"robomimic/{task.name}").versions()}

    def demos() -> Iterator[Demo]:
        jobs = [(settings, name) for name in recording.names]
        with tqdm(total=len(jobs), unit="demo", desc="render", disable=not progress) as bar:
            for demo in in_order(_render, jobs, n_workers=min(n_workers, len(jobs))):
                yield demo
                bar.update()

    rendered = {
        "rendered_from": source.name,
        "rendered_cameras": ",".join(chosen),
        "rendered_size": size,
        "rendered_versions": json.dumps(versions, sort_keys=True),
    }
    return write_robomimic(
        target,
        demos(),
        env_args=recording.env_args,
        attributes={**recording.attributes, **rendered},
    )


def _render(job: tuple[_Settings, str]) -> Demo:
    """Return one demonstration with its new observations."""
    from genpolicy.data.robomimic_file import open_robomimic

    settings, name = job
    with open_robomimic(settings.path) as file:
        demo = file.demo(name)
    states = demo.states
    assert states is not None  # checked before the work was given out
    images = tuple(f"{camera}_image" for camera in settings.cameras)
    plain = () if demo.obs else settings.low_dim_keys
    env = recorded_env(settings.path, obs_keys=(*plain, *images), image_size=settings.image_size)
    if len(states) != len(demo.actions):
        raise DataError(
            f"{settings.path}: {name} has {len(states)} states and {len(demo.actions)} actions, "
            "expected one of each per step"
        )
    env.reset(seed=0, options={"state": states[0], "model": demo.model_file})
    seen = [env.look(state) for state in states]
    if settings.next_obs:
        seen.append(env.step(np.asarray(demo.actions[-1]))[0])
    return dataclasses.replace(
        demo,
        obs={**demo.obs, **_stacked(seen[: len(states)])},
        next_obs={**demo.next_obs, **_stacked(seen[1:])} if settings.next_obs else {},
    )


def _stacked(seen: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {key: np.stack([obs[key] for obs in seen]) for key in seen[0]}
