"""Policy checkpoints: a folder of safetensors and one JSON file, complete or absent.

::

    policy.json          schema version, configuration, TaskSpec, normalizer statistics, data set
                         fingerprint, versions, training step, metrics, sha256 of the weights
    ema.safetensors      averaged weights: what ``load_policy`` uses
    raw.safetensors      the optimizer's own weights

Nothing in it is executed on loading: weights are safetensors, the configuration is rebuilt through
the allow-list of ``genpolicy.config``, and there is no pickle.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genpolicy.config import config_of
from genpolicy.data.normalizer import Normalizer
from genpolicy.errors import CheckpointError, UsageError
from genpolicy.files import publish_folder, write_json
from genpolicy.policies.cards import read_json_card
from genpolicy.policies.composed import ComposedPolicy
from genpolicy.policies.composition_checkpoint import (
    is_composition,
    load_composition,
    save_composition,
)
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.policies.generative import GenerativePolicy, build_policy
from genpolicy.policies.proposal import ProposalPolicy
from genpolicy.policies.selection import SelectedPolicy
from genpolicy.policies.weights import Weights, load_weights, write_weights
from genpolicy.shapes import TaskSpec

__all__ = [
    "PolicyCard",
    "installed_versions",
    "load_policy",
    "read_card",
    "resolve_checkpoint",
    "save",
    "save_policy",
]

SCHEMA_VERSION = 1
_CARD = "policy.json"


@dataclass(frozen=True)
class PolicyCard:
    """All of a policy checkpoint but its weights, in plain containers.

    Args:
        policy: the ``build_policy`` configuration.
        spec: what the policy sees and returns.
        normalizer: ``Normalizer.to_json`` of the training data.
        dataset: name, kind, fingerprint and counts of the training data, and ``env``, the
            settings of the environment that it was recorded in (empty for the standard one), and
            ``warning``: why scores on that data are not comparable (empty where they are).
        training: algorithm, step, seed and whatever reproduces the run.
        metrics: figures measured at this step, by name.
        versions: packages the checkpoint was written with.
        weights: for each of ``"ema"`` and ``"raw"`` the file name and its sha256.
        schema_version: layout of the folder.
    """

    policy: Mapping[str, Any]
    spec: TaskSpec
    normalizer: Mapping[str, Any]
    dataset: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Return plain containers for ``policy.json``."""
        return {
            "schema_version": self.schema_version,
            "policy": self.policy,
            "spec": self.spec.to_json(),
            "normalizer": self.normalizer,
            "dataset": self.dataset,
            "training": self.training,
            "metrics": self.metrics,
            "versions": self.versions,
            "weights": self.weights,
        }


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can move a number."""
    versions = {"python": platform.python_version()}
    names = ("genpolicy", "genpolicy-ext", "torch", "numpy")
    for name in (*names, "lightning", "gymnasium", "mujoco", "gym-pusht"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def save_policy(
    path: str | Path,
    card: PolicyCard,
    weights: Mapping[Weights, Mapping[str, Tensor]],
    *,
    also: Callable[[Path], None] | None = None,
) -> Path:
    """Write a policy checkpoint atomically.

    Args:
        path: the folder to create or replace.
        card: everything but weights; its ``weights`` entry is filled in here.
        weights: state dicts of the policy by kind; ``"ema"`` is required.
        also: writes more into the folder before it is published, for example a critic.

    Returns:
        The folder.
    """
    target = Path(path)
    with publish_folder(target) as stage:
        files = write_weights(stage, weights)
        if also is not None:
            also(stage)
        write_json(stage / _CARD, {**card.to_json(), "weights": files})
    return target


def save(policy: DenoisingPolicy, path: str | Path) -> Path:
    """Write a policy that was loaded, with its present sampler, or a composition of such.

    Args:
        path: the folder to create or replace.
        policy: the policy.

    Returns:
        The folder.

    Raises:
        UsageError: for a policy that was not loaded from a checkpoint, or a composition with a
            function in it.
    """
    if isinstance(policy, ComposedPolicy | ProposalPolicy | SelectedPolicy):
        return save_composition(policy, path, save_member=save)
    if not isinstance(policy, GenerativePolicy) or policy.card is None:
        raise UsageError(
            f"save: got a {type(policy).__name__} that no checkpoint was loaded into, so its "
            "configuration is unknown; write it with save_policy(path, card, weights)"
        )
    settings = {**policy.card.policy, "sampler": config_of(policy.sampler)}
    settings["rows_per_block"] = policy.rows_per_block
    card = replace(policy.card, policy=settings, weights={})
    return save_policy(path, card, {"ema": policy.state_dict()})


def resolve_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint folder meant by ``path``: it, a run's ``last``, or a shipped name."""
    given = Path(path)
    shipped = Path(__file__).resolve().parents[2] / "checkpoints"
    for candidate in (given, given / "last", Path("checkpoints") / given, shipped / given):
        if (candidate / _CARD).is_file():
            return candidate
    known = sorted(p.parent.name for p in shipped.glob(f"*/{_CARD}"))
    raise CheckpointError(
        f"{given} holds no {_CARD}; give a checkpoint folder, a run folder, or one of "
        f"the shipped policies {known}"
    )


def read_card(path: str | Path) -> PolicyCard:
    """Read a checkpoint's ``policy.json`` without touching its weights.

    Raises:
        CheckpointError: when the folder or file is missing, not JSON, or of a newer schema.
    """
    folder = resolve_checkpoint(path)
    content = read_json_card(folder / _CARD, newest=SCHEMA_VERSION)
    try:
        return PolicyCard(**{**content, "spec": TaskSpec.from_json(content["spec"])})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / _CARD} is incomplete ({error}); restore the folder"
        ) from error


def load_policy(
    path: str | Path, *, weights: Weights = "ema", device: torch.device | str | None = None
) -> DenoisingPolicy:
    """Load a trained or composed policy, ready to act.

    Args:
        path: a checkpoint folder (``runs/.../last``), a run folder, or the name of a folder under
            ``checkpoints/``.
        weights: ``"ema"`` (averaged) or ``"raw"``.
        device: where to put it; None leaves it on the CPU.

    Raises:
        CheckpointError: when anything is missing, damaged, of another shape or not finite.
    """
    folder = resolve_checkpoint(path)
    if is_composition(folder):
        loaded = load_composition(folder, load_member=lambda p: load_policy(p, weights=weights))
        return loaded if device is None else loaded.to(device)
    card = read_card(folder)
    if not card.normalizer:
        raise CheckpointError(
            f"{folder}: normalizer statistics are absent; the policy cannot be used"
        )
    try:
        policy = build_policy(
            card.policy, spec=card.spec, normalizer=Normalizer.from_json(card.normalizer)
        )
    except UsageError as error:
        raise CheckpointError(f"{folder}: its configuration does not build: {error}") from error
    load_weights(policy, folder, card, weights)
    policy.card = card
    policy.eval().requires_grad_(False)
    return policy if device is None else policy.to(device)
