"""robomimic's HDF5 files as they lie on disk: demonstrations, masks and the environment's recipe.

    data                          attributes: env_args (JSON), total
      demo_0                      attributes: num_samples, model_file (MuJoCo XML)
        actions (T, action)       states (T, state)      rewards (T,)      dones (T,)
        obs/KEY (T, *shape)       next_obs/KEY (T, *shape)
      demo_1 ...
    mask
      train, valid, ...           names of demonstrations, by filter key

Everything but ``data/demo_*/actions`` may be missing. ``genpolicy.data.robomimic`` reads the
demonstrations as episodes, ``genpolicy.generators.replay`` replays them.

Source: Mandlekar et al. 2021, arXiv 2108.03298; robomimic's documentation of its data sets.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from genpolicy.data.episodes import Array
from genpolicy.data.reading import DamagedFileError, array_at, hdf5_library, open_hdf5
from genpolicy.errors import DataError, nearest
from genpolicy.files import publish_file

__all__ = ["Demo", "RobomimicFile", "open_robomimic", "write_robomimic"]

_OF_THE_FORMAT = ("env_args", "total")


@dataclass(frozen=True, eq=False)
class Demo:
    """One demonstration of T steps, as recorded.

    Args:
        actions: ``(T, action)`` as executed.
        obs: by key ``(T, *shape)``; empty where none were recorded.
        next_obs: the observations after each action; empty where none were recorded.
        states: ``(T, state)`` flattened simulator states before each action, or None.
        rewards: ``(T,)``, or None.
        dones: ``(T,)``, or None.
        model_file: MuJoCo XML of the scene, or None.
        extra: further arrays of T rows, for example ``actions_abs``.
        attributes: what else is known of it, as numbers and strings.
        filter_keys: masks that select it.
    """

    actions: Array
    obs: Mapping[str, Array] = field(default_factory=dict[str, Array])
    next_obs: Mapping[str, Array] = field(default_factory=dict[str, Array])
    states: Array | None = None
    rewards: Array | None = None
    dones: Array | None = None
    model_file: str | None = None
    extra: Mapping[str, Array] = field(default_factory=dict[str, Array])
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    filter_keys: tuple[str, ...] = ()


class RobomimicFile:
    """An open file; see ``open_robomimic``.

    Args:
        handle: an open ``h5py.File``.

    Raises:
        DataError: when it has no demonstrations.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.path = str(handle.filename)
        group: Any = handle.get("data")
        names = [] if group is None or not hasattr(group, "keys") else list(group.keys())
        found = [name for name in names if name.removeprefix("demo_").isdigit()]
        if not found:
            raise DataError(
                f"{self.path}: there is no group data/demo_0; this is no robomimic file, or it "
                "holds no demonstration"
            )
        self.names = tuple(sorted(found, key=lambda name: int(name.removeprefix("demo_"))))

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the group ``data`` as Python values, but those of the format itself."""
        attrs = self.handle["data"].attrs
        return {str(key): _plain(attrs[key]) for key in attrs if key not in _OF_THE_FORMAT}

    def env_args(self) -> dict[str, Any] | None:
        """Return the recipe of the environment, or None where the file has none.

        Raises:
            DamagedFileError: when it is no JSON object.
        """
        attrs = self.handle["data"].attrs
        if "env_args" not in attrs:
            return None
        text = _plain(attrs["env_args"])
        try:
            found = json.loads(text)
        except (TypeError, ValueError) as error:
            raise DamagedFileError(f"{self.path}: env_args is no JSON ({error})") from error
        if not isinstance(found, dict) or "env_name" not in found:
            raise DamagedFileError(f"{self.path}: env_args is {found!r}, expected an env_name")
        return cast("dict[str, Any]", found)

    def filter_keys(self) -> list[str]:
        """Return the names of the masks, sorted."""
        mask: Any = self.handle.get("mask")
        return [] if mask is None else sorted(mask.keys())

    def selected(self, filter_key: str | None = None) -> tuple[str, ...]:
        """Return the demonstrations that a mask selects, in the order of their numbers.

        Args:
            filter_key: name of a mask; None selects all.

        Raises:
            DataError: for an unknown or empty mask, or one that names what is not there.
        """
        if filter_key is None:
            return self.names
        known = self.filter_keys()
        offer = f"it has the filter keys {', '.join(known)}" if known else "it has no filter keys"
        if filter_key not in known:
            raise DataError(f"{self.path}: there is no filter key {filter_key!r}; {offer}")
        chosen = self._mask(filter_key)
        missing = sorted(chosen - set(self.names))
        if missing:
            raise DataError(
                f"{self.path}: the filter key {filter_key!r} names {missing[0]!r} "
                f"({len(missing)} in all), which is not there; {nearest(missing[0], self.names)}"
            )
        if not chosen:
            raise DataError(f"{self.path}: the filter key {filter_key!r} selects nothing; {offer}")
        return tuple(name for name in self.names if name in chosen)

    def _mask(self, filter_key: str) -> set[str]:
        return {str(_plain(name)) for name in array_at(self.handle, f"mask/{filter_key}")}

    def group(self, name: str) -> Any:
        """Return the group of one demonstration."""
        return self.handle["data"][name]

    def obs_keys(self, name: str, kind: str = "obs") -> list[str]:
        """Return the keys of a demonstration's ``obs`` or ``next_obs``, sorted."""
        group: Any = self.group(name).get(kind)
        return [] if group is None else sorted(group.keys())

    def length(self, name: str) -> int:
        """Return the steps of a demonstration.

        Raises:
            DamagedFileError: when there are fewer than its attribute ``num_samples`` says.
            DataError: when it has no actions.
        """
        group = self.group(name)
        actions: Any = group.get("actions")
        if not isinstance(actions, hdf5_library().Dataset):
            raise DataError(
                f"{self.path}: {name} has no array 'actions'; it has {', '.join(group.keys())}"
            )
        stored, found = group.attrs.get("num_samples"), int(actions.shape[0])
        if stored is not None and int(stored) != found:
            raise DamagedFileError(
                f"{self.path}: {name} is incomplete: expected {int(stored)} steps (num_samples), "
                f"found {found}"
            )
        return found

    def demo(self, name: str, *, with_obs: bool = True) -> Demo:
        """Read one demonstration into memory.

        Args:
            name: for example ``"demo_0"``.
            with_obs: whether to read the observations.

        Raises:
            DataError: when arrays are missing or differ in length.
            DamagedFileError: when bytes cannot be decoded.
        """
        group = self.group(name)
        n_steps = self.length(name)
        plain = [key for key in group if key not in ("actions", "obs", "next_obs")]
        arrays = {key: array_at(group, key) for key in plain if hasattr(group[key], "shape")}
        kinds = ("obs", "next_obs") if with_obs else ()
        seen = {
            kind: {key: array_at(group, f"{kind}/{key}") for key in self.obs_keys(name, kind)}
            for kind in kinds
        }
        everything = arrays | {f"{k}/{key}": v for k in seen for key, v in seen[k].items()}
        for key, value in everything.items():
            if len(value) != n_steps:
                raise DataError(
                    f"{self.path}: {name}: {key} has {len(value)} rows, expected {n_steps}, one "
                    "per action; the file is inconsistent"
                )
        attributes = {str(key): _plain(value) for key, value in group.attrs.items()}
        attributes.pop("num_samples", None)
        return Demo(
            actions=array_at(group, "actions"),
            obs=seen.get("obs", {}),
            next_obs=seen.get("next_obs", {}),
            states=arrays.pop("states", None),
            rewards=arrays.pop("rewards", None),
            dones=arrays.pop("dones", None),
            model_file=attributes.pop("model_file", None),
            extra=arrays,
            attributes=attributes,
            filter_keys=tuple(k for k in self.filter_keys() if name in self._mask(k)),
        )


@contextmanager
def open_robomimic(path: str | Path) -> Generator[RobomimicFile]:
    """Open a file for reading.

    Raises:
        DataError: when it is missing or no robomimic file.
        DamagedFileError: when it is truncated or corrupt.
    """
    with open_hdf5(Path(path).expanduser()) as handle:
        yield RobomimicFile(handle)


def write_robomimic(
    path: str | Path,
    demos: Iterable[Demo],
    *,
    env_args: Mapping[str, Any] | None,
    attributes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a file atomically, with checksums; the same demonstrations give the same bytes.

    Args:
        path: target; readers never see a partial file.
        demos: at least one; they are written one by one, so they need not fit into memory together.
        env_args: recipe of the environment, as robomimic stores it; None stores none.
        attributes: numbers and strings to keep with ``data``; ``kind`` is the kind of data, the
            rest is found again in the details of what ``read_robomimic`` reads.

    Returns:
        The path.

    Raises:
        DataError: when there is no demonstration, or arrays differ in length.
    """
    target = Path(path)
    with publish_file(target) as stage, hdf5_library().File(stage, "w") as handle:
        data = handle.create_group("data")
        total = n_demos = 0
        masks: dict[str, list[str]] = {}
        for demo in demos:
            for key in demo.filter_keys:
                masks.setdefault(key, []).append(f"demo_{n_demos}")
            _write_demo(data.create_group(f"demo_{n_demos}"), demo)
            total += len(demo.actions)
            n_demos += 1
        if not n_demos:
            raise DataError(f"{target}: there are no demonstrations; nothing was written")
        data.attrs["total"] = total
        if env_args is not None:
            data.attrs["env_args"] = json.dumps(dict(env_args), sort_keys=True)
        for key, value in (attributes or {}).items():
            data.attrs[key] = value
        for key, chosen in masks.items():
            handle.create_dataset(f"mask/{key}", data=np.array(chosen, dtype="S"))
    return target


def _write_demo(group: Any, demo: Demo) -> None:
    arrays: dict[str, Array | None] = {
        "actions": demo.actions,
        "states": demo.states,
        "rewards": demo.rewards,
        "dones": demo.dones,
        **demo.extra,
        **{f"obs/{key}": value for key, value in demo.obs.items()},
        **{f"next_obs/{key}": value for key, value in demo.next_obs.items()},
    }
    n_steps = len(demo.actions)
    for key, value in arrays.items():
        if value is None:
            continue
        if len(value) != n_steps or not n_steps:
            raise DataError(
                f"{group.name}: {key} has {len(value)} rows, expected {n_steps} and at least 1; "
                "nothing was written"
            )
        # One image per chunk: windows read a few rows, anywhere.
        chunks = (1, *value.shape[1:]) if value.ndim == 4 else True
        group.create_dataset(
            key, data=value, chunks=chunks, compression="gzip", shuffle=True, fletcher32=True
        )
    group.attrs["num_samples"] = n_steps
    if demo.model_file is not None:
        group.attrs["model_file"] = demo.model_file
    for key, value in demo.attributes.items():
        group.attrs[key] = value


def _plain(value: Any) -> Any:
    """Return an HDF5 attribute or name as a Python value."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray | np.generic):
        listed = cast("Any", value).tolist()
        return listed.decode(errors="replace") if isinstance(listed, bytes) else listed
    return value
