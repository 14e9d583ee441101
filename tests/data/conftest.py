from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from genpolicy.data import DataSource, Episodes


@pytest.fixture
def make_episodes() -> Callable[..., Episodes]:
    """Episodes of given lengths; row i's state is (i, -i) and its action (10 i, i % 3)."""

    def make(lengths: Sequence[int], **changes) -> Episodes:
        n = sum(lengths)
        row = np.arange(n, dtype=np.float32)
        arrays = {
            "obs": {"state": np.stack([row, -row], axis=1)},
            "actions": np.stack([10 * row, row % 3], axis=1),
            "rewards": row,
            "episode_ends": np.cumsum(lengths),
            "source": DataSource("toy", "local"),
        }
        return Episodes.from_arrays(**(arrays | changes))

    return make
