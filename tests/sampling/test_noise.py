"""Row noise: the published generator, independence of rows, normality."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genpolicy.errors import UsageError
from genpolicy.ops import philox4x32
from genpolicy.sampling import NoiseSource, RowNoise

SEEDS = [0, 1, 2**32, 2**63 - 1, 2**64 - 1, 12345678901234567, 7, 8]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (
            [0xFFFFFFFF] * 4,
            [0xFFFFFFFF] * 2,
            [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        ),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_known_answers_of_philox(counter, key, expected):
    out = philox4x32(np.array([counter], dtype=np.uint32), np.array([key], dtype=np.uint32))
    assert out.dtype == np.uint32
    assert out[0].tolist() == expected


def test_values_are_box_muller_of_philox_at_the_documented_counter():
    noise = RowNoise([2**32 + 5], (3, 2), dtype=torch.float64)
    counter = np.array([[block, 9, 2, 0] for block in (0, 1)], dtype=np.uint32)
    words = philox4x32(counter, np.array([[5, 1]] * 2, dtype=np.uint32)).astype(float)
    u = (words + 0.5) / 2**32
    radius = np.sqrt(-2 * np.log(u[:, 0::2]))
    angle = 2 * np.pi * u[:, 1::2]
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(-1)[:6]
    drawn = noise.draw(9, stream=2).flatten().numpy()
    np.testing.assert_allclose(drawn, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(16, 2), (1, 1), (3, 7), (5, 3)])
def test_a_row_depends_on_its_seed_and_the_index_alone(shape):
    together = RowNoise(SEEDS, shape)
    reversed_rows = RowNoise(SEEDS[::-1], shape)
    for index in (0, 1, 40):
        drawn = together.draw(index)
        assert drawn.shape == (len(SEEDS), *shape)
        assert drawn.dtype == torch.float32
        assert torch.equal(drawn.flip(0), reversed_rows.draw(index))
        for row, seed in enumerate(SEEDS):
            assert torch.equal(drawn[row : row + 1], RowNoise([seed], shape).draw(index))


@settings(max_examples=25, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6),
    index=st.integers(0, 2**32 - 1),
    pick=st.data(),
)
def test_row_independence_for_any_seeds(seeds, index, pick):
    row = pick.draw(st.integers(0, len(seeds) - 1))
    drawn = RowNoise(seeds, (4, 3)).draw(index)
    assert torch.equal(drawn[row], RowNoise([seeds[row]], (4, 3)).draw(index)[0])


def test_draws_repeat_in_any_order():
    noise = RowNoise([3, 4], (4, 2))
    first = [noise.draw(i) for i in range(4)]
    assert all(torch.equal(noise.draw(i), first[i]) for i in (2, 0, 3, 1))


def test_seeds_indices_and_streams_give_different_noise():
    noise = RowNoise(SEEDS, (8, 2))
    rows = torch.cat([noise.draw(i, stream=s) for i in range(3) for s in range(3)]).flatten(1)
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 0.99
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


def test_values_are_standard_normal():
    noise = RowNoise(list(range(500)), (32, 4), dtype=torch.float64)
    values = torch.stack([noise.draw(i) for i in range(4)]).flatten().numpy()
    n = len(values)  # 256,000
    assert abs(values.mean()) < 4 / np.sqrt(n)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(stats.skew(values)) < 4 * np.sqrt(6 / n)
    assert abs(stats.kurtosis(values)) < 4 * np.sqrt(24 / n)
    assert stats.kstest(values, "norm").pvalue > 1e-3


def test_neighbours_are_uncorrelated():
    noise = RowNoise(list(range(2000)), (8, 4), dtype=torch.float64)
    columns = noise.draw(0).flatten(1).T
    off_diagonal = torch.corrcoef(columns) - torch.eye(32)
    assert off_diagonal.abs().max() < 5 / np.sqrt(2000)
    adjacent_seeds = torch.corrcoef(
        torch.stack([columns[:, :-1].flatten(), columns[:, 1:].flatten()])
    )
    assert abs(adjacent_seeds[0, 1].item()) < 4 / np.sqrt(columns.numel())


def test_dtype_and_empty_batches():
    half = RowNoise([1], (4, 2), dtype=torch.float16).draw(0)
    assert half.dtype == torch.float16
    assert torch.equal(half, RowNoise([1], (4, 2)).draw(0).half())
    assert RowNoise([], (4, 2)).draw(0).shape == (0, 4, 2)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_outside_64_bits_are_refused(seed):
    with pytest.raises(UsageError, match=r"expected integers in \[0, 2\*\*64\)"):
        RowNoise([1, seed], (4, 2))


def test_it_is_a_noise_source():
    assert isinstance(RowNoise([1], (4, 2)), NoiseSource)


def test_a_draw_is_quick():
    """Eight rows of (16, 2) take about 0.15 ms; the bound leaves room for a busy machine."""
    noise = RowNoise(SEEDS, (16, 2))
    noise.draw(0)
    best = min(_seconds(lambda: noise.draw(1)) for _ in range(50))
    assert best < 1e-3


def _seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
