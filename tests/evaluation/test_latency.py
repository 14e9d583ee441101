from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from genpolicy.errors import UsageError
from genpolicy.evaluation import latency, measure_latency

OBS = {"state": torch.arange(12.0).reshape(2, 2, 3)}


class Clock:
    """Time that passes only while the policy works."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Sleepy:
    """Takes 1 s for each of its first two calls of a batch size, then 10, 20, ... ms."""

    def __init__(self, spec: Any, clock: Clock) -> None:
        self.spec = spec
        self.clock = clock
        self.batches: list[int] = []

    def sample(self, obs: Any, *, seeds: Any = None) -> torch.Tensor:
        assert obs["state"].shape == (len(seeds), 2, 3)
        before = self.batches.count(len(seeds))
        self.clock.now += 1.0 if before < 2 else 0.01 * (before - 1)
        self.batches.append(len(seeds))
        return torch.zeros(len(seeds), 6, 2)


@pytest.fixture
def sleepy(walk: Any, monkeypatch: pytest.MonkeyPatch) -> Sleepy:
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    return Sleepy(walk.spec, clock)


def test_times_are_taken_after_the_warm_up(sleepy: Sleepy) -> None:
    found = measure_latency(sleepy, OBS, batch_sizes=[1, 5], n_warmup=2, n_repeats=11)
    one, five = found.rows
    assert sleepy.batches == [1] * 13 + [5] * 13
    assert one.chunk_median_s == pytest.approx(0.06)
    assert one.chunk_p90_s == pytest.approx(0.10)
    assert one.action_median_s == pytest.approx(0.06 / 3)
    assert five.action_p90_s == pytest.approx(0.10 / 15)
    text = str(found)
    assert "1 CPU thread, in torch" in text
    assert "3 actions executed per chunk, 2 calls of warm-up, 11 timed calls" in text
    assert "60.000" in text
    json.dumps(found.to_json(), allow_nan=False)


def test_another_number_of_executed_actions(sleepy: Sleepy) -> None:
    found = measure_latency(sleepy, OBS, batch_sizes=[1], n_action_steps=1, n_repeats=2)
    assert found.rows[0].action_p90_s == found.rows[0].chunk_p90_s


@pytest.mark.parametrize(
    "settings", [{"batch_sizes": []}, {"batch_sizes": [0]}, {"n_warmup": 0}, {"n_repeats": 1}]
)
def test_counts_are_checked(sleepy: Sleepy, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="measure_latency"):
        measure_latency(sleepy, OBS, **settings)
