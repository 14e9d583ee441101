from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from genpolicy.errors import UsageError
from genpolicy.evaluation import evaluate
from genpolicy.evaluation.callback import EvaluateDuringTraining


class MemoryLogger(Logger):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> str:
        return "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.lines.append((step, {k: v for k, v in metrics.items() if k.startswith("eval")}))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...


class Module(LightningModule):
    """Draws noise at every step; its policy acts by the number of steps it was trained for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
        self.draws: list[tuple[float, float, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        assert self.layer[1].training
        numpy_draw = float(np.random.rand())  # noqa: NPY002 - the callback may not move it
        self.draws.append((float(torch.rand(())), numpy_draw, random.random()))
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(tmp_path: Path, callbacks: list[Any], n_steps: int = 7) -> tuple[Module, MemoryLogger]:
    torch.manual_seed(0)
    states = np.random.get_state(), random.getstate()  # noqa: NPY002 - restored below
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    module, logger = Module(), MemoryLogger()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=n_steps,
        logger=logger,
        callbacks=callbacks,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=2))
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])
    return module, logger


@pytest.mark.filterwarnings("ignore")
def test_the_training_does_not_notice_the_rollouts(walk: Any, tmp_path: Path) -> None:
    class Careless(walk.policy):
        """Draws from every global generator and changes the module's mode."""

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            module.eval()

        def sample(self, obs: Any, *, seeds: Any = None) -> torch.Tensor:
            torch.rand(5)
            np.random.rand(5)  # noqa: NPY002
            random.random()
            return super().sample(obs, seeds=seeds)

    callback = EvaluateDuringTraining(Careless, task=walk.task(), seeds=range(4), every=2)
    with_rollouts, _ = fit(tmp_path, [callback])
    without, _ = fit(tmp_path, [])
    assert with_rollouts.draws == without.draws
    for name, tensor in without.state_dict().items():
        assert torch.equal(with_rollouts.state_dict()[name], tensor)


@pytest.mark.filterwarnings("ignore")
def test_last_and_best_are_kept_and_logged(walk: Any, tmp_path: Path) -> None:
    scales = iter([3.0, 0.0, 1.0, 2.0])
    seen: list[int] = []
    callback = EvaluateDuringTraining(
        lambda module: walk.policy(scale=next(scales)),
        task=walk.task(),
        seeds=range(6),
        every=2,
        on_result=lambda result, step: seen.append(step),
    )
    _, logger = fit(tmp_path, [callback], n_steps=7)
    assert seen == [2, 4, 6, 7]
    expected = {
        step: evaluate(walk.policy(scale=scale), walk.task(), seeds=range(6), progress=False)
        for step, scale in zip(seen, [3.0, 0.0, 1.0, 2.0], strict=True)
    }
    best = max(expected, key=lambda step: expected[step].mean())
    assert callback.last is not None
    assert callback.best is not None
    assert callback.last[0] == 7
    assert callback.best[0] == best == 4
    assert callback.last[1].records == expected[7].records
    assert callback.best[1].records == expected[best].records
    logged = [(step, line) for step, line in logger.lines if line]
    assert [step for step, _ in logged] == seen
    for step, line in logged:
        result = expected[step]
        assert line["eval/closeness"] == result.mean()
        assert line["eval/closeness_low"] == result.interval().low
        assert line["eval/success_high"] == result.interval("success").high
    assert logged[-1][1]["eval/best"] == expected[4].mean()
    other = EvaluateDuringTraining(walk.policy, task=walk.task(), seeds=[1], every=1)
    other.load_state_dict(callback.state_dict())
    assert other.best == callback.best
    assert other.last == callback.last


def test_arguments_are_checked(walk: Any) -> None:
    for settings in ({"every": 0, "seeds": [1]}, {"every": 1, "seeds": []}):
        with pytest.raises(UsageError, match="at least 1 of each"):
            EvaluateDuringTraining(lambda module: walk.policy(), task=walk.task(), **settings)
