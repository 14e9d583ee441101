"""A checkpoint is verified and safe, or it is refused with the reason."""

import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from genpolicy.errors import CheckpointError
from genpolicy.files import sha256_of
from genpolicy.policies import load_policy, read_card

OBS = {"agent_pos": torch.full((2, 2, 2), 200.0), "keypoints": torch.full((2, 2, 18), 250.0)}


def _edit(folder, change):
    path = folder / "policy.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _replace_weights(folder, data):
    """Put other bytes in place of the weights, with a manifest that agrees with them."""
    file = folder / "ema.safetensors"
    file.write_bytes(data) if isinstance(data, bytes) else save_file(data, file)
    _edit(folder, lambda c: c["weights"]["ema"].update(sha256=sha256_of(file)))


def test_a_round_trip_acts_the_same_bit_for_bit(checkpoint, make_policy):
    expected = make_policy().sample(OBS, seeds=[3, 4])
    assert torch.equal(load_policy(checkpoint).sample(OBS, seeds=[3, 4]), expected)
    assert not torch.equal(
        load_policy(checkpoint, weights="raw").sample(OBS, seeds=[3, 4]), expected
    )


def test_a_loaded_policy_is_frozen_and_evaluating(checkpoint):
    policy = load_policy(checkpoint)
    assert not policy.training
    assert not any(p.requires_grad for p in policy.parameters())


def test_statistics_come_back_bit_for_bit(checkpoint, normalizer):
    assert read_card(checkpoint).normalizer == normalizer.to_json()
    assert load_policy(checkpoint).normalizer.to_json() == normalizer.to_json()


def test_altered_weights_are_found(checkpoint):
    file = checkpoint / "ema.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="altered or damaged"):
        load_policy(checkpoint)


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/genpolicy-was-executed", "w"))


@pytest.mark.parametrize(
    "data",
    [pickle.dumps(Evil()), struct.pack("<Q", 2**60) + b"{}", b"", b"\x00" * 100],
    ids=["pickle", "giant header", "empty", "zeros"],
)
def test_what_is_no_safetensors_file_is_refused_without_running_it(checkpoint, data, tmp_path):
    from pathlib import Path

    _replace_weights(checkpoint, data)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_policy(checkpoint)
    assert not Path("/tmp/genpolicy-was-executed").exists()


def test_tensors_that_do_not_fit_are_listed(checkpoint):
    state = load_file(checkpoint / "ema.safetensors")
    state["extra"] = torch.zeros(1)
    del state["denoiser.network.out.bias"]
    state["denoiser.network.out.weight"] = state["denoiser.network.out.weight"][:-1].clone()
    _replace_weights(checkpoint, state)
    with pytest.raises(CheckpointError) as error:
        load_policy(checkpoint)
    for part in ("missing denoiser.network.out.bias", "unexpected extra", "out.weight has shape"):
        assert part in str(error.value)


def test_weights_that_are_not_finite_are_refused(checkpoint):
    state = load_file(checkpoint / "ema.safetensors")
    state["denoiser.network.out.bias"][0] = float("nan")
    _replace_weights(checkpoint, state)
    with pytest.raises(CheckpointError, match="not finite"):
        load_policy(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema_version=99), "needs genpolicy >="),
        (lambda c: c.update(normalizer={}), "normalizer statistics are absent"),
        (lambda c: c.pop("spec"), "incomplete"),
        (lambda c: c["policy"]["path"].update(_target_="os.system"), "not allowed"),
        (lambda c: c["policy"]["network"].update(widht=3), "did you mean 'width'"),
        (lambda c: c["weights"]["ema"].update(file="../../etc/passwd"), "missing"),
        (lambda c: c["weights"].pop("ema"), "has weights"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(checkpoint, change, message):
    _edit(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        load_policy(checkpoint)


def test_a_manifest_that_is_no_json_is_refused(checkpoint):
    (checkpoint / "policy.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        load_policy(checkpoint)


def test_a_missing_checkpoint_says_what_to_give(tmp_path):
    with pytest.raises(CheckpointError, match="give a checkpoint folder"):
        load_policy(tmp_path / "nowhere")
