"""The data sets the library knows: where they lie, where they come from and how they are read.

``load_dataset`` looks for a data set in this order and never touches the network:

1. the ``path`` it is given,
2. below the folder that ``GENPOLICY_DATA`` names, at any depth, by the file names of the entry,
3. in the cache, ``GENPOLICY_CACHE`` or ``~/.cache/genpolicy``, in the entry's folder of ``data``.

``get_dataset`` downloads into the cache what is in neither place.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genpolicy.data.d4rl import read_d4rl
from genpolicy.data.download import by_hand, download, verify_file
from genpolicy.data.episodes import Array, Episodes
from genpolicy.data.normalizer import Normalizer
from genpolicy.data.pusht import PUSHT_MIRROR, Variant, read_pusht
from genpolicy.data.reading import DamagedFileError, require_path
from genpolicy.data.symmetry import Symmetry
from genpolicy.errors import DataError, UsageError, check_options, nearest

__all__ = [
    "DATASETS",
    "DatasetEntry",
    "cache_dir",
    "dataset_entry",
    "dataset_symmetry",
    "describe_dataset",
    "find_dataset",
    "generated_path",
    "get_dataset",
    "load_dataset",
]


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """What is known of a data set.

    Args:
        name: name of the task.
        description: one sentence.
        read: reader of a path with the entry's own options; takes ``name`` and ``kind`` as well.
        folder: folder in the cache; tasks on the same file share it.
        official_files: names of the published file; a download gets the first.
        local_files: names of files that hold the same task but are not the published one.
        urls: addresses of the published file, tried in order; empty when there is none.
        sha256: of the first official file; None trusts and records that of the first download.
        can_generate: whether ``genpolicy data make`` makes one.
        symmetries: known symmetries of the task by name, for ``data.symmetry``.
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

    @property
    def hint(self) -> str:
        """How to get the data set, in one line."""
        ways = [f"genpolicy data make {self.name}"] if self.can_generate else []
        if self.urls:
            ways.append(f"genpolicy data get {self.name}")
        return ", or ".join(ways)


def _d4rl_urls(file: str) -> tuple[str, ...]:
    address = f"rail.eecs.berkeley.edu/datasets/offline_rl/{file}"
    return (f"https://{address}", f"http://{address}")


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


_ENTRIES = (
    _pusht("pusht", "keypoints", "9 points of the block and the agent's position"),
    _pusht("pusht-state", "state", "the poses of block and agent"),
    _pusht("pusht-pixels", "pixels", "96 x 96 images and the agent's position"),
    _pusht("pusht-all", "all", "all of these"),
    _maze2d("umaze"),
    _maze2d("medium"),
    _maze2d("large"),
    DatasetEntry(
        name="door-human",
        description="D4RL door-human-v0: 25 human demonstrations of the Adroit hand opening a door",
        # Its timeouts lie inside the demonstrations; see genpolicy.data.d4rl.
        read=functools.partial(read_d4rl, split="terminals"),
        folder="door-human",
        official_files=("door-v0_demos_clipped.hdf5",),
        urls=_d4rl_urls("hand_dapg/door-v0_demos_clipped.hdf5"),
    ),
    DatasetEntry(
        name="kitchen-complete",
        description="D4RL kitchen-complete: human demonstrations of four tasks in Franka Kitchen",
        read=functools.partial(read_d4rl, max_episode_steps=280),
        folder="kitchen-complete",
        official_files=("mini_kitchen_microwave_kettle_light_slider-v0.hdf5",),
        local_files=("kitchen-complete.hdf5",),
        urls=_d4rl_urls("kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"),
    ),
)

DATASETS: dict[str, DatasetEntry] = {entry.name: entry for entry in _ENTRIES}
"""Known data sets by task."""


def dataset_entry(task: str) -> DatasetEntry:
    """Return the entry of a task.

    Raises:
        UsageError: for an unknown one, with the nearest names.
    """
    if task not in DATASETS:
        raise UsageError(f"there is no data set for {task!r}; {nearest(task, DATASETS)}")
    return DATASETS[task]


def dataset_symmetry(task: str, name: str) -> Symmetry:
    """Return a symmetry of a task.

    Raises:
        UsageError: for an unknown task, or one without a symmetry of that name.
    """
    known = dataset_entry(task).symmetries
    if name not in known:
        offer = nearest(name, known) if known else "none is known, so set data.symmetry=null"
        raise UsageError(f"the task {task!r} has no symmetry {name!r}; {offer}")
    return known[name]


def cache_dir() -> Path:
    """Return the folder that data sets are downloaded and generated into."""
    return Path(os.environ.get("GENPOLICY_CACHE") or Path.home() / ".cache" / "genpolicy")


def generated_path(task: str) -> Path:
    """Return where ``genpolicy data make`` puts a task's data set, and ``find_dataset`` finds it.

    Raises:
        UsageError: for a task whose data set cannot be generated.
    """
    entry = dataset_entry(task)
    if not entry.can_generate:
        makers = [name for name, e in DATASETS.items() if e.can_generate]
        raise UsageError(f"{task!r} cannot be generated; those that can: {', '.join(makers)}")
    return _cache_folder(entry) / entry.local_files[0]


def find_dataset(task: str) -> Path | None:
    """Return where a data set lies on this machine, or None.

    Official files come before others, ``GENPOLICY_DATA`` before the cache.

    Raises:
        UsageError: for an unknown task.
        DataError: when ``GENPOLICY_DATA`` is set to a folder that does not exist.
    """
    entry = dataset_entry(task)
    named = os.environ.get("GENPOLICY_DATA")
    if named and not Path(named).is_dir():
        raise DataError(f"GENPOLICY_DATA is {named!r}, which is no folder; correct or unset it")
    listing = _listing(Path(named)) if named else {}
    for name in (*entry.official_files, *entry.local_files):
        if name in listing:
            return listing[name]
        cached = _cache_folder(entry) / name
        if cached.exists():
            return cached
    return None


def load_dataset(task: str, path: str | Path | None = None, **options: Any) -> Episodes:
    """Read a data set from this machine.

    Args:
        task: one of ``DATASETS``.
        path: file or folder; None searches, see the module.
        options: options of the task's reader that replace the entry's own, for example
            ``on_nan="drop_episode"`` or ``max_episode_steps=600``.

    Raises:
        UsageError: for an unknown task or option.
        DataError: when the data set is not here, damaged or wrong, saying how to get it.
    """
    entry = dataset_entry(task)
    known = set(inspect.signature(entry.read).parameters) - {"path", "name", "kind"}
    check_options(f"the reader of {task!r}", options, known)
    file = find_dataset(task) if path is None else require_path(path)
    if file is None:
        named = os.environ.get("GENPOLICY_DATA")
        raise DataError(
            f"the data set of {task!r} is not on this machine: looked for "
            f"{', '.join((*entry.official_files, *entry.local_files))} below "
            f"{f'GENPOLICY_DATA={named}' if named else 'GENPOLICY_DATA (not set)'} and "
            f"{_cache_folder(entry)}; get it with: {entry.hint}"
        )
    kind = "official" if file.name in entry.official_files else "local"
    try:
        if file.is_file():
            verify_file(file, sha256=_known_sha256(entry, file))
        return entry.read(file, name=task, kind=kind, **options)
    except DamagedFileError as error:
        raise DamagedFileError(f"{error}; {_remedy(entry, file)}") from error


def get_dataset(task: str, *, force: bool = False, progress: bool = False) -> Path:
    """Return where a data set lies, downloading the published file when it is nowhere here.

    Args:
        task: one of ``DATASETS``.
        force: download even so, replacing the copy in the cache.
        progress: show a progress bar.

    Raises:
        UsageError: for an unknown task.
        DataError: when it cannot be downloaded, or the copy that is here is damaged.
    """
    entry = dataset_entry(task)
    found = None if force else find_dataset(task)
    if found is not None:
        if cache_dir() in found.parents:  # the user's own files are compared when they are read
            try:
                verify_file(found, sha256=_known_sha256(entry, found))
            except DamagedFileError as error:
                raise DamagedFileError(f"{error}; {_remedy(entry, found)}") from error
        return found
    if not entry.urls:
        raise DataError(f"{task!r} has no published file; get it with: {entry.hint}")
    target = _cache_folder(entry) / entry.official_files[0]
    return download(entry.urls, target, sha256=entry.sha256, progress=progress)


def describe_dataset(task: str, path: str | Path | None = None, **options: Any) -> dict[str, Any]:
    """Read a data set and return what is in it, as plain containers.

    Args:
        task: as in ``load_dataset``.
        path: as in ``load_dataset``.
        options: as in ``load_dataset``.

    Returns:
        ``task``, ``description``, ``source`` (name, kind, path, details), ``fingerprint``,
        ``n_episodes``, ``n_steps``, ``lengths`` (min, mean, max), ``obs`` and ``action`` (shape,
        dtype, smallest and largest value of each entry), ``constant`` (entries that never vary),
        ``n_terminated``, ``n_truncated`` (episodes) and ``returns`` (min, mean, max, or None).
    """
    episodes = load_dataset(task, path, **options)
    source = episodes.source
    last = episodes.episode_ends - 1
    returns = episodes.returns
    return {
        "task": task,
        "description": DATASETS[task].description,
        "source": {
            "name": source.name,
            "kind": source.kind,
            "path": source.path,
            "details": dict(source.details),
        },
        "fingerprint": episodes.fingerprint,
        "n_episodes": episodes.n_episodes,
        "n_steps": episodes.n_steps,
        "lengths": _spread(episodes.lengths),
        "obs": {key: _ranges(value) for key, value in episodes.obs.items()},
        "action": _ranges(episodes.actions),
        "constant": Normalizer.fit(episodes).constant,
        "n_terminated": int(episodes.terminated[last].sum()),
        "n_truncated": int(episodes.truncated[last].sum()),
        "returns": None if returns is None else _spread(returns),
    }


def _cache_folder(entry: DatasetEntry) -> Path:
    return cache_dir() / "data" / entry.folder


def _known_sha256(entry: DatasetEntry, file: Path) -> str | None:
    return entry.sha256 if file.name == entry.official_files[0] else None


def _listing(root: Path) -> dict[str, Path]:
    """Return the first path of each file or zarr folder name below ``root``, in sorted order."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:  # a link back into the tree
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        for name in sorted(files) + sorted(n for n in folders if n.endswith(".zarr")):
            found.setdefault(name, Path(folder) / name)
        folders[:] = sorted(n for n in folders if not n.endswith(".zarr") and n[0] != ".")
    return found


def _remedy(entry: DatasetEntry, file: Path) -> str:
    if file.name not in entry.official_files or not entry.urls:
        return f"make or get it again: {entry.hint}" if entry.hint else "restore the file"
    if cache_dir() in file.parents:
        return f"fetch it again with: genpolicy data get {entry.name} force=true"
    return f"delete it and run: genpolicy data get {entry.name}; or {by_hand(entry.urls, file)}"


def _spread(values: Array) -> dict[str, float]:
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}


def _ranges(values: Array) -> dict[str, Any]:
    """Return shape, type and range; of images the range of all pixels, not of each."""
    axes = None if values.ndim > 2 else 0
    return {
        "shape": [int(n) for n in values.shape[1:]],
        "dtype": str(values.dtype),
        "min": np.min(values, axis=axes).tolist(),
        "max": np.max(values, axis=axes).tolist(),
    }
