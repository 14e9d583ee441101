"""Physical units to the units a network is trained in, and back.

Each entry ``x`` of an action or observation is mapped by its own affine function::

    normalized = (x - center) * gain,        physical = center + normalized * span               (1)
    min_max     center = (max + min) / 2,    span = (max - min) / 2     range [-1, 1]            (2)
    mean_std    center = mean,               span = std                                          (3)
    identity    center = 0,                  span = 1                                            (4)
    image       pixel / 127.5 - 1            uint8 to [-1, 1]                                    (5)

with gain = 1 / span. An entry whose range in the data is below ``1e-4`` is constant: it is mapped
to exactly 0 and back to exactly its value, whatever the network returns for it, and it is listed in
``Normalizer.constant``.

Source: Diffusion Policy, arXiv 2303.04137, whose threshold this is; there a constant entry keeps
gain 1, so that what a network returns for it leaks into the action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from genpolicy.data.episodes import Array, Episodes
from genpolicy.errors import CheckpointError, UsageError, nearest
from genpolicy.shapes import Obs

__all__ = ["FieldStats", "Mode", "Normalizer"]

Mode = Literal["min_max", "mean_std", "identity", "image"]

_MODES = ("min_max", "mean_std", "identity", "image")
_CONSTANT_RANGE = 1e-4


@dataclass(frozen=True, eq=False)
class FieldStats:
    """Statistics of one action or observation array, and how it is normalised.

    Args:
        mode: one of (2) to (5).
        minimum: smallest value of each entry, float32, in the shape of one observation.
        maximum: largest value.
        mean: mean value.
        std: standard deviation (of the population, not the sample).
    """

    mode: Mode
    minimum: Array
    maximum: Array
    mean: Array
    std: Array

    @classmethod
    def of(cls, values: Array, mode: Mode) -> FieldStats:
        """Compute the statistics of ``values`` of shape ``(n_steps, *shape)``."""
        if mode == "image":
            # The statistics play no part in (5); bounds of the type keep the record complete.
            shape = values.shape[1:]
            low, high = np.zeros(shape, np.float32), np.full(shape, 255.0, np.float32)
            middle = np.full(shape, 127.5, np.float32)
            return cls(mode, low, high, middle, middle)
        wide = values.astype(np.float64)
        return cls(
            mode,
            wide.min(axis=0).astype(np.float32),
            wide.max(axis=0).astype(np.float32),
            wide.mean(axis=0).astype(np.float32),
            wide.std(axis=0).astype(np.float32),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation or action."""
        return tuple(int(n) for n in self.minimum.shape)

    @property
    def is_constant(self) -> Array:
        """Entries that do not vary in the data, as a bool array; none for images or identity."""
        if self.mode in ("image", "identity"):
            return np.zeros(self.shape, bool)
        return self.maximum.astype(np.float64) - self.minimum.astype(np.float64) < _CONSTANT_RANGE

    def affine(self) -> tuple[Array, Array, Array]:
        """Return (center, gain, span) of (1), float32; gain and span are 0 for constant entries."""
        low, high = self.minimum.astype(np.float64), self.maximum.astype(np.float64)
        middle = low + (high - low) / 2
        if self.mode == "mean_std":
            center, span = self.mean.astype(np.float64), self.std.astype(np.float64)
        elif self.mode == "identity":
            center, span = np.zeros(self.shape), np.ones(self.shape)
        else:
            center, span = middle, (high - low) / 2
        fixed = self.is_constant
        center = np.where(fixed, middle, center)
        gain = np.where(fixed, 0.0, 1.0 / np.where(fixed, 1.0, span))
        span = np.where(fixed, 0.0, span)
        return center.astype(np.float32), gain.astype(np.float32), span.astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return plain containers; float32 values survive them bit for bit."""
        if self.mode == "image":
            return {"mode": self.mode, "shape": list(self.shape)}
        return {
            "mode": self.mode,
            "min": self.minimum.tolist(),
            "max": self.maximum.tolist(),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FieldStats:
        """Rebuild statistics from ``to_json``."""
        if data["mode"] == "image":
            return cls.of(np.zeros((1, *data["shape"]), np.uint8), "image")
        if data["mode"] not in _MODES:
            raise ValueError(f"unknown mode {data['mode']!r}")
        low, high, mean, std = (
            np.asarray(data[name], dtype=np.float32) for name in ("min", "max", "mean", "std")
        )
        if not low.shape == high.shape == mean.shape == std.shape:
            raise ValueError("min, max, mean and std differ in shape")
        if not all(np.isfinite(value).all() for value in (low, high, mean, std)):
            raise ValueError("statistics are not finite")
        return cls(data["mode"], low, high, mean, std)


class _Affine(nn.Module):
    """Equation (1) or (5) for one array; the numbers are buffers that follow ``.to()``."""

    center: Tensor
    gain: Tensor
    span: Tensor

    def __init__(self, name: str, stats: FieldStats) -> None:
        super().__init__()
        self.name, self.stats = name, stats
        self.is_image = stats.mode == "image"
        arrays = (np.zeros(0, np.float32),) * 3 if self.is_image else stats.affine()
        for buffer, value in zip(("center", "gain", "span"), arrays, strict=True):
            self.register_buffer(buffer, torch.as_tensor(value.copy()), persistent=False)

    def _check(self, value: Tensor) -> None:
        shape = self.stats.shape
        if tuple(value.shape[value.ndim - len(shape) :]) != shape:
            raise UsageError(
                f"Normalizer: {self.name} has shape {tuple(value.shape)}, expected it to end in "
                f"{shape}, the shape in the training data"
            )

    def normalize(self, value: Tensor) -> Tensor:
        self._check(value)
        if self.is_image:
            if value.dtype != torch.uint8:
                raise UsageError(
                    f"Normalizer: images {self.name} are {value.dtype}, expected uint8 from 0 to "
                    "255"
                )
            return value.to(torch.float32).div_(127.5).sub_(1.0)
        return (value.to(self.center.dtype) - self.center) * self.gain

    def denormalize(self, value: Tensor) -> Tensor:
        self._check(value)
        return self.center + value.to(self.center.dtype) * self.span


class Normalizer(nn.Module):
    """Normalises observations and actions with statistics of the training data.

    The statistics are no part of the ``state_dict``: they are JSON (``to_json``), kept beside the
    weights, so that a policy without them cannot be loaded by mistake.

    Args:
        action: statistics of the actions; its mode is not ``"image"``.
        obs: statistics of each observation key.
    """

    def __init__(self, *, action: FieldStats, obs: Mapping[str, FieldStats]) -> None:
        super().__init__()
        if action.mode == "image":
            raise UsageError("Normalizer: actions cannot have the mode 'image'")
        self._keys = tuple(obs)
        self._action = _Affine("action", action)
        self._obs = nn.ModuleList([_Affine(f"obs[{key!r}]", stats) for key, stats in obs.items()])

    @classmethod
    def fit(
        cls,
        episodes: Episodes,
        *,
        action: Mode | FieldStats = "min_max",
        obs: Mode | Mapping[str, Mode] = "min_max",
        episode_ids: Sequence[int] | Array | None = None,
    ) -> Normalizer:
        """Compute the statistics of episodes.

        Args:
            episodes: the data.
            action: mode of the actions, or statistics to use instead of theirs: policies that
                share them can be composed.
            obs: one mode for all low-dimensional keys, or a mode by key (keys left out get
                ``"min_max"``). uint8 images always get ``"image"``.
            episode_ids: episodes that count, or None for all.

        Raises:
            UsageError: for an unknown mode or key, a mode that does not fit the type, or statistics
                of another number of actions.
        """
        modes = cls._modes(episodes, obs)
        rows = slice(None) if episode_ids is None else episodes.rows_of(episode_ids)
        if isinstance(action, FieldStats):
            if action.shape != (episodes.action_dim,):
                raise UsageError(
                    f"Normalizer: the given statistics are of {action.shape} actions, the data has "
                    f"({episodes.action_dim},)"
                )
        else:
            cls.check_mode("action", action)
            action = FieldStats.of(episodes.actions[rows], action)
        return cls(
            action=action,
            obs={
                key: FieldStats.of(value[:1] if modes[key] == "image" else value[rows], modes[key])
                for key, value in episodes.obs.items()
            },
        )

    @staticmethod
    def check_mode(name: str, mode: str) -> None:
        """Check the mode of the array ``name``.

        Raises:
            UsageError: for an unknown one.
        """
        if mode not in _MODES:
            raise UsageError(f"normalizer mode of {name} is {mode!r}; {nearest(mode, _MODES)}")

    @classmethod
    def _modes(cls, episodes: Episodes, obs: Mode | Mapping[str, Mode]) -> dict[str, Mode]:
        chosen = {} if isinstance(obs, str) else dict(obs)
        for key in chosen:
            if key not in episodes.obs:
                raise UsageError(
                    f"normalizer mode given for {key!r}, which is no observation of "
                    f"{episodes.source.name}; {nearest(key, episodes.obs)}"
                )
        default: Mode = obs if isinstance(obs, str) else "min_max"
        modes: dict[str, Mode] = {}
        for key, value in episodes.obs.items():
            is_image = value.dtype == np.uint8
            mode = chosen.get(key, "image" if is_image else default)
            cls.check_mode(key, mode)
            if is_image != (mode == "image"):
                raise UsageError(
                    f"normalizer mode of {key!r} is {mode!r}, which does not fit {value.dtype}; "
                    "uint8 images take 'image', everything else one of the other modes"
                )
            modes[key] = mode
        return modes

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Range of normalised actions in the data: (-1, 1) for min_max, otherwise None."""
        return (-1.0, 1.0) if self._action.stats.mode == "min_max" else None

    @property
    def obs_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one observation by key."""
        return {key: self._field(key).stats.shape for key in self._keys}

    @property
    def stats(self) -> dict[str, FieldStats]:
        """Statistics by array: ``"action"`` and the observation keys."""
        named = {"action": self._action.stats}
        return named | {key: self._field(key).stats for key in self._keys}

    @property
    def constant(self) -> dict[str, list[int]]:
        """Flat indices of entries that are constant in the data: by ``"action"`` or obs key."""
        found = {name: np.flatnonzero(s.is_constant).tolist() for name, s in self.stats.items()}
        return {name: indices for name, indices in found.items() if indices}

    def _field(self, key: str) -> _Affine:
        found = self._obs[self._keys.index(key)]
        assert isinstance(found, _Affine)
        return found

    def normalize_obs(self, obs: Obs) -> dict[str, Tensor]:
        """Normalise observations of shape ``(..., *shape)`` by key; float32, images included.

        Raises:
            UsageError: for a key without statistics, a missing key, or another shape or type.
        """
        if set(obs) != set(self._keys):
            unknown = sorted(set(obs) - set(self._keys))
            missing = sorted(set(self._keys) - set(obs))
            raise UsageError(
                f"Normalizer: observation keys {unknown} have no statistics and {missing} are "
                f"missing; known keys: {', '.join(self._keys)}"
            )
        return {key: self._field(key).normalize(obs[key]) for key in self._keys}

    def denormalize_obs(self, obs: Obs) -> dict[str, Tensor]:
        """Return normalised observations ``(..., *shape)`` by key in physical units.

        Raises:
            UsageError: for a key without statistics.
        """
        unknown = sorted(set(obs) - set(self._keys))
        if unknown:
            raise UsageError(
                f"Normalizer: observation keys {unknown} have no statistics; known keys: "
                f"{', '.join(self._keys)}"
            )
        return {key: self._field(key).denormalize(value) for key, value in obs.items()}

    def normalize_action(self, action: Tensor) -> Tensor:
        """Normalise actions of shape ``(..., action_dim)``."""
        return self._action.normalize(action)

    def denormalize_action(self, action: Tensor) -> Tensor:
        """Return actions of shape ``(..., action_dim)`` in physical units."""
        return self._action.denormalize(action)

    def to_json(self) -> dict[str, Any]:
        """Return plain containers; ``from_json`` makes the same numbers of them, bit for bit."""
        return {
            "action": self._action.stats.to_json(),
            "obs": {key: self._field(key).stats.to_json() for key in self._keys},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Normalizer:
        """Rebuild a normalizer from ``to_json``.

        Raises:
            CheckpointError: when entries are missing, inconsistent or not finite.
        """
        try:
            return cls(
                action=FieldStats.from_json(data["action"]),
                obs={str(key): FieldStats.from_json(value) for key, value in data["obs"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"normalizer statistics are damaged ({type(error).__name__}: {error}); "
                "the checkpoint was not written by this library, or was edited"
            ) from error
