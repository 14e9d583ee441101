"""The CUDA kernels on a real device, against the references on the CPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from genpolicy.native.builder import Precision
from genpolicy.ops import Draw, Parts, backend, compose_step, mlp_reference
from genpolicy.ops.program import Header
from genpolicy.policies.compiled import why_not_compiled
from tests.native.cases import in_torch, observations, policy
from tests.ops.cuda.programs import Case, UnetCase, batch, errors
from tests.ops.cuda.test_emulated import BF16_CASES, CASES, FLOOR
from tests.ops.cuda.test_emulated_grid import CASES as UNETS

pytestmark = pytest.mark.gpu

RUN = torch.ops.genpolicy.mlp_sample.default
NOISE = torch.ops.genpolicy.row_noise.default


@pytest.fixture(autouse=True)
def _kernels() -> None:
    if not backend().cuda:
        pytest.skip("genpolicy_ext has no CUDA kernels; build it with: GENPOLICY_CUDA=1 make ext")


def on_device(case: Case | UnetCase, n_rows: int, device: str = "cuda") -> torch.Tensor:
    inputs, seeds = (t.to(device) for t in batch(n_rows))
    code, plan, vectors, weights = case.program().tensors
    chunk = int(code[Header.CHUNK])
    return RUN(inputs, seeds, code, plan, vectors.to(device), weights.to(device), chunk)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("n_rows", [0, 1, 7, 33, 257, 5000])
def test_float32_is_as_exact_as_the_reference(name: str, n_rows: int) -> None:
    actual = on_device(CASES[name], n_rows)
    assert actual.device.type == "cuda"
    error, usual = errors(actual.cpu(), *batch(n_rows), CASES[name].program())
    assert error <= 2 * usual + FLOOR


@pytest.mark.parametrize("name", BF16_CASES)
def test_bfloat16_products(name: str) -> None:
    program = BF16_CASES[name].program()
    full = dataclasses.replace(BF16_CASES[name], precision="fp32").program()
    inputs, seeds = batch(257)
    chunk = int(program.code[2])
    exact = mlp_reference.mlp_sample(inputs, seeds, *full.tensors, chunk)
    right = mlp_reference.mlp_sample(inputs, seeds, *program.tensors, chunk)
    by_row = (on_device(BF16_CASES[name], 257).cpu() - right).abs().amax(1)
    assert float(by_row.max()) <= 1.5 * float((exact - right).abs().max())
    assert float(by_row.median()) < 10 * FLOOR


@pytest.mark.parametrize("name", ["mish, waves", "film", "more columns than a pass"])
def test_a_row_is_the_same_bit_for_bit_in_every_batch(name: str) -> None:
    whole = on_device(CASES[name], 100_000)
    for n_rows in (1, 40, 3000):
        assert torch.equal(on_device(CASES[name], n_rows), whole[:n_rows])


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("n_rows", [0, 1, 7, 300, 1000])
def test_networks_with_convolutions(name: str, n_rows: int) -> None:
    case = UNETS[name][0]
    actual = on_device(case, n_rows)
    error, usual = errors(actual.cpu(), *batch(n_rows), case.program())
    assert error <= 2 * usual + FLOOR
    assert torch.equal(on_device(case, n_rows), actual)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_large_convolutions_are_the_same_in_every_batch(precision: Precision) -> None:
    case = UnetCase(
        dims=(256, 512), n_groups=8, horizon=16, kernel_size=5, n_evaluations=3, precision=precision
    )
    whole = on_device(case, 600)
    assert whole.isfinite().all()
    for n_rows in (1, 2, 17, 300):
        assert torch.equal(on_device(case, n_rows), whole[:n_rows])


def test_row_noise_and_other_streams() -> None:
    _, seeds = batch(3000)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        actual = NOISE(seeds.cuda(), 13, 5, 2)
    stream.synchronize()
    expected = mlp_reference.row_noise(seeds, 13, 5, 2)
    torch.testing.assert_close(actual.cpu(), expected, rtol=2e-7, atol=1e-12)


def test_tensors_on_two_devices_are_refused() -> None:
    inputs, seeds = batch(3)
    program = Case(width=5, depth=1).program()
    with pytest.raises(RuntimeError, match="is not on the CUDA device of the seeds"):
        RUN(inputs.cuda(), seeds.cuda(), *program.tensors, 12)
    with pytest.raises(RuntimeError, match="code and plan stay there"):
        RUN(inputs.cuda(), seeds.cuda(), *(t.cuda() for t in program.tensors), 12)


def test_a_policy_on_the_device_acts_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    made = policy(network_options={"width": 40, "conditioning": "film"})
    obs, seeds = observations(made, 40), list(range(40))
    expected = in_torch(made, obs, seeds, monkeypatch)
    made = made.to("cuda")
    assert why_not_compiled(made) == ""
    actual = made.sample(obs, seeds=seeds)
    assert actual.device.type == "cuda"
    torch.testing.assert_close(actual.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 4, 2), (300, 3, 7), (5000, 16, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_single_steps(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    x, first, second, previous = torch.randn(4, *shape, dtype=dtype).unbind(0)
    parts = Parts(outputs=(first, second), factors=(0.4, -1.2), on_x=0.9, shift=x[0, 0].clone())
    told = {"c_x": 0.3, "c_denoised": 0.6, "c_previous": -0.2, "c_noise": 0.7, "lo": -0.7}
    draw = Draw(torch.arange(len(x)), 3)
    right = compose_step(x, parts, previous, draw, **told)
    there = dataclasses.replace(
        parts, outputs=(first.cuda(), second.cuda()), shift=x[0, 0].clone().cuda()
    )
    draw = Draw(draw.seeds.cuda(), 3)
    found = compose_step(x.cuda(), there, previous.cuda(), draw, **told)
    for actual, expected in zip(found, right, strict=True):
        assert actual.device.type == "cuda"
        torch.testing.assert_close(actual.cpu(), expected, atol=3e-6, rtol=3e-6)
