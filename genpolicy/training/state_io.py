"""Training state as safetensors + JSON: Lightning's checkpoint dictionary without pickle.

Lightning hands over nested dictionaries, lists, numbers, strings and tensors (weights, optimizer
moments, loop counters, callback states). Tensors go to one safetensors file, the rest to JSON with
references to them; what fits neither is refused. The folder appears atomically or not at all.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genpolicy.errors import CheckpointError
from genpolicy.files import publish_folder, sha256_of, write_json

__all__ = ["FolderCheckpointIO", "decode_tree", "encode_tree"]

_SCHEMA = 1
_TENSORS, _TREE = "tensors.safetensors", "state.json"


def encode_tree(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Return ``tree`` in JSON types; its tensors move to ``tensors``, referred to by name.

    Raises:
        CheckpointError: for an object that is no plain container, number, string or tensor.
    """
    if isinstance(tree, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = tree.detach().to("cpu", copy=True).contiguous()
        return {"~": "tensor", "name": name}
    if tree is None or isinstance(tree, (bool, int, str)):
        return tree
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else {"~": "float", "text": repr(tree)}
    if isinstance(tree, Mapping):
        if type(tree) not in (dict, OrderedDict):
            raise CheckpointError(f"training state holds a {type(tree).__name__}, expected a dict")
        items = [[encode_tree(k, tensors), encode_tree(v, tensors)] for k, v in tree.items()]
        return {"~": "dict", "items": items}
    if isinstance(tree, (list, tuple)):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {"~": kind, "items": [encode_tree(v, tensors) for v in tree]}
    raise CheckpointError(
        f"training state holds a {type(tree).__name__}; keep numbers, strings, tensors and plain "
        "containers in callbacks and hyper-parameters"
    )


def decode_tree(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Rebuild what ``encode_tree`` took apart."""
    if not isinstance(tree, dict):
        return tree
    kind = tree["~"]
    if kind == "tensor":
        return tensors[tree["name"]]
    if kind == "float":
        return float(tree["text"])
    if kind == "dict":
        return {decode_tree(k, tensors): decode_tree(v, tensors) for k, v in tree["items"]}
    values = [decode_tree(v, tensors) for v in tree["items"]]
    return values if kind == "list" else tuple(values)


class FolderCheckpointIO(CheckpointIO):
    """Lightning plugin that reads and writes training state as a folder."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` as the folder ``path``, atomically."""
        tensors: dict[str, Tensor] = {}
        tree = encode_tree(checkpoint, tensors)
        with publish_folder(path) as stage:
            save_file(tensors, stage / _TENSORS)
            digest = sha256_of(stage / _TENSORS)
            write_json(stage / _TREE, {"schema_version": _SCHEMA, "sha256": digest, "tree": tree})

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a folder written by ``save_checkpoint``.

        Raises:
            CheckpointError: when it is missing, damaged or of a newer schema.
        """
        folder = Path(path)
        try:
            content = json.loads((folder / _TREE).read_text(encoding="utf-8"))
            if content["schema_version"] > _SCHEMA:
                raise CheckpointError(
                    f"{folder} has schema {content['schema_version']}, expected {_SCHEMA}"
                )
            digest = sha256_of(folder / _TENSORS)
            if digest != content["sha256"]:
                raise CheckpointError(
                    f"{folder / _TENSORS} is damaged: sha256 {digest}, expected {content['sha256']}"
                )
            return decode_tree(content["tree"], load_file(folder / _TENSORS))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"training state {folder} cannot be read: {error}") from error

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a state folder."""
        import shutil

        shutil.rmtree(path, ignore_errors=True)
