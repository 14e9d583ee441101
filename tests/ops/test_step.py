"""Single steps as operators: what the reference computes, derivatives, layouts, refusals."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genpolicy.ops import Draw, Parts, backend, compose_step, reference
from genpolicy.ops.step import affine_step
from tests.native.cases import needs_kernels

OPS = torch.ops.genpolicy


@pytest.fixture(autouse=True)
def _loaded():
    backend()


@dataclasses.dataclass
class Case:
    """Arguments of one step, in float64."""

    x: torch.Tensor
    parts: Parts
    told: dict

    def to(self, dtype):
        """Return it in another type."""

        def cast(value):
            is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
            return value.to(dtype) if is_float else value

        parts = dataclasses.replace(
            self.parts,
            outputs=tuple(cast(o) for o in self.parts.outputs),
            shift=cast(self.parts.shift),
        )
        return Case(cast(self.x), parts, {name: cast(v) for name, v in self.told.items()})

    def expected(self):
        """Return what plain torch makes of it."""
        told = dict(self.told)
        at = told.pop("at", None)
        denoised = self.parts.denoised(self.x if at is None else at)
        return reference.affine_step(self.x, denoised, **told), denoised

    def found(self, **options):
        """Return what the operators make of it."""
        return compose_step(self.x, self.parts, **self.told, **options)


def make(shape, n_outputs=2, *, on_x=0.4, seed=0, only=None, bounds=(-0.7, 0.8)):
    draw = torch.Generator().manual_seed(seed)

    def numbers(*size):
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    optional = {
        "previous": numbers(*shape),
        "noise": numbers(*shape),
        "at": numbers(*shape),
        "pinned": numbers(*shape),
        "shift": numbers(shape[-1]),
    }
    mask = torch.rand(shape, generator=draw) < 0.3
    kept = optional if only is None else {k: v for k, v in optional.items() if k in only}
    factors = tuple(numbers(n_outputs).tolist())
    parts = Parts(
        outputs=tuple(numbers(*shape) for _ in range(n_outputs)),
        factors=factors,
        on_x=on_x,
        shift=kept.pop("shift", None),
    )
    told = {**kept, "c_x": 0.3, "c_denoised": 0.6, "c_previous": -0.2, "c_noise": 0.7}
    if "pinned" in kept:
        told["mask"] = mask
    if bounds is not None:
        told["lo"], told["hi"] = bounds
    return Case(numbers(*shape), parts, told)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 40), st.integers(1, 20), st.integers(1, 24)),
    n_outputs=st.integers(1, 16),
    on_x=st.sampled_from([0.0, 0.4, -1.3]),
    only=st.sets(st.sampled_from(["previous", "noise", "at", "pinned", "shift"])),
    bounds=st.sampled_from([None, (-0.7, 0.8), (None, 0.1), (0.2, None)]),
    seed=st.integers(0, 1000),
)
def test_steps_are_as_exact_as_the_reference(shape, n_outputs, on_x, only, bounds, seed):
    case = make(shape, n_outputs, on_x=on_x, only=only, bounds=bounds, seed=seed)
    low = case.to(torch.float32)
    exact = low.to(torch.float64)  # of the rounded numbers
    for actual, usual, right in zip(low.found(), low.expected(), exact.expected(), strict=True):
        assert actual.shape == shape
        assert actual.dtype == torch.float32
        if actual.numel() == 0:
            continue
        error = (actual.double() - right).abs().max()
        assert error <= 2 * (usual.double() - right).abs().max() + 1e-6
    for actual, right in zip(exact.found(), exact.expected(), strict=True):
        torch.testing.assert_close(actual, right, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("n", [1, 3, 64, 255, 256, 257, 700])
def test_a_row_is_the_same_bit_for_bit_in_every_batch(n):
    case = make((37, n, 1), only=("previous", "noise", "shift"), seed=n).to(torch.float32)
    whole = case.found()
    for rows in (slice(0, 1), slice(36, 37), slice(5, 19)):
        told = {k: v[rows] if isinstance(v, torch.Tensor) else v for k, v in case.told.items()}
        parts = dataclasses.replace(case.parts, outputs=tuple(o[rows] for o in case.parts.outputs))
        for part, all_rows in zip(compose_step(case.x[rows], parts, **told), whole, strict=True):
            assert torch.equal(part, all_rows[rows])


def test_in_place_gives_the_same_and_overwrites_the_state():
    case = make((9, 7, 5)).to(torch.float32)
    state, denoised = case.found()
    x = case.x.clone()
    again, same = compose_step(x, case.parts, **case.told, in_place=True)
    assert torch.equal(again, state)
    assert torch.equal(same, denoised)
    if backend().name == "compiled":
        assert again.data_ptr() == x.data_ptr()


def test_other_layouts_and_types_are_taken_as_they_mean():
    case = make((6, 4, 3)).to(torch.float32)
    told = {
        k: v.transpose(0, 1).contiguous().transpose(0, 1)
        if isinstance(v, torch.Tensor) and v.ndim == 3
        else v
        for k, v in case.told.items()
    }
    parts = dataclasses.replace(
        case.parts,
        outputs=(case.parts.outputs[0].double(), case.parts.outputs[1][:1].expand(6, 4, 3)),
    )
    found = compose_step(case.x.flip(0).flip(0), parts, **told)
    plain = dataclasses.replace(
        parts, outputs=(case.parts.outputs[0], parts.outputs[1].contiguous())
    )
    for actual, right in zip(found, Case(case.x, plain, case.told).expected(), strict=True):
        torch.testing.assert_close(actual, right, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("n", [1, 5, 300])
def test_noise_is_drawn_by_seed_and_index(n):
    x = torch.zeros(70, n, 1)
    seeds = torch.arange(70) * 2**57 - 2**62
    draw = Draw(seeds, 3)
    right = draw.numbers(x)
    state = affine_step(x, x, noise=draw, c_x=0.0, c_denoised=0.0, c_noise=1.0)
    torch.testing.assert_close(state, right, atol=1e-6, rtol=1e-6)
    one = affine_step(
        x[5:6], x[5:6], noise=Draw(seeds[5:6], 3), c_x=0.0, c_denoised=0.0, c_noise=1.0
    )
    assert torch.equal(one[0], state[5])


def test_more_outputs_than_the_kernels_take():
    case = make((3, 4, 2), 17).to(torch.float32)
    for actual, right in zip(case.found(), case.expected(), strict=True):
        torch.testing.assert_close(actual, right)


def told_of(case, seeds=None):
    t = case.told
    factors = [t["c_x"], t["c_denoised"], t["c_previous"], t["c_noise"]]
    noise = t.get("noise") if seeds is None else None
    return (
        t.get("previous"), noise, seeds, 3, factors, t.get("lo"), t.get("hi"), t.get("pinned"),
        t.get("mask"),
    )  # fmt: skip


def sum_of(case):
    p = case.parts
    shift = None if p.shift is None else p.shift.expand(case.x.shape[1:]).contiguous()
    return case.told.get("at"), list(p.outputs), [p.on_x, *p.factors], shift


@pytest.mark.parametrize("only", [None, ("previous",), ()])
def test_the_operators_are_well_formed(only):
    case = make((4, 3, 2), only=only)
    case.x.requires_grad_(True)
    args = (case.x, *sum_of(case), *told_of(case))
    torch.library.opcheck(OPS.compose_step.default, args)
    torch.library.opcheck(OPS.affine_step.default, (case.x, case.parts.outputs[0], *told_of(case)))
    args = (case.x.detach().clone(), *args[1:])
    torch.library.opcheck(OPS.compose_step_.default, args)
    low = case.to(torch.float32)
    seeds = torch.arange(4)
    args = (low.x.detach(), *sum_of(low), *told_of(low, seeds))
    torch.library.opcheck(OPS.compose_step.default, args)


@pytest.mark.parametrize("only", [None, ("previous", "shift"), ("pinned",), ()])
def test_derivatives(only):
    # Limits are away from all values: no derivative exists on them.
    case = make((2, 3, 2), only=only, bounds=(-0.71, 0.83), seed=4)
    names = [k for k, v in case.told.items() if isinstance(v, torch.Tensor) and k != "mask"]
    tensors = [case.x, *case.parts.outputs, *(case.told[k] for k in names)]
    if case.parts.shift is not None:
        tensors.append(case.parts.shift)
    tensors = [t.detach().clone().requires_grad_(True) for t in tensors]
    n = len(case.parts.outputs)

    def run(x, *rest):
        shift = rest[-1] if case.parts.shift is not None else None
        parts = dataclasses.replace(case.parts, outputs=rest[:n], shift=shift)
        told = {**case.told, **dict(zip(names, rest[n:], strict=False))}
        return compose_step(x, parts, **told)

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)
    told = {k: v for k, v in case.told.items() if k != "at"}
    assert torch.autograd.gradcheck(lambda x, d: affine_step(x, d, **told), tensors[:2])


def test_they_compile_without_a_break():
    case = make((4, 3, 2)).to(torch.float32)
    args = (*sum_of(case), *told_of(case))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def run(x):
        state, denoised = OPS.compose_step.default(2.0 * x, *args)
        return state + denoised

    assert torch.equal(run(case.x), sum(OPS.compose_step.default(2.0 * case.x, *args)))


def test_exported_graphs_hold_torch_alone():
    case = make((4, 3, 2)).to(torch.float32)

    class Run(torch.nn.Module):
        def forward(self, x):
            return compose_step(x, case.parts, **case.told)[0]

    program = torch.export.export(Run(), (case.x,))
    targets = [str(node.target) for node in program.graph.nodes]
    assert not [name for name in targets if "genpolicy" in name]
    torch.testing.assert_close(program.module()(case.x), case.found()[0])


@needs_kernels
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.__setitem__(1, a[1].double()), "at has another type than x"),
        (lambda a: a.__setitem__(2, [a[2][0][:1], a[2][1]]), "another shape than x"),
        (lambda a: a.__setitem__(3, [1.0]), "a term for the state and for each output"),
        (lambda a: a.__setitem__(4, a[4][:1]), "shift is not a row of x"),
        (lambda a: a.__setitem__(5, a[5].transpose(1, 2)), "previous is not contiguous"),
        (lambda a: a.__setitem__(7, torch.arange(4)), "seeds are for float32, and where"),
        (lambda a: a.__setitem__(8, -1), "index has to lie in"),
        (lambda a: a.__setitem__(9, [1.0]), "got 1 factors"),
        (lambda a: a.__setitem__(12, None), "pinned and mask come together"),
        (lambda a: a.__setitem__(13, a[13].float()), "mask is no contiguous bool tensor"),
        (lambda a: a.__setitem__(13, a[13][:1]), "mask is no contiguous bool tensor"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    case = make((4, 3, 2)).to(torch.float32)
    arguments = [case.x, *sum_of(case), *told_of(case)]
    change(arguments)
    with pytest.raises(RuntimeError, match=message):
        OPS.compose_step.default(*arguments)
