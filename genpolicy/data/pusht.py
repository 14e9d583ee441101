"""Push-T demonstrations in Diffusion Policy's zarr container: a folder, a zip, or its pusht.zip.

A zarr group (format 2 or 3) with ``n`` rows at 10 Hz; positions are pixels of a 512 x 512 board:

- ``data/state`` ``(n, 5)``: agent x, agent y, block x, block y, block angle (rad)
- ``data/action`` ``(n, 2)``: where the agent is to go
- ``data/keypoint`` ``(n, 9, 2)``: points of the block
- ``data/img`` ``(n, 96, 96, 3)``: renderings
- ``meta/episode_ends``: cumulative ends of the episodes

There are no rewards, and no step is known to have ended the task: last steps count as truncated.

Source: Chi et al. 2023, arXiv 2303.04137; its data file pusht_cchi_v7_replay.zarr.
"""

from __future__ import annotations

import importlib
import re
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from genpolicy.data.episodes import Array, DataSource, Episodes, OnNan, SourceKind
from genpolicy.data.images import as_image
from genpolicy.data.reading import DamagedFileError, require_path
from genpolicy.data.symmetry import Symmetry
from genpolicy.errors import DataError, UsageError, nearest
from genpolicy.pusht_geometry import (
    TABLE_SIZE,
    mirror_image,
    mirror_keypoints,
    mirror_point,
    mirror_state,
)

__all__ = ["PUSHT_MIRROR", "Variant", "read_pusht"]

Variant = Literal["keypoints", "state", "pixels", "all"]

_FARTHEST = 60.0
"""Pixels by which a block's usual end may differ from its mirror image."""


def _check_ends(episodes: Episodes) -> None:
    """Refuse episodes that bring the block elsewhere than to a goal on the mirror's line."""
    ends = episodes.episode_ends - 1
    if "keypoints" in episodes.obs:
        last = episodes.obs["keypoints"][ends].reshape(-1, 9, 2).mean(axis=1)
    elif "state" in episodes.obs:
        last = episodes.obs["state"][ends, 2:4]
    else:
        return  # images do not say where the block is
    end = np.median(last, axis=0)
    if np.abs(end - mirror_point(end)).max() > _FARTHEST:
        x, y = end
        raise UsageError(
            f"symmetry 'mirror': the block ends at ({x:.0f}, {y:.0f}) in the episodes of "
            f"{episodes.source.name}, which is not on the mirror's line x + y = {TABLE_SIZE}: "
            "the images would show another goal; use data.symmetry=null"
        )


PUSHT_MIRROR = Symmetry(
    obs={
        "keypoints": mirror_keypoints,
        "state": mirror_state,
        "agent_pos": mirror_point,
        "image": mirror_image,
    },
    action=mirror_point,
    check=_check_ends,
)
"""The mirror symmetry of the table with its goal, for every variant."""

# What zarr, its codecs and zipfile raise on bytes they cannot decode.
_READ_ERRORS = (OSError, ValueError, RuntimeError, KeyError, zipfile.BadZipFile)


def read_pusht(
    path: str | Path,
    *,
    name: str = "pusht",
    kind: SourceKind = "local",
    variant: Variant = "keypoints",
    on_nan: OnNan = "error",
) -> Episodes:
    """Read Push-T demonstrations.

    Args:
        path: ``pusht.zip`` as published, a zip of the zarr group, or its folder.
        name: name of the data set.
        kind: where it comes from.
        variant: observations: ``"keypoints"`` gives keypoints (18,) and agent_pos (2,), ``"state"``
            gives state (5,), ``"pixels"`` gives image (96, 96, 3) uint8 and agent_pos (2,),
            ``"all"`` gives all of these.
        on_nan: see ``Episodes.from_arrays``.

    Raises:
        DataError: when it is missing, damaged, incomplete, inconsistent or not finite.
        UsageError: for an unknown variant.
    """
    variants = get_args(Variant)
    if variant not in variants:
        raise UsageError(f"read_pusht: variant {variant!r}; {nearest(variant, variants)}")
    file = require_path(path)
    with _open_group(file) as group:
        state = _read(group, "data/state", file)
        if state.ndim != 2 or state.shape[1] != 5:
            raise DataError(f"{file}: data/state has shape {state.shape}, expected (n_steps, 5)")
        obs: dict[str, Array] = {}
        if variant in ("keypoints", "all"):
            points = _read(group, "data/keypoint", file)
            obs["keypoints"] = points.reshape(len(points), -1)
        if variant in ("pixels", "all"):
            obs["image"] = _read(group, "data/img", file)
        if variant in ("state", "all"):
            obs["state"] = state
        if variant != "state":
            obs["agent_pos"] = state[:, :2]
        actions = _read(group, "data/action", file)
        ends = _read(group, "meta/episode_ends", file)
    return Episodes.from_arrays(
        obs=obs,
        actions=actions,
        episode_ends=ends,
        source=DataSource(name, kind, str(file), {"variant": variant, "hz": 10}),
        on_nan=on_nan,
    )


@contextmanager
def _open_group(path: Path) -> Generator[Any]:
    """Yield the zarr group that has ``data`` and ``meta``, whatever it is packed in."""
    zarr: Any = importlib.import_module("zarr")
    store: Any = None
    try:
        if path.is_dir():
            names = [file.relative_to(path).as_posix() for file in path.glob("**/meta/*")]
            prefix = _prefix_of(names, path)
            group = zarr.open_group(str(path / prefix), mode="r")
        else:
            with zipfile.ZipFile(path) as archive:
                prefix = _prefix_of(archive.namelist(), path)
            store = importlib.import_module("zarr.storage").ZipStore(path, mode="r")
            group = zarr.open_group(store, mode="r", path=prefix)
        yield group
    except zipfile.BadZipFile as error:
        size = path.stat().st_size
        raise DamagedFileError(
            f"{path}: truncated or corrupt: expected a complete zip, found {size} bytes ({error})"
        ) from error
    finally:
        if store is not None:
            store.close()


def _prefix_of(names: list[str], path: Path) -> str:
    """Return the folder of the group among file names; ``""`` when it is the root."""
    pattern = re.compile(r"(?:(.+)/)?meta/(?:\.zgroup|zarr\.json)")
    found = [match[1] or "" for match in map(pattern.fullmatch, names) if match]
    if not found:
        raise DataError(
            f"{path}: there is no zarr group with meta/episode_ends in it; expected the Push-T "
            "data of Diffusion Policy (pusht.zip or pusht_cchi_v7_replay.zarr)"
        )
    return min(found, key=len)


def _array(group: Any, key: str, path: Path) -> Any:
    try:
        array: Any = group[key]
        missing = array.nchunks - array.nchunks_initialized
        if missing:
            # zarr would read them as zeros.
            raise DamagedFileError(
                f"{path}: incomplete: {missing} of {array.nchunks} chunks of {key} are missing"
            )
    except KeyError as error:
        names = [f"{top}/{sub}" for top in group for sub in group[top]]
        raise DataError(f"{path}: there is no array {key!r}; {nearest(key, names)}") from error
    return array


def _read(group: Any, key: str, path: Path) -> Array:
    """Read an array chunk by chunk; image arrays, float32 in the published file, become uint8."""
    array = _array(group, key, path)
    is_image = array.ndim == 4
    values = np.empty(array.shape, np.uint8 if is_image else array.dtype)
    n_rows = int(array.chunks[0])
    for start in range(0, array.shape[0], n_rows):
        rows = slice(start, start + n_rows)
        try:
            block = np.asarray(array[rows])
        except _READ_ERRORS as error:
            raise DamagedFileError(f"{path}: array {key!r} is corrupt ({error})") from error
        values[rows] = as_image(str(path), key, block) if is_image else block
    return values
