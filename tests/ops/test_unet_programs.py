"""One evaluation of the conditional U-Net as a program: against the module, and damaged."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genpolicy.native.builder import Builder, Evaluation, Limits
from genpolicy.native.networks import lower_network
from genpolicy.networks import ConditionalUnet1D
from genpolicy.ops import backend, is_compiled
from genpolicy.ops.mlp_reference import mlp_sample, row_noise
from genpolicy.ops.program import (
    HEADER_SIZE,
    PIECES,
    Field,
    Header,
    Op,
    Register,
    pack_kernel,
    pieces_of,
    unpack_kernel,
)
from tests.native.cases import RUNNABLE, assert_as_close, needs_kernels

RUN = torch.ops.genpolicy.mlp_sample.default
TIMES = torch.tensor([321.0])


@pytest.fixture(autouse=True)
def _loaded():
    backend()


def network_of(*, horizon=8, action_dim=3, obs_dim=4, seed=0, **options):
    """Return a U-Net whose biases and norms are not what they are initialized to."""
    torch.manual_seed(seed)
    made = ConditionalUnet1D(
        action_dim=action_dim,
        horizon=horizon,
        n_obs_steps=1,
        obs_dim=obs_dim,
        time_dim=8,
        **{"dims": (16, 24), "n_groups": 4, **options},
    ).requires_grad_(False)
    for parameter in made.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def program_of(network, *, precision="fp32", times=TIMES, fixed=None):
    """Return a program whose sample is the network's output at noise: (1) of one evaluation."""
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv1d)]
    horizon, action_dim = network._chunk
    assert layers[0].in_channels == action_dim
    n_cond = network._cond[0] * network._cond[1]
    chunk = horizon * action_dim
    builder = Builder(n_inputs=n_cond, chunk=chunk, precision=precision)
    cond = [(int(Register.INPUTS), k) for k in range(n_cond)]
    if fixed is not None:
        cond = [float(value) for value in fixed]
    x = builder.register(chunk)
    builder.member_input(x, 0)
    out = lower_network(builder, network, x=x, cond=cond, times=times, shift=None)
    builder.combine(out, 0)
    evaluation = Evaluation(c_x=0.0, c_denoised=1.0, on_x=0.0, members=[(1.0, 1.0)])
    limits = Limits(
        init=1.0, every_step=None, end=None, center=torch.zeros(chunk), span=torch.ones(chunk)
    )
    return (*builder.build([evaluation] * len(times), limits).tensors, chunk)


def inputs_of(network, n_rows):
    generator = torch.Generator().manual_seed(5)
    n = network._cond[0] * network._cond[1]
    return torch.randn(n_rows, n, generator=generator), torch.arange(n_rows)


def in_module(network, inputs, seeds, dtype=torch.float32):
    """Return the module's output at the noise of the seeds, flat."""
    horizon, action_dim = network._chunk
    x = row_noise(seeds, horizon * action_dim, 0, 0).to(dtype)
    cond = inputs.to(dtype).reshape(len(inputs), *network._cond)
    made = network.to(dtype)
    found = made(x.reshape(-1, horizon, action_dim), TIMES.expand(len(x)), cond).flatten(1)
    network.float()
    return found


SIZES = st.fixed_dictionaries(
    {
        "n_groups": st.sampled_from([1, 2, 4]),
        "multiples": st.lists(st.sampled_from([4, 5, 8, 10]), min_size=1, max_size=3),
        "kernel_size": st.sampled_from([3, 5]),
        "steps": st.sampled_from([1, 2, 4]),
        "action_dim": st.sampled_from([1, 3, 16, 18]),
        "obs_dim": st.integers(1, 19),
        "film_scale": st.booleans(),
        "n_rows": st.sampled_from([0, 1, 2, 7]),
    }
)


def drawn(sizes):
    sizes = dict(sizes)
    multiples, steps, n_rows = sizes.pop("multiples"), sizes.pop("steps"), sizes.pop("n_rows")
    dims = [min(sizes["n_groups"] * m * 2, 40) for m in multiples]
    horizon = max(4, steps * 2 ** (len(dims) - 1))
    return network_of(dims=dims, horizon=horizon, **sizes), n_rows


@pytest.mark.parametrize("precision", [name for name in RUNNABLE if name != "bf16"])
@settings(deadline=None, max_examples=40)
@given(sizes=SIZES)
def test_a_program_computes_what_the_module_does(precision, sizes):
    network, n_rows = drawn(sizes)
    inputs, seeds = inputs_of(network, n_rows)
    arguments = program_of(network, precision=precision)
    found = RUN(inputs, seeds, *arguments)
    assert found.shape == (n_rows, arguments[-1])
    if n_rows == 0:
        return
    reference = in_module(network, inputs, seeds)
    truth = in_module(network, inputs, seeds, torch.float64)
    code, plan, vectors, weights, chunk = arguments
    exact = mlp_sample(inputs.double(), seeds, code, plan, vectors.double(), weights, chunk)
    torch.testing.assert_close(exact, truth, atol=2e-6, rtol=2e-6)
    assert_as_close(found, reference, truth, floor=1e-6)


@needs_kernels
@settings(deadline=None, max_examples=15)
@given(SIZES)
def test_products_in_bfloat16_round_weights_and_inputs_only(sizes):
    network, n_rows = drawn(sizes)
    inputs, seeds = inputs_of(network, max(n_rows, 1))
    arguments = program_of(network, precision="bf16")
    found = RUN(inputs, seeds, *arguments)
    code, plan, vectors, weights, chunk = arguments
    exact = mlp_sample(inputs.double(), seeds, code, plan, vectors.double(), weights, chunk)
    full = in_module(network, inputs, seeds, torch.float64)
    scale = float(full.abs().max())
    # An input that rounds to the other neighbour moves what follows by parts of 2**-9.
    assert float((found - exact).abs().max()) < 0.02 * scale
    assert 0.0 < float((found - full).abs().max()) < 0.05 * scale


def test_constant_conditions_are_folded_into_the_tables():
    network = network_of()
    inputs, seeds = inputs_of(network, 3)
    inputs = inputs[:1].expand(3, -1).contiguous()
    found = RUN(inputs, seeds, *program_of(network, fixed=inputs[0].tolist()))
    torch.testing.assert_close(found, in_module(network, inputs, seeds), atol=1e-5, rtol=1e-5)


@needs_kernels
@pytest.mark.parametrize("precision", RUNNABLE)
def test_a_row_depends_neither_on_the_batch_nor_on_threads(precision):
    network = network_of(dims=(40, 128), n_groups=8)
    inputs, seeds = inputs_of(network, 70)
    arguments = program_of(network, precision=precision)
    whole = RUN(inputs, seeds, *arguments)
    for rows in ([0], [3, 4], list(range(20, 33)), list(range(69, -1, -1))):
        assert torch.equal(RUN(inputs[rows], seeds[rows], *arguments), whole[rows])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(RUN(inputs, seeds, *arguments), whole)
    finally:
        torch.set_num_threads(before)


def test_the_operator_is_well_formed():
    network = network_of()
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(RUN, (*inputs_of(network, 2), *program_of(network)), test_utils=tests)


def rows_of(code):
    """Return the instructions of a code, a view."""
    return code[HEADER_SIZE + 2 * int(code[Header.REGISTERS]) :].view(-1, len(Field))


@needs_kernels
@pytest.mark.parametrize("precision", RUNNABLE)
def test_damaged_programs_never_reach_outside_of_their_tensors(precision):
    """Every number of the instructions on grids is replaced; what is accepted has to run."""
    network = network_of(dims=(8, 16), n_groups=2, horizon=4)
    inputs, seeds = inputs_of(network, 2)
    code, *others = program_of(network, precision=precision)
    n_tried = n_refused = 0
    for kind in (Op.SPREAD, Op.GATHER, Op.CONVOLVE, Op.GROUP_NORM):
        found = (rows_of(code)[:, Field.OP] == kind).nonzero().flatten().tolist()
        for number in found[:2] + found[-4:]:
            for place in range(len(Field)):
                own = int(rows_of(code)[number, place])
                for value in (-1, 0, 1, own + 1, own - 1, 10**6, 2**40, 2**62, -(2**62)):
                    damaged = code.clone()
                    rows_of(damaged)[number, place] = value
                    n_tried += 1
                    try:
                        RUN(inputs, seeds, damaged, *others)
                    except RuntimeError:
                        n_refused += 1
    assert n_refused > 0.4 * n_tried


@needs_kernels
@pytest.mark.parametrize(
    ("kind", "place", "change"),
    [
        (Op.CONVOLVE, Field.LENGTH, 1),
        (Op.CONVOLVE, Field.TAPS, 10**5),
        (Op.CONVOLVE, Field.HOP, 1),
        (Op.CONVOLVE, Field.HOP, -1),
        (Op.CONVOLVE, Field.BEFORE, 10),
        (Op.CONVOLVE, Field.EVERY, 1),
        (Op.CONVOLVE, Field.PLACE, 1),
        (Op.CONVOLVE, Field.IN, 100),
        (Op.CONVOLVE, Field.OUT, 100),
        (Op.GROUP_NORM, Field.IN, 1),
        (Op.GROUP_NORM, Field.IN, -4),
        (Op.GROUP_NORM, Field.LENGTH, 1),
        (Op.GROUP_NORM, Field.PLACE, 10**5),
        (Op.SPREAD, Field.LENGTH, 1),
        (Op.GATHER, Field.OUT, 1),
    ],
)
def test_sizes_that_do_not_fit_are_refused(kind, place, change):
    network = network_of()
    code, *others = program_of(network)
    row = int((rows_of(code)[:, Field.OP] == kind).nonzero()[0])
    rows_of(code)[row, place] += change
    with pytest.raises(RuntimeError, match=r"outside|out of range"):
        RUN(*inputs_of(network, 2), code, *others)


@needs_kernels
def test_shortened_weights_are_refused():
    network = network_of()
    code, plan, vectors, weights, chunk = program_of(network)
    for cut in (16, 300):
        with pytest.raises(RuntimeError, match="outside"):
            RUN(*inputs_of(network, 2), code, plan, vectors, weights[:-cut].contiguous(), chunk)


@pytest.mark.parametrize("pairs", [False, True])
def test_packed_kernels_are_found_again(pairs):
    kernel = torch.randn(18, 7, 3).bfloat16().float()
    packed = torch.cat([torch.full((5,), 9.0), pack_kernel(kernel, pairs=pairs)])
    stored = packed.bfloat16() if pairs else packed
    assert torch.equal(unpack_kernel(stored, 5, 18, 7, 3), kernel)


def test_packed_kernels_in_pieces_are_found_again_to_the_last_bit():
    kernel = torch.randn(18, 7, 3)
    pieces = pieces_of(kernel, PIECES)
    packed = torch.cat([pack_kernel(piece, pairs=True) for piece in pieces])
    assert torch.equal(unpack_kernel(packed, 0, 18, 7, 3, pieces=PIECES), kernel)


def test_operations_are_counted():
    from genpolicy.ops.program import Program

    network = network_of(dims=(16,), horizon=4)
    program = Program(*program_of(network)[:4])
    convolutions = sum(
        4 * 2 * m.weight.numel() for m in network.modules() if isinstance(m, torch.nn.Conv1d)
    )
    # The factors of blocks: what the observations add to them.
    films = 2 * sum(2 * 16 * 4 for _ in range(4))
    assert program.flops == convolutions + films


def test_the_reference_answers_without_kernels(monkeypatch):
    monkeypatch.setenv("GENPOLICY_EXT", "off")
    assert not is_compiled()
    network = network_of()
    inputs, seeds = inputs_of(network, 2)
    found = mlp_sample(inputs, seeds, *program_of(network))
    torch.testing.assert_close(found, in_module(network, inputs, seeds), atol=1e-5, rtol=1e-5)
