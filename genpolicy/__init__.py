"""Composable diffusion, flow and consistency policies for imitation learning and offline RL.

::

    import genpolicy

    policy = genpolicy.load_policy("runs/pusht_flow/seed-0/last")
    chunk = policy.sample(obs, seeds=[0])          # (batch, horizon, action), physical units
    result = genpolicy.evaluate(policy, "pusht", seeds=range(100, 150))

The names below load on first use, so that ``import genpolicy`` costs milliseconds and needs neither
a simulator, nor Lightning, nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genpolicy import compose
    from genpolicy.evaluation import evaluate
    from genpolicy.policies import load_policy
    from genpolicy.shapes import TaskSpec

__version__ = "0.1.0"

__all__ = ["TaskSpec", "__version__", "compose", "evaluate", "load_policy"]

_SUBMODULES = ("compose",)
_HOME_OF = {
    "TaskSpec": "genpolicy.shapes",
    "evaluate": "genpolicy.evaluation",
    "load_policy": "genpolicy.policies",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use and keep it."""
    if name in _SUBMODULES:
        return importlib.import_module(f"genpolicy.{name}")
    if name not in _HOME_OF:
        from genpolicy.errors import nearest

        raise AttributeError(f"genpolicy has no {name!r}; {nearest(name, __all__)}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted(__all__)
