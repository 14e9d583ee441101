"""Encoders from their configuration, with the sizes that they ask for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from genpolicy.config import build, resolve_target
from genpolicy.shapes import TaskSpec

__all__ = ["build_encoder"]


def build_encoder(config: Mapping[str, Any], spec: TaskSpec) -> Any:
    """Build an encoder for a task; one that models the task's dynamics gets ``action_dim`` too.

    Args:
        config: with a ``_target_``.
        spec: what the policy or critic sees.

    Raises:
        UsageError: for a target or settings that do not exist.
    """
    taken = inspect.signature(resolve_target(str(config["_target_"]))).parameters
    sizes: dict[str, Any] = {"obs_shapes": spec.obs_shapes}
    if "action_dim" in taken:
        sizes["action_dim"] = spec.action_dim
    return build(config, **sizes)
