from __future__ import annotations

from itertools import islice

import pytest
import torch

from genpolicy.data import BatchStream, OrderedBatches
from genpolicy.errors import UsageError


class Numbers:
    """``n`` examples that are their own numbers."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def gather(self, index):
        return index.clone()


def test_batch_k_is_the_kth_of_an_uninterrupted_run():
    stream = BatchStream(Numbers(10), batch_size=4, seed=3)
    run = [batch.tolist() for batch in islice(stream, 12)]
    fresh = BatchStream(Numbers(10), batch_size=4, seed=3, first_step=7)
    assert [batch.tolist() for batch in islice(fresh, 5)] == run[7:]
    for k in (11, 2, 5, 0):
        assert BatchStream(Numbers(10), batch_size=4, seed=3).batch(k).tolist() == run[k]
        assert stream.batch(k).tolist() == run[k]


@pytest.mark.parametrize(("n", "batch_size", "world_size"), [(10, 4, 1), (7, 3, 2), (3, 8, 2)])
def test_every_example_comes_once_per_epoch_on_one_rank_only(n, batch_size, world_size):
    ranks = [
        BatchStream(Numbers(n), batch_size=batch_size, seed=0, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    n_epochs = 5
    n_steps = -(-n_epochs * n // (batch_size * world_size))
    order = [i for k in range(n_steps) for stream in ranks for i in stream.batch(k).tolist()]
    epochs = [order[e * n : (e + 1) * n] for e in range(n_epochs)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert ranks[0].steps_per_epoch == n / (batch_size * world_size)


def test_two_ranks_share_the_batches_of_one_with_twice_the_size():
    whole = BatchStream(Numbers(20), batch_size=6, seed=1)
    halves = [
        BatchStream(Numbers(20), batch_size=3, seed=1, rank=r, world_size=2) for r in range(2)
    ]
    for k in range(8):
        assert torch.equal(whole.batch(k), torch.cat([half.batch(k) for half in halves]))


def test_the_order_is_named_by_the_seed_alone():
    def epoch(seed):
        return BatchStream(Numbers(50), batch_size=50, seed=seed).batch(0).tolist()

    torch.manual_seed(123)
    first = epoch(5)
    torch.manual_seed(7)
    assert epoch(5) == first
    assert epoch(6) != first


def test_all_batches_are_full():
    stream = BatchStream(Numbers(10), batch_size=4, seed=0)
    assert {len(batch) for batch in islice(stream, 9)} == {4}


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 0},
        {"first_step": -1},
        {"rank": 1},
        {"rank": -1},
        {"data": Numbers(0)},
    ],
)
def test_numbers_out_of_range_are_refused(changes):
    arguments = {"data": Numbers(10), "batch_size": 4, "seed": 0} | changes
    with pytest.raises(UsageError, match="BatchStream"):
        BatchStream(arguments.pop("data"), **arguments)


def test_a_negative_step_is_refused():
    with pytest.raises(UsageError, match="step is -1"):
        BatchStream(Numbers(10), batch_size=4, seed=0).batch(-1)


@pytest.mark.parametrize("world_size", [1, 3])
def test_ordered_batches_hold_every_example_once(world_size):
    parts = [
        OrderedBatches(Numbers(11), batch_size=2, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    seen = [i for part in parts for batch in part for i in batch.tolist()]
    assert sorted(seen) == list(range(11))
    assert [len(list(part)) for part in parts] == [len(part) for part in parts]
    assert all(part.tolist() == sorted(part.tolist()) for batches in parts for part in batches)
    # A second pass gives the same.
    assert [i for part in parts for batch in part for i in batch.tolist()] == seen


def test_ordered_batches_check_their_sizes():
    with pytest.raises(UsageError, match="OrderedBatches"):
        OrderedBatches(Numbers(3), batch_size=0)
