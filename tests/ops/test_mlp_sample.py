"""The operators themselves: registration, refusals, and damaged programs."""

import os
import re
import subprocess
import sys

import pytest
import torch

from genpolicy.ops import backend, is_compiled
from genpolicy.ops.mlp_reference import mlp_sample as reference
from genpolicy.ops.mlp_reference import row_noise as reference_noise
from genpolicy.ops.program import HEADER_SIZE, INSTRUCTION_SIZE, Field, Header, Op
from tests.native.cases import needs_kernels, observations, policy, program_of

RUN = torch.ops.genpolicy.mlp_sample.default
NOISE = torch.ops.genpolicy.row_noise.default


def case(n_rows=5, **options):
    made = policy(network_options={"width": 20, "conditioning": "film"}, **options)
    found = program_of(made)
    obs = observations(made, n_rows)
    inputs = torch.cat([obs[key].flatten(1) for key in found.keys], dim=1)
    return inputs, torch.arange(n_rows), found.arguments


@pytest.fixture(autouse=True)
def _loaded():
    backend()


def test_the_operators_are_well_formed():
    inputs, seeds, arguments = case()
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(RUN, (inputs, seeds, *arguments), test_utils=tests)
    torch.library.opcheck(NOISE, (seeds, 7, 1, 0), test_utils=tests)


def test_they_compile_without_a_break():
    inputs, seeds, arguments = case()

    @torch.compile(fullgraph=True, backend="eager")
    def run(inputs, seeds):
        return 2.0 * RUN(inputs, seeds, *arguments)

    assert torch.equal(run(inputs, seeds), 2.0 * RUN(inputs, seeds, *arguments))


@pytest.mark.parametrize("n_values", [1, 2, 3, 4, 5, 64])
def test_noise_is_the_reference_noise(n_values):
    seeds = torch.tensor([0, 1, -1, 2**62, -(2**63), 77])
    for index, stream in ((0, 0), (3, 1), (2**32 - 1, 5)):
        found = NOISE(seeds, n_values, index, stream)
        expected = reference_noise(seeds, n_values, index, stream)
        torch.testing.assert_close(found, expected, atol=2.5e-7, rtol=1.2e-7)


def test_noise_is_normal_far_into_its_tails():
    found = NOISE(torch.arange(20_000), 64, 0, 0).double().flatten()
    expected = reference_noise(torch.arange(20_000), 64, 0, 0).double().flatten()
    assert float((found - expected).abs().max()) < 1e-6
    assert float(found.abs().max()) > 4.5


@pytest.mark.parametrize("n_rows", [0, 1, 7, 257])
def test_every_batch_size(n_rows):
    inputs, seeds, arguments = case(n_rows)
    found = RUN(inputs, seeds, *arguments)
    assert found.shape == (n_rows, arguments[-1])
    torch.testing.assert_close(found, reference(inputs, seeds, *arguments), atol=2e-5, rtol=2e-5)


@needs_kernels
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.__setitem__(0, a[0].double()), "inputs has another type"),
        (lambda a: a.__setitem__(0, a[0].t().contiguous().t()), "inputs is not contiguous"),
        (lambda a: a.__setitem__(0, a[0][:, 1:].contiguous()), "inputs have 9 columns"),
        (lambda a: a.__setitem__(0, a[0][0]), "inputs has 1 axes, expected 2"),
        (lambda a: a.__setitem__(1, a[1][1:]), "got 4 seeds for 5 rows"),
        (lambda a: a.__setitem__(5, a[5].half()), "weights has another type"),
        (lambda a: a.__setitem__(5, a[5].bfloat16()), "different precision"),
        (lambda a: a.__setitem__(6, a[6] + 1), "chunk is 9"),
        (lambda a: a.__setitem__(3, a[3][:-1]), "plan has another length"),
        (lambda a: a.__setitem__(2, a[2][:4]), "too short for its header"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message):
    inputs, seeds, arguments = case()
    changed = [inputs, seeds, *arguments]
    change(changed)
    with pytest.raises(RuntimeError, match=message):
        RUN(*changed)


@needs_kernels
def test_damaged_programs_never_reach_outside_of_their_tensors():
    """Every number of the code is replaced by bad ones; what is accepted has to run."""
    inputs, seeds, arguments = case()
    code = arguments[0]
    n_refused = 0
    for place in range(len(code)):
        for value in (-1, 0, 10**6, 2**62, -(2**62), int(code[place]) + 1, int(code[place]) - 1):
            damaged = code.clone()
            damaged[place] = value
            try:
                RUN(inputs, seeds, damaged, *arguments[1:])
            except RuntimeError:
                n_refused += 1
    assert n_refused > 2 * len(code)


@needs_kernels
@pytest.mark.parametrize("missing", ["weights", "vectors"])
def test_shortened_tensors_are_refused(missing):
    inputs, seeds, arguments = case()
    changed = list(arguments)
    place = {"vectors": 2, "weights": 3}[missing]
    changed[place] = changed[place][:-16].contiguous()
    with pytest.raises(RuntimeError, match="outside"):
        RUN(inputs, seeds, *changed)


def test_programs_of_another_version_are_refused():
    inputs, seeds, (code, *others) = case()
    damaged = code.clone()
    damaged[Header.VERSION] = 99
    with pytest.raises((RuntimeError, ValueError), match="version"):
        RUN(inputs, seeds, damaged, *others)


@needs_kernels
@pytest.mark.parametrize("activation", ["mish", "silu", "relu", "gelu"])
def test_activations_are_those_of_torch(activation):
    """A program whose hidden layer is replaced by each activation in turn."""
    made = policy(network="MLP", network_options={"width": 33, "n_layers": 1})
    found = program_of(made)
    code, *others = found.arguments
    changed = code.clone()
    start = HEADER_SIZE + 2 * int(code[Header.REGISTERS])
    rows = changed[start:].view(-1, INSTRUCTION_SIZE)
    is_hidden = (rows[:, Field.OP] == Op.LINEAR) & (rows[:, Field.ACTIVATION] != 0)
    assert int(is_hidden.sum()) == 1
    rows[is_hidden, Field.ACTIVATION] = ["mish", "silu", "relu", "gelu"].index(activation) + 1
    inputs = 30.0 * torch.randn(64, int(code[Header.INPUTS]))
    arguments = (torch.arange(64), changed, *others)
    expected = reference(inputs, *arguments)
    torch.testing.assert_close(RUN(inputs, *arguments), expected, atol=1e-5, rtol=1e-5)


FAULTY = """
import sys, types, warnings
package = types.ModuleType("genpolicy_ext")
package.ABI, package.__version__, package.BUILT_WITH_TORCH = {abi}, "0.0", "0"
package.CUDA_ARCHITECTURES, package.isa = (), lambda: "plain"
package.library = lambda: {library!r}
sys.modules["genpolicy_ext"] = package
warnings.simplefilter("always")
from genpolicy.ops import backend
with warnings.catch_warnings(record=True) as caught:
    found = [backend() for _ in range(3)]
assert found[0].name == "reference", found
print(len(caught), found[0].reason)
"""


@pytest.mark.parametrize(
    ("abi", "library", "reason"),
    [
        (4, "/nowhere/lib.so", "cannot be used"),
        (4, __file__, "invalid ELF header|file too short"),
        (99, "/nowhere/lib.so", "it has interface 99, this genpolicy needs 4"),
    ],
)
def test_a_library_that_cannot_be_used_is_left_out_once_with_the_reason(abi, library, reason):
    """Fault row 45: built for another torch, or damaged."""
    script = FAULTY.format(abi=abi, library=library)
    environment = {k: v for k, v in os.environ.items() if k != "GENPOLICY_EXT"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    count, found = done.stdout.strip().split(" ", 1)
    assert count == "1"
    assert re.search(reason, found)


def test_absence_is_an_error_where_kernels_are_required(monkeypatch):
    monkeypatch.setenv("GENPOLICY_EXT", "off")
    assert not is_compiled()
    script = "import sys; sys.modules['genpolicy_ext'] = None\n"
    script += "from genpolicy.ops import backend\nprint(backend())"
    environment = {**os.environ, "GENPOLICY_EXT": "require"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    assert "GENPOLICY_EXT=require, but there are no compiled operators" in done.stderr
    assert "pip install ./cuda_ext" in done.stderr
