from __future__ import annotations

import math
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from genpolicy.errors import (
    CheckpointError,
    IncompleteEvaluationError,
    NumericsError,
    SimulatorError,
    UsageError,
)
from genpolicy.evaluation import evaluate, replay
from genpolicy.evaluation.engine import Engine
from genpolicy.seeding import derive_seed

SEEDS = list(range(100, 120))


def run(walk: SimpleNamespace, **settings: Any) -> Any:
    policy = settings.pop("policy", None) or walk.policy()
    task = settings.pop("task", None) or walk.task()
    settings = {"seeds": SEEDS, "progress": False, **settings}
    return evaluate(policy, task, **settings)


@pytest.mark.parametrize("n_envs", [3, 8, 50])
def test_records_do_not_depend_on_the_number_of_environments(walk: Any, n_envs: int) -> None:
    assert run(walk, n_envs=n_envs).records == run(walk, n_envs=1).records


def test_a_record_does_not_depend_on_the_other_seeds(walk: Any) -> None:
    by_seed = {record.seed: record for record in run(walk).records}
    assert run(walk, seeds=[117, 103], n_envs=2).records == (by_seed[117], by_seed[103])


def test_seven_episodes_on_three_environments(walk: Any) -> None:
    result = run(walk, seeds=range(7), n_envs=3)
    assert [record.seed for record in result.records] == list(range(7))
    lengths = [record.n_steps for record in result.records]
    assert len(set(lengths)) > 1
    assert all(record.terminated or record.truncated for record in result.records)
    assert result.records == run(walk, seeds=range(7), n_envs=1).records


def test_a_record_is_what_a_loop_written_out_gives(walk: Any) -> None:
    """One episode by hand: history, chunk seeds, clipping, the executed part of a chunk."""
    policy, env, seed = walk.policy(scale=3.0), walk.env(), 104
    obs, _ = env.reset(seed)
    first = torch.from_numpy(obs["state"])
    history, actions, total, clipped = [first, first], [], 0.0, 0
    for chunk_index in range(100):
        chunk = policy.sample(
            {"state": torch.stack(history[-2:])[None]},
            seeds=[derive_seed(seed, "policy", chunk_index)],
        )
        done = False
        for action in chunk[0, 1:4]:
            bounded = action.clamp(-1.0, 1.0)
            clipped += int((bounded != action).any())
            obs, reward, terminated, truncated, info = env.step(bounded.numpy())
            history.append(torch.from_numpy(obs["state"]))
            actions.append(bounded)
            total += reward
            done = terminated or truncated
            if done:
                break
        if done:
            break
    record = run(walk, policy=walk.policy(scale=3.0), seeds=[seed]).records[0]
    assert record.n_chunks == chunk_index + 1
    assert record.n_steps == len(actions)
    assert record.n_clipped == clipped > 0
    assert record.metrics == {
        **info["metrics"],
        "return": total,
        "clipped_actions": float(clipped),
    }
    rollout = replay(walk.policy(scale=3.0), walk.task(), seeds=[seed])[0]
    assert rollout.record == record
    np.testing.assert_array_equal(rollout.actions, torch.stack(actions).numpy())
    np.testing.assert_array_equal(rollout.obs["state"], torch.stack(history[1:]).numpy())


def test_all_slots_that_need_a_chunk_share_one_call(walk: Any) -> None:
    policy = walk.policy()
    run(walk, policy=policy, seeds=range(4), n_envs=4)
    assert policy.batches[0] == 4
    assert sum(policy.batches) == sum(r.n_chunks for r in run(walk, seeds=range(4)).records)


def test_no_clipping_is_counted_for_actions_within_bounds(walk: Any) -> None:
    class Still(walk.policy):
        def sample(self, obs: Any, *, seeds: Any = None) -> torch.Tensor:
            return super().sample(obs, seeds=seeds).clamp(-1.0, 1.0)

    assert run(walk, policy=Still()).clipped_share == 0.0
    everything = run(walk, policy=walk.policy(offset=100.0))
    assert everything.clipped_share == 1.0
    assert all(r.metrics["clipped_actions"] == r.n_steps for r in everything.records)


def test_the_number_of_executed_actions_is_an_argument(walk: Any) -> None:
    one = run(walk, n_action_steps=1)
    assert all(record.n_chunks == record.n_steps for record in one.records)
    five = run(walk, n_action_steps=5)
    assert all(record.n_chunks == math.ceil(record.n_steps / 5) for record in five.records)
    with pytest.raises(UsageError, match="expected 1 to 5 for horizon 6"):
        run(walk, n_action_steps=6)


@pytest.mark.parametrize(
    "settings",
    [
        {"seeds": []},
        {"seeds": [1, 1]},
        {"seeds": [-1]},
        {"n_envs": 0},
        {"resume": True},
        {"max_restarts": -1},
    ],
)
def test_arguments_are_checked(walk: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"expected|resume"):
        run(walk, **settings)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_observation_is_a_tagged_failure(walk: Any, bad: float) -> None:
    usual = {record.seed: record for record in run(walk).records}
    task = walk.task(fault=lambda seed, step: bad if (seed, step) == (105, 2) else None)
    result = run(walk, task=task)
    broken = {record.seed: record for record in result.records}[105]
    assert broken.tags == ("non-finite observation: state",)
    assert broken.metrics["success"] == 0.0
    assert broken.n_steps == 2
    assert math.isfinite(broken.metrics["return"])
    assert [r for r in result.records if r.seed != 105] == [
        usual[seed] for seed in SEEDS if seed != 105
    ]
    assert result.tags == {"non-finite observation: state": 1}
    assert "1 with non-finite observation: state" in str(result)


def test_an_observation_that_is_broken_at_the_start_ends_the_episode(walk: Any) -> None:
    task = walk.task(fault=lambda seed, step: math.nan if seed in (100, 101) else None)
    result = run(walk, task=task, n_envs=2)
    assert [r.n_steps for r in result.records][:2] == [0, 0]
    assert [r.seed for r in result.records] == SEEDS


def test_an_action_that_is_not_finite_names_seed_and_step(walk: Any) -> None:
    class Broken(walk.policy):
        def sample(self, obs: Any, *, seeds: Any = None) -> torch.Tensor:
            chunk = super().sample(obs, seeds=seeds)
            late = obs["state"][:, -1, 2] >= 3
            chunk[late, 2] = math.nan  # the second executed entry
            return chunk

    with pytest.raises(NumericsError, match=r"seed \d+ at step 4 is not finite") as caught:
        run(walk, policy=Broken())
    assert caught.value.exit_code == 5


def test_an_error_of_the_policy_names_the_episodes(walk: Any) -> None:
    class Broken(walk.policy):
        def sample(self, obs: Any, *, seeds: Any = None) -> torch.Tensor:
            raise NumericsError("rows [0] of 2 are not finite")

    with pytest.raises(NumericsError, match="seed 3 at step 0, seed 9 at step 0"):
        run(walk, policy=Broken(), seeds=[3, 9], n_envs=2)


def test_a_chunk_of_another_shape_is_refused(walk: Any) -> None:
    class Short(walk.policy):
        def sample(self, obs: Any, *, seeds: Any = None) -> torch.Tensor:
            return super().sample(obs, seeds=seeds)[:, :4]

    with pytest.raises(UsageError, match=r"chunk \(1, 4, 2\), expected \(1, 6, 2\)"):
        run(walk, policy=Short(), seeds=[1])


def test_a_policy_that_does_not_fit_is_refused_before_the_first_rollout(walk: Any) -> None:
    other = replace(walk.spec, task="arm", action_dim=7, obs_shapes={"state": (4,), "image": (2,)})
    policy = walk.policy(spec=other)
    with pytest.raises(UsageError) as caught:
        run(walk, policy=policy)
    message = str(caught.value)
    for part in ("'arm'", "'walk'", "(4,)", "(3,)", "'image'", "absent", "7 entries", "(2,)"):
        assert part in message
    assert policy.batches == []
    from genpolicy.evaluation import CheckpointInfo

    info = CheckpointInfo(path="runs/arm", step=1, weights="ema", links=())
    with pytest.raises(CheckpointError) as refused:
        run(walk, policy=policy, checkpoint=info)
    assert refused.value.exit_code == 4


class Crash:
    """Raises at chosen (seed, step) pairs, each a given number of times."""

    def __init__(self, times: dict[tuple[int, int], int], error: type[Exception]) -> None:
        self.times, self.error = dict(times), error

    def __call__(self, seed: int, step: int) -> Exception | None:
        if self.times.get((seed, step), 0) > 0:
            self.times[seed, step] -= 1
            return self.error("the simulator died")
        return None


@pytest.mark.parametrize("error", [RuntimeError, SimulatorError, EOFError])
def test_episodes_are_repeated_after_a_crash(walk: Any, error: type[Exception]) -> None:
    crash = Crash({(103, 1): 1, (108, 0): 2}, error)
    result = run(walk, task=walk.task(fault=crash), n_envs=3)
    assert result.records == run(walk).records
    assert result.n_restarts == 3
    assert "3, after failures of the simulator" in str(result)


def test_after_too_many_crashes_there_is_no_score_but_a_ledger(walk: Any, tmp_path: Any) -> None:
    ledger = tmp_path / "records.jsonl"
    crash = Crash({(105, 1): 4}, RuntimeError)
    with pytest.raises(IncompleteEvaluationError, match="RuntimeError: the simulator died") as e:
        run(walk, task=walk.task(fault=crash), n_envs=2, ledger=ledger)
    assert e.value.exit_code == 7
    assert str(ledger) in str(e.value)
    resumed = run(walk, task=walk.task(fault=crash), n_envs=2, ledger=ledger, resume=True)
    assert resumed.records == run(walk).records
    assert resumed.n_restarts == 4


def test_a_failing_worker_ends_only_the_episodes_of_its_lane(walk: Any) -> None:
    crash, interrupted = Crash({(103, 1): 1}, RuntimeError), []
    engine = Engine(
        walk.policy(),
        walk.task(fault=crash),
        SEEDS,
        n_envs=5,
        n_action_steps=3,
        workers=True,
        on_restart=lambda seeds, reason: interrupted.append(list(seeds)),
    )
    records = sorted((r for batch in engine.run() for r in batch), key=lambda r: r.seed)
    assert tuple(records) == run(walk).records
    assert interrupted == [[103, 104]]  # of 100 to 102 and 103 to 104


def test_the_policy_plans_while_the_simulators_of_the_other_lane_work(walk: Any) -> None:
    planned = threading.Semaphore(0)
    waited: list[bool] = []

    class Planner(walk.policy):
        def sample(self, obs: Any, *, seeds: Any = None) -> torch.Tensor:
            planned.release()
            return super().sample(obs, seeds=seeds)

    def make_slots(n_envs: int, workers: bool) -> Any:
        slots = walk.slots(n_envs, walk.env)
        step = slots.step

        def step_after_a_plan(*args: Any) -> Any:
            if not waited:  # its own plan, and that of the other lane
                waited.append(planned.acquire(timeout=10) and planned.acquire(timeout=10))
            return step(*args)

        slots.step = step_after_a_plan
        return slots

    task = replace(walk.task(), make_slots=make_slots)
    result = run(walk, policy=Planner(), task=task, n_envs=4, workers=True, n_action_steps=1)
    assert waited[0], "the first step ended before the policy was asked for the other lane"
    assert result.records == run(walk, n_action_steps=1).records


def test_an_error_of_ours_is_not_taken_for_a_crash(walk: Any) -> None:
    crash = Crash({(105, 1): 1}, UsageError)
    with pytest.raises(UsageError, match="the simulator died"):
        run(walk, task=walk.task(fault=crash))


def test_slots_are_closed_whatever_happens(walk: Any) -> None:
    made = []

    def make_slots(n_envs: int, workers: bool) -> Any:
        made.append(walk.slots(n_envs, walk.env))
        return made[-1]

    task = replace(walk.task(), make_slots=make_slots)
    run(walk, task=task)
    with pytest.raises(UsageError):
        run(walk, task=task, n_action_steps=99)
    assert [slots.is_closed for slots in made] == [True, True]


def test_an_environment_without_its_primary_metric_is_refused(walk: Any) -> None:
    with pytest.raises(SimulatorError, match="info\\['metrics'\\]\\['speed'\\]"):
        run(walk, task=walk.task(primary="speed"))


def test_no_global_randomness_is_used(walk: Any) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = run(walk, seeds=[1, 2])
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    assert run(walk, seeds=[1, 2]).records == first.records


def test_replay_gives_pictures_at_the_steps_asked_for(walk: Any) -> None:
    rollouts = replay(walk.policy(), walk.task(), seeds=[104, 101], n_envs=2, frame_every=3)
    for seed, rollout in zip([104, 101], rollouts, strict=True):
        assert rollout.record == run(walk, seeds=[seed]).records[0]
        assert list(rollout.frames) == list(range(0, rollout.record.n_steps + 1, 3))
    with pytest.raises(UsageError, match="frame_every"):
        replay(walk.policy(), walk.task(), seeds=[1], frame_every=0)
