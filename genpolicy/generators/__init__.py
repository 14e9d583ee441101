"""Data and reference policies that need a simulator and no learning.

The names load on first use: a process that only collects data does not load the policies' networks.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genpolicy.generators.actors import Actor, load_actor
    from genpolicy.generators.d4rl import make_d4rl_data
    from genpolicy.generators.maze2d import collect_maze2d, make_maze2d
    from genpolicy.generators.policies import ActorPolicy, ControllerPolicy, RandomPolicy
    from genpolicy.generators.render import render_demos
    from genpolicy.generators.replay import replay_demos
    from genpolicy.generators.robomimic import make_robomimic
    from genpolicy.generators.waypoint import WaypointController

__all__ = [
    "Actor",
    "ActorPolicy",
    "ControllerPolicy",
    "RandomPolicy",
    "WaypointController",
    "collect_maze2d",
    "load_actor",
    "make_d4rl_data",
    "make_maze2d",
    "make_robomimic",
    "render_demos",
    "replay_demos",
]

_HOME_OF = {
    "Actor": "actors",
    "ActorPolicy": "policies",
    "ControllerPolicy": "policies",
    "RandomPolicy": "policies",
    "WaypointController": "waypoint",
    "collect_maze2d": "maze2d",
    "load_actor": "actors",
    "make_d4rl_data": "d4rl",
    "make_maze2d": "maze2d",
    "make_robomimic": "robomimic",
    "render_demos": "render",
    "replay_demos": "replay",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use and keep it."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
