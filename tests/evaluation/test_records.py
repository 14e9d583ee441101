from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from genpolicy.errors import UsageError
from genpolicy.evaluation import (
    CheckpointInfo,
    EpisodeRecord,
    EvalResult,
    PolicyIdentity,
    bootstrap_interval,
    compare_results,
    identify_policy,
    results_text,
    wilson_interval,
)
from genpolicy.evaluation.records import align_columns, format_figure, format_seeds
from genpolicy.shapes import TaskSpec

SPEC = TaskSpec(
    task="pusht",
    obs_shapes={"state": (5,)},
    action_dim=2,
    n_obs_steps=2,
    horizon=16,
    n_action_steps=8,
)


def record(seed: int, reward: float, **fields: Any) -> EpisodeRecord:
    metrics = {"max_reward": reward, "success": float(reward > 0.9), "return": 10 * reward}
    values = {"n_steps": 50, "n_chunks": 7, "n_clipped": 0, "terminated": False}
    return EpisodeRecord(seed=seed, metrics=metrics, truncated=True, **{**values, **fields})


def result(rewards: list[float], *, first: int = 100, **fields: Any) -> EvalResult:
    defaults: dict[str, Any] = {
        "task": "pusht",
        "primary": "max_reward",
        "rates": ("success",),
        "policy": PolicyIdentity("GenerativePolicy", SPEC, "ab" * 32, {"rule": "euler"}, 10),
        "n_action_steps": 8,
        "simulators": {"gym-pusht": "0.1.8"},
        "versions": {"genpolicy": "0.1.0"},
    }
    records = tuple(record(first + i, r) for i, r in enumerate(rewards))
    return EvalResult(records=records, **{**defaults, **fields})


REWARDS = [0.95, 0.4, 0.99, 0.91, 0.2, 0.97]


def test_figures_come_from_the_records() -> None:
    found = result(REWARDS)
    assert found.mean() == pytest.approx(sum(REWARDS) / 6)
    assert found.mean("success") == pytest.approx(4 / 6)
    assert found.values("return") == [10 * r for r in REWARDS]
    assert found.interval("success") == wilson_interval(4, 6)
    assert found.interval() == bootstrap_interval(REWARDS)
    assert found.interval("success", confidence=0.8) == wilson_interval(4, 6, confidence=0.8)
    assert found.iqm() == pytest.approx((0.4 + 0.91 + 0.95 + 0.97) / 4)
    assert found.metric_names == ("max_reward", "return", "success")
    with pytest.raises(UsageError, match="did you mean 'success'"):
        found.mean("sucess")


def test_the_text_names_all_that_a_number_needs() -> None:
    text = str(result(REWARDS))
    for part in (
        "pusht",
        "max_reward *",
        "0.737",
        "wilson",
        "bootstrap BCa",
        "6, seeds 100-105",
        "rule=euler",
        "nfe 10",
        "abababababab",
        "2 observations, 8 of 16 actions",
        "0.0% of 300 actions",
        "gym-pusht 0.1.8",
        "genpolicy 0.1.0",
    ):
        assert part in text
    assert all(len(line) < 110 for line in text.splitlines())


def test_json_is_strict_and_lossless() -> None:
    one = result([0.5])
    text = json.dumps(one.to_json(), allow_nan=False)
    assert EvalResult.from_json(json.loads(text)) == one
    assert one.to_json()["summary"]["max_reward"]["low"] is None
    assert "-" in str(one)
    newer = {**one.to_json(), "schema_version": 99}
    with pytest.raises(UsageError, match="schema 99"):
        EvalResult.from_json(newer)


def test_a_result_needs_records_and_a_rate_needs_zeros_and_ones() -> None:
    with pytest.raises(UsageError, match="no records"):
        result([])
    with pytest.raises(UsageError, match="declared a rate"):
        result(REWARDS, rates=("max_reward",)).interval("max_reward")


def test_clipped_actions_and_tags_are_shown() -> None:
    records = (
        record(1, 0.5, n_clipped=10),
        record(2, 0.0, tags=("non-finite observation: state",)),
    )
    found = EvalResult(**{**vars(result([0.5])), "records": records, "n_restarts": 2})
    assert found.clipped_share == pytest.approx(0.1)
    assert "10.0% of 100 actions" in str(found)
    assert "1 with non-finite observation: state" in str(found)
    assert "2, after failures of the simulator" in str(found)


def test_the_task_a_policy_was_trained_for_is_shown_when_it_differs() -> None:
    assert "trained for" not in str(result(REWARDS))
    assert "trained for  pusht" in str(result(REWARDS, task="pusht-hard"))


def test_a_simulator_that_changed_since_training_is_shown() -> None:
    info = CheckpointInfo(
        "runs/a/last", 5, "ema", ("last", "best"), versions={"gym-pusht": "0.1.7"}
    )
    found = result(REWARDS, checkpoint=info)
    assert "changed since training  gym-pusht 0.1.7 -> 0.1.8" in str(found)
    assert "runs/a/last (last and best), step 5, ema weights" in str(found)
    assert EvalResult.from_json(json.loads(json.dumps(found.to_json()))) == found
    same = CheckpointInfo("runs/a/last", 5, "ema", (), versions={"gym-pusht": "0.1.8"})
    assert "changed since" not in str(result(REWARDS, checkpoint=same))


def test_results_are_compared_on_common_seeds() -> None:
    a, b = result([0.95, 0.5, 0.7], first=0), result([0.5, 0.5, 0.8], first=1)
    found = compare_results(a, b)
    assert (found.n, found.n_better, found.n_worse) == (2, 1, 0)
    assert found.mean == pytest.approx(0.1)
    rate = compare_results(a, result([0.2, 0.5, 0.7], first=0), metric="success")
    assert rate.interval.method == "newcombe"
    one, other = ({"pymunk": "7", "gym": "1"}, {"gym": "1", "pymunk": "7"})
    assert compare_results(result([0.5], simulators=one), result([0.5], simulators=other)).n == 1
    with pytest.raises(UsageError, match="not comparable"):
        compare_results(a, result([0.5], simulators={"gym-pusht": "0.2"}))
    with pytest.raises(UsageError, match="not comparable"):
        compare_results(a, result([0.5], task="other"))
    with pytest.raises(UsageError, match="not comparable"):
        compare_results(a, result([0.5], settings={"max_steps": 10}))


def test_last_and_best_stand_in_one_table() -> None:
    text = results_text({"last": result(REWARDS), "best": result([0.95] * 6)})
    lines = text.splitlines()
    assert len(lines) == 5
    assert lines[1].split()[:3] == ["last", "pusht", "max_reward"]
    assert lines[4].split()[:3] == ["best", "pusht", "success"]
    assert "1.000" in lines[4]
    assert len(results_text({"last": result(REWARDS)}, metrics=["return"]).splitlines()) == 2


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ([5], "5"),
        ([1, 2, 3, 7, 8, 20], "1-3, 7-8, 20"),
        ([3, 1, 2], "3, 1-2"),
        (list(range(0, 40, 2)), "0, 2, 4, 6, 8, 10, ..., 38"),
    ],
)
def test_seeds_are_written_as_ranges(seeds: list[int], text: str) -> None:
    assert format_seeds(seeds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (-12.345, "-12.35"), (141.32, "141.3"), (math.nan, "-"), (0.0, "0.000")],
)
def test_figures_have_few_digits(value: float, text: str) -> None:
    assert format_figure(value) == text


def test_columns_are_aligned() -> None:
    text = align_columns([["a", "b"], ["ccc", "10"], ["d", "2"]], right=[1])
    assert text == "a     b\nccc  10\nd     2"


class Linear(nn.Module):
    def __init__(self, *, spec: TaskSpec = SPEC) -> None:
        super().__init__()
        self.spec = spec
        self.layer = nn.Linear(3, 2)

    def sample(self, obs: Any, *, seeds: Any = None) -> Any:
        return torch.zeros(len(obs["state"]), 16, 2)


def test_the_identity_is_that_of_the_weights() -> None:
    policy = Linear()
    first = identify_policy(policy)
    assert first.kind == "Linear"
    assert first == identify_policy(policy)
    assert PolicyIdentity.from_json(json.loads(json.dumps(first.to_json()))) == first
    with torch.no_grad():
        policy.layer.bias[0] += 1e-7
    assert identify_policy(policy).weights_sha256 != first.weights_sha256


def test_the_digest_is_that_of_the_saved_file(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    from genpolicy.files import sha256_of

    policy = Linear()
    save_file(policy.state_dict(), tmp_path / "ema.safetensors")
    assert identify_policy(policy).weights_sha256 == sha256_of(tmp_path / "ema.safetensors")
