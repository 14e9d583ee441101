"""A file's recipe of a robosuite environment (``env_args``), brought to robosuite 1.5.

Importing this module loads no simulator.

What releases before 1.5 wrote differs in these points, which ``modern_env_args`` converts:

- ``controller_configs`` of one arm (``{"type": "OSC_POSE", ...}``) instead of one for the robot,
- ``control_delta`` instead of ``input_type``, ``damping`` instead of ``damping_ratio``,
- deltas in the world's frame; 1.5 would take them in the robot's (``input_ref_frame``),
- ``env_configuration`` ``"single-arm-opposed"`` instead of ``"opposed"``,
- the full computation of forces in every step (``lite_physics=False``).

Files also mix them: a new layout with ``control_delta`` is converted where it is old.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from genpolicy.errors import SimulatorError

__all__ = ["absolute_env_args", "env_args_differences", "modern_env_args"]

_ROBOSUITE = 1  # robomimic's number for the kind of environment
_CONFIGURATIONS = {
    "single-arm-opposed": "opposed",
    "single-arm-parallel": "parallel",
    "bimanual": "single-robot",
}
_NOT_COMPARED = ("has_renderer", "has_offscreen_renderer", "render_gpu_device_id", "horizon")
_IMAGES = ("use_camera_obs", "camera_names", "camera_heights", "camera_widths", "camera_depths")


def modern_env_args(env_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``env_args`` as robosuite 1.5 wants them; those that are so already are unchanged.

    Args:
        env_args: ``env_name``, ``env_kwargs`` and mostly ``env_version`` and ``type``.

    Raises:
        SimulatorError: for another simulator's, or without robots and controllers.
    """
    if env_args.get("type", _ROBOSUITE) != _ROBOSUITE:
        raise SimulatorError(
            f"env_args is of type {env_args['type']}, expected {_ROBOSUITE} (robosuite); only "
            "robosuite's environments can be restored"
        )
    found = copy.deepcopy(dict(env_args))
    kwargs: dict[str, Any] = dict(found.get("env_kwargs") or {})
    robots = kwargs.get("robots")
    controllers = kwargs.get("controller_configs")
    if not robots or not controllers:
        raise SimulatorError(
            f"env_args of {found.get('env_name')} have robots {robots!r} and controller_configs "
            f"{controllers!r}; expected both, as robomimic stores them"
        )
    names = [robots] if isinstance(robots, str) else list(robots)
    given = controllers if isinstance(controllers, list) else [controllers] * len(names)
    modern = [_modern_controller(config) for config in given]
    kwargs["controller_configs"] = modern if isinstance(controllers, list) else modern[0]
    is_old = _is_before_1_5(found) or any("body_parts" not in config for config in given)
    if is_old:
        kwargs.setdefault("lite_physics", False)
    layout = kwargs.get("env_configuration")
    if layout in _CONFIGURATIONS:
        kwargs["env_configuration"] = _CONFIGURATIONS[layout]
    found["env_kwargs"] = kwargs
    return found


def absolute_env_args(env_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return modern ``env_args`` whose arms take absolute poses in the world's frame."""
    found = modern_env_args(env_args)
    controllers = found["env_kwargs"]["controller_configs"]
    for config in controllers if isinstance(controllers, list) else [controllers]:
        for part in config["body_parts"].values():
            if str(part.get("type", "")).startswith("OSC_"):
                part |= {"input_type": "absolute", "input_ref_frame": "world"}
    return found


def env_args_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return how two environments differ in what decides an episode; empty when they agree.

    Settings of displays and images are not compared, and of versions the first two numbers.
    """
    one, other = modern_env_args(first), modern_env_args(second)
    texts = []
    if one["env_name"] != other["env_name"]:
        texts.append(f"environment {one['env_name']} and {other['env_name']}")
    versions = [str(args.get("env_version", "")) for args in (one, other)]
    if all(versions) and versions[0].split(".")[:2] != versions[1].split(".")[:2]:
        texts.append(f"robosuite {versions[0]} and {versions[1]}")
    kept = [
        {k: v for k, v in args["env_kwargs"].items() if k not in (*_NOT_COMPARED, *_IMAGES)}
        for args in (one, other)
    ]
    for kwargs in kept:
        listed = kwargs["controller_configs"]
        kwargs["controller_configs"] = listed if isinstance(listed, list) else [listed]
    for key in sorted(set(kept[0]) | set(kept[1])):
        a, b = (kwargs.get(key) for kwargs in kept)
        if a != b and not (key == "controller_configs" and len(_different(a, b)) == 0):
            shown = _different(a, b) if key == "controller_configs" else [f"{a!r} and {b!r}"]
            texts.append(f"{key}: {'; '.join(shown)}")
    return texts


def _different(first: Any, second: Any, where: str = "") -> list[str]:
    """Return the leaves in which two nested containers differ."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = sorted(set(first) | set(second))
        return [
            text
            for key in keys
            for text in _different(first.get(key), second.get(key), f"{where}.{key}".lstrip("."))
        ]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = zip(first, second, strict=True)
        return [t for i, (a, b) in enumerate(pairs) for t in _different(a, b, f"{where}[{i}]")]
    return [] if first == second else [f"{where} {first!r} and {second!r}"]


def _is_before_1_5(env_args: Mapping[str, Any]) -> bool:
    version = str(env_args.get("env_version") or "").split(".")
    try:
        return (int(version[0]), int(version[1])) < (1, 5)
    except (ValueError, IndexError):
        return False


def _modern_controller(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of one robot."""
    if "body_parts" in config:
        found = copy.deepcopy(dict(config))
    else:
        found = {"type": "BASIC", "body_parts": {"right": copy.deepcopy(dict(config))}}
    for part in found["body_parts"].values():
        if not str(part.get("type", "")).startswith("OSC_"):
            continue
        if "control_delta" in part or "body_parts" not in config:
            part.setdefault("input_ref_frame", "world")
        is_delta = part.pop("control_delta", True)
        part.setdefault("input_type", "delta" if is_delta else "absolute")
        for old, new in (("damping", "damping_ratio"), ("damping_limits", "damping_ratio_limits")):
            if old in part:
                part.setdefault(new, part.pop(old))
        part.setdefault("gripper", {"type": "GRIP"})
        part.setdefault("interpolation", None)
    return found
