"""Rollouts during a Lightning training. The only module of the package that imports Lightning."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from genpolicy.errors import UsageError
from genpolicy.evaluation.records import EvalResult
from genpolicy.evaluation.rollout import evaluate
from genpolicy.evaluation.task import EvaluationTask
from genpolicy.networks.modes import modes_kept
from genpolicy.policies import Policy

__all__ = ["EvaluateDuringTraining"]


class EvaluateDuringTraining(Callback):
    """Evaluate the policy every so many optimizer steps and log its figures.

    Every evaluation uses the same seeds, so curves over training are paired. The training is not
    touched: random generators, the mode of the module and its weights are left as found.

    ``last`` and ``best`` are the results at the newest step and at the best one so far, each with
    its step; report both. The best of several evaluations on the same seeds is biased upwards:
    evaluate the checkpoint that is kept on other seeds.

    Args:
        get_policy: returns the policy to evaluate, for example the one with averaged weights.
        task: name of a task of ``genpolicy.envs``, or a task of your own.
        seeds: episode seeds.
        every: optimizer steps between evaluations, at least 1.
        n_envs: environments stepped together.
        metric: what decides the best; None for the task's primary metric. Higher is better.
        prefix: of the logged names: ``eval/success``, ``eval/success_low``, ``eval/success_high``.
        on_result: called with each result and its step, for example to keep a checkpoint.

    Raises:
        UsageError: for ``every`` below 1 or no seeds.
    """

    def __init__(
        self,
        get_policy: Callable[[LightningModule], Policy],
        *,
        task: str | EvaluationTask,
        seeds: Sequence[int],
        every: int,
        n_envs: int = 8,
        metric: str | None = None,
        prefix: str = "eval",
        on_result: Callable[[EvalResult, int], None] | None = None,
    ) -> None:
        if every < 1 or not seeds:
            raise UsageError(
                f"EvaluateDuringTraining: every is {every} and there are {len(seeds)} seeds; "
                "expected at least 1 of each"
            )
        self.get_policy = get_policy
        self.task = task
        self.seeds = list(seeds)
        self.every = every
        self.n_envs = n_envs
        self.metric = metric
        self.prefix = prefix
        self.on_result = on_result
        self.last: tuple[int, EvalResult] | None = None
        self.best: tuple[int, EvalResult] | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate after every ``every`` optimizer steps, and after the last one."""
        step = trainer.global_step
        is_due = step > 0 and (step % self.every == 0 or step == trainer.max_steps)
        is_done = self.last is not None and self.last[0] >= step
        if not is_due or is_done or not trainer.is_global_zero:
            return
        result = self._evaluate(pl_module)
        self.last = (step, result)
        if self.best is None or result.mean(self.metric) > self.best[1].mean(self.metric):
            self.best = (step, result)
        figures = {f"{self.prefix}/{s.metric}": s.mean for s in result.summaries()}
        for s in result.summaries():
            if s.metric in (result.primary, *result.rates) and s.interval.is_known:
                figures[f"{self.prefix}/{s.metric}_low"] = s.interval.low
                figures[f"{self.prefix}/{s.metric}_high"] = s.interval.high
        figures[f"{self.prefix}/best"] = self.best[1].mean(self.metric)
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=step)
        if self.on_result is not None:
            self.on_result(result, step)

    def _evaluate(self, pl_module: LightningModule) -> EvalResult:
        with modes_kept(pl_module), _random_state_kept(), torch.no_grad():
            return evaluate(
                self.get_policy(pl_module),
                self.task,
                seeds=self.seeds,
                n_envs=self.n_envs,
                progress=False,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return last and best in plain containers, for a training checkpoint."""
        return {
            name: None if entry is None else {"step": entry[0], "result": entry[1].to_json()}
            for name, entry in (("last", self.last), ("best", self.best))
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore last and best."""
        self.last, self.best = (
            None if entry is None else (entry["step"], EvalResult.from_json(entry["result"]))
            for entry in (state_dict["last"], state_dict["best"])
        )


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the global random generators of torch, numpy and Python afterwards."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - guarding it
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
