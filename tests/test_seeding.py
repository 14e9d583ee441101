"""Seeds are fixed functions of their parts."""

import pytest
import torch

from genpolicy.seeding import bits_of, derive_seed, fresh_seeds, generator_from


def test_seeds_are_fixed_across_versions_and_processes():
    assert derive_seed(7, "policy", 3) == derive_seed(7, "policy", 3)
    assert derive_seed(0) == 3581690635855307741


def test_parts_and_their_types_count():
    seeds = {
        derive_seed(1),
        derive_seed("1"),
        derive_seed(1, 1),
        derive_seed(11),
        derive_seed("1", 1),
    }
    assert len(seeds) == 5
    assert all(0 <= s < 2**63 for s in seeds)


def test_generators_repeat():
    a = torch.rand(3, generator=generator_from(1, "x"))
    assert torch.equal(a, torch.rand(3, generator=generator_from(1, "x")))
    assert not torch.equal(a, torch.rand(3, generator=generator_from(1, "y")))


def test_fresh_seeds_differ():
    assert len(set(fresh_seeds(50))) == 50


def test_bits_of_seeds_are_those_of_signed_integers():
    found = bits_of([0, 2**63 - 1, 2**63, 2**64 - 1, -1])
    assert found.tolist() == [0, 2**63 - 1, -(2**63), -1, -1]
    assert found.dtype == torch.int64
    assert bits_of([]).shape == (0,)
    assert bits_of(range(3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_seeds_beyond_64_bits_are_refused(seed):
    with pytest.raises(OverflowError):
        bits_of([seed])
