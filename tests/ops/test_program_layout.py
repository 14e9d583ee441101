"""The layout of programs in Python is that of cuda_ext/csrc/program.h."""

import re
from pathlib import Path
from typing import get_args

import pytest
import torch

from genpolicy.ops import program
from genpolicy.sampling import Precision

HEADER = (Path(__file__).resolve().parents[2] / "cuda_ext/csrc/program.h").read_text()
ARITHMETIC = (Path(__file__).resolve().parents[2] / "cuda_ext/csrc/arithmetic.h").read_text()


def names(text, enum):
    """Return the names of an enumeration in C++, in order, without comments."""
    body = re.search(rf"enum {enum} : int64_t \{{(.*?)\}}", text, re.S).group(1)
    body = re.sub(r"//[^\n]*", "", body)
    return [entry.split("=")[0].strip() for entry in body.split(",") if entry.strip()]


def camel(prefix, member):
    return prefix + "".join(word.capitalize() for word in member.name.split("_"))


@pytest.mark.parametrize(
    ("cpp", "prefix", "python", "end"),
    [
        ("Header", "kHead", program.Header, ["kHeaderSize"]),
        ("Register", "kReg", program.Register, ["kNumFixedRegisters"]),
        ("Field", "kField", program.Field, ["kInstructionSize"]),
        ("PlanHeader", "kPlan", program.PlanHeader, ["kPlanHeaderSize"]),
        ("PlanField", "kPlan", program.Plan, []),
    ],
)
def test_enumerations_have_the_same_names_and_places(cpp, prefix, python, end):
    expected = [camel(prefix, member) for member in python]
    assert [int(member) for member in python] == list(range(len(python)))
    assert names(HEADER, cpp) == expected + end


def test_operations_and_activations_have_the_same_names_and_places():
    assert names(HEADER, "Op")[: len(program.Op)] == [camel("kOp", op) for op in program.Op]
    assert names(ARITHMETIC, "Activation")[: len(program.Act)] == [
        camel("k", act) for act in program.Act
    ]


def test_precisions_and_their_names_are_the_same():
    known = [f"k{member.name.capitalize()}" for member in program.Precision]
    assert names(HEADER, "Precision") == [*known, "kNumPrecisions"]
    assert [member.name.lower() for member in program.Precision] == list(get_args(Precision))
    assert f"kMostPieces = {program.PIECES};" in HEADER


def test_versions_and_panels_are_the_same():
    assert f"kVersion = {program.VERSION};" in HEADER
    assert f"kPanel = {program.PANEL};" in HEADER


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (16, 3), (17, 8), (40, 33)])
def test_packed_weights_are_found_again(shape, pairs):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight = weight.bfloat16().float()
    packed = program.pack_weights(weight, pairs=pairs)
    behind = torch.cat([torch.full((7,), 9.0), packed])
    stored = behind.bfloat16() if pairs else behind
    assert torch.equal(program.unpack_weights(stored, 7, *shape), weight)


def test_a_float32_is_the_sum_of_its_pieces():
    generator = torch.Generator().manual_seed(0)
    sizes = 10.0 ** torch.randint(-30, 31, (40, 33), generator=generator)
    weight = torch.randn(40, 33, generator=generator) * sizes
    weight[0, :6] = torch.tensor([0.0, 1.0, 1.0 - 2.0**-24, 2.0**-100, -(1.0 + 2.0**-23), 3e38])
    pieces = program.pieces_of(weight, program.PIECES)
    packed = torch.cat([program.pack_weights(piece, pairs=True) for piece in pieces])
    found = program.unpack_weights(packed, 0, *weight.shape, pieces=program.PIECES)
    assert torch.equal(found, weight)
    first, second, third = (piece.double().abs() for piece in pieces)
    assert bool((second <= 2.0**-8 * first).all())
    assert bool((third <= 2.0**-8 * second).all())
    assert torch.equal(program.pieces_of(weight, 1)[0], weight.bfloat16())


def test_doubles_travel_as_integers():
    for value in (1e-5, -0.0, 3.5, float("inf")):
        assert program.double_of_bits(program.bits_of_double(value)) == value
