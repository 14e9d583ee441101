"""Simulated tasks behind one interface: the seed of a reset decides the whole episode."""

from genpolicy.envs.registry import ENVS, EnvEntry, env_entry, make_env, make_vector_env

__all__ = ["ENVS", "EnvEntry", "env_entry", "make_env", "make_vector_env"]
