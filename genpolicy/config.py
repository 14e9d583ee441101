"""Objects from plain containers: ``{"_target_": "genpolicy.paths.LinearPath", "t_max": 0.999}``.

The one builder of the library, used by the command line and by the checkpoint loader. It runs
nothing that is not on its allow-list: a target has to be a public class or function of one of the
component packages, defined there and listed in its ``__all__``. Keys that a constructor does not
have are refused with the nearest valid names.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genpolicy.errors import UsageError, nearest

__all__ = ["COMPONENT_PACKAGES", "build", "config_of", "resolve_target"]

COMPONENT_PACKAGES: tuple[str, ...] = (
    "genpolicy.paths",
    "genpolicy.denoisers",
    "genpolicy.networks",
    "genpolicy.composition",
    "genpolicy.sampling",
    "genpolicy.losses",
    "genpolicy.policies",
)
"""Packages whose public names a checkpoint may ask for."""


def resolve_target(
    target: str, *, packages: Sequence[str] = COMPONENT_PACKAGES
) -> Callable[..., Any]:
    """Return the class or function that a ``_target_`` names.

    Args:
        target: dotted name, ``package.Name`` or ``package.module.Name``.
        packages: packages that may be named.

    Raises:
        UsageError: for a name outside ``packages``, a private one, one that is not in the module's
            ``__all__``, or one that is no class or function.
    """
    module_name, _, name = target.rpartition(".")
    if not any(module_name == p or module_name.startswith(p + ".") for p in packages):
        raise UsageError(
            f"_target_ {target!r} is not allowed; it has to be in {', '.join(packages)}"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"_target_ {target!r}: there is no module {module_name!r}") from error
    public = getattr(module, "__all__", ())
    if name not in public:
        raise UsageError(f"_target_ {target!r} is unknown; {nearest(name, public)}")
    found = getattr(module, name)
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise UsageError(
            f"_target_ {target!r} is a {type(found).__name__}, not a class or function"
        )
    return found


def build(config: Any, *, packages: Sequence[str] = COMPONENT_PACKAGES, **extra: Any) -> Any:
    """Build the object that ``config`` describes, and the objects nested in it, innermost first.

    Args:
        config: plain containers. A mapping with ``_target_`` becomes a call; with
            ``_partial_: true`` a ``functools.partial``. Other mappings and lists are built entry
            by entry, everything else is returned as it is.
        packages: packages that targets may come from.
        extra: keyword arguments added to the outermost call; none repeats a key of ``config``.

    Raises:
        UsageError: for a target that is not allowed or an argument it does not take.
    """
    if isinstance(config, Mapping):
        values = {
            str(key): build(value, packages=packages)
            for key, value in config.items()
            if key not in ("_target_", "_partial_")
        }
        if "_target_" not in config:
            return values
        target = resolve_target(str(config["_target_"]), packages=packages)
        _check_arguments(target, {**values, **extra})
        if config.get("_partial_", False):
            return functools.partial(target, **values, **extra)
        return target(**values, **extra)
    if isinstance(config, (list, tuple)):
        return [build(entry, packages=packages) for entry in config]
    return config


def config_of(value: Any, *, packages: Sequence[str] = COMPONENT_PACKAGES) -> Any:
    """Return plain containers from which ``build`` makes an equal object.

    Numbers that are not finite, which JSON has none for, become text ("inf"): settings that may
    hold them accept both.

    Args:
        value: numbers, texts, containers, arrays, and dataclasses of ``packages``, nested.
        packages: packages that classes may come from.

    Raises:
        UsageError: for anything else, for example a function.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): config_of(entry, packages=packages) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [config_of(entry, packages=packages) for entry in value]
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    kind = type(value)
    target = f"{kind.__module__}.{kind.__qualname__}"
    try:
        known = dataclasses.is_dataclass(value) and resolve_target(target, packages=packages)
    except UsageError:
        known = False
    if known is not kind:
        name = getattr(value, "__qualname__", target)
        raise UsageError(
            f"{name} cannot be written to a file: only dataclasses of {', '.join(packages)} and "
            "plain values can; use one of those, or keep it in code"
        )
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {"_target_": target, **config_of(fields, packages=packages)}


def _check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    parameters = inspect.signature(target).parameters
    for key in arguments:
        if key not in parameters:
            raise UsageError(f"{target.__qualname__} takes no {key!r}; {nearest(key, parameters)}")
