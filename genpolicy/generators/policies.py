"""Policies that were not learned here: what collects data, and uniform noise.

They bound what a learned policy can be expected to reach on a task, from above and from below.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.envs import make_env
from genpolicy.envs.maze2d import PointMass
from genpolicy.errors import UsageError
from genpolicy.generators.actors import load_actor
from genpolicy.generators.waypoint import WaypointController
from genpolicy.policies.base import check_obs
from genpolicy.seeding import fresh_seeds
from genpolicy.shapes import Obs, TaskSpec

__all__ = ["ActorPolicy", "ControllerPolicy", "RandomPolicy"]


class ControllerPolicy:
    """The waypoint controller as a policy for the mazes.

    It plans from the current state at every call. A chunk longer than 1 is what the controller
    would do in a simulation of its own that starts there; executed without disturbance it is what
    asking at every step would give, up to the rounding of observations to float32.

    Args:
        task: ``"maze2d-umaze"``, ``"maze2d-medium"`` or ``"maze2d-large"``.
        horizon: actions in a chunk, at least 1; all of them are executed.
        noise_std: standard deviation of noise added to each action before clipping, as in
            collected data; row ``i`` draws it from ``seeds[i]``.
        p_gain: gain of the controller.
        d_gain: damping of the controller.

    Raises:
        UsageError: for an unknown maze or settings out of range.
    """

    spec: TaskSpec

    def __init__(
        self,
        *,
        task: str,
        horizon: int = 1,
        noise_std: float = 0.0,
        p_gain: float = 10.0,
        d_gain: float = 1.0,
    ) -> None:
        if noise_std < 0:
            raise UsageError(f"noise_std is {noise_std}, expected at least 0")
        self.spec = TaskSpec(
            task=task,
            obs_shapes={"goal": (2,), "state": (4,)},
            action_dim=2,
            n_obs_steps=1,
            horizon=horizon,
            n_action_steps=horizon,
        )
        self.noise_std = noise_std
        self._controller = WaypointController(task=task, p_gain=p_gain, d_gain=d_gain)
        self._point = PointMass(task=task)

    def sample(
        self, obs: Obs, *, seeds: Sequence[int] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """Return the controller's next actions, ``(batch, horizon, 2)`` in [-1, 1].

        Args:
            obs: ``state`` (batch, 1, 4) and ``goal`` (batch, 1, 2), in m and m/s.
            seeds: one per row for the noise; None draws fresh ones.

        Raises:
            UsageError: for observations of other shapes, or a goal inside a wall.
        """
        n_rows = check_obs(obs, self.spec, seeds, who="ControllerPolicy")
        states = obs["state"][:, -1].double().cpu().numpy()
        goals = obs["goal"][:, -1].double().cpu().numpy()
        chunk = np.empty((n_rows, self.spec.horizon, 2))
        noise = np.zeros_like(chunk)
        if self.noise_std > 0:
            for row, seed in enumerate(fresh_seeds(n_rows) if seeds is None else seeds):
                draw = np.random.default_rng(seed).standard_normal(chunk.shape[1:])
                noise[row] = self.noise_std * draw
        for row in range(n_rows):
            state = states[row]
            for k in range(self.spec.horizon):
                if k == 1:
                    self._point.set_state(states[row])
                if k > 0:
                    state = self._point.step(chunk[row, k - 1])
                action = self._controller.action(state, goals[row]) + noise[row, k]
                chunk[row, k] = np.clip(action, -1.0, 1.0)
        return torch.from_numpy(chunk).to(obs["state"])


class ActorPolicy:
    """A policy of others that regenerated data was made with (``genpolicy.generators.actors``).

    Args:
        task: a D4RL task whose observation is ``state``.
        path: its file of arrays.
        deterministic: take the mode; otherwise row ``i`` draws its action from ``seeds[i]``.

    Raises:
        DataError: for a file that is no such policy.
        UsageError: for a policy that has to know the step of the episode.
    """

    spec: TaskSpec

    def __init__(self, *, task: str, path: str | Path, deterministic: bool = False) -> None:
        self._actor, digest = load_actor(path)
        if self._actor.needs_time:
            raise UsageError(
                f"{path} depends on the step of the episode, which policies do not see"
            )
        self.actor_sha256 = digest
        self.deterministic = deterministic
        self.spec = TaskSpec(
            task=task,
            obs_shapes={"state": (self._actor.obs_dim,)},
            action_dim=self._actor.action_dim,
            n_obs_steps=1,
            horizon=1,
            n_action_steps=1,
        )

    def sample(
        self, obs: Obs, *, seeds: Sequence[int] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """Return one action a row, ``(batch, 1, action)`` in [-1, 1].

        Args:
            obs: ``state`` (batch, 1, obs).
            seeds: one per row for the draws; None draws fresh ones.

        Raises:
            UsageError: for observations of other shapes.
        """
        n_rows = check_obs(obs, self.spec, seeds, who="ActorPolicy")
        states = obs["state"][:, -1].cpu().numpy()
        chunk = np.empty((n_rows, 1, self.spec.action_dim), dtype=np.float32)
        for row, seed in enumerate(fresh_seeds(n_rows) if seeds is None else seeds):
            rng = None if self.deterministic else np.random.default_rng(seed)
            chunk[row, 0] = self._actor.action(states[row], rng=rng)
        return torch.from_numpy(chunk).to(obs["state"].device)


class RandomPolicy:
    """Actions drawn uniformly from the action space: the lower reference of a task.

    Args:
        task: any task that has an environment.
        horizon: actions in a chunk, at least 1; all of them are executed.

    Raises:
        UsageError: for an unknown task.
        SimulatorError: when the task's simulator is not installed.
    """

    spec: TaskSpec

    def __init__(self, *, task: str, horizon: int = 1) -> None:
        env = make_env(task)
        shapes = {key: space.shape or () for key, space in env.observation_space.spaces.items()}
        self._low, self._high = env.action_space.low, env.action_space.high
        env.close()
        self.spec = TaskSpec(
            task=task,
            obs_shapes=shapes,
            action_dim=len(self._low),
            n_obs_steps=1,
            horizon=horizon,
            n_action_steps=horizon,
        )

    def sample(
        self, obs: Obs, *, seeds: Sequence[int] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """Return uniform actions, ``(batch, horizon, action)``; row ``i`` is decided by its seed.

        Args:
            obs: only its number of rows matters.
            seeds: one per row; None draws fresh ones.

        Raises:
            UsageError: for observations of other shapes.
        """
        n_rows = check_obs(obs, self.spec, seeds, who="RandomPolicy")
        shape = (self.spec.horizon, self.spec.action_dim)
        rows = [
            np.random.default_rng(seed).uniform(self._low, self._high, shape)
            for seed in (fresh_seeds(n_rows) if seeds is None else seeds)
        ]
        like = next(iter(obs.values()))
        chunk = np.stack(rows) if rows else np.empty((0, *shape))
        return torch.from_numpy(chunk).to(device=like.device, dtype=torch.float32)
