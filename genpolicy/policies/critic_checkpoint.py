"""Critic checkpoints: safetensors and one JSON file, as those of policies.

::

    critic.json          schema version, configuration, TaskSpec, normalizer statistics, discount,
                         reward transform, data set, versions, training, sha256 of the weights
    ema.safetensors      the averaged (target) critic: what ``load_critic`` uses
    raw.safetensors      the optimizer's own weights

A run keeps its critic in the folder ``critic`` of its policy checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genpolicy.data.normalizer import Normalizer
from genpolicy.errors import CheckpointError, UsageError
from genpolicy.files import publish_folder, write_json
from genpolicy.policies.cards import read_json_card
from genpolicy.policies.critic import Critic, build_critic
from genpolicy.policies.weights import Weights, load_weights, write_weights
from genpolicy.shapes import TaskSpec

__all__ = ["CRITIC_FOLDER", "CriticCard", "load_critic", "save_critic", "write_critic"]

SCHEMA_VERSION = 1
CRITIC_FOLDER = "critic"
_CARD = "critic.json"


@dataclass(frozen=True)
class CriticCard:
    """All of a critic checkpoint but its weights, in plain containers.

    Args:
        critic: the ``build_critic`` configuration.
        spec: what the critic sees and values.
        normalizer: ``Normalizer.to_json`` of the training data.
        discount: of one step.
        reward: name, gain and offset of the reward transform: values are in its units.
        dataset: name, kind, fingerprint and counts of the training data.
        training: algorithm, seed and whatever reproduces the run.
        versions: packages the checkpoint was written with.
        weights: for each of ``"ema"`` and ``"raw"`` the file name and its sha256.
        schema_version: layout of the folder.
    """

    critic: Mapping[str, Any]
    spec: TaskSpec
    normalizer: Mapping[str, Any]
    discount: float
    reward: Mapping[str, Any]
    dataset: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Return plain containers for ``critic.json``."""
        return {**vars(self), "spec": self.spec.to_json()}


def write_critic(
    folder: Path, card: CriticCard, weights: Mapping[Weights, Mapping[str, Tensor]]
) -> None:
    """Write a critic into an existing folder that is published afterwards."""
    files = write_weights(folder, weights)
    write_json(folder / _CARD, {**card.to_json(), "weights": files})


def save_critic(critic: Critic, path: str | Path) -> Path:
    """Write a critic that was loaded, or built for a run, atomically.

    Args:
        critic: the critic.
        path: the folder to create or replace.

    Raises:
        UsageError: for a critic whose configuration is unknown.
    """
    if critic.card is None:
        raise UsageError(
            "save_critic: the critic has no card, so its configuration is unknown; set "
            "critic.card, or save one that was loaded"
        )
    target = Path(path)
    with publish_folder(target) as stage:
        write_critic(stage, critic.card, {"ema": critic.state_dict()})
    return target


def load_critic(
    path: str | Path, *, weights: Weights = "ema", device: torch.device | str | None = None
) -> Critic:
    """Load a trained critic.

    Args:
        path: a critic's folder, a policy checkpoint with one, or a run folder.
        weights: ``"ema"`` (the target critic) or ``"raw"``.
        device: where to put it; None leaves it on the CPU.

    Raises:
        CheckpointError: when anything is missing, damaged, of another shape or not finite.
    """
    folder = _resolve(Path(path))
    content = read_json_card(folder / _CARD, newest=SCHEMA_VERSION)
    try:
        card = CriticCard(**{**content, "spec": TaskSpec.from_json(content["spec"])})
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / _CARD} is incomplete ({error}); restore the folder"
        ) from error
    try:
        critic = build_critic(
            card.critic, spec=card.spec, normalizer=Normalizer.from_json(card.normalizer)
        )
    except UsageError as error:
        raise CheckpointError(f"{folder}: its configuration does not build: {error}") from error
    load_weights(critic, folder, card, weights)
    critic.card = card
    critic.eval().requires_grad_(False)
    return critic if device is None else critic.to(device)


def _resolve(given: Path) -> Path:
    candidates = (given, given / CRITIC_FOLDER, given / "last" / CRITIC_FOLDER)
    for candidate in candidates:
        if (candidate / _CARD).is_file():
            return candidate
    raise CheckpointError(
        f"{given} holds no {_CARD}; give the folder of a critic, or a run or checkpoint of an "
        "algorithm that trains one (iql, idql, diffusion_ql, consistency_ac, fql, ...)"
    )
