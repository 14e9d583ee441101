"""Callbacks of a training run: exact randomness, metrics, finite losses, saving."""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors import SafetensorError
from tqdm import tqdm

from genpolicy.algorithms.critics import critic_to_save
from genpolicy.errors import CheckpointError, NumericsError, RunStoppedError
from genpolicy.policies import PolicyCard, save_policy
from genpolicy.policies.critic_checkpoint import CRITIC_FOLDER, write_critic
from genpolicy.policies.weights import Weights
from genpolicy.seeding import derive_seed
from genpolicy.training.averaging import PowerEMA
from genpolicy.training.run_folder import RunFolder

__all__ = [
    "ClipGradients",
    "RecordMetrics",
    "SaveRun",
    "SeedEachStep",
    "StepProgress",
    "StopWhenAsked",
    "StopWhenNotFinite",
]


class SeedEachStep(Callback):
    """Seed torch's default generator at every step with a function of (seed, step, rank).

    Dropout and crops draw from it, so a resumed run draws what an uninterrupted one would.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed before the step."""
        seed = derive_seed(self.seed, "step", trainer.global_step, trainer.global_rank)
        # As torch.manual_seed, which spends milliseconds on a stack trace where CUDA is not in use.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)


class ClipGradients(Callback):
    """Scale the gradients of each part of an algorithm down to a largest norm, before every step.

    Parts are the algorithm's own modules, for example its policy and its critic: large errors of
    one do not shorten the steps of another. Lightning's own clipping refuses fused optimizers under
    automatic mixed precision. It guards against scaled float16 gradients, which this library does
    not use.

    Args:
        max_norm: largest 2-norm over the parameters of one part, positive.
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm
        self._parts: list[list[torch.nn.Parameter]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """List the parameters once: walking through the modules takes longer than the norm."""
        parts = [list(part.parameters()) for part in pl_module.children()]
        self._parts = [*parts, list(pl_module.parameters(recurse=False))]

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Clip in place."""
        for parameters in self._parts:
            if parameters:
                torch.nn.utils.clip_grad_norm_(parameters, self.max_norm, foreach=True)


class StopWhenNotFinite(Callback):
    """Stop with exit code 5 when the loss is not finite, before such weights are saved.

    Args:
        patience: consecutive steps with such a loss that are tolerated.
    """

    def __init__(self, patience: int = 0) -> None:
        self.patience = patience
        self.n_bad = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss of the step."""
        if bool(torch.isfinite(outputs["loss"])):
            self.n_bad = 0
            return
        self.n_bad += 1
        if self.n_bad > self.patience:
            raise NumericsError(
                f"the loss is {float(outputs['loss'])} at step {trainer.global_step}; the last "
                "saved checkpoint is intact. Lower the learning rate, clip gradients, or "
                "check the data"
            )


class StopWhenAsked(Callback):
    """Save the training state after the running step and stop: on SIGTERM, or at a deadline.

    A run that is continued afterwards equals one that was never stopped. Placed after the callbacks
    whose state belongs to the step.

    Args:
        folder: the run.
        deadline: ``time.time()`` at which to stop; None for never.
    """

    def __init__(self, folder: RunFolder, *, deadline: float | None = None) -> None:
        self.folder, self.deadline = folder, deadline
        self._is_asked = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for SIGTERM in place of Lightning, which restores the handlers afterwards."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self._is_asked = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop when asked, in all processes at once."""
        is_late = self.deadline is not None and time.time() > self.deadline
        is_asked = self._is_asked or is_late
        if trainer.world_size > 1:
            is_asked = trainer.strategy.reduce_boolean_decision(is_asked, all=False)
        step = trainer.global_step
        if not is_asked or step >= trainer.max_steps:
            return
        if not self.folder.state(step).exists():
            trainer.save_checkpoint(self.folder.state(step))
        reason = "SIGTERM" if self._is_asked else "its deadline"
        raise RunStoppedError(
            f"stopped by {reason} after step {step}; continue with `genpolicy train "
            f"resume={self.folder.path}`"
        )


class RecordMetrics(Callback):
    """Append metrics to ``metrics.jsonl`` and the loggers every ``every`` steps.

    ``training_step`` returns ``{"loss": ..., "metrics": {...}}``; values are averaged over the
    steps since the last line. Other callbacks add figures with ``add``.
    """

    def __init__(self, folder: RunFolder, *, every: int) -> None:
        self.folder, self.every = folder, every
        self._sums: dict[str, Any] = {}
        self._n = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the sums since the last line, so that a resumed run writes the same figures."""
        return {"sums": dict(self._sums), "n": self._n}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the sums."""
        self._sums, self._n = dict(state_dict["sums"]), state_dict["n"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Accumulate, and write when due."""
        step = trainer.global_step
        values = {"loss": outputs["loss"], **outputs.get("metrics", {})}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()
        self._n += 1
        if step % self.every == 0 or step == trainer.max_steps:
            line = {f"train/{k}": float(v) / self._n for k, v in self._sums.items()}
            line["train/lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
            self._sums, self._n = {}, 0
            self.add(trainer, line)

    def add(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Write named figures for the current step; figures that are not finite are left out."""
        if not trainer.is_global_zero:
            return
        finite = {k: float(v) for k, v in values.items() if math.isfinite(v)}
        with open(self.folder.metrics, "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": trainer.global_step, **finite}) + "\n")
        for logger in trainer.loggers:
            logger.log_metrics(finite, step=trainer.global_step)


class StepProgress(Callback):
    """One progress bar over optimizer steps, with the running loss."""

    def __init__(self, *, description: str, every: int = 20) -> None:
        self.description, self.every = description, every
        self._bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar where the run begins or continues."""
        if trainer.is_global_zero:
            self._bar = tqdm(
                total=trainer.max_steps,
                initial=trainer.global_step,
                desc=self.description,
                unit="step",
                mininterval=0.5,
                dynamic_ncols=True,
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        step = trainer.global_step
        if self._bar is not None and (step % self.every == 0 or step == trainer.max_steps):
            self._bar.set_postfix(loss=f"{float(outputs['loss']):.4f}", refresh=False)
            self._bar.update(step - self._bar.n)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class SaveRun(Callback):
    """Save the policy and the training state every ``every`` steps and at the end.

    At step k: figures are measured on the averaged weights, the policy checkpoint is published,
    ``last`` (and ``best``) are moved to it, then the training state is published and older ones
    are removed. A kill anywhere in between leaves an older state from which the same files are
    made again.

    Args:
        folder: the run.
        every: optimizer steps between saves.
        ema: the averaging callback, placed before this one.
        card: what is known of the run before training, as a card without metrics.
        measure: returns named figures for the averaged policy at this step.
        best_metric: the figure that decides ``best``.
        best_mode: ``"max"`` or ``"min"``.
        record: where the figures are logged.
        keep: ``"last"`` keeps last and best, ``"all"`` keeps every policy checkpoint.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        every: int,
        ema: PowerEMA,
        card: PolicyCard,
        measure: Callable[[Trainer, LightningModule], Mapping[str, float]],
        best_metric: str,
        best_mode: str,
        record: RecordMetrics,
        keep: str = "last",
    ) -> None:
        self.folder, self.every, self.ema, self.card = folder, every, ema, card
        self.measure, self.record, self.keep = measure, record, keep
        self.best_metric, self.best_mode = best_metric, best_mode
        self.best: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the best figure so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best figure so far."""
        self.best = state_dict["best"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when due.

        Raises:
            CheckpointError: when it cannot be written; what was saved before stays as it is.
        """
        step = trainer.global_step
        if step % self.every != 0 and step != trainer.max_steps:
            return
        try:
            self._save(trainer, pl_module, step)
        except (OSError, SafetensorError) as error:
            path = self.folder.path
            # Both kinds of weights, the averaged module and two moments of the optimizer.
            need = 5 * sum(p.nbytes for p in pl_module.parameters())
            raise CheckpointError(
                f"step {step} cannot be saved to {path}: {error}. It needs about {need / 1e6:.1f} "
                f"MB, {shutil.disk_usage(path).free / 1e6:.1f} MB are free; the save before it is "
                f"intact: make room and continue with `genpolicy train resume={path}`"
            ) from error

    def _save(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        averaged: Any = self.ema.averaged_module()
        metrics = dict(self.measure(trainer, averaged))
        self.record.add(trainer, metrics)
        value = metrics.get(self.best_metric)
        sign = 1.0 if self.best_mode == "max" else -1.0
        is_best = value is not None and (self.best is None or sign * value > sign * self.best)
        if is_best:
            self.best = value
        if trainer.is_global_zero:
            current: Any = pl_module
            weights: dict[Weights, Any] = {
                "ema": averaged.policy.state_dict(),
                "raw": current.policy.state_dict(),
            }
            self._check_finite(weights, step)
            finite = {k: v for k, v in metrics.items() if math.isfinite(v)}
            fields = {**vars(self.card), "metrics": finite}
            fields["training"] = {**self.card.training, "step": step}
            save_policy(
                self.folder.checkpoint(step),
                PolicyCard(**fields),
                weights,
                also=lambda stage: self._save_critic(stage, pl_module, step),
            )
            self.folder.point("last", step)
            if is_best or not (self.folder.path / "best").exists():
                self.folder.point("best", step)
        trainer.save_checkpoint(self.folder.state(step))
        if trainer.is_global_zero and self.keep == "last":
            self.folder.prune(keep_steps={step})

    def _save_critic(self, stage: Path, module: LightningModule, step: int) -> None:
        """Write the critic of an algorithm that has one into a checkpoint being made."""
        found = critic_to_save(module)
        if found is None:
            return
        critic, weights = found
        self._check_finite(weights, step)
        assert critic.card is not None
        card = replace(critic.card, training={**critic.card.training, "step": step})
        folder = stage / CRITIC_FOLDER
        folder.mkdir()
        write_critic(folder, card, weights)

    @staticmethod
    def _check_finite(weights: Mapping[Weights, Mapping[str, torch.Tensor]], step: int) -> None:
        for kind, state in weights.items():
            for name, tensor in state.items():
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise NumericsError(
                        f"{kind} weights {name} are not finite at step {step}; nothing was saved. "
                        "Lower the learning rate or clip gradients"
                    )
