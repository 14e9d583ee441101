"""Configurations from `configs/` and command-line overrides, with errors a user can act on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from genpolicy.cli.by_task import register_resolvers
from genpolicy.cli.configs_dir import configs_dir
from genpolicy.errors import UsageError, nearest

__all__ = ["canonical_name", "compose_config", "option_names"]

_ALIASES = {"dql": "diffusion_ql", "cac": "consistency_ac"}
"""Short names of algorithms and methods in papers."""

_BY_METHODS = {"method", "path", "network", "denoiser", "sampler", "critic"}
"""What a preset of a method chooses beside the algorithm."""


def option_names(group: str, *, root: Path | None = None) -> list[str]:
    """Return the options of a configuration group, for example ``option_names("experiment")``.

    Files that begin with an underscore are parts of others.
    """
    folder = (root or configs_dir()) / group
    return sorted(p.stem for p in folder.glob("*.yaml") if not p.stem.startswith("_"))


def canonical_name(group: str, option: str) -> str:
    """Return the name that configuration files use for an algorithm or method (``dql``)."""
    return _ALIASES.get(option, option) if group in ("algorithm", "method") else option


def compose_config(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``configs/NAME.yaml`` with ``overrides``, resolved, as plain containers.

    An algorithm that is named alone brings its preset along: with ``algorithm=A``, and neither a
    method nor what a preset chooses beside it (path, network, denoiser, sampler, critic),
    ``method=A`` is added where there is such a preset and the experiment is of another algorithm.

    Args:
        name: primary configuration, for example ``"train"``.
        overrides: Hydra overrides such as ``experiment=pusht_flow`` or ``trainer.max_steps=100``.

    Raises:
        UsageError: for overrides that do not parse, unknown keys or options (naming the nearest
            valid ones), and values that are missing or do not resolve.
    """
    root = configs_dir()
    register_resolvers()
    GlobalHydra.instance().clear()
    try:
        overrides = [_canonical(text) for text in overrides]
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise UsageError(f"cannot read the overrides {list(overrides)}: {_first(error)}") from error
    with initialize_config_dir(version_base="1.3", config_dir=str(root)):
        keys = [str(p.key_or_group) for p in parsed]
        _check_keys(name, [k for k in keys if k], root)
        try:
            if name == "train":
                overrides = [*overrides, *_implied_method(overrides)]
            config = compose(name, overrides=list(overrides))
            plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        except MissingConfigException as error:
            raise UsageError(_missing_option(error, parsed, root)) from error
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(_unknown_key(name, error, overrides) or _first(error)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _canonical(override: str) -> str:
    group, equals, option = override.partition("=")
    return f"{group}{equals}{canonical_name(group, option)}"


def _implied_method(overrides: Sequence[str]) -> list[str]:
    """Return the preset of an algorithm that is named alone; see ``compose_config``."""
    chosen = {group: option for group, _, option in (o.partition("=") for o in overrides)}
    asked = chosen.get("algorithm")
    if asked not in option_names("method") or chosen.keys() & _BY_METHODS:
        return []
    others = [o for o in overrides if not o.startswith("algorithm")]
    config = compose("train", overrides=others, return_hydra_config=True)
    return [] if config.hydra.runtime.choices.get("algorithm") == asked else [f"method={asked}"]


def _first(error: Exception) -> str:
    return " ".join(str(error).split("\n\n")[0].split())


def _groups(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir())


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from _leaves(value, prefix + key + ".")


def _check_keys(name: str, keys: Sequence[str], root: Path) -> None:
    """Refuse top-level names that are neither a group nor an entry of the primary configuration."""
    if not (root / f"{name}.yaml").is_file():
        options = [p.stem for p in root.glob("*.yaml")]
        raise UsageError(f"there is no configuration {name!r}; {nearest(name, options)}")
    base = OmegaConf.to_container(OmegaConf.load(root / f"{name}.yaml"))
    assert isinstance(base, dict)
    known = {str(k) for k in base if k != "defaults"} | set(_groups(root))
    for key in keys:
        top = key.lstrip("+~").split("@")[0].split("/")[0].split(".")[0]
        if top not in known and not key.startswith("+"):
            raise UsageError(f"unknown key {key!r}; {nearest(top, known)}")


def _unknown_key(name: str, error: Exception, overrides: Sequence[str]) -> str | None:
    """Return a message with the nearest keys when ``error`` is about a key that is not there."""
    found = re.match(r"Could not override '([^']+)'", str(error))
    if found is None:
        return None
    key = found.group(1)
    others = [o for o in overrides if o.lstrip("+~").split("=")[0] != key]
    plain = OmegaConf.to_container(compose(name, overrides=others))
    assert isinstance(plain, dict)
    known = list(_leaves({str(k): v for k, v in plain.items()}))
    return f"unknown key {key!r}; {nearest(key, known)}"


def _missing_option(error: MissingConfigException, parsed: Sequence[Any], root: Path) -> str:
    for override in parsed:
        group = str(override.key_or_group).lstrip("+~").split("@")[0]
        value = override.value()
        if (root / group).is_dir() and isinstance(value, str):
            options = option_names(group, root=root)
            if value not in options:
                return f"{group} has no option {value!r}; {nearest(value, options)}"
    return _first(error)
