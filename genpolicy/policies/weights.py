"""Weights of a checkpoint: safetensors that are verified before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genpolicy.errors import CheckpointError, UsageError
from genpolicy.files import sha256_of

__all__ = ["Weights", "load_weights", "write_weights"]

Weights: TypeAlias = Literal["ema", "raw"]


def write_weights(
    folder: Path, weights: Mapping[Weights, Mapping[str, Tensor]]
) -> dict[str, dict[str, str]]:
    """Write state dicts by kind into a folder, and return their files and digests for its card.

    Raises:
        UsageError: without ``"ema"``.
    """
    if "ema" not in weights:
        raise UsageError(f"checkpoint: got weights {sorted(weights)}, expected at least 'ema'")
    files: dict[str, dict[str, str]] = {}
    for kind, state in weights.items():
        file = folder / f"{kind}.safetensors"
        plain = {name: t.detach().cpu().contiguous() for name, t in state.items()}
        save_file(plain, file)
        files[kind] = {"file": file.name, "sha256": sha256_of(file)}
    return files


class _HasWeights(Protocol):
    @property
    def weights(self) -> Mapping[str, Mapping[str, str]]: ...


def load_weights(module: nn.Module, folder: Path, card: _HasWeights, weights: Weights) -> None:
    """Load verified weights into ``module``, strictly.

    Args:
        module: a policy or a critic.
        folder: its checkpoint.
        card: names the files and their digests.
        weights: which of them.

    Raises:
        CheckpointError: when the file is missing, altered, no safetensors, or does not fit.
    """
    if weights not in card.weights:
        raise CheckpointError(
            f"{folder} has weights {sorted(card.weights)}, not {weights!r}; choose one of them"
        )
    entry = card.weights[weights]
    file = folder / Path(entry["file"]).name
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; restore the checkpoint folder")
    digest = sha256_of(file)
    if digest != entry["sha256"]:
        raise CheckpointError(
            f"{file} was altered or damaged: sha256 {digest}, expected {entry['sha256']}"
        )
    try:
        state = load_file(file)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{file} is not a safetensors file ({error})") from error
    own = module.state_dict()
    problems = [f"missing {name}" for name in sorted(set(own) - set(state))]
    problems += [f"unexpected {name}" for name in sorted(set(state) - set(own))]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in sorted(set(own) & set(state))
        if state[name].shape != own[name].shape
    ]
    if problems:
        raise CheckpointError(f"{file} does not fit its configuration: " + "; ".join(problems))
    broken = sorted(n for n, t in state.items() if t.is_floating_point() and not t.isfinite().all())
    if broken:
        raise CheckpointError(f"{file}: {broken} hold values that are not finite")
    module.load_state_dict(state, strict=True)
