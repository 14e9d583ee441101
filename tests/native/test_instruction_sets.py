"""Kernels of every instruction set that this processor runs, each in a process of its own."""

import importlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genpolicy.ops import backend
from tests.native.cases import (
    assert_as_close,
    exact,
    in_torch,
    needs_kernels,
    observations,
    policy,
    program_of,
)

ROOT = Path(__file__).resolve().parents[2]
ALL = ("plain", "avx2", "avx512", "avx512_bf16", "amx_bf16")
PRECISIONS = ("fp32", "bf16", "bf16x3")
N_ROWS = 60
PARTS = ([0], [59, 3], list(range(7, 23)), list(range(20, 37)), list(range(49)))
SCRIPT = """
import sys, torch
from genpolicy.ops import backend
from tests.native.test_instruction_sets import actions, check_rows
assert backend().isa == sys.argv[1], backend()
torch.save(actions(), sys.argv[2])
check_rows()
"""


def policies():
    """Return policies that use every instruction and every group of rows, in float32."""
    film = {"width": 40, "conditioning": "film"}
    unet = {"dims": [16, 40], "n_groups": 4, "time_dim": 8}
    encoder = {"n_frequencies": 1, "optional_keys": ["goal"], "out_dim": 7}
    sampler = {"rule": "ddpm", "n_steps": 3}
    # Blocks of 32 inputs: whole ones, one and a rest, an odd number of inputs.
    widths = (1, 17, 33, 70, 96)
    made = [policy(network="MLP", network_options={"width": w}, sampler=sampler) for w in widths]
    made += [
        policy(network_options=film, encoder_options=encoder, sampler=sampler),
        policy(network="ConditionalUnet1D", network_options=unet, horizon=8, sampler=sampler),
    ]
    return made


def in_precisions():
    made = policies()
    return {name: [one.with_sampler(precision=name) for one in made] for name in PRECISIONS}


def sampled(made, rows):
    obs = {key: values[rows] for key, values in observations(made, N_ROWS).items()}
    return made.sample(obs, seeds=rows)


def actions():
    """Return the actions of all policies, of each precision."""
    rows = list(range(N_ROWS))
    return {name: [sampled(one, rows) for one in made] for name, made in in_precisions().items()}


def check_rows():
    """A row is the same, bit for bit, in every batch and with two threads."""
    for number, one in enumerate(itertools.chain(*in_precisions().values())):
        whole = sampled(one, list(range(N_ROWS)))
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for rows in PARTS:
                assert torch.equal(sampled(one, rows), whole[rows]), (number, threads, rows)


def runnable():
    """Return the instruction sets that this processor runs."""
    return importlib.import_module("genpolicy_ext").isas()


def in_process(isa, file, script=SCRIPT):
    environment = {**os.environ, "GENPOLICY_ISA": isa, "GENPOLICY_EXT": "require"}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    command = [sys.executable, "-c", script, isa, str(file)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@needs_kernels
def test_the_best_instruction_set_is_one_of_those_that_run():
    assert backend().isa in runnable()
    assert [isa for isa in ALL if isa in runnable()] == runnable()


@pytest.fixture(scope="module")
def expected():
    """Per policy: the actions of the torch loop, and those of its program in float64."""
    seeds = list(range(N_ROWS))
    made = in_precisions()
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for one, low in zip(made["fp32"], made["bf16"], strict=True):
            obs = observations(one, N_ROWS)
            truth, rounded = exact(one, obs, seeds), exact(low, obs, seeds)
            found.append((in_torch(one, obs, seeds, patch), truth, rounded))
    return found


@needs_kernels
@pytest.mark.parametrize("isa", ALL)
def test_every_instruction_set_is_as_close_to_float64_as_torch(isa, tmp_path, expected):
    """In bfloat16: below 1e-2 of the range off float64 rounded alike, and off the best set.

    In pieces: as in float32, and the same where there is no matrix unit.
    """
    if isa not in runnable():
        pytest.skip(f"this processor runs {', '.join(runnable())}")
    done = in_process(isa, tmp_path / "actions")
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "actions", weights_only=True)
    for own, low, pieces, (reference, truth, rounded) in zip(
        *(found[name] for name in PRECISIONS), expected, strict=True
    ):
        assert_as_close(own, reference, truth)
        assert_as_close(pieces, reference, truth)
        assert torch.equal(pieces, own) == (isa != "amx_bf16")
        span = float(truth.max() - truth.min())
        error = float((low.double() - rounded).abs().max())
        assert error < 1e-2 * span, f"{error / span:.2e} of the range"
        assert not torch.equal(low, own)
    for low, other in zip(actions()["bf16"], found["bf16"], strict=True):
        span = float(low.max() - low.min())
        torch.testing.assert_close(other, low, atol=1e-2 * span, rtol=0)


@needs_kernels
@pytest.mark.skipif(not backend().has_matrix_unit, reason="this processor has no matrix unit")
def test_kernels_without_a_matrix_unit_refuse_programs_in_pieces(tmp_path):
    made = policies()[0].with_sampler(precision="bf16x3")
    torch.save(program_of(made).arguments, tmp_path / "program")
    script = """
import sys, torch
from genpolicy.ops import backend
*tensors, chunk = torch.load(sys.argv[2], weights_only=True)
inputs = torch.zeros(1, int(tensors[0][1]))
assert backend().isa == sys.argv[1]
torch.ops.genpolicy.mlp_sample(inputs, torch.zeros(1, dtype=torch.int64), *tensors, chunk)
"""
    done = in_process("avx512", tmp_path / "program", script)
    assert done.returncode == 1
    assert "avx512 have no products of numbers in pieces" in done.stderr
    assert "sampler.precision=fp32" in done.stderr


@needs_kernels
def test_an_unknown_instruction_set_is_refused(tmp_path):
    done = in_process("avx1024", tmp_path / "actions")
    assert done.returncode == 1
    assert "GENPOLICY_ISA is 'avx1024'" in done.stderr
    assert "plain" in done.stderr
