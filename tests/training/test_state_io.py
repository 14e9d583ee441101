"""Training state survives a round trip exactly, and nothing that needs pickle gets in."""

import math
from collections import OrderedDict

import pytest
import torch

from genpolicy.errors import CheckpointError
from genpolicy.training.state_io import FolderCheckpointIO


def _equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


def test_round_trip_of_an_optimizer_and_odd_values(tmp_path):
    parameter = torch.nn.Parameter(torch.randn(3, 2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    state = {
        "optimizer": optimizer.state_dict(),
        "numbers": {1: 2, "a": 0.1, "nan": math.nan, "inf": -math.inf, "none": None, "flag": True},
        "nested": [(1, "x"), [], {}, ()],
        "bf16": torch.randn(4).bfloat16(),
        "scalar": torch.tensor(3),
        "view": torch.arange(6).reshape(2, 3).T,
    }
    plugin = FolderCheckpointIO()
    plugin.save_checkpoint(state, tmp_path / "s")
    assert _equal(plugin.load_checkpoint(tmp_path / "s"), state)


def test_an_ordered_dict_comes_back_as_a_dict(tmp_path):
    plugin = FolderCheckpointIO()
    plugin.save_checkpoint({"w": OrderedDict(a=torch.ones(1))}, tmp_path / "s")
    assert torch.equal(plugin.load_checkpoint(tmp_path / "s")["w"]["a"], torch.ones(1))


@pytest.mark.parametrize("value", [object(), {1, 2}, lambda: 1, torch.nn.Linear(1, 1)])
def test_objects_are_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(CheckpointError, match=type(value).__name__):
        FolderCheckpointIO().save_checkpoint({"x": value}, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_damage_is_found(tmp_path, name):
    plugin = FolderCheckpointIO()
    plugin.save_checkpoint({"x": torch.arange(100)}, tmp_path / "s")
    file = tmp_path / "s" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content[:-3]))
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        plugin.load_checkpoint(tmp_path / "s")


def test_a_newer_schema_is_refused(tmp_path):
    plugin = FolderCheckpointIO()
    plugin.save_checkpoint({"x": 1}, tmp_path / "s")
    file = tmp_path / "s" / "state.json"
    file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(CheckpointError, match="schema 99"):
        plugin.load_checkpoint(tmp_path / "s")
