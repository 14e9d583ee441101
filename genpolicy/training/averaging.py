"""Exponential moving average of the weights with Diffusion Policy's power warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from genpolicy.errors import UsageError

__all__ = ["PowerEMA", "power_decay"]


def power_decay(n_updates: int, *, power: float = 0.75, max_decay: float = 0.9999) -> float:
    """Return the averaging decay at an update: ``min(max_decay, 1 - (1 + s)^-power)``, s = n - 1.

    Args:
        n_updates: optimizer steps before this update, from 0. The decay is 0 for 0 and 1.
        power: 0.75 suits long runs (0.999 at 10,000 updates); 2/3 forgets faster.
        max_decay: upper limit, in [0, 1).

    Source: arXiv 2303.04137 (Diffusion Policy) and its public configuration.
    """
    s = max(0, n_updates - 1)
    return 0.0 if s == 0 else min(max_decay, 1.0 - (1.0 + s) ** -power)


class PowerEMA(WeightAveraging):
    """Lightning's weight averaging with ``power_decay``; buffers are copied, not averaged.

    Args:
        power: exponent of the warm-up, positive.
        max_decay: upper limit of the decay, in [0, 1).
        every: average after every this many optimizer steps.
    """

    def __init__(self, *, power: float = 0.75, max_decay: float = 0.9999, every: int = 1) -> None:
        if not 0.0 <= max_decay < 1.0 or power <= 0.0 or every < 1:
            raise UsageError(
                f"PowerEMA: got power {power}, max_decay {max_decay}, every {every}; expected "
                "power > 0, max_decay in [0, 1), every >= 1"
            )
        self.power, self.max_decay, self.every = power, max_decay, every
        super().__init__(use_buffers=False, multi_avg_fn=self._average)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Average after every ``every`` optimizer steps, never at epoch ends."""
        return step_idx is not None and (step_idx + 1) % self.every == 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """List parameters and buffers once: walking through the modules costs as much again."""
        averaged = self.averaged_module()
        self._parameters = list(averaged.parameters()), list(pl_module.parameters())
        self._buffers = list(averaged.buffers()), list(pl_module.buffers())

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average after an optimizer step that is due; the first time, copy."""
        model, step = self._average_model, trainer.global_step
        if model is None or step <= self._latest_update_step:
            return
        if not self.should_update(step_idx=step - 1):
            return
        if int(model.n_averaged) == 0:
            model.update_parameters(pl_module)
        else:
            self._average(*self._parameters, model.n_averaged)
            for average, current in zip(*self._buffers, strict=True):
                average.copy_(current)
            model.n_averaged += 1
        self._latest_update_step = step

    @torch.no_grad()
    def _average(
        self, averaged: Sequence[Tensor], current: Sequence[Tensor], n_averaged: Tensor | int
    ) -> None:
        decay = power_decay(int(n_averaged), power=self.power, max_decay=self.max_decay)
        torch._foreach_lerp_(list(averaged), list(current), 1.0 - decay)

    def averaged_module(self) -> Any:
        """Return the LightningModule that holds the averaged weights.

        Raises:
            UsageError: before training has begun.
        """
        if self._average_model is None:
            raise UsageError("PowerEMA: there are no averaged weights before training begins")
        return self._average_model.module
