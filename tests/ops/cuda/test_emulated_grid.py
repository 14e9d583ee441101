"""Programs on all blocks of an emulated GPU together: convolutional networks and compositions."""

from __future__ import annotations

import ctypes
import dataclasses

import pytest
import torch

from genpolicy.native.builder import Precision
from genpolicy.ops import mlp_reference
from genpolicy.ops.program import Field, Header, Op, Program
from tests.ops.cuda.emulation import FEW, MANY, ONE, SMALL, Gpu
from tests.ops.cuda.programs import UnetCase, batch, errors

FLOOR = 2e-6


# Levels, groups that share panels, panels that share groups, horizons that fill no tile, and longer
# ones than a tile; devices with one block and with two.
CASES = {
    "one row": (UnetCase(), 1, ONE),
    "two levels": (UnetCase(dims=(16, 24), kernel_size=5), 3, FEW),
    "groups across panels": (UnetCase(dims=(40,), n_groups=8, horizon=5), 7, FEW),
    "groups of 20": (UnetCase(dims=(40,), n_groups=2, film_scale=False), 2, FEW),
    "one group": (UnetCase(dims=(18,), n_groups=1, horizon=10, action_dim=18), 4, ONE),
    "longer than a tile": (UnetCase(dims=(8,), n_groups=2, horizon=36), 3, FEW),
    "beside an MLP": (UnetCase(beside=True, n_evaluations=2), 2, FEW),
    "more rows than at once": (UnetCase(dims=(8,), n_groups=2, horizon=1), 258, ONE),
    "three levels": (UnetCase(dims=(8, 16, 24), horizon=8), 2, ONE),
}


@pytest.mark.parametrize("name", CASES)
def test_float32_is_as_exact_as_the_reference(gpu: Gpu, name: str) -> None:
    case, n_rows, device = CASES[name]
    program = case.program()
    inputs, seeds = batch(n_rows)
    error, usual = errors(gpu.sample(inputs, seeds, program, device), inputs, seeds, program)
    assert error <= 2 * usual + FLOOR


BF16_CASES = {
    "unet": UnetCase(precision="bf16"),
    "odd channels": UnetCase(dims=(20,), n_groups=2, action_dim=5, precision="bf16"),
    "beside an MLP": UnetCase(beside=True, precision="bf16"),
}


@pytest.mark.parametrize("name", BF16_CASES)
def test_bfloat16_products(gpu: Gpu, name: str) -> None:
    # See the same test of other programs.
    case = BF16_CASES[name]
    program, full = case.program(), dataclasses.replace(case, precision="fp32").program()
    inputs, seeds = batch(9)
    chunk = program.head(Header.CHUNK)
    exact = mlp_reference.mlp_sample(inputs, seeds, *full.tensors, chunk)
    right = mlp_reference.mlp_sample(inputs, seeds, *program.tensors, chunk)
    by_row = (gpu.sample(inputs, seeds, program, FEW) - right).abs().amax(1)
    assert float(by_row.max()) <= float((exact - right).abs().max())
    assert float(by_row.median()) < 10 * FLOOR


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_is_the_same_bit_for_bit_in_every_batch_and_division(
    gpu: Gpu, precision: Precision
) -> None:
    # With one block a job is done item by item, with two in chunks.
    program = UnetCase(dims=(24,), n_groups=2, beside=True, precision=precision).program()
    inputs, seeds = batch(7)
    whole = gpu.sample(inputs, seeds, program, ONE)
    assert whole.isfinite().all()
    assert torch.equal(gpu.sample(inputs, seeds, program, FEW), whole)
    for part in (slice(0, 1), slice(3, 6)):
        rows = inputs[part].contiguous(), seeds[part].contiguous()
        assert torch.equal(gpu.sample(*rows, program, FEW), whole[part])


def test_a_nan_stays_in_its_row(gpu: Gpu) -> None:
    program = UnetCase().program()
    inputs, seeds = batch(5)
    clean = gpu.sample(inputs, seeds, program, FEW)
    inputs[2, 2] = torch.nan  # no part of the observation that may be absent
    actual = gpu.sample(inputs, seeds, program, FEW)
    assert actual[2].isnan().all()
    others = torch.arange(5) != 2
    assert torch.equal(actual[others], clean[others])


def test_no_rows_and_how_a_launch_is_made(gpu: Gpu) -> None:
    program = UnetCase().program()
    assert gpu.sample(*batch(0), program, FEW).shape == (0, 12)
    gpu.sample(*batch(1), program, SMALL)
    last = gpu.last_launch()
    assert (last["device"], last["blocks"], last["threads"], last["stream"]) == (SMALL, 2, 256, 7)
    assert gpu.library.emulated_current_device() == 0


def scheduled(gpu: Gpu, program: Program, n_rows: int, tile: int, n_blocks: int) -> dict[str, int]:
    """Return how a program is divided into jobs."""
    found = torch.zeros(6, dtype=torch.int64)
    gpu.library.emulated_schedule(
        ctypes.c_void_p(program.code.data_ptr()), ctypes.c_void_p(program.plan.data_ptr()),
        n_rows, tile, ctypes.c_int64(n_blocks), ctypes.c_void_p(found.data_ptr()),
    )  # fmt: skip
    names = ("waits", "norms_behind", "norms_apart", "split", "counters", "partials")
    return dict(zip(names, found.tolist(), strict=True))


def test_every_norm_is_behind_its_products_and_blocks_wait_little(gpu: Gpu) -> None:
    program = UnetCase(dims=(256, 512), n_groups=8, horizon=16, kernel_size=5).program()
    few = scheduled(gpu, program, 1, 16, 264)
    # Two waits for each of 8 blocks; others for what changes the length, the ends and the member.
    n_norms = 2 * 8 + 1
    assert (few["norms_behind"], few["norms_apart"]) == (n_norms, 0)
    assert few["waits"] <= 2 * 8 + 12
    many = scheduled(gpu, program, 256, 32, 264)
    assert many["split"] < few["split"]
    assert many["waits"] == few["waits"]
    assert scheduled(gpu, program, 256, 32, 2)["split"] == 0
    assert scheduled(gpu, program, 256, 32, 2)["partials"] == 0


def test_norms_that_overwrite_what_is_read_are_done_apart(gpu: Gpu) -> None:
    """A hand-written program: the norm of y goes where the convolution behind it still reads."""
    program = UnetCase().program()
    rows = program._instructions
    norm = max(
        n
        for n in range(1, len(rows))
        if rows[n, Field.OP] == Op.GROUP_NORM
        and rows[n - 1, Field.OP] == Op.CONVOLVE
        and rows[n, Field.SRC3] < 0
        and rows[n, Field.SRC2] >= 0
    )
    code = program.code.clone()
    changed = dataclasses.replace(program, code=code)
    changed._instructions[norm, Field.DST] = rows[norm - 1, Field.SRC]
    for row in changed._instructions[norm + 1 :]:
        for field in (Field.SRC, Field.SRC2):
            if row[field] == rows[norm, Field.DST]:
                row[field] = rows[norm - 1, Field.SRC]
    plan = scheduled(gpu, changed, 3, 32, 2)
    assert plan["norms_apart"] >= 1
    inputs, seeds = batch(3)
    error, usual = errors(gpu.sample(inputs, seeds, changed, FEW), inputs, seeds, changed)
    assert error <= 2 * usual + FLOOR


def test_damaged_programs_are_refused(gpu: Gpu) -> None:
    program = UnetCase().program()
    at = program.code.tolist()
    code = program.code.clone()
    code[Header.ROW_FLOATS] += 1
    with pytest.raises(RuntimeError, match="cudaErrorInvalidValue"):
        gpu.sample(*batch(2), dataclasses.replace(program, code=code), FEW)
    weights = program.weights[:-16].contiguous()
    with pytest.raises(RuntimeError, match="cudaErrorInvalidValue"):
        gpu.sample(*batch(2), dataclasses.replace(program, weights=weights), MANY)
    assert program.code.tolist() == at
