"""What a robomimic file has, lacks and gets wrong, without a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genpolicy.data.episodes import Array
from genpolicy.data.robomimic_file import Demo, RobomimicFile, open_robomimic
from genpolicy.errors import DataError

__all__ = ["FileReport", "check_robomimic"]

_CONSTANT_RANGE = 1e-4  # as in the normalizer
_OPTIONAL = ("states", "rewards", "dones", "model_file", "next_obs")


@dataclass(frozen=True)
class FileReport:
    """What was found.

    Args:
        path: the file.
        facts: what the file holds, by topic, one line each.
        problems: what is wrong with it: training on it would fail or mislead.
        notes: what is missing or unusual, and what does not work without it.
        constant: for each array its entries that never vary.
    """

    path: str
    facts: Mapping[str, str]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    constant: Mapping[str, list[int]] = field(default_factory=dict[str, list[int]])


@dataclass
class _Range:
    """Smallest and largest value of each entry of an array over the demonstrations."""

    low: Array
    high: Array

    def widen(self, values: Array) -> None:
        self.low = np.minimum(self.low, values.min(axis=0))
        self.high = np.maximum(self.high, values.max(axis=0))


def check_robomimic(path: str | Path, *, filter_key: str | None = None) -> FileReport:
    """Read every array of a file once and report on it.

    Args:
        path: the file.
        filter_key: mask of the demonstrations to look at; None looks at all.

    Raises:
        DataError: when it cannot be read at all: missing, truncated, or no robomimic file.
    """
    with open_robomimic(path) as file:
        names = file.selected(filter_key)
        problems: list[str] = []
        ranges: dict[str, _Range] = {}
        missing: dict[str, int] = dict.fromkeys(_OPTIONAL, 0)
        shapes: dict[str, tuple[int, ...]] = {}
        lengths: list[int] = []
        n_solved = n_outside = 0
        for name in names:
            try:
                demo = file.demo(name)
            except DataError as error:
                problems.append(str(error))
                continue
            lengths.append(len(demo.actions))
            arrays = _arrays(demo)
            problems += _faults(name, arrays, shapes)
            for key, values in arrays.items():
                if values.ndim == 2 and np.isfinite(values).all():
                    if key not in ranges:
                        ranges[key] = _Range(values.min(axis=0), values.max(axis=0))
                    elif ranges[key].low.shape == values.shape[1:]:
                        ranges[key].widen(values)
            for key in _OPTIONAL:
                found = getattr(demo, key)
                missing[key] += found is None or (key == "next_obs" and not found)
            n_solved += demo.rewards is not None and bool((demo.rewards > 0).any())
            n_outside += int((np.abs(demo.actions) > 1).any(axis=1).sum())
        notes = _notes(file, missing, len(names))
        facts = _facts(file, names, lengths, shapes)
    if lengths and not missing["rewards"]:
        facts["solved"] = f"{n_solved} of {len(lengths)} have a reward above 0"
    if n_outside:
        notes.append(
            f"actions: {n_outside} steps have entries outside [-1, 1], which delta controllers "
            "clip; ordinary for absolute poses"
        )
    constant = {
        key: np.flatnonzero(found.high - found.low < _CONSTANT_RANGE).tolist()
        for key, found in ranges.items()
        if key == "actions" or key.startswith("obs/")
    }
    return FileReport(
        path=str(path),
        facts=facts,
        problems=tuple(problems),
        notes=tuple(notes),
        constant={key: entries for key, entries in constant.items() if entries},
    )


def _arrays(demo: Demo) -> dict[str, Array]:
    """Return the arrays of a demonstration by their names in the file."""
    found: dict[str, Array] = {"actions": demo.actions, **demo.extra}
    for key in ("states", "rewards", "dones"):
        values: Any = getattr(demo, key)
        if values is not None:
            found[key] = values
    found |= {f"obs/{key}": values for key, values in demo.obs.items()}
    return found | {f"next_obs/{key}": values for key, values in demo.next_obs.items()}


def _faults(
    name: str, arrays: Mapping[str, Array], shapes: dict[str, tuple[int, ...]]
) -> list[str]:
    """Return what is wrong with a demonstration; notes the shape of each array when it is new."""
    faults: list[str] = []
    if arrays["actions"].dtype.kind != "f":
        faults.append(f"{name}: actions are {arrays['actions'].dtype}, expected floating point")
    for key, values in arrays.items():
        if shapes.setdefault(key, values.shape[1:]) != values.shape[1:] and key != "states":
            faults.append(
                f"{name}: {key} has rows of shape {values.shape[1:]}, others {shapes[key]}"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = ~np.isfinite(values)
            step = int(np.flatnonzero(bad.reshape(len(values), -1).any(axis=1))[0])
            faults.append(
                f"{name}: {key} has {int(bad.sum())} values that are nan or inf, the first at "
                f"step {step}"
            )
        if key.startswith("obs/") and values.ndim == 4 and values.dtype != np.uint8:
            faults.append(f"{name}: images {key} are {values.dtype}, expected uint8 from 0 to 255")
    return faults


def _notes(file: RobomimicFile, missing: Mapping[str, int], n_demos: int) -> list[str]:
    without = {
        "states": "they cannot be replayed",
        "rewards": "no returns, so behaviour cloning only",
        "dones": "every episode counts as truncated",
        "model_file": "replays use the task's own scene",
        "next_obs": "no transition from the last step",
    }
    notes = [
        f"{n} of {n_demos} demonstrations have no {key}: {without[key]}"
        for key, n in missing.items()
        if n
    ]
    if file.env_args() is None:
        notes.append("no env_args: evaluated in the task's standard environment, no replay")
    if not file.filter_keys():
        notes.append("no masks: filter_key cannot be used")
    return notes


def _facts(
    file: RobomimicFile,
    names: tuple[str, ...],
    lengths: list[int],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, str]:
    env = file.env_args()
    spread = f", {min(lengths)} to {max(lengths)} steps" if lengths else ""
    facts = {
        "demonstrations": f"{len(names)}{spread}, {sum(lengths)} in all",
        "environment": "unknown"
        if env is None
        else f"{env['env_name']} {env.get('env_version', '')}".strip(),
        "filter keys": ", ".join(file.filter_keys()) or "none",
    }
    return facts | {key: str(shape) for key, shape in shapes.items() if "next_obs/" not in key}
