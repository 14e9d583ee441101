from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch

from genpolicy.errors import UsageError
from genpolicy.evaluation import measure_latency

OBS = {"state": torch.arange(12.0).reshape(2, 2, 3)}


class Sleepy:
    """Takes 10 ms for its first two calls, then 2 ms."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self.shapes: list[tuple[int, ...]] = []

    def sample(self, obs: Any, *, seeds: Any = None) -> torch.Tensor:
        assert len(seeds) == len(obs["state"])
        time.sleep(0.01 if len(self.shapes) < 2 else 0.002)
        self.shapes.append(tuple(obs["state"].shape))
        return torch.zeros(len(seeds), 6, 2)


def test_times_are_taken_after_the_warm_up(walk: Any) -> None:
    policy = Sleepy(walk.spec)
    found = measure_latency(policy, OBS, batch_sizes=[1, 5], n_warmup=2, n_repeats=5)
    one, five = found.rows
    assert policy.shapes == [(1, 2, 3)] * 7 + [(5, 2, 3)] * 7
    assert 0.002 <= one.chunk_median_s < 0.008
    assert one.chunk_median_s <= one.chunk_p90_s
    assert one.action_median_s == pytest.approx(one.chunk_median_s / 3)
    assert five.action_median_s == pytest.approx(five.chunk_median_s / 15)
    text = str(found)
    assert f"{torch.get_num_threads()} CPU threads" in text
    assert "3 actions executed per chunk, 2 calls of warm-up, 5 timed calls" in text
    json.dumps(found.to_json(), allow_nan=False)


def test_another_number_of_executed_actions(walk: Any) -> None:
    found = measure_latency(Sleepy(walk.spec), OBS, batch_sizes=[1], n_action_steps=1, n_repeats=2)
    assert found.rows[0].action_p90_s == found.rows[0].chunk_p90_s


@pytest.mark.parametrize(
    "settings", [{"batch_sizes": []}, {"batch_sizes": [0]}, {"n_warmup": 0}, {"n_repeats": 1}]
)
def test_counts_are_checked(walk: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="measure_latency"):
        measure_latency(Sleepy(walk.spec), OBS, **settings)
