"""The table of data sets: names, files, where they come from and how they are read.

``genpolicy.data.registry`` finds, fetches and reads them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from genpolicy.d4rl_tasks import D4RL_TASKS, D4RLTask, resolve_d4rl
from genpolicy.data.d4rl import read_d4rl
from genpolicy.data.d4rl_task import d4rl_reader
from genpolicy.data.episodes import Episodes
from genpolicy.data.pusht import PUSHT_MIRROR, Variant, read_pusht
from genpolicy.data.robomimic import read_robomimic
from genpolicy.data.symmetry import Symmetry
from genpolicy.robomimic_tasks import ROBOMIMIC_TASKS, RobomimicTask

__all__ = ["DATASETS", "DatasetEntry", "entry_of"]


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """What is known of a data set.

    Args:
        name: name of the task.
        description: one sentence.
        read: reader of a path with the entry's own options; takes ``name`` and ``kind`` as well.
        folder: folder in the cache; tasks on the same file share it.
        official_files: names of the published file, with the folders that tell it from others of
            its name; a download gets the first.
        local_files: names of files that hold the same task but are not the published one.
        urls: addresses of the published file, tried in order; empty when there is none.
        sha256: of the first official file; None trusts and records that of the first download.
        can_generate: whether ``genpolicy data make`` makes one.
        symmetries: known symmetries of the task by name, for ``data.symmetry``.
        asked: the name under which another version of the task's data was asked for.
    """

    name: str
    description: str
    read: Callable[..., Episodes]
    folder: str
    official_files: tuple[str, ...]
    local_files: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    can_generate: bool = False
    symmetries: Mapping[str, Symmetry] = field(default_factory=dict[str, Symmetry])
    asked: str = ""

    @property
    def hint(self) -> str:
        """How to get the data set, in one line."""
        if not self.can_generate and not self.urls:
            name = (*self.local_files, *self.official_files)[0]
            return f"data.path=FILE, or put it below GENPOLICY_DATA as {name}"
        ways = [f"genpolicy data make {self.name}"] if self.can_generate else []
        if self.urls:
            ways.append(f"genpolicy data get {self.asked or self.name}")
        return ", or ".join(ways)


def _d4rl_urls(file: str) -> tuple[str, ...]:
    address = f"rail.eecs.berkeley.edu/datasets/offline_rl/{file}"
    return (f"https://{address}", f"http://{address}")


_D4RL_DATA = {
    "locomotion": "data of policies of different strength",
    "adroit": "a hand of 24 joints",
    "kitchen": "human demonstrations in Franka Kitchen",
    "antmaze": "an ant walks through a maze",
}


def _d4rl(task: D4RLTask) -> DatasetEntry:
    older = [task.files[n] for n in sorted(task.files, reverse=True) if n != task.version]
    return DatasetEntry(
        name=task.task,
        description=f"D4RL {task.name}-v{task.version}: {_D4RL_DATA[task.family]}",
        read=d4rl_reader(task),
        folder="d4rl",
        official_files=tuple(PurePosixPath(file).name for file in (task.file, *older)),
        local_files=(f"{task.name}.hdf5",),
        urls=_d4rl_urls(task.file),
        can_generate=bool(task.recipe),
    )


def entry_of(name: str) -> DatasetEntry | None:
    """Return the entry that a name means, also one of another version or Minari's; or None."""
    meant = resolve_d4rl(name)
    entry = DATASETS.get(meant.task)
    if entry is None or meant.files is None:
        return entry
    is_d4rl = not meant.files[0].startswith(("D4RL/", "mujoco/"))
    return replace(
        entry,
        official_files=tuple(PurePosixPath(f).name if is_d4rl else f for f in meant.files),
        local_files=(),
        urls=_d4rl_urls(meant.files[0]) if is_d4rl else (),
        can_generate=False,
        asked=name,
    )


def _maze2d(size: str) -> DatasetEntry:
    return DatasetEntry(
        name=f"maze2d-{size}",
        description=f"D4RL maze2d-{size}-v1: a ball driven through a maze from goal to goal",
        read=functools.partial(
            read_d4rl,
            obs_keys={"state": "observations", "goal": "infos/goal"},
            split_on="goal",
        ),
        folder=f"maze2d-{size}",
        official_files=(f"maze2d-{size}-sparse-v1.hdf5",),
        local_files=(f"maze2d-{size}.hdf5",),
        urls=_d4rl_urls(f"maze2d/maze2d-{size}-sparse-v1.hdf5"),
        can_generate=True,
    )


def _pusht(name: str, variant: Variant, description: str) -> DatasetEntry:
    return DatasetEntry(
        name=name,
        description=f"Diffusion Policy's Push-T demonstrations, observed as {description}",
        read=functools.partial(read_pusht, variant=variant),
        folder="pusht",
        official_files=("pusht.zip", "pusht_cchi_v7_replay.zarr.zip", "pusht_cchi_v7_replay.zarr"),
        urls=("https://diffusion-policy.cs.columbia.edu/data/training/pusht.zip",),
        sha256="63d52a114a3f010861f0181309d165b7d69133ccae426ece2fc94caed147bdf9",
        symmetries={"mirror": PUSHT_MIRROR},
    )


def _robomimic(task: RobomimicTask, *, images: bool) -> DatasetEntry:
    name = task.name + ("-image" if images else "")
    return DatasetEntry(
        name=f"robomimic/{name}",
        description=f"robosuite {task.env_name} in robomimic's format: {task.description}"
        + (", from images" if images else ""),
        read=_read_robomimic(task, images=images),
        folder="robomimic",
        official_files=(),
        local_files=(f"robomimic_{name}.hdf5",),
        can_generate=task.has_expert,
    )


def _published(task: RobomimicTask, kind: str) -> DatasetEntry:
    words = {"ph": "proficient human", "mh": "multi-human", "mg": "machine generated"}
    stem = "low_dim_sparse" if kind == "mg" else "low_dim"
    folder = f"{task.name}/{kind}"
    home = "https://huggingface.co/datasets/robomimic/robomimic_datasets/resolve/main/v1.5"
    return DatasetEntry(
        name=f"robomimic/{task.name}_{kind}",
        description=f"robomimic's {words[kind]} demonstrations of {task.env_name}",
        read=_read_robomimic(task, images=False),
        folder="robomimic",
        official_files=tuple(f"{folder}/{stem}{v}.hdf5" for v in ("_v15", "_v141", "")),
        urls=(f"{home}/{folder}/{stem}_v15.hdf5",),
    )


def _read_robomimic(task: RobomimicTask, *, images: bool) -> Callable[..., Episodes]:
    return functools.partial(
        read_robomimic,
        obs_keys=task.image_keys if images else task.low_dim_keys,
        env_name=task.env_name,
    )


_ENTRIES = (
    _pusht("pusht", "keypoints", "9 points of the block and the agent's position"),
    _pusht("pusht-state", "state", "the poses of block and agent"),
    _pusht("pusht-pixels", "pixels", "96 x 96 images and the agent's position"),
    _pusht("pusht-all", "all", "all of these"),
    _maze2d("umaze"),
    _maze2d("medium"),
    _maze2d("large"),
    *(_d4rl(task) for task in D4RL_TASKS.values()),
    *(_robomimic(t, images=images) for t in ROBOMIMIC_TASKS.values() for images in (False, True)),
    *(_published(task, kind) for task in ROBOMIMIC_TASKS.values() for kind in task.published),
)

DATASETS: dict[str, DatasetEntry] = {entry.name: entry for entry in _ENTRIES}
"""Known data sets by task."""
