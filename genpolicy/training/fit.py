"""Start a training run, or continue one exactly where it stopped."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from genpolicy.config import COMPONENT_PACKAGES, build, resolve_target
from genpolicy.data.datamodule import WindowDataModule
from genpolicy.data.normalizer import Mode, Normalizer
from genpolicy.errors import CheckpointError, UsageError
from genpolicy.files import RunLock
from genpolicy.policies import (
    Critic,
    CriticCard,
    GenerativePolicy,
    PolicyCard,
    build_critic,
    build_policy,
)
from genpolicy.policies.checkpoint import installed_versions, read_card
from genpolicy.seeding import derive_seed
from genpolicy.training.averaging import PowerEMA
from genpolicy.training.callbacks import (
    ClipGradients,
    RecordMetrics,
    SaveRun,
    SeedEachStep,
    StepProgress,
    StopWhenAsked,
    StopWhenNotFinite,
)
from genpolicy.training.measure import Measure
from genpolicy.training.online import Interaction, OnlineSettings
from genpolicy.training.run_folder import RunFolder
from genpolicy.training.sources import (
    continue_from,
    take_anchors,
    take_returns,
    take_statistics,
)
from genpolicy.training.state_io import FolderCheckpointIO

__all__ = ["resume", "train"]

_ALGORITHM_PACKAGES = (*COMPONENT_PACKAGES, "genpolicy.algorithms")


def train(
    config: Mapping[str, Any], *, progress: bool = True, deadline: float | None = None
) -> Path:
    """Run a training described by a resolved ``configs/train.yaml``.

    Args:
        config: plain containers; what ``genpolicy train --show`` prints.
        progress: whether to draw a progress bar.
        deadline: ``time.time()`` at which to save the training state and stop; None for never.

    Returns:
        The run folder; ``folder / "last"`` is the policy.

    Raises:
        GenpolicyError: of the kind that fits (configuration, data, checkpoint, numerics).
        RunStoppedError: at the deadline or on SIGTERM, after saving.
    """
    folder = RunFolder(config["run_dir"])
    with _owned(folder):
        if rank_zero_only.rank == 0:
            folder.start(config)
        return _fit(folder, config, state=None, progress=progress, deadline=deadline)


def resume(path: str | Path, *, progress: bool = True, deadline: float | None = None) -> Path:
    """Continue a run from its newest training state; a run without one starts over.

    The result equals, bit for bit on a CPU, that of a run that was never stopped: batches, noise,
    dropout and averaging are functions of the seed and the step, and the rest is restored.

    Args:
        path: a run folder.
        progress: whether to draw a progress bar.
        deadline: as in ``train``.

    Raises:
        CheckpointError: when ``path`` is no run or its state is damaged.
        RunStoppedError: at the deadline or on SIGTERM, after saving.
    """
    folder = RunFolder(path)
    config = folder.config()
    with _owned(folder):
        state = folder.latest_state()
        if rank_zero_only.rank == 0:
            folder.truncate_metrics(0 if state is None else _step_of(state))
        return _fit(folder, config, state=state, progress=progress, deadline=deadline)


@contextmanager
def _owned(folder: RunFolder) -> Iterator[None]:
    """Hold the run's lock in the first process; those it starts work under it."""
    if rank_zero_only.rank != 0:
        yield
        return
    with RunLock(folder.path):
        folder.tidy()
        yield


def _step_of(state: Path) -> int:
    """Return the optimizer step of a training state folder."""
    return int(state.name.removeprefix("step-"))


def _fit(
    folder: RunFolder,
    config: Mapping[str, Any],
    *,
    state: Path | None,
    progress: bool,
    deadline: float | None,
) -> Path:
    trainer_config = copy.deepcopy(dict(config["trainer"]))
    n_threads = trainer_config.pop("n_threads")
    max_norm = trainer_config.pop("gradient_clip_val")
    if str(trainer_config["precision"]).startswith("16"):
        raise UsageError("trainer.precision: float16 is not supported; use bf16-mixed or 32-true")
    if n_threads is not None:
        torch.set_num_threads(int(n_threads))
    seed = int(config["seed"])
    first_step = 0 if state is None else _step_of(state)
    data = WindowDataModule(**_data_settings(config), seed=derive_seed(seed, "data"))
    data.setup("fit")
    online: dict[str, Any] | None = copy.deepcopy(config.get("online"))
    if online is not None and config.get("critic") is None:
        raise UsageError(
            f"online: {config['algorithm']['_target_']} trains no critic, which would learn from "
            "what is collected; set online=none, or take an algorithm with a critic"
        )
    source = None if online is None else online.pop("from")
    anchors = None if config.get("cocoa") is None else str(config["cocoa"]["anchors"])
    if source is not None or anchors is not None:
        # A resumed run has its own copy, and needs the other run no more.
        given = str(source or anchors) if state is None else str(folder.path)
        take_statistics(data, given, who="online.from" if source else "cocoa.anchors")
    if source is not None and state is None:
        take_returns(data, str(source))
    algorithm = _build_algorithm(config, data, seed, anchors=anchors if state is None else None)
    if source is not None and state is None:
        last_step = int(trainer_config["max_steps"])
        continue_from(algorithm, str(source), policy=config["policy"], last_step=last_step)
    ema = PowerEMA(**config["ema"])
    record = RecordMetrics(folder, every=int(config["log_every"]))
    measure = Measure(config["evaluation"], data, seed=seed)
    save = SaveRun(
        folder,
        every=int(config["save"]["every"]),
        keep=config["save"]["keep"],
        best_metric=config["save"]["best_metric"],
        best_mode=config["save"]["best_mode"],
        ema=ema,
        card=_card(config, data, algorithm),
        measure=measure,
        record=record,
    )
    callbacks: list[Callback] = [SeedEachStep(seed), StopWhenNotFinite(), ema, record]
    if online is not None:
        callbacks.append(Interaction(OnlineSettings(**online), data, seed=seed, record=record))
    callbacks.append(save)
    if max_norm is not None:
        callbacks.append(ClipGradients(float(max_norm)))
    if progress:
        callbacks.append(StepProgress(description=str(config["name"])))
    callbacks.append(StopWhenAsked(folder, deadline=deadline))
    if first_step >= int(trainer_config["max_steps"]):
        return folder.path
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    trainer = Trainer(
        **trainer_config,
        default_root_dir=folder.path,
        max_epochs=-1,
        callbacks=callbacks,
        logger=_loggers(config, folder),
        plugins=[FolderCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        log_every_n_steps=int(config["log_every"]),
    )
    try:
        with warnings.catch_warnings():
            # Lightning's own: an internal deprecation, and data loaders that are unused on purpose.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", message=".*val_dataloader.*")
            trainer.fit(algorithm, datamodule=data, ckpt_path=None if state is None else str(state))
    except SystemExit:
        # Lightning turns Ctrl-C into an exit with status 1; give the caller the interrupt back.
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    return folder.path


def _data_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the data; a policy named in place of a mode becomes its statistics."""
    settings = dict(config["data"])
    given = str(settings["action_normalizer"])
    if given not in get_args(Mode):
        try:
            card = read_card(given)
        except CheckpointError as error:
            raise UsageError(
                f"data.action_normalizer is {given!r}, expected one of {get_args(Mode)} or a "
                f"policy: {error}"
            ) from error
        settings["action_normalizer"] = Normalizer.from_json(card.normalizer).stats["action"]
    return settings


def _build_algorithm(
    config: Mapping[str, Any], data: WindowDataModule, seed: int, *, anchors: str | None = None
) -> LightningModule:
    """Build the policy and the algorithm around it with weights drawn from the run's seed.

    Args:
        config: of the run.
        data: read already.
        seed: the run's.
        anchors: run whose anchor seeker the encoders get; None where they get other weights later.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init"))
        policy = build_policy(config["policy"], spec=data.spec, normalizer=data.normalizer)
        optimizer = build(config["optimizer"], packages=_ALGORITHM_PACKAGES)
        critic = _critic(config, data)
        if anchors is not None:
            take_anchors(anchors, policy, critic)
        algorithm = build(
            config["algorithm"],
            packages=_ALGORITHM_PACKAGES,
            policy=policy,
            optimizer=optimizer,
            seed=seed,
            **({} if critic is None else {"critic": critic}),
        )
    if not isinstance(algorithm, LightningModule):
        raise UsageError(f"algorithm: {config['algorithm']['_target_']} is no training algorithm")
    return algorithm


def _critic(config: Mapping[str, Any], data: WindowDataModule) -> Critic | None:
    """Build the critic of an algorithm that trains one.

    Raises:
        UsageError: when the algorithm and the configuration disagree on whether there is one.
    """
    settings = config.get("critic")
    target = str(config["algorithm"]["_target_"])
    taken = inspect.signature(resolve_target(target, packages=_ALGORITHM_PACKAGES)).parameters
    is_wanted = "critic" in taken and "critic" not in config["algorithm"]
    if is_wanted != (settings is not None):
        wrong = "trains no critic; set critic=none"
        if is_wanted:
            wrong = "needs a critic; set critic=twin or iql"
        raise UsageError(f"algorithm {target.rpartition('.')[2]} {wrong}")
    if settings is None:
        return None
    if not data.transitions or data.discount is None:
        raise UsageError("a critic is trained on transitions; set data.transitions=true")
    critic = build_critic(settings, spec=data.spec, normalizer=data.normalizer)
    critic.card = CriticCard(
        critic=dict(settings),
        spec=data.spec,
        normalizer=data.normalizer.to_json(),
        discount=data.discount,
        reward=dataclasses.asdict(data.reward_transform),
        dataset=_dataset(data),
        training=_training(config),
        versions=installed_versions(),
    )
    return critic


def _dataset(data: WindowDataModule) -> dict[str, Any]:
    source = data.episodes.source
    return {
        "name": source.name,
        "kind": source.kind,
        "warning": source.details.get("warning", ""),
        "fingerprint": data.fingerprint,
        "n_episodes": len(data.episodes.episode_ends),
        "n_steps": len(data.episodes.actions),
        "env": dict(source.env),
    }


def _training(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": config["name"],
        "seed": config["seed"],
        "max_steps": config["trainer"]["max_steps"],
        "precision": config["trainer"]["precision"],
        "batch_size": config["data"]["batch_size"],
        "algorithm": config["algorithm"],
        "optimizer": config["optimizer"],
        "ema": config["ema"],
        **{key: config[key] for key in ("online", "cocoa") if config.get(key) is not None},
    }


def _card(
    config: Mapping[str, Any], data: WindowDataModule, algorithm: LightningModule
) -> PolicyCard:
    policy = algorithm.policy
    assert isinstance(policy, GenerativePolicy)
    return PolicyCard(
        policy=dict(config["policy"]),
        spec=policy.spec,
        normalizer=policy.normalizer.to_json(),
        dataset=_dataset(data),
        training={
            **_training(config),
            "n_parameters": sum(p.numel() for p in policy.parameters()),
        },
        versions=installed_versions(),
    )


def _loggers(config: Mapping[str, Any], folder: RunFolder) -> list[Logger]:
    loggers: list[Logger] = []
    settings = config["logger"]
    if settings["tensorboard"]:
        loggers.append(TensorBoardLogger(save_dir=folder.path, name="tensorboard", version=""))
    if settings["wandb"] is not None:
        loggers.append(_wandb_logger(settings["wandb"], config, folder))
    return loggers


def _wandb_logger(
    settings: Mapping[str, Any], config: Mapping[str, Any], folder: RunFolder
) -> Logger:
    """Return a W&B logger that continues the run's id, offline when it cannot connect."""
    try:
        import wandb.errors  # pyright: ignore[reportMissingImports]
        from lightning.pytorch.loggers import WandbLogger
    except ImportError as error:
        raise UsageError("logger=wandb needs W&B; install genpolicy[wandb]") from error
    identity = f"{derive_seed(str(folder.path.resolve()), str(config['name'])):x}"
    shared = {"project": settings["project"], "entity": settings["entity"], "id": identity}
    if not settings["offline"]:
        online = WandbLogger(save_dir=str(folder.path), resume="allow", **shared)
        try:
            _ = online.experiment  # connects, or says that it cannot
        except (wandb.errors.Error, OSError) as error:
            warnings.warn(
                f"W&B cannot be reached ({error}); logging offline to {folder.path}/wandb, send it "
                "later with `wandb sync`",
                stacklevel=2,
            )
        else:
            return online
    return WandbLogger(save_dir=str(folder.path), offline=True, mode="offline", **shared)
