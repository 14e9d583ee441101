"""A stochastic task and a stochastic policy that need no simulator and no trained weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from genpolicy.evaluation.task import EvaluationTask
from genpolicy.shapes import TaskSpec

SPEC = TaskSpec(
    task="walk",
    obs_shapes={"state": (3,)},
    action_dim=2,
    n_obs_steps=2,
    horizon=6,
    n_action_steps=3,
)


class WalkEnv:
    """A noisy walk in the plane whose length (2 to 17 steps) depends on the seed."""

    def __init__(self, *, fault: Callable[[int, int], Any] = lambda seed, step: None) -> None:
        self.fault = fault

    def reset(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        self.seed, self.step_index, self.total = seed, 0, 0.0
        self.rng = np.random.default_rng(seed)
        self.length = int(self.rng.integers(2, 18))
        self.position = self.rng.normal(size=2)
        return self._obs(), self._info()

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert (np.abs(action) <= 1.0).all()
        self.step_index += 1
        self.position = self.position + 0.1 * action + 0.01 * self.rng.normal(size=2)
        reward = -float(np.hypot(*self.position))
        self.total += reward
        is_near = bool(np.hypot(*self.position) < 0.2)
        return self._obs(), reward, is_near, self.step_index >= self.length, self._info()

    def _obs(self) -> dict[str, np.ndarray]:
        obs = np.array([*self.position, self.step_index], dtype=np.float32)
        fault = self.fault(self.seed, self.step_index)
        if isinstance(fault, Exception):
            raise fault
        return {"state": obs if fault is None else np.full(3, fault, dtype=np.float32)}

    def _info(self) -> dict[str, Any]:
        near = float(np.hypot(*self.position) < 0.2)
        return {"metrics": {"success": near, "closeness": -float(np.hypot(*self.position))}}


class WalkSlots:
    """Several walks behind the interface of ``SeededVectorEnv``."""

    observation_space = spaces.Dict({"state": spaces.Box(-np.inf, np.inf, (3,), np.float32)})
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, n_envs: int, make: Callable[[], WalkEnv]) -> None:
        self.n_envs = n_envs
        self.envs = [make() for _ in range(n_envs)]
        self.obs = np.zeros((n_envs, 3), dtype=np.float32)
        self.is_closed = False

    def reset(self, indices: Sequence[int], seeds: Sequence[int]) -> tuple[Any, list[Any]]:
        infos = []
        for i, seed in zip(indices, seeds, strict=True):
            obs, info = self.envs[i].reset(seed)
            self.obs[i] = obs["state"]
            infos.append(info)
        return {"state": self.obs.copy()}, infos

    def step(self, actions: np.ndarray, active: np.ndarray) -> tuple[Any, ...]:
        rewards = np.zeros(self.n_envs)
        ends = np.zeros((2, self.n_envs), dtype=bool)
        infos: list[dict[str, Any]] = [{} for _ in range(self.n_envs)]
        for i in np.flatnonzero(active):
            obs, rewards[i], ends[0, i], ends[1, i], infos[i] = self.envs[i].step(actions[i])
            self.obs[i] = obs["state"]
        return {"state": self.obs.copy()}, rewards, ends[0], ends[1], infos

    def render(self) -> list[np.ndarray]:
        pictures = []
        for row in self.obs:
            picture = np.full((31, 47, 3), 255, dtype=np.uint8)
            x, y = (np.clip(row[:2] * 5 + 15, 0, 30)).astype(int)
            picture[x, y] = (0, 0, 200)
            pictures.append(picture)
        return pictures

    def close(self) -> None:
        self.is_closed = True


class NoisyPolicy:
    """Walks towards the origin with noise that depends on the row's seed alone."""

    def __init__(self, *, spec: TaskSpec = SPEC, scale: float = 1.0, offset: float = 0.0) -> None:
        self.spec = spec
        self.scale = scale
        self.offset = offset
        self.batches: list[int] = []

    def sample(self, obs: Any, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        state = obs["state"]
        assert seeds is not None
        assert state.shape[1:] == (self.spec.n_obs_steps, 3)
        self.batches.append(len(state))
        rows = []
        for row, seed in zip(state, seeds, strict=True):
            noise = torch.randn(self.spec.horizon, 2, generator=torch.Generator().manual_seed(seed))
            drift = row[-1, :2] - row[0, :2]
            rows.append(-row[-1, :2] - drift + self.scale * noise + self.offset)
        return torch.stack(rows)


def make_task(
    *, fault: Callable[[int, int], Any] = lambda seed, step: None, **fields: Any
) -> EvaluationTask:
    settings: dict[str, Any] = {
        "name": "walk",
        "primary": "closeness",
        "simulators": {"walk": "1.0"},
        **fields,
    }
    return EvaluationTask(
        make_slots=lambda n_envs, workers: WalkSlots(n_envs, lambda: WalkEnv(fault=fault)),
        **settings,
    )


@pytest.fixture
def walk() -> SimpleNamespace:
    return SimpleNamespace(
        task=make_task, policy=NoisyPolicy, spec=SPEC, slots=WalkSlots, env=WalkEnv
    )
