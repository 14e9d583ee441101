"""A task of one action, and Gaussian policies for it that aim beside the target: known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from genpolicy.data.normalizer import FieldStats, Normalizer
from genpolicy.evaluation import EvaluationTask
from genpolicy.paths import LinearPath
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.sampling import Sampler
from genpolicy.shapes import TaskSpec
from tests.oracles import GaussianDenoiser

SPEC = TaskSpec(
    task="aim",
    obs_shapes={"state": (3,)},
    action_dim=2,
    n_obs_steps=2,
    horizon=6,
    n_action_steps=3,
)


class Slots:
    """Episodes of one action, which is to cancel the position; the score is minus what is left."""

    observation_space = spaces.Dict({"state": spaces.Box(-np.inf, np.inf, (3,), np.float32)})
    action_space = spaces.Box(-8.0, 8.0, (2,), np.float32)

    def __init__(self, n_envs, on_reset):
        self.n_envs, self.on_reset = n_envs, on_reset
        self.state = np.zeros((n_envs, 3), dtype=np.float32)

    def reset(self, indices, seeds):
        for i, seed in zip(indices, seeds, strict=True):
            self.on_reset(seed)
            self.state[i] = np.random.default_rng(seed).normal(size=3)
        return {"state": self.state.copy()}, [self._info(9.0) for _ in indices]

    def step(self, actions, active):
        left = np.hypot(*(self.state[:, :2] + actions).T)
        yes = np.ones(self.n_envs, dtype=bool)
        obs = {"state": self.state.copy()}
        return obs, -left, yes, ~yes, [self._info(value) for value in left]

    @staticmethod
    def _info(left):
        metrics = {"success": float(left < 0.4), "closeness": -float(left)}
        return {"metrics": metrics}

    def close(self):
        pass


def aim(*, on_reset=lambda seed: None, primary="closeness"):
    return EvaluationTask(
        name="aim",
        make_slots=lambda n_envs, workers: Slots(n_envs, on_reset),
        primary=primary,
        simulators={"aim": "1.0"},
    )


class Aimer(DenoisingPolicy):
    """Aims beside the origin: actions ~ N(bias - position, std^2) exactly."""

    def __init__(self, bias=0.0, *, std=0.2, path=None, sampler=None):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([bias, 0.0]), requires_grad=False)
        unit = np.array([[-4.0] * 2, [4.0] * 2], dtype=np.float32)
        wide = np.array([[-4.0] * 3, [4.0] * 3], dtype=np.float32)
        self.normalizer = Normalizer(
            action=FieldStats.of(unit, "min_max"), obs={"state": FieldStats.of(wide, "min_max")}
        )
        self.spec, self.rows_per_block = SPEC, 20
        self.sampler = sampler or Sampler(rule="ddim", n_steps=2)
        self.std, self.own_path = std, path or LinearPath()

    def bind(self, obs):
        mean = (self.bias - obs["state"][:, -1, :2])[:, None] / 4.0
        mean = mean.expand(-1, self.spec.horizon, -1)
        return GaussianDenoiser(self.own_path, mean=mean, std=self.std / 4.0)

    @property
    def path(self):
        return self.own_path

    @property
    def kind(self):
        return "posterior_mean"

    def with_sampler(self, **changes):
        return Aimer(
            self.bias[0].item(),
            std=self.std,
            path=self.own_path,
            sampler=replace(self.sampler, **changes),
        )
