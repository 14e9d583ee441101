"""Resampling: exact counts, fair entries, and carries that follow their rows."""

import math

import pytest
import torch

from genpolicy.composition.resampling import draw_rows, effective_size, gather, systematic
from genpolicy.errors import UsageError


def test_carries_follow_their_rows():
    rows = torch.tensor([1, 1, 0])
    kept = gather((torch.tensor([5.0, 6.0, 7.0]), (None, torch.tensor(2.0), True)), rows)
    assert torch.equal(kept[0], torch.tensor([6.0, 6.0, 5.0]))
    assert kept[1] == (None, torch.tensor(2.0), True)
    with pytest.raises(UsageError, match="remembers a list"):
        gather([1.0], rows)


def test_only_groups_below_the_threshold_are_drawn():
    log_weight = torch.tensor([[0.0, -math.inf], [0.0, -math.inf]], dtype=torch.float64)
    rows = draw_rows(log_weight, torch.tensor([0.3, 0.3]), torch.tensor([False, True]))
    assert rows.tolist() == [0, 1, 2, 2]
    with pytest.raises(UsageError, match=r"expected one number per group, \(2,\)"):
        draw_rows(log_weight, torch.tensor([0.3]), torch.tensor([False, True]))


def test_systematic_draws_as_often_as_the_weight_says_at_every_position():
    weight = torch.tensor([0.0, 0.55, 0.1, 0.0, 0.35], dtype=torch.float64)
    n_offsets = 2000
    offsets = (torch.arange(n_offsets, dtype=torch.float64) + 0.5) / n_offsets
    drawn = systematic(weight.log().expand(n_offsets, 5), offsets)
    for i in range(5):
        counts = (drawn == i).sum(1)
        expected = 5 * weight[i].item()
        assert counts.min() >= math.floor(expected)
        assert counts.max() <= math.ceil(expected)
        # The rotation makes every entry fair: the share of offsets that give i is its weight.
        shares = (drawn == i).double().mean(0)
        assert shares == pytest.approx(weight[i].item(), abs=1.0 / n_offsets)


def test_effective_size_of_known_weights():
    log_weight = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -math.inf, -math.inf, -math.inf]])
    log_weight = torch.cat([log_weight, torch.tensor([[0.0, 0.0, -math.inf, -math.inf]])])
    assert effective_size(log_weight).tolist() == pytest.approx([4.0, 1.0, 2.0])
    assert effective_size(log_weight - 900.0).tolist() == pytest.approx([4.0, 1.0, 2.0])
