"""Minari data sets in HDF5, read from their folder: without Minari, jax or the network.

``<name>/data/main_data.hdf5`` has a group ``episode_<i>`` for each episode, with ``actions``,
``rewards``, ``terminations`` and ``truncations`` of T rows and ``observations`` of T + 1, an array
or a tree of groups; ``data/metadata.json`` counts the episodes. The last observation becomes
``final_obs``, so that truncated steps can bootstrap.

Observation keys: a plain array is ``"state"``, an entry of a tree its path, for example
``"achieved_goal"`` or ``"robot/qpos"``. Images that Minari stored as JPEG are decoded.

Minari collected its data sets again on Gymnasium's simulators: scores on them are not comparable
with those of the D4RL file of a similar name.

Source: file layout of Farama-Foundation/Minari, minari/dataset/_storages/hdf5_storage.py.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from genpolicy.data.episodes import Array, DataSource, Episodes, OnNan, SourceKind
from genpolicy.data.reading import (
    DamagedFileError,
    array_at,
    dataset_names,
    hdf5_library,
    open_hdf5,
    require_path,
)
from genpolicy.errors import DataError

__all__ = ["read_minari"]

_MAIN_FILE = "main_data.hdf5"


def read_minari(
    path: str | Path,
    *,
    name: str | None = None,
    kind: SourceKind = "local",
    obs_keys: Mapping[str, str] | None = None,
    on_nan: OnNan = "error",
) -> Episodes:
    """Read a Minari data set.

    Args:
        path: the data set's folder, its ``data`` folder, or ``main_data.hdf5`` itself.
        name: name of the data set; None means the one in its metadata.
        kind: where it comes from.
        obs_keys: our observation key to entry of ``observations`` (``""`` for a plain array), to
            choose or rename; None means all entries.
        on_nan: see ``Episodes.from_arrays``.

    Raises:
        DataError: when it is missing, damaged, inconsistent, not finite, of Minari's Arrow format,
            or has actions that are no plain array.
    """
    file = _main_file(Path(path).expanduser())
    metadata = _metadata(file)
    with open_hdf5(file) as handle:
        groups = _episode_groups(handle, metadata)
        keys = _obs_keys(groups[0][1]) if obs_keys is None else dict(obs_keys)
        parts = [_read_episode(group, keys) for _, group in groups]
    lengths = [len(part["actions"]) for part in parts]
    ends = np.cumsum(lengths, dtype=np.int64)
    truncated = np.concatenate([part["truncations"] for part in parts]).astype(bool)
    terminated = np.concatenate([part["terminations"] for part in parts]).astype(bool)
    truncated[ends - 1] |= ~terminated[ends - 1]
    return Episodes.from_arrays(
        obs={key: np.concatenate([part[f"obs/{key}"][:-1] for part in parts]) for key in keys},
        final_obs={key: np.stack([part[f"obs/{key}"][-1] for part in parts]) for key in keys},
        actions=np.concatenate([part["actions"] for part in parts]),
        rewards=np.concatenate([part["rewards"] for part in parts]),
        terminated=terminated,
        truncated=truncated,
        episode_ends=ends,
        source=DataSource(
            name or str(metadata.get("dataset_id", file.parent.parent.name)),
            kind,
            str(file),
            {
                key: metadata[key]
                for key in ("dataset_id", "minari_version", "algorithm_name", "requirements")
                if key in metadata
            },
        ),
        on_nan=on_nan,
    )


def _main_file(path: Path) -> Path:
    require_path(path)
    candidates = [path, path / _MAIN_FILE, path / "data" / _MAIN_FILE]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    for folder in (path, path / "data"):
        if (folder / "metadata.json").is_file():
            raise DataError(
                f"{folder}: there is no {_MAIN_FILE}; only Minari's HDF5 format is read, so make "
                "the data set again with data_format='hdf5'"
            )
    raise DataError(
        f"{path}: no Minari data set: expected {_MAIN_FILE} in it or in its folder data"
    )


def _metadata(file: Path) -> dict[str, Any]:
    place = file.parent / "metadata.json"
    if not place.is_file():
        return {}
    try:
        return cast("dict[str, Any]", json.loads(place.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DamagedFileError(f"{place}: truncated or corrupt JSON ({error})") from error


def _episode_groups(handle: Any, metadata: Mapping[str, Any]) -> list[tuple[int, Any]]:
    """Return (number, group) of each episode in the order of their numbers."""
    file = handle.filename
    found = {
        int(key.removeprefix("episode_")): handle[key]
        for key in handle
        if key.startswith("episode_") and key.removeprefix("episode_").isdigit()
    }
    if not found:
        raise DataError(f"{file}: there is no group episode_0; this is no Minari data set")
    expected = metadata.get("total_episodes")
    if expected is not None and int(expected) != len(found):
        raise DamagedFileError(
            f"{file}: incomplete: expected {int(expected)} episodes, found {len(found)}"
        )
    return sorted(found.items())


def _obs_keys(group: Any) -> dict[str, str]:
    """Return our key for each array below ``observations``."""
    observations: Any = group.get("observations")
    if observations is None:
        raise DataError(f"{group.file.filename}: {group.name} has no observations")
    if not isinstance(observations, hdf5_library().Group):
        return {"state": ""}
    return {key: key for key in dataset_names(observations)}


def _read_episode(group: Any, keys: Mapping[str, str]) -> dict[str, Array]:
    where = f"{group.file.filename}: {group.name}"
    if isinstance(group.get("actions"), hdf5_library().Group):
        raise DataError(
            f"{where}: actions are a tree ({', '.join(dataset_names(group['actions']))}), expected "
            "one array; only tasks with a Box action space are supported"
        )
    part = {key: array_at(group, key) for key in ("actions", "rewards")}
    part |= {key: array_at(group, key) for key in ("terminations", "truncations")}
    n_steps = len(part["actions"])
    for key in ("rewards", "terminations", "truncations"):
        if part[key].shape != (n_steps,):
            raise DataError(f"{where}: {key} has shape {part[key].shape}, expected ({n_steps},)")
    for key, stored in keys.items():
        value = array_at(group, f"observations/{stored}" if stored else "observations")
        if value.dtype.kind in "OSU":
            value = _decode_images(value, f"{where}: observation {stored!r}")
        if len(value) != n_steps + 1:
            raise DataError(
                f"{where}: observation {stored!r} has {len(value)} rows, expected {n_steps + 1}, "
                "one more than actions"
            )
        part[f"obs/{key}"] = value
    return part


def _decode_images(value: Array, where: str) -> Array:
    """Return ``(n, height, width, channels)`` uint8 of JPEG-encoded images."""
    from PIL import Image, UnidentifiedImageError

    try:
        images = [np.asarray(Image.open(io.BytesIO(bytes(entry)))) for entry in value]
        return np.stack(images)
    except (UnidentifiedImageError, TypeError, ValueError) as error:
        raise DataError(
            f"{where} holds neither numbers nor images; leave it out with obs_keys"
        ) from error
