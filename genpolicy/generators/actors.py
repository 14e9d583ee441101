"""Policies that others trained, as plain arrays: no pickle, no framework of theirs.

A file is an ``.npz`` of one of these forms, in which ``o`` is the observation::

    kind                     action
    squashed_gaussian_relu   tanh(mean + exp(clip(Wls h + bls, -20, 2)) n)
    gaussian_relu            mean + exp(log_std) n
    gaussian_tanh            mean + exp(log_std) n
    linear                   W o
    (none)                   W2 tanh(W1 tanh(W0 x + b0) + b1) + b2, times out_scale plus out_shift,
                             plus exp(log_std) n;  x = (o - in_shift) / (in_scale + 1e-8)

with ``mean = Wmu h + bmu``, ``h = f(W1 f(W0 o + b0) + b1)`` with f as the kind says, and standard
normal ``n``, 0 for the mode. Actions are clipped to [-1, 1]. Where ``obs_mean`` is there, ``o`` is
first normalised with ``obs_var`` and ``obs_eps`` and clipped to ``+-obs_clip``; where
``time_feature_max_steps`` is there, the remaining part of that time is appended to ``o`` before.

Source: actors of RL Baselines3 Zoo (the kinds) and of Rajeswaran et al. 2018, arXiv 1709.10087.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from genpolicy.errors import DataError, UsageError

__all__ = ["Actor", "actor_path", "load_actor"]

Array = NDArray[Any]
_TRUNK = ("W0", "b0", "W1", "b1")
_NEEDS = {
    "squashed_gaussian_relu": (*_TRUNK, "Wmu", "bmu", "Wls", "bls"),
    "gaussian_tanh": (*_TRUNK, "Wmu", "bmu", "log_std"),
    "gaussian_relu": (*_TRUNK, "Wmu", "bmu", "log_std"),
    "linear": ("W",),
    "": (*_TRUNK, "W2", "b2", "in_shift", "in_scale", "out_shift", "out_scale", "log_std"),
}


class Actor:
    """One policy; ``load_actor`` reads it from its file.

    Args:
        arrays: those of its form, by name.
        name: of the file, for messages.

    Raises:
        DataError: for an unknown form, or arrays that are missing.
    """

    def __init__(self, arrays: Mapping[str, Array], *, name: str) -> None:
        self.name = name
        self.kind = str(arrays["kind"]) if "kind" in arrays else ""
        if self.kind not in _NEEDS:
            known = ", ".join(kind for kind in _NEEDS if kind)
            raise DataError(f"{name}: kind is {self.kind!r}, expected one of {known}")
        missing = [key for key in _NEEDS[self.kind] if key not in arrays]
        if missing:
            raise DataError(
                f"{name}: no policy: it lacks {', '.join(missing)} and has {', '.join(arrays)}"
            )
        self._arrays = {k: np.asarray(v) for k, v in arrays.items() if k != "kind"}
        self._time = float(arrays.get("time_feature_max_steps", 0.0))

    @property
    def needs_time(self) -> bool:
        """Whether actions depend on the step of the episode, too."""
        return self._time > 0

    @property
    def obs_dim(self) -> int:
        """Entries of an observation."""
        first = self._arrays["W" if self.kind == "linear" else "W0"]
        return int(first.shape[1]) - self.needs_time

    @property
    def action_dim(self) -> int:
        """Entries of an action."""
        last = {"linear": "W", "": "W2"}.get(self.kind, "Wmu")
        return len(self._arrays[last])

    def action(self, obs: Array, *, step: int = 0, rng: np.random.Generator | None = None) -> Array:
        """Return the action in one observation.

        Args:
            obs: ``(obs_dim,)`` in the simulator's units.
            step: steps since the episode began.
            rng: draws the action; None takes the mode.

        Returns:
            ``(action_dim,)`` float64 in [-1, 1].

        Raises:
            DataError: for an observation of another size.
        """
        if obs.shape != (self.obs_dim,):
            raise DataError(
                f"{self.name}: the observation has shape {obs.shape}, expected ({self.obs_dim},)"
            )
        a = self._arrays
        noise = 0.0 if rng is None else rng.standard_normal(self.action_dim)
        x = self._prepared(np.asarray(obs, np.float64), step)
        if self.kind == "linear":
            return np.clip(a["W"] @ x, -1.0, 1.0)
        squash = np.tanh if self.kind in ("", "gaussian_tanh") else _relu
        hidden = squash(a["W1"] @ squash(a["W0"] @ x + a["b0"]) + a["b1"])
        if not self.kind:
            mean = (a["W2"] @ hidden + a["b2"]) * a["out_scale"] + a["out_shift"]
            return np.clip(mean + np.exp(a["log_std"]) * noise, -1.0, 1.0)
        mean = a["Wmu"] @ hidden + a["bmu"]
        if self.kind == "squashed_gaussian_relu":
            spread = np.exp(np.clip(a["Wls"] @ hidden + a["bls"], -20.0, 2.0))
            return np.asarray(np.tanh(mean + spread * noise))
        return np.clip(mean + np.exp(a["log_std"]) * noise, -1.0, 1.0)

    def _prepared(self, obs: Array, step: int) -> Array:
        a = self._arrays
        if not self.kind:
            return (obs - a["in_shift"]) / (a["in_scale"] + 1e-8)
        if self.needs_time:
            obs = np.append(obs, 1.0 - step / self._time)
        if "obs_mean" in a:
            scaled = (obs - a["obs_mean"]) / np.sqrt(a["obs_var"] + a["obs_eps"])
            obs = np.clip(scaled, -float(a["obs_clip"]), float(a["obs_clip"]))
        return obs


def _relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def actor_path(folder: str | Path, name: str) -> Path:
    """Return the file of a policy in a folder.

    Raises:
        UsageError: when it is not there, naming what was looked for.
    """
    path = Path(folder).expanduser() / f"{name}.npz"
    if not path.is_file():
        raise UsageError(
            f"policies={folder}: there is no {path.name}; expected a folder of policies as .npz "
            "arrays (genpolicy.generators.actors documents the forms)"
        )
    return path


def load_actor(path: str | Path) -> tuple[Actor, str]:
    """Read a policy.

    Returns:
        The policy, and the SHA-256 of its file.

    Raises:
        DataError: when the file is damaged, or no policy.
    """
    file = Path(path)
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {key: cast("Array", stored[key]) for key in stored.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file}: not a readable .npz of plain arrays ({error})") from error
    return Actor(arrays, name=file.name), hashlib.sha256(file.read_bytes()).hexdigest()
