"""Robot tasks for the tutorials: chunks of the shipped policies on Push-T, paths through a maze."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from toys import FAST, show

import genpolicy as gp
from genpolicy.envs import maze_layout
from genpolicy.envs.registry import make_env
from genpolicy.errors import GenpolicyError
from genpolicy.evaluation import replay
from genpolicy.evaluation.action_plots import draw_chunk_paths
from genpolicy.evaluation.plots import draw_trajectories
from genpolicy.sampling import Sampler

N_CHUNKS = 8 if FAST else 24

STATE = (100.0, 256.0, 300.0, 256.0, -0.785)
"""Agent x, y, block x, y (pixels), block angle (rad): the T can be passed above and below."""


@dataclass(frozen=True)
class Scene:
    """One situation on the table: the same observation in every row, and a picture of it."""

    obs: dict[str, Tensor]
    position: np.ndarray
    picture: np.ndarray


@functools.cache
def scene() -> Scene | None:
    """Return the situation, or None, with the reason printed, where gym-pusht is not installed."""
    try:
        env = make_env("pusht", render_mode="rgb_array", render_size=192)
    except (GenpolicyError, ImportError) as error:
        print(f"Push-T is left out: {error}")
        return None
    first, _ = env.reset(seed=0, options={"state": np.array(STATE)})
    picture = env.render()
    env.close()
    obs = {
        key: torch.as_tensor(value)[None, None].expand(N_CHUNKS, 2, *value.shape)
        for key, value in first.items()
    }
    return Scene(obs=obs, position=np.asarray(first["agent_pos"]), picture=picture)


@functools.cache
def policy(kind: str) -> Any:
    """Return a shipped policy: ``"flow"``, ``"diffusion"`` or ``"consistency"``.

    They are shipped with half the noise to start from, which makes them decide for one way. Here
    all of what they learned is to be seen: noise of full size.
    """
    return gp.load_policy(f"pusht-{kind}").with_sampler(init_scale=1.0)


def stochastic(grid: str = "uniform") -> Sampler:
    """Return the ancestral sampler; the grid ``log_snr`` ends in a short step."""
    return Sampler(rule="ddpm", n_steps=20 if FAST else 40, grid=grid)


def fine() -> Sampler:
    """Return a deterministic sampler with small steps."""
    return Sampler(rule="ddim", n_steps=40 if FAST else 100)


def depth_of(cost: Any, chunks: np.ndarray, situation: Scene) -> np.ndarray:
    """Return the depth of each chunk's worst violation, in pixels."""
    return cost.violation(torch.tensor(chunks), situation.obs).numpy()


def show_chunks(situation: Scene, policies: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Draw chunks of several policies over the table, print their spread, and return them."""
    chunks = {
        title: found.sample(situation.obs, seeds=range(N_CHUNKS)).numpy()
        for title, found in policies.items()
    }
    for title, chunk in chunks.items():
        spread = chunk[:, -1].std(0).mean()
        print(f"{title:<22} ends of the chunks spread by {spread:5.1f} pixels")
    figure = draw_chunk_paths(
        chunks,
        position=situation.position,
        limits=np.array([[0.0, 0.0], [512.0, 512.0]]),
        background=situation.picture,
    )
    show(figure)
    return chunks


def show_paths(policies: Mapping[str, Any], n_episodes: int = 20) -> None:
    """Draw episodes of maze2d-umaze, and print how many steps they spend at the target."""
    n = 4 if FAST else n_episodes
    paths: dict[str, list[tuple[np.ndarray, bool]]] = {}
    for title, found in policies.items():
        rollouts = replay(found, "maze2d-umaze", seeds=range(n), n_envs=n)
        paths[title] = [
            (r.obs["state"][:, :2], bool(r.record.metrics["success"])) for r in rollouts
        ]
        there = float(np.mean([r.record.metrics["steps_at_goal"] for r in rollouts]))
        print(f"{title:<22} {there:5.1f} of 300 steps at the target, {n} episodes")
    show(draw_trajectories(maze_layout("maze2d-umaze"), paths))
