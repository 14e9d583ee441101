"""Settings that depend on the task, inside configuration files.

``${by_task:${data.task},{otherwise: 1.0, antmaze: 2.0, antmaze-umaze: 0.5}}`` is the entry whose
key is the longest beginning of the task's name (without a folder such as ``d4rl/``), or that of
``otherwise``. Tables of published settings so stand beside the setting, in ``configs/method/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from genpolicy.errors import UsageError

__all__ = ["by_task", "register_resolvers"]

_OTHERWISE = "otherwise"


def by_task(task: str, table: Mapping[str, Any]) -> Any:
    """Return the entry of ``table`` for a task.

    Args:
        task: for example ``d4rl/antmaze-umaze-diverse``.
        table: values by beginnings of names, and ``otherwise``.

    Raises:
        UsageError: when no entry is for the task.
    """
    name = task.rpartition("/")[2]
    fitting = [key for key in table if name.startswith(key)]
    key = max(fitting, key=len, default=_OTHERWISE)
    if key not in table:
        raise UsageError(
            f"there is no setting for the task {task!r} among {', '.join(map(str, table))}; "
            "set it on the command line"
        )
    return table[key]


def register_resolvers() -> None:
    """Make ``by_task`` known to OmegaConf."""
    OmegaConf.register_new_resolver("by_task", by_task, replace=True)
