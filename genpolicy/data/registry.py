"""The data sets the library knows: where they lie, where they come from and how they are read.

``load_dataset`` looks for a data set in this order and never touches the network:

1. the ``path`` it is given,
2. below the folders that ``GENPOLICY_DATA``, and then the packages' own ``D4RL_DATASET_DIR`` and
   ``MINARI_DATASETS_PATH`` name, at any depth, by the file names of the entry,
3. in the cache, ``GENPOLICY_CACHE`` or ``~/.cache/genpolicy``, in the entry's folder of ``data``.

``get_dataset`` downloads into the cache what is in neither place.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np

from genpolicy.data.download import by_hand, download, verify_file
from genpolicy.data.entries import DATASETS, DatasetEntry, entry_of
from genpolicy.data.episodes import Array, Episodes
from genpolicy.data.lazy import blocks_of
from genpolicy.data.normalizer import Normalizer
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
    "find_datasets",
    "generated_path",
    "get_dataset",
    "load_dataset",
]

PACKAGE_FOLDERS = ("D4RL_DATASET_DIR", "MINARI_DATASETS_PATH")
"""Variables in which the packages d4rl and Minari name the folders of their downloads."""


def dataset_entry(task: str) -> DatasetEntry:
    """Return the entry of a task.

    Args:
        task: one of ``DATASETS``, or another name of such a task (``genpolicy.d4rl_tasks``), which
            may ask for another version of its data.

    Raises:
        UsageError: for an unknown one, with the nearest names.
    """
    entry = entry_of(task)
    if entry is None:
        raise UsageError(f"there is no data set for {task!r}; {nearest(task, DATASETS)}")
    return entry


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
    return _find(entry, _user_files())


def find_datasets() -> dict[str, Path | None]:
    """Return ``find_dataset`` of every data set by name, from one walk through the folders.

    Raises:
        DataError: when ``GENPOLICY_DATA`` is set to a folder that does not exist.
    """
    files = _user_files()
    return {name: _find(entry, files) for name, entry in DATASETS.items()}


def _user_files() -> list[Path]:
    """Return the files below the folders that the environment names."""
    named = os.environ.get("GENPOLICY_DATA")
    if named and not Path(named).is_dir():
        raise DataError(f"GENPOLICY_DATA is {named!r}, which is no folder; correct or unset it")
    folders = [named, *(os.environ.get(name) for name in PACKAGE_FOLDERS)]
    return [path for folder in folders if folder for path in _listing(Path(folder))]


def _find(entry: DatasetEntry, listing: list[Path]) -> Path | None:
    for name in (*entry.official_files, *entry.local_files):
        for path in listing:
            if _is_named(path, name):
                return path
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
    kind = "official" if _is_official(entry, file) else "local"
    try:
        if file.is_file():
            verify_file(file, sha256=_known_sha256(entry, file))
        return entry.read(file, name=entry.name, kind=kind, **options)
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
        "description": dataset_entry(task).description,
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
    first = entry.official_files[:1]
    return entry.sha256 if first and _is_named(file, first[0]) else None


def _is_named(path: Path, name: str) -> bool:
    """Whether a path ends in a name of an entry, which may hold folders."""
    parts = Path(name).parts
    return path.parts[-len(parts) :] == parts


def _is_official(entry: DatasetEntry, file: Path) -> bool:
    return any(_is_named(file, name) for name in entry.official_files)


def _listing(root: Path) -> list[Path]:
    """Return the files and zarr folders below ``root``, in sorted order."""
    found: list[Path] = []
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:  # a link back into the tree
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        for name in sorted(files) + sorted(n for n in folders if n.endswith(".zarr")):
            found.append(Path(folder) / name)
        folders[:] = sorted(n for n in folders if not n.endswith(".zarr") and n[0] != ".")
    return found


def _remedy(entry: DatasetEntry, file: Path) -> str:
    if not _is_official(entry, file) or not entry.urls:
        return f"make or get it again: {entry.hint}" if entry.hint else "restore the file"
    if cache_dir() in file.parents:
        return f"fetch it again with: genpolicy data get {entry.name} force=true"
    return f"delete it and run: genpolicy data get {entry.name}; or {by_hand(entry.urls, file)}"


def _spread(values: Array) -> dict[str, float]:
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}


def _ranges(values: Array) -> dict[str, Any]:
    """Return shape, type and range; of images the range of all pixels, not of each."""
    axes = None if values.ndim > 2 else 0
    blocks = [(np.min(b, axis=axes), np.max(b, axis=axes)) for b in blocks_of(values)]
    return {
        "shape": [int(n) for n in values.shape[1:]],
        "dtype": str(values.dtype),
        "min": np.min([low for low, _ in blocks], axis=0).tolist(),
        "max": np.max([high for _, high in blocks], axis=0).tolist(),
    }
