"""robomimic data sets as ``Episodes``, read without robomimic or robosuite.

A demonstration is an episode. Its last row is ``terminated`` when ``dones`` and, where there are
rewards, the reward say that the task was solved there, and otherwise ``truncated``; earlier
``dones`` do not cut a demonstration. Where ``next_obs`` is stored, its last row becomes
``final_obs``. Masks (``filter_key``), rewards, dones, next observations and ``env_args`` may be
missing; without ``env_args`` a policy that is trained on the data is evaluated in the task's
standard environment.

Actions are those that were recorded, with ``actions="intended"`` those that a scripted expert meant
before noise was added (array ``actions_intended``, which ``genpolicy data make`` writes), or with
``actions="absolute_6d"`` the poses that they aim at:
position (m), rotation as six numbers, gripper, ten entries for each arm, as Diffusion Policy uses
them. They are taken from the array ``actions_abs`` (which ``genpolicy data make`` writes), or from
``actions`` where ``env_args`` says that its controller takes absolute ones.

Source: Mandlekar et al. 2021, arXiv 2108.03298; Chi et al. 2023, arXiv 2303.04137, section 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from genpolicy.data.episodes import Array, DataSource, Episodes, OnNan, SourceKind
from genpolicy.data.images import as_image
from genpolicy.data.lazy import LazyRows
from genpolicy.data.reading import array_at
from genpolicy.data.robomimic_file import RobomimicFile, open_robomimic
from genpolicy.errors import DataError, UsageError, nearest
from genpolicy.robomimic_tasks import ROBOMIMIC_TASKS, RobomimicTask
from genpolicy.rotations import pose_to_six, with_six

__all__ = ["ActionKind", "read_robomimic"]

ActionKind = Literal["recorded", "intended", "absolute_6d"]
QuaternionKind = Literal["recorded", "rotation_6d"]


def read_robomimic(
    path: str | Path,
    *,
    name: str | None = None,
    kind: SourceKind = "local",
    obs_keys: Sequence[str] | None = None,
    filter_key: str | None = None,
    lazy: bool = False,
    actions: ActionKind = "recorded",
    quaternions: QuaternionKind = "recorded",
    env_name: str | None = None,
    on_nan: OnNan = "error",
) -> Episodes:
    """Read a robomimic HDF5 file.

    Args:
        path: the file.
        name: name of the data set; None means the one it records, or the file's.
        kind: where it comes from.
        obs_keys: keys of ``obs`` to read; None means all of them.
        filter_key: mask of the demonstrations to read, for example ``"train"``; None means all.
        lazy: leave images in the file and read them batch by batch; the file must not change then.
        actions: ``"recorded"``, ``"intended"`` or ``"absolute_6d"``, see the module.
        quaternions: ``"recorded"``, or ``"rotation_6d"`` for six numbers instead: robosuite's
            relative orientations change their sign at random when the hand points down.
        env_name: robosuite environment that it has to come from, where it says so; None accepts
            any.
        on_nan: see ``Episodes.from_arrays``.

    Raises:
        DataError: when the file is missing, damaged, inconsistent, not finite, from another
            environment, or lacks what is asked for.
        UsageError: for unknown options.
    """
    for option, value, kinds in (
        ("actions", actions, get_args(ActionKind)),
        ("quaternions", quaternions, get_args(QuaternionKind)),
    ):
        if value not in kinds:
            raise UsageError(f"read_robomimic: {option} is {value!r}; {nearest(value, kinds)}")
    with open_robomimic(path) as file:
        demos = file.selected(filter_key)
        lengths = [file.length(demo) for demo in demos]
        ends = np.cumsum(lengths, dtype=np.int64)
        keys = _keys(file, demos[0], obs_keys)
        env_args = file.env_args()
        recorded_in = None if env_args is None else env_args["env_name"]
        if env_name is not None and recorded_in not in (None, env_name):
            raise DataError(
                f"{file.path} was recorded in {recorded_in}, expected {env_name}; choose the "
                "task that it belongs to"
            )
        label = name or str(file.attributes.get("task", Path(path).stem))
        found = _stacked(file, demos, ends, _action_array(file, demos[0], actions, env_args), label)
        obs: dict[str, Array] = {}
        for key in keys:
            stored = f"obs/{key}"
            if lazy and len(_shape(file, demos[0], stored)) == 4:
                obs[key] = _lazy(file, demos, lengths, stored, label)
            else:
                obs[key] = _stacked(file, demos, ends, stored, label)
        final = _final_obs(file, demos, keys)
        rewards, terminated = _ends_of(file, demos, ends)
        changed = {"actions": actions, "quaternions": quaternions}
        source = _source(file, label, kind, changed, env_args, filter_key)
    if quaternions == "rotation_6d":
        task = _task_of(source, recorded_in or env_name)
        obs = {key: _six(task, key, value, source) for key, value in obs.items()}
        final = final and {key: _six(task, key, value, source) for key, value in final.items()}
    return Episodes.from_arrays(
        obs=obs,
        actions=pose_to_six(found) if actions == "absolute_6d" else found,
        rewards=rewards,
        terminated=terminated,
        episode_ends=ends,
        source=source,
        final_obs=final,
        names=demos,
        on_nan=on_nan,
    )


def _keys(file: RobomimicFile, demo: str, wanted: Sequence[str] | None) -> list[str]:
    known = file.obs_keys(demo)
    if not known:
        raise DataError(
            f"{file.path}: {demo} has no observations, only {', '.join(file.group(demo).keys())}; "
            "compute them from its states first: genpolicy data render FILE"
        )
    for key in wanted or ():
        if key not in known:
            raise DataError(
                f"{file.path}: {demo} has no observation {key!r}; it has {', '.join(known)}"
            )
    return list(known if wanted is None else wanted)


def _action_array(
    file: RobomimicFile, demo: str, actions: ActionKind, env_args: Mapping[str, Any] | None
) -> str:
    """Return the name of the array that holds the wanted actions."""
    if actions == "recorded":
        return "actions"
    if actions == "intended":
        if "actions_intended" in file.group(demo):
            return "actions_intended"
        raise DataError(
            f"{file.path}: intended actions were asked for, but there is no array "
            "actions_intended; use actions=recorded, or a file of genpolicy data make"
        )
    if "actions_abs" in file.group(demo):
        return "actions_abs"
    if env_args is not None and _is_absolute(env_args):
        return "actions"
    raise DataError(
        f"{file.path}: absolute actions were asked for, but there is no array actions_abs and the "
        "recorded ones are no absolute poses; use actions=recorded, or a file with actions_abs"
    )


def _is_absolute(env_args: Mapping[str, Any]) -> bool:
    """Whether the controller takes absolute poses, in robosuite's old or new configuration."""
    text = str(env_args.get("env_kwargs", {}).get("controller_configs"))
    return "'control_delta': False" in text or "'input_type': 'absolute'" in text


def _shape(file: RobomimicFile, demo: str, key: str) -> tuple[int, ...]:
    found: Any = file.group(demo).get(key)
    if found is None or not hasattr(found, "shape"):
        raise DataError(
            f"{file.path}: {demo} has no array {key!r}, which other demonstrations have"
        )
    return tuple(int(n) for n in found.shape)


def _stacked(file: RobomimicFile, demos: Sequence[str], ends: Array, key: str, label: str) -> Array:
    """Read one array of all demonstrations, row after row, into one that is allocated once."""
    shape = _shape(file, demos[0], key)[1:]
    values: Array | None = None
    begin = 0
    for demo, end in zip(demos, ends.tolist(), strict=True):
        part = array_at(file.group(demo), key)
        if part.shape != (end - begin, *shape):
            raise DataError(
                f"{file.path}: {demo}: {key} has shape {part.shape}, expected "
                f"{(end - begin, *shape)}, one row per action; the file is inconsistent"
            )
        if part.ndim == 4:
            part = as_image(label, key.removeprefix("obs/"), part)
        if values is None:
            is_number = part.dtype.kind == "f" or (key.startswith("obs/") and part.ndim < 4)
            stored = np.dtype(np.float32) if is_number else part.dtype
            if part.dtype.kind not in "fiub":
                stored = part.dtype  # refused by the checks of Episodes, with their own words
            values = np.empty((int(ends[-1]), *shape), stored)
        values[begin:end] = part
        begin = end
    assert values is not None
    return values


def _lazy(
    file: RobomimicFile, demos: Sequence[str], lengths: Sequence[int], key: str, label: str
) -> Array:
    """Return images that stay in the file."""
    shape = _shape(file, demos[0], key)[1:]
    for demo, length in zip(demos, lengths, strict=True):
        found = file.group(demo)[key]
        if _shape(file, demo, key) != (length, *shape) or found.dtype != np.uint8:
            raise DataError(
                f"{file.path}: {demo}: {key} is {found.dtype} of shape {found.shape}, expected "
                f"uint8 of {(length, *shape)} for lazy reading; use lazy=false or repair the file"
            )
    rows = LazyRows(
        file.path,
        names=[f"data/{demo}/{key}" for demo in demos],
        lengths=lengths,
        shape=shape,
        dtype=np.uint8,
    )
    return cast("Array", rows)


def _final_obs(
    file: RobomimicFile, demos: Sequence[str], keys: Sequence[str]
) -> dict[str, Array] | None:
    """Return the observations after the last actions, or None where any is missing."""
    if any(set(keys) - set(file.obs_keys(demo, "next_obs")) for demo in demos):
        return None
    last = slice(-1, None)
    return {
        key: np.concatenate(
            [array_at(file.group(demo), f"next_obs/{key}", rows=last) for demo in demos]
        )
        for key in keys
    }


def _ends_of(
    file: RobomimicFile, demos: Sequence[str], ends: Array
) -> tuple[Array | None, Array | None]:
    """Return rewards, and where the task was solved at the end; None where not recorded."""
    present = {key: all(key in file.group(demo) for demo in demos) for key in ("rewards", "dones")}
    rewards = _stacked(file, demos, ends, "rewards", "rewards") if present["rewards"] else None
    if not present["dones"]:
        return rewards, None
    dones = _stacked(file, demos, ends, "dones", "dones")
    terminated = np.zeros(int(ends[-1]), bool)
    last = ends - 1
    terminated[last] = dones[last].astype(bool)
    if rewards is not None:
        terminated[last] &= rewards[last] > 0
    return rewards, terminated


def _source(
    file: RobomimicFile,
    name: str,
    kind: SourceKind,
    changed: Mapping[str, str],
    env_args: Mapping[str, Any] | None,
    filter_key: str | None,
) -> DataSource:
    """Return the origin, and the settings of the environment that the data was recorded in."""
    details = file.attributes
    details.pop("task", None)
    recorded = details.pop("kind", None)
    known: tuple[SourceKind, ...] = get_args(SourceKind)
    for one in known:
        if recorded == one:
            kind = one
    if file.filter_keys():
        details["filter_keys"] = ", ".join(file.filter_keys())
    if filter_key is not None:
        details["filter_key"] = filter_key
    env: dict[str, Any] = {}
    is_known = env_args is not None and env_args["env_name"] in _ENV_NAMES
    if env_args is not None:
        details["env"] = f"{env_args['env_name']} {env_args.get('env_version', '')}".strip()
    if env_args is not None and is_known:
        env["env_args"] = dict(env_args)
    env |= {k: v for k, v in changed.items() if v not in ("recorded", "intended")}
    return DataSource(name, kind, file.path, details, env)


def _task_of(source: DataSource, env_name: str | None) -> RobomimicTask:
    for task in ROBOMIMIC_TASKS.values():
        if task.env_name == env_name:
            return task
    raise DataError(
        f"{source.path}: where its quaternions are is known for the environments "
        f"{', '.join(sorted(_ENV_NAMES))}, not for {env_name}; use quaternions=recorded"
    )


def _six(task: RobomimicTask, key: str, values: Array, source: DataSource) -> Array:
    """Return an observation with its quaternions as six numbers."""
    starts = task.quaternions_of(key)
    for start in starts:
        found = values[:, start : start + 4]
        length = np.linalg.norm(found, axis=-1)
        if found.shape[1] != 4 or (np.abs(length - 1) > 1e-3)[length > 0].any():
            raise DataError(
                f"{source.path}: entries {start} to {start + 3} of {key} are no quaternion, which "
                "robosuite 1.5 has there; use quaternions=recorded"
            )
    return with_six(values, starts) if starts else values


_ENV_NAMES = frozenset(task.env_name for task in ROBOMIMIC_TASKS.values())
