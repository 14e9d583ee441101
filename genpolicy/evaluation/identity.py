"""Which policy was evaluated: its weights, sampler and checkpoint, read off the policy itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from genpolicy.shapes import TaskSpec

if TYPE_CHECKING:
    from genpolicy.policies import ComposedPolicy, Policy, SelectedPolicy

__all__ = [
    "CheckpointInfo",
    "PolicyIdentity",
    "describe_checkpoint",
    "identify_policy",
    "plain_settings",
]


@dataclass(frozen=True)
class PolicyIdentity:
    """What decides a policy's actions.

    Args:
        kind: name of its class.
        spec: what it sees and returns.
        weights_sha256: of its weights as a safetensors file; for a composition, of the digests of
            its members; None for a policy without weights.
        sampler: settings of its sampler in plain containers; None without one.
        nfe: network evaluations per chunk, those of all members together and without those of a
            corrector; None without a sampler.
        settings: what else decides the actions: path and normalizer of a generative policy;
            operator and members of a composition; the public numbers and names of another, for
            example of a controller.
    """

    kind: str
    spec: TaskSpec
    weights_sha256: str | None = None
    sampler: Mapping[str, Any] | None = None
    nfe: int | None = None
    settings: Mapping[str, Any] | None = None

    def describe(self) -> str:
        """Return one line: class, sampler, network evaluations, digest of the weights."""
        parts = [self.kind]
        if self.settings is not None and "operator" in self.settings:
            operator = dict(self.settings["operator"])
            values = ", ".join(f"{k}={v}" for k, v in operator.items() if k != "type")
            n_members = len(self.settings["members"])
            parts.append(f"{operator.get('type')}({values}) of {n_members} members")
        if self.sampler is not None:
            names = ("rule", "n_steps", "grid", "rule_options", "grid_options", "times")
            shown = [(name, self.sampler.get(name)) for name in names]
            parts.append(" ".join(f"{name}={value}" for name, value in shown if value))
        elif self.settings:
            parts += [f"{name}={value}" for name, value in self.settings.items()]
        if self.nfe is not None:
            parts.append(f"nfe {self.nfe}")
        if self.weights_sha256 is not None:
            parts.append(f"weights {self.weights_sha256[:12]}")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return plain containers that ``from_json`` reads back."""
        return {**vars(self), "spec": self.spec.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PolicyIdentity:
        """Rebuild an identity from ``to_json``."""
        return cls(**{**data, "spec": TaskSpec.from_json(data["spec"])})


def plain_settings(value: Any) -> Any:
    """Return settings in JSON types; tensors and modules by digest, functions by name.

    Numbers that are not finite, which JSON has none for, become text.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, nn.Module):
        return {"type": type(value).__qualname__, "weights_sha256": weights_digest(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain_settings(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): plain_settings(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_settings(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, torch.Tensor):
        array = value.detach().cpu().numpy()
        return {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        }
    named = value if isinstance(value, (type, FunctionType)) else type(value)
    return named.__qualname__


def identify_policy(policy: Policy) -> PolicyIdentity:
    """Return what decides the actions of ``policy``.

    The digest is that of the safetensors file its weights would be saved as, so it equals the
    sha256 of the checkpoint's file when the weights do. Of a composition it says the operator with
    its settings, and the same of every member.
    """
    from genpolicy.policies import ComposedPolicy, GenerativePolicy, SelectedPolicy

    if isinstance(policy, ComposedPolicy):
        return _identify_composition(policy)
    if isinstance(policy, SelectedPolicy):
        return _identify_selection(policy)
    kind = type(policy).__qualname__
    weights: str | None = None
    if isinstance(policy, nn.Module) and policy.state_dict():
        weights = weights_digest(policy)
    if isinstance(policy, GenerativePolicy):
        path: Any = policy.denoiser.path
        return PolicyIdentity(
            kind=kind,
            spec=policy.spec,
            weights_sha256=weights,
            sampler=plain_settings(policy.sampler),
            nfe=policy.sampler.nfe(path),
            settings={
                "denoiser": type(policy.denoiser).__qualname__,
                "path": plain_settings(path),
                "normalizer_sha256": _digest_of(policy.normalizer.to_json()),
            },
        )
    settings = {
        name: value
        for name, value in vars(policy).items()
        if not name.startswith("_") and isinstance(value, (bool, int, float, str))
    }
    if dataclasses.is_dataclass(policy):
        settings |= {
            f.name: plain_settings(getattr(policy, f.name)) for f in dataclasses.fields(policy)
        }
        settings.pop("spec", None)
    return PolicyIdentity(kind, policy.spec, weights, settings=settings or None)


def _identify_selection(policy: SelectedPolicy) -> PolicyIdentity:
    """Return the identity of the policy that makes the candidates, and what chooses among them."""
    own = identify_policy(policy.policy)
    return replace(
        own,
        kind=type(policy).__qualname__,
        nfe=policy.nfe,
        settings={
            **(own.settings or {}),
            "n_candidates": policy.n_candidates,
            "temperature": policy.temperature,
            "critic_sha256": weights_digest(policy.critic),
        },
    )


def weights_digest(module: nn.Module) -> str:
    """Return the sha256 of the safetensors file that a module's weights would be saved as."""
    plain = {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}
    return hashlib.sha256(safetensors.torch.save(plain)).hexdigest()


def _identify_composition(policy: ComposedPolicy) -> PolicyIdentity:
    """Return operator, sampler and members of a composition."""
    members = [
        {
            "policy": identify_policy(member.policy).to_json(),
            "dims": None if member.dims is None else [int(d) for d in member.dims],
            "fixed_obs": plain_settings(member.fixed_obs),
        }
        for member in policy.members
    ]
    evaluations = sum(policy.evaluations_of(i) for i in policy.used)
    return PolicyIdentity(
        kind=type(policy).__qualname__,
        spec=policy.spec,
        weights_sha256=_digest_of([member["policy"]["weights_sha256"] for member in members]),
        sampler=plain_settings(policy.sampler),
        nfe=policy.nfe * evaluations * (policy.n_particles or 1),
        settings={
            "operator": plain_settings(policy.operator),
            "path": plain_settings(policy.path),
            "normalizer_sha256": _digest_of(policy.normalizer.to_json()),
            "corrector": policy.corrector_name,
            "corrector_options": plain_settings(policy.corrector_options),
            "n_particles": policy.n_particles,
            "reference": policy.reference,
            "members": members,
        },
    )


def _digest_of(value: Any) -> str:
    """Return the sha256 of plain containers."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class CheckpointInfo:
    """Where a policy was loaded from.

    Args:
        path: as the caller named it.
        step: optimizer steps it was trained for; None when the checkpoint does not say.
        weights: ``"ema"`` or ``"raw"``; None when the policy's weights equal neither file;
            ``"composed"`` for a composition.
        links: the run's names for it: some of ``"last"`` and ``"best"``.
        dataset: name of the training data; empty when the checkpoint does not say.
        dataset_fingerprint: of the training data; empty when the checkpoint does not say.
        dataset_kind: of the training data, see ``DataSource``; empty when it does not say.
        dataset_warning: why scores on that data are not comparable; empty where they are.
        versions: packages it was written with.
    """

    path: str
    step: int | None
    weights: str | None
    links: tuple[str, ...]
    dataset: str = ""
    dataset_fingerprint: str = ""
    dataset_kind: str = ""
    dataset_warning: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def data_caveat(self) -> str:
        """What has to stand beside every score of a policy of this data; mostly empty."""
        parts = [f"{self.dataset} was REGENERATED, it is not the published data"]
        parts = parts if self.dataset_kind == "regenerated" else []
        return "; ".join(parts + [self.dataset_warning] * bool(self.dataset_warning))

    def describe(self) -> str:
        """Return one line: path, last or best, step, kind of weights, data."""
        parts = [self.path + (f" ({' and '.join(self.links)})" if self.links else "")]
        if self.step is not None:
            parts.append(f"step {self.step}")
        parts.append(f"{self.weights} weights" if self.weights else "weights CHANGED since loading")
        if self.dataset:
            kind = f" ({self.dataset_kind})" if self.dataset_kind else ""
            parts.append(f"data {self.dataset}{kind} {self.dataset_fingerprint[:12]}".rstrip())
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return plain containers that ``from_json`` reads back."""
        return {**vars(self), "links": list(self.links), "versions": dict(self.versions)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CheckpointInfo:
        """Rebuild it from ``to_json``."""
        return cls(**{**data, "links": tuple(data["links"])})


def describe_checkpoint(path: str | Path, identity: PolicyIdentity) -> CheckpointInfo:
    """Return what a checkpoint says of itself, and which of its weights a policy has.

    Args:
        path: what ``load_policy`` was given.
        identity: of the policy that is evaluated.

    Raises:
        CheckpointError: when there is no checkpoint, or it is damaged.
    """
    from genpolicy.policies import read_card
    from genpolicy.policies.checkpoint import resolve_checkpoint
    from genpolicy.policies.composition_checkpoint import is_composition

    if is_composition(resolve_checkpoint(path)):  # its members are named by the identity itself
        return CheckpointInfo(path=str(path), step=None, weights="composed", links=())
    card = read_card(path)
    kinds = [k for k, file in card.weights.items() if file["sha256"] == identity.weights_sha256]
    step = card.training.get("step")
    return CheckpointInfo(
        path=str(path),
        step=None if step is None else int(step),
        weights=kinds[0] if kinds else None,
        links=_links_to(Path(path)),
        dataset=str(card.dataset.get("name", "")),
        dataset_fingerprint=str(card.dataset.get("fingerprint", "")),
        dataset_kind=str(card.dataset.get("kind", "")),
        dataset_warning=str(card.dataset.get("warning", "")),
        versions=dict(card.versions),
    )


def _links_to(path: Path) -> tuple[str, ...]:
    """Return which of a run's links mean the checkpoint at ``path``."""
    folder = (path if (path / "policy.json").is_file() else path / "last").resolve()
    run = folder.parent.parent
    names = ("last", "best")
    return tuple(n for n in names if (run / n).is_symlink() and (run / n).resolve() == folder)
