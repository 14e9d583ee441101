"""The CUDA kernels under the sanitizers: memory beyond its bounds, undefined behaviour, races.

A race here is a missing barrier there: every CUDA thread is a thread of the system.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from genpolicy.ops.program import Program
from tests.ops.cuda.emulation import FEW, ONE, SMALL, TINY, built, compiler
from tests.ops.cuda.programs import Case, UnetCase, batch, errors

SANITIZERS = {
    "memory": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O0"],
    "races": ["-fsanitize=thread"],
}
CASES = {
    "mlp": Case(width=20, depth=1, is_noisy=True, octaves=1),
    "film": Case(kind="film", width=16, depth=1, has_stages=True, has_shifts=True),
    "bf16": Case(width=17, depth=1, precision="bf16"),
    "unet": UnetCase(dims=(8,), n_groups=2),
    "unet, bf16": UnetCase(dims=(8,), n_groups=2, horizon=2, precision="bf16"),
}


@pytest.fixture(scope="module", params=SANITIZERS)
def sanitized(request: pytest.FixtureRequest) -> Path:
    if compiler() is None:
        pytest.skip("no C++ compiler; set CXX or install g++")
    flags = [*SANITIZERS[request.param], "-g1"]
    return built(f"sanitized-{request.param}", *flags, main="sanitized.cpp")


def run(
    executable: Path, folder: Path, program: Program, n_rows: int, device: int, **environment: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Dump a call and run it."""
    inputs, seeds = batch(n_rows)
    arrays = [inputs.numpy(), seeds.numpy(), program.code.numpy(), program.plan.numpy()]
    weights = program.weights
    arrays += [program.vectors.numpy(), weights.view(torch.uint8).numpy()]
    counts = [n_rows, *(t.numel() for t in program.tensors), weights.element_size()]
    dump = folder / "call"
    header = np.array([*counts, inputs.shape[1]], dtype=np.int64)
    dump.write_bytes(b"".join(a.tobytes() for a in (header, *arrays)))
    done = subprocess.run(
        [str(executable), str(dump), str(device)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
    )
    return done, dump.with_name("call.out")


@pytest.mark.parametrize(
    ("name", "n_rows", "device"),
    [
        ("mlp", 9, SMALL),
        ("film", 33, FEW),
        ("bf16", 17, TINY),
        ("unet", 3, FEW),
        ("unet, bf16", 2, FEW),
    ],
)
def test_nothing_is_found(
    sanitized: Path, tmp_path: Path, name: str, n_rows: int, device: int
) -> None:
    program = CASES[name].program()
    done, out = run(sanitized, tmp_path, program, n_rows, device)
    assert done.returncode == 0, done.stderr[-4000:]
    inputs, seeds = batch(n_rows)
    actual = torch.from_numpy(np.fromfile(out, dtype=np.float32)).view(n_rows, -1)
    error, usual = errors(actual, inputs, seeds, program)
    assert error <= 2 * usual + (2e-2 if "bf16" in name else 2e-6)


LEFT_OUT = {
    # Behind the clearing of registers, between two instructions, and within products.
    "clearing": ("mlp", ONE, {"EMULATED_LEAVE_OUT": "2"}),
    "instructions": ("mlp", ONE, {"EMULATED_LEAVE_OUT": "10"}),
    "products": ("unet", FEW, {"EMULATED_LEAVE_OUT": "60"}),
    "all blocks": ("unet", FEW, {"EMULATED_NO_WAIT": "1"}),
}


@pytest.mark.parametrize("which", LEFT_OUT)
def test_a_missing_barrier_is_found(tmp_path: Path, which: str) -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler; set CXX or install g++")
    executable = built("sanitized-races", *SANITIZERS["races"], "-g1", main="sanitized.cpp")
    name, device, environment = LEFT_OUT[which]
    # A block that is scheduled after all others have ended meets nobody; one run in many, when the
    # machine is busy.
    for _attempt in range(5):
        done, _ = run(executable, tmp_path, CASES[name].program(), 5, device, **environment)
        if done.returncode != 0:
            break
    assert done.returncode != 0
    assert "data race" in done.stderr
