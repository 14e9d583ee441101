"""Simulated tasks behind one interface: the seed of a reset decides the whole episode."""

from genpolicy.envs.mazes import MazeLayout, maze_layout
from genpolicy.envs.registry import ENVS, EnvEntry, env_entry, make_env, make_vector_env

__all__ = [
    "ENVS",
    "EnvEntry",
    "MazeLayout",
    "env_entry",
    "make_env",
    "make_vector_env",
    "maze_layout",
]
