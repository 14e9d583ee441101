"""The CUDA kernels' own sources, run on the CPU thread by thread, against the references."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from genpolicy.native.builder import Builder, Evaluation, Limits
from genpolicy.ops import mlp_reference
from genpolicy.ops.program import Header, Program
from tests.ops.cuda.emulation import FEW, MANY, ONE, SMALL, TINY, Gpu
from tests.ops.cuda.programs import Case, batch, errors

FLOOR = 2e-6  # of results of size 1: what summing in another order may do

CASES = {
    "narrow": Case(width=5, depth=1),
    "one panel": Case(width=16, depth=3, activation=nn.SiLU),
    "relu": Case(width=48, depth=2, activation=nn.ReLU),
    "gelu, noise": Case(width=100, depth=1, activation=nn.GELU, is_noisy=True),
    "mish, waves": Case(width=100, depth=3, octaves=2, is_noisy=True),
    "residual": Case(kind="residual", width=48, depth=2),
    "residual, no norm": Case(kind="residual", width=5, depth=3, norm=False, has_shifts=True),
    "film": Case(kind="film", width=16, depth=1, is_noisy=True, octaves=1),
    "film, no norm": Case(kind="film", width=100, depth=2, norm=False),
    "two members": Case(kind="residual", width=16, depth=2, members=2, has_shifts=True),
    "two members with film": Case(kind="film", width=48, depth=2, members=2, is_noisy=True),
    "stages": Case(width=48, depth=2, has_stages=True, is_noisy=True),
    "limits": Case(width=16, depth=2, bounds=(-0.5, 0.6), is_noisy=True),
    "more columns than a pass": Case(width=300, depth=1, chunk=(9, 15)),
}
DEVICES = {"many": MANY, "few": FEW, "small": SMALL, "tiny": TINY, "one": ONE}


@pytest.mark.parametrize("name", CASES)
def test_float32_is_as_exact_as_the_reference(gpu: Gpu, name: str) -> None:
    program = CASES[name].program()
    device, n_rows = list(DEVICES.values())[len(name) % 5], (1, 7, 33)[len(name) % 3]
    inputs, seeds = batch(n_rows)
    error, usual = errors(gpu.sample(inputs, seeds, program, device), inputs, seeds, program)
    assert error <= 2 * usual + FLOOR


@pytest.mark.parametrize("n_rows", [0, 1, 7, 33, 257])
def test_every_batch_size(gpu: Gpu, n_rows: int) -> None:
    program = Case(width=16, depth=1, is_noisy=True).program()
    inputs, seeds = batch(n_rows)
    actual = gpu.sample(inputs, seeds, program, FEW)
    assert actual.shape == (n_rows, 12)
    error, usual = errors(actual, inputs, seeds, program)
    assert error <= 2 * usual + FLOOR


BF16_CASES = {
    "mlp": Case(width=48, depth=2, precision="bf16", octaves=1),
    "odd film": Case(kind="film", width=5, depth=2, precision="bf16", is_noisy=True),
    "two panels a warp": Case(width=150, depth=1, chunk=(3, 5), precision="bf16"),
    "stages": Case(kind="residual", width=16, depth=1, precision="bf16", has_stages=True),
}


@pytest.mark.parametrize("name", BF16_CASES)
@pytest.mark.parametrize("device", [ONE, TINY])
def test_bfloat16_products(gpu: Gpu, name: str, device: int) -> None:
    # Sums in another order end on the other side of a boundary of bfloat16 now and then, and move a
    # row by a part of what rounding to bfloat16 moved it. All other rows are as exact as float32.
    case = BF16_CASES[name]
    program, full = case.program(), dataclasses.replace(case, precision="fp32").program()
    inputs, seeds = batch(33)
    chunk = program.head(Header.CHUNK)
    exact = mlp_reference.mlp_sample(inputs, seeds, *full.tensors, chunk)
    right = mlp_reference.mlp_sample(inputs, seeds, *program.tensors, chunk)
    actual = gpu.sample(inputs, seeds, program, device)
    by_row = (actual - right).abs().amax(1)
    assert float(by_row.max()) <= float((exact - right).abs().max())
    assert float(by_row.median()) < 10 * FLOOR


@pytest.mark.parametrize(
    "case",
    [
        Case(width=100, depth=2, is_noisy=True),
        Case(kind="film", width=16, depth=1, octaves=1),
        Case(kind="residual", width=48, depth=1, precision="bf16", is_noisy=True),
    ],
    ids=["mlp", "film", "bf16"],
)
def test_a_row_is_the_same_bit_for_bit_in_every_batch_tile_and_memory(gpu: Gpu, case: Case) -> None:
    program = case.program()
    inputs, seeds = batch(34)
    whole = gpu.sample(inputs, seeds, program, FEW)
    assert whole.isfinite().all()
    for device in (MANY, SMALL, TINY):
        assert torch.equal(gpu.sample(inputs, seeds, program, device), whole)
    for part in (slice(0, 1), slice(33, 34), slice(13, 30)):
        alone = gpu.sample(inputs[part].contiguous(), seeds[part].contiguous(), program, ONE)
        assert torch.equal(alone, whole[part])


def test_tiles_are_chosen_by_batch_and_shared_memory(gpu: Gpu) -> None:
    small = Case(width=16, depth=1)
    row_floats = small.program().head(Header.ROW_FLOATS)
    row_bytes = 4 * (row_floats + (8 - row_floats) % 32)  # 8 modulo 32 floats from row to row
    stream = 3 * 16 * 264 * 4

    def launched(n_rows: int, device: int, case: Case = small) -> tuple[int, int]:
        gpu.sample(*batch(n_rows), case.program(), device)
        last = gpu.last_launch()
        assert (last["device"], last["threads"], last["stream"]) == (device, 256, 7)
        return last["blocks"], last["shared_bytes"]

    assert launched(9, MANY) == (2, stream + 8 * row_bytes)
    assert launched(17, FEW) == (2, stream + 16 * row_bytes)
    assert launched(33, FEW) == (2, stream + 32 * row_bytes)
    assert launched(257, FEW) == (4, stream + 32 * row_bytes)  # two blocks a multiprocessor
    assert launched(9, TINY) == (2, stream)  # in global memory: smallest tiles for few rows
    assert launched(65, TINY) == (3, stream)  # and largest for many
    small_bf16 = dataclasses.replace(small, precision="bf16")
    assert launched(9, MANY, small_bf16) == (1, stream + 16 * row_bytes)


def test_a_nan_stays_in_its_row(gpu: Gpu) -> None:
    program = Case(width=48, depth=2, bounds=(-1.0, 1.0), is_noisy=True).program()
    inputs, seeds = batch(33)
    clean = gpu.sample(inputs, seeds, program, FEW)
    inputs[5, 2] = torch.nan  # no part of the observation that may be absent
    actual = gpu.sample(inputs, seeds, program, FEW)
    assert actual[5].isnan().all()
    others = torch.arange(33) != 5
    assert torch.equal(actual[others], clean[others])


def test_a_column_of_no_spread_counts_for_nothing(gpu: Gpu) -> None:
    # The first observation has a constant factor of 0: whatever it holds counts for nothing.
    program = Case(width=16, depth=1).program()
    inputs, seeds = batch(7)
    expected = gpu.sample(inputs, seeds, program)
    inputs[:, 0] = torch.tensor([torch.nan, torch.inf, 1.0, 2.0, 3.0, 4.0, -torch.inf])
    assert torch.equal(gpu.sample(inputs, seeds, program), expected)


@pytest.mark.parametrize(("n_rows", "n_values"), [(1, 1), (7, 5), (300, 6), (0, 3)])
def test_row_noise(gpu: Gpu, n_rows: int, n_values: int) -> None:
    _, seeds = batch(n_rows)
    expected = mlp_reference.row_noise(seeds, n_values, 2**32 - 1, 3)
    actual = gpu.row_noise(seeds, n_values, 2**32 - 1, 3)
    # float64 inside: rounded to float32 they differ where a number lies on a boundary
    torch.testing.assert_close(actual, expected, rtol=2e-7, atol=1e-12)


def test_the_device_is_left_as_it_was_and_asked_for_its_facts_once(gpu: Gpu) -> None:
    program = Case(width=5, depth=1).program()
    gpu.sample(*batch(1), program, SMALL)
    before = gpu.library.emulated_attribute_calls()
    gpu.sample(*batch(1), program, SMALL)
    assert gpu.library.emulated_attribute_calls() == before
    assert gpu.library.emulated_current_device() == 0


def test_what_is_refused(gpu: Gpu) -> None:
    program = Case(width=5, depth=1).program()
    inputs, seeds = batch(3)
    with pytest.raises(RuntimeError, match="cudaErrorInvalidDevice"):
        gpu.sample(inputs, seeds, program, 99)
    for field in (Header.VERSION, Header.ROW_FLOATS, Header.BODY):
        code = program.code.clone()
        code[field] -= 1
        with pytest.raises(RuntimeError, match="cudaErrorInvalidValue"):
            gpu.sample(inputs, seeds, dataclasses.replace(program, code=code))
    shifted = torch.cat([torch.zeros(1), program.weights])[1:]  # not aligned to 16 bytes
    assert shifted.data_ptr() % 16 != 0
    with pytest.raises(RuntimeError, match="cudaErrorInvalidValue"):
        gpu.sample(inputs, seeds, dataclasses.replace(program, weights=shifted))


def test_a_layer_that_starts_within_a_panel_is_refused(gpu: Gpu) -> None:
    program = _one_layer()
    at = program.code.tolist().index(64)
    code = program.code.clone()
    code[at] = 56
    gpu.sample(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), program)
    with pytest.raises(RuntimeError, match="cudaErrorInvalidValue"):
        damaged = dataclasses.replace(program, code=code)
        gpu.sample(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), damaged)


def _one_layer() -> Program:
    """Return two layers of 4 inputs and 16 outputs: the second starts at 64."""
    builder = Builder(n_inputs=4, chunk=4)
    x, out = builder.register(4), builder.register(16)
    builder.member_input(x, 0)
    for _ in range(2):
        builder.linear(out, [(x, k) for k in range(4)], torch.ones(16, 4))
    builder.combine(out, 0)
    evaluation = Evaluation(c_x=0.5, c_denoised=0.5, on_x=0.5, members=[(1.0, 1.0)])
    limits = Limits(init=1.0, every_step=None, end=None, center=torch.zeros(4), span=torch.ones(4))
    return builder.build([evaluation], limits)
