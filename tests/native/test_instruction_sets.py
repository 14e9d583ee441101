"""Kernels for other instruction sets than this processor's best, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genpolicy.ops import backend
from tests.native.cases import needs_kernels, observations, policy

ROOT = Path(__file__).resolve().parents[2]
ORDER = ("plain", "avx2", "avx512", "avx512_bf16")
SCRIPT = """
import sys, torch
from genpolicy.ops import backend
from tests.native.test_instruction_sets import actions
assert backend().isa == sys.argv[1], backend()
torch.save(actions(), sys.argv[2])
"""


def actions():
    """Return the actions of policies that use every instruction and every group of rows."""
    film = {"width": 40, "conditioning": "film"}
    unet = {"dims": [16, 40], "n_groups": 4, "time_dim": 8}
    encoder = {"n_frequencies": 1, "optional_keys": ["goal"], "out_dim": 7}
    sampler = {"rule": "ddpm", "n_steps": 3}
    made = [
        policy(network="MLP", network_options={"width": 70}, sampler=sampler),
        policy(network_options=film, encoder_options=encoder, sampler=sampler),
        policy(network="ConditionalUnet1D", network_options=unet, horizon=8, sampler=sampler),
    ]
    made += [one.with_sampler(precision="bf16") for one in made]
    return [one.sample(observations(one, 60), seeds=range(60)) for one in made]


def in_process(isa, file):
    environment = {**os.environ, "GENPOLICY_ISA": isa, "GENPOLICY_EXT": "require"}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    command = [sys.executable, "-c", SCRIPT, isa, str(file)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@needs_kernels
@pytest.mark.parametrize("isa", ORDER)
def test_other_instruction_sets_give_the_same_actions(isa, tmp_path):
    best = backend().isa
    if best is None or ORDER.index(isa) > ORDER.index(best):
        pytest.skip(f"this processor runs {best} at most")
    done = in_process(isa, tmp_path / "actions")
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "actions", weights_only=True)
    for number, (own, other) in enumerate(zip(actions(), found, strict=True)):
        is_low = number >= len(found) // 2
        # Sums that round an input of the next product to its other neighbour in bfloat16.
        span = float(own.max() - own.min())
        torch.testing.assert_close(other, own, atol=1e-2 * span if is_low else 1e-5, rtol=0)


@needs_kernels
def test_an_unknown_instruction_set_is_refused(tmp_path):
    done = in_process("avx1024", tmp_path / "actions")
    assert done.returncode == 1
    assert "GENPOLICY_ISA is 'avx1024'" in done.stderr
