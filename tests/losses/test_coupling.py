"""Minibatch optimal transport: cheaper pairs, exact optimum, groups and masks respected."""

import itertools

import torch

from genpolicy.losses import equal_condition_groups, optimal_pairing


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cost(clean: torch.Tensor, noise: torch.Tensor) -> float:
    return float((clean - noise).square().sum())


def test_pairing_is_the_best_of_all_permutations():
    clean = torch.randn(6, 2, 3, generator=generator())
    noise = torch.randn(6, 2, 3, generator=generator(1))
    chosen = optimal_pairing(clean, noise, torch.zeros(6, dtype=torch.long))
    assert sorted(chosen.tolist()) == list(range(6))
    best = min(cost(clean, noise[list(p)]) for p in itertools.permutations(range(6)))
    assert abs(cost(clean, noise[chosen]) - best) < 1e-4
    assert best < 0.9 * cost(clean, noise)


def test_rows_of_different_conditions_are_never_exchanged():
    cond = torch.tensor([0.0, 1.0, 0.0, 1.0, 2.0, 0.0, 1.0, 0.0]).view(8, 1, 1)
    groups = equal_condition_groups(cond, 8)
    assert groups.tolist() == [0, 1, 0, 1, 2, 0, 1, 0]
    clean = torch.randn(8, 4, 2, generator=generator(2))
    noise = torch.randn(8, 4, 2, generator=generator(3))
    chosen = optimal_pairing(clean, noise, groups)
    assert torch.equal(groups[chosen], groups)
    assert sorted(chosen.tolist()) == list(range(8))
    within, anywhere = noise[chosen], noise[optimal_pairing(clean, noise, torch.zeros_like(groups))]
    assert cost(clean, anywhere) < cost(clean, within) < cost(clean, noise)


def test_distinct_conditions_leave_the_pairs_alone_and_no_condition_is_one_group():
    clean, noise = torch.randn(2, 5, 3, 2, generator=generator(4))
    groups = equal_condition_groups(torch.randn(5, 2, 3, generator=generator(5)), 5)
    assert groups.unique().numel() == 5
    assert optimal_pairing(clean, noise, groups).tolist() == list(range(5))
    assert equal_condition_groups(None, 3).tolist() == [0, 0, 0]


def test_masked_entries_do_not_count_in_the_distance():
    clean, noise = torch.randn(2, 7, 4, 2, generator=generator(6))
    mask = torch.ones(7, 4, dtype=torch.bool)
    mask[:, 2:] = False
    other = torch.where(mask.unsqueeze(-1), clean, torch.full_like(clean, 50.0))
    groups = torch.zeros(7, dtype=torch.long)
    assert torch.equal(
        optimal_pairing(clean, noise, groups, mask=mask),
        optimal_pairing(other, noise, groups, mask=mask),
    )
    assert torch.equal(
        optimal_pairing(clean, noise, groups, mask=mask),
        optimal_pairing(clean[:, :2], noise[:, :2], groups),
    )
