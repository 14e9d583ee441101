"""Training with interaction: episodes are collected between updates and added to the replay buffer.

::

    before update k (from 0), while  n_steps < warmup_steps + (k + 1)/updates_per_step:
        collect n_envs whole episodes with the weights of that moment; add them to the buffer

Episodes are collected whole, by the engine that evaluates: an episode is then a function of its
seed and the weights it began with, nothing of a simulator ever has to be saved, and a run that is
killed between two saves collects the same episodes again. The price is a policy that does not
change within an episode. What was collected is part of the training state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from genpolicy.algorithms.critics import acting_policy
from genpolicy.data.datamodule import WindowDataModule
from genpolicy.data.episodes import DataSource, Episodes
from genpolicy.errors import SimulatorError, UsageError, nearest
from genpolicy.evaluation.recorded_env import task_of_policy
from genpolicy.evaluation.rollout import Rollout, replay
from genpolicy.policies.exploration import ExploringPolicy
from genpolicy.seeding import derive_seed
from genpolicy.training.callbacks import RecordMetrics
from genpolicy.training.measure import to_device

__all__ = ["Interaction", "OnlineSettings"]

WarmupActions: TypeAlias = Literal["policy", "uniform"]


@dataclass(frozen=True, kw_only=True)
class OnlineSettings:
    """How a run interacts; ``configs/online/default.yaml`` says what each entry means.

    Raises:
        UsageError: for values out of range.
    """

    task: str
    offline_fraction: float | None = 0.5
    updates_per_step: float = 1.0
    warmup_steps: int = 1000
    warmup_actions: WarmupActions = "policy"
    noise_std: float = 0.1
    n_candidates: int | None = None
    n_envs: int = 1

    def __post_init__(self) -> None:
        if self.warmup_actions not in get_args(WarmupActions):
            raise UsageError(
                f"online.warmup_actions is {self.warmup_actions!r}; "
                f"{nearest(self.warmup_actions, get_args(WarmupActions))}"
            )
        if not self.updates_per_step > 0.0 or self.warmup_steps < 0 or self.n_envs < 1:
            raise UsageError(
                f"online: updates_per_step is {self.updates_per_step}, warmup_steps "
                f"{self.warmup_steps} and n_envs {self.n_envs}, expected above 0, at least 0 and 1"
            )

    def steps_before(self, update: int) -> float:
        """Return the environment steps that are collected before an update, counted from 0."""
        return self.warmup_steps + (update + 1) / self.updates_per_step


class Interaction(Callback):
    """Collects episodes when they are due, and fills the step's batch from the buffer.

    Args:
        settings: how to interact.
        data: whose replay buffer is filled.
        seed: the run's seed; names the episodes.
        record: where figures of the episodes are logged.

    Attributes:
        n_episodes: episodes begun so far.
        n_steps: environment steps in the buffer.

    Raises:
        UsageError: for settings or a task that do not fit.
    """

    def __init__(
        self,
        settings: OnlineSettings,
        data: WindowDataModule,
        *,
        seed: int,
        record: RecordMetrics,
    ) -> None:
        self.settings, self.data, self.seed, self.record = settings, data, seed, record
        self.buffer = data.start_replay(offline_fraction=settings.offline_fraction)
        self.task = task_of_policy(
            settings.task, trained_on=data.task, env=data.episodes.source.env
        )
        self.n_episodes = self.n_steps = 0
        self._figures: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the counters and every episode that was collected."""
        added = self.buffer.added
        return {
            "n_episodes": self.n_episodes,
            "figures": dict(self._figures),
            "episodes": None if added is None else _tensors_of(added),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.n_episodes, self._figures = state_dict["n_episodes"], dict(state_dict["figures"])
        if state_dict["episodes"] is not None:
            self._add(_episodes_of(state_dict["episodes"], self._source))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what interaction does not support.

        Raises:
            UsageError: for several processes, or accumulated gradients.
        """
        if trainer.world_size > 1 or trainer.accumulate_grad_batches != 1:
            raise UsageError(
                f"online: {trainer.world_size} processes with accumulate_grad_batches "
                f"{trainer.accumulate_grad_batches}, expected 1 and 1; use trainer.devices=1"
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Collect what is due before this update, then fill its batch."""
        while self.n_steps < self.settings.steps_before(trainer.global_step):
            self._collect(pl_module)
        batch.update(to_device(self.buffer.batch(self.data.next_step()), pl_module.device))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record figures of what was collected, with those of the step."""
        if self._figures:
            self._figures, figures = {}, self._figures
            self.record.add(trainer, figures)

    @property
    def _source(self) -> DataSource:
        return DataSource(f"{self.settings.task} (interaction)", "generated")

    def _add(self, episodes: Episodes) -> None:
        self.buffer.add(episodes)
        self.n_steps += episodes.n_steps

    def _collect(self, module: LightningModule) -> None:
        """Run the next episodes to their ends and add them to the buffer.

        Raises:
            SimulatorError: when none of them can be used.
        """
        settings = self.settings
        seeds = [
            derive_seed(self.seed, "interaction", self.n_episodes + i) % 2**31
            for i in range(settings.n_envs)
        ]
        is_warming_up = self.n_steps < settings.warmup_steps
        was_training = module.training
        module.eval()
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                policy = ExploringPolicy(
                    acting_policy(module, n_candidates=settings.n_candidates),
                    noise_std=settings.noise_std,
                    uniform=is_warming_up and settings.warmup_actions == "uniform",
                )
                rollouts = replay(policy, self.task, seeds=seeds, n_envs=settings.n_envs)
        finally:
            module.train(was_training)
        whole = [r for r in rollouts if not r.record.tags and r.record.n_steps > 0]
        if not whole:
            tags = [r.record.tags for r in rollouts]
            raise SimulatorError(
                f"online: the episodes of seeds {seeds} in {settings.task} have values that are "
                f"not finite ({tags}); check the environment"
            )
        self.n_episodes += settings.n_envs
        self._add(_recorded(whole, list(self.data.spec.obs_shapes), self._source))
        names = sorted(whole[0].record.metrics)
        self._figures = {
            f"online/{name}": float(np.mean([r.record.metrics[name] for r in whole]))
            for name in names
        } | {"online/n_steps": float(self.n_steps), "online/n_episodes": float(self.n_episodes)}


def _recorded(rollouts: list[Rollout], keys: list[str], source: DataSource) -> Episodes:
    """Return rollouts as episodes, with the two ways they end kept apart."""
    ends = np.cumsum([len(r.actions) for r in rollouts])
    over = np.zeros(int(ends[-1]), bool)
    over[ends - 1] = [r.record.terminated for r in rollouts]
    return Episodes.from_arrays(
        obs={key: np.concatenate([r.obs[key][:-1] for r in rollouts]) for key in keys},
        actions=np.concatenate([r.actions for r in rollouts]),
        rewards=np.concatenate([r.rewards for r in rollouts]),
        terminated=over,
        episode_ends=ends,
        final_obs={key: np.stack([r.obs[key][-1] for r in rollouts]) for key in keys},
        source=source,
    )


_ARRAYS = ("actions", "rewards", "terminated", "truncated", "episode_ends")


def _tensors_of(episodes: Episodes) -> dict[str, Any]:
    """Return episodes as tensors in plain containers."""
    final = episodes.final_obs
    assert final is not None
    return {
        **{name: torch.as_tensor(getattr(episodes, name)) for name in _ARRAYS},
        "obs": {key: torch.as_tensor(value) for key, value in episodes.obs.items()},
        "final_obs": {key: torch.as_tensor(value) for key, value in final.items()},
    }


def _episodes_of(tensors: Mapping[str, Any], source: DataSource) -> Episodes:
    """Rebuild what ``_tensors_of`` took apart, checked as data that is read."""
    return Episodes.from_arrays(
        **{name: tensors[name].numpy() for name in _ARRAYS},
        obs={key: value.numpy() for key, value in tensors["obs"].items()},
        final_obs={key: value.numpy() for key, value in tensors["final_obs"].items()},
        source=source,
    )
