"""Figures of the averaged policy at a save: validation loss and, where asked for, rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from genpolicy.algorithms.critics import acting_policy
from genpolicy.data.datamodule import WindowDataModule
from genpolicy.seeding import generator_from

__all__ = ["Measure", "to_device"]


class Measure:
    """Callable that measures a LightningModule holding the averaged weights.

    Args:
        evaluation: ``every`` (steps, or None for no rollouts), ``n_episodes``, ``first_seed``,
            ``n_envs`` and ``task``.
        data: source of validation batches.
        seed: the run's seed; the same noise is used at every save.
    """

    def __init__(self, evaluation: Mapping[str, Any], data: WindowDataModule, *, seed: int) -> None:
        self.evaluation, self.data, self.seed = dict(evaluation), data, seed

    def __call__(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """Return figures by name; the module's mode and torch's random state are left as found."""
        if not trainer.is_global_zero:
            return {}
        was_training = module.training
        module.eval()
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                figures = self._validation(module)
                every = self.evaluation.get("every")
                step = trainer.global_step
                if every and (step % int(every) == 0 or step == trainer.max_steps):
                    figures |= self._rollouts(module)
        finally:
            module.train(was_training)
        return figures

    def _validation(self, module: Any) -> dict[str, float]:
        """Return the mean loss over the validation batches; empty without a validation split."""
        generator = generator_from(self.seed, "validation", device=module.device)
        total, n = 0.0, 0
        for batch in self.data.validation_batches():
            moved = to_device(batch, module.device)
            loss, _ = module.loss(moved, generator)
            rows = len(moved["action"])
            total, n = total + float(loss) * rows, n + rows
        return {"val/loss": total / n} if n else {}

    def _rollouts(self, module: Any) -> dict[str, float]:
        from genpolicy.evaluation import evaluate
        from genpolicy.evaluation.recorded_env import task_of_policy

        task = task_of_policy(
            self.evaluation["task"],
            trained_on=self.data.task,
            env=self.data.episodes.source.env,
            allow_mismatch=True,
        )
        first = int(self.evaluation["first_seed"])
        result = evaluate(
            acting_policy(module),
            task,
            seeds=range(first, first + int(self.evaluation["n_episodes"])),
            n_envs=int(self.evaluation["n_envs"]),
            progress=False,
        )
        return {f"eval/{name}": result.mean(name) for name in result.metric_names}


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch, nested in mappings, with its tensors on a device."""
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    return batch.to(device) if isinstance(batch, torch.Tensor) else batch
