from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genpolicy.errors import DataError, IncompleteEvaluationError, SimulatorError, UsageError
from genpolicy.evaluation import EvalResult, evaluate, read_ledger
from genpolicy.evaluation.ledger import Ledger

SEEDS = list(range(20, 30))


class InterruptedRunError(Exception):
    pass


def run(walk: Any, ledger: Path, **settings: Any) -> EvalResult:
    policy = settings.pop("policy", None) or walk.policy()
    task = settings.pop("task", None) or walk.task()
    settings = {"seeds": SEEDS, "n_envs": 3, "progress": False, **settings}
    return evaluate(policy, task, ledger=ledger, **settings)


def interrupted(walk: Any, ledger: Path, *, after: int) -> None:
    """Run an evaluation that stops at its first request after ``after`` records."""

    class Stopping(walk.policy):
        def sample(self, obs: Any, *, seeds: Any = None) -> Any:
            if ledger.exists() and ledger.read_text().count('"record"') >= after:
                raise InterruptedRunError
            return super().sample(obs, seeds=seeds)

    Stopping.__qualname__ = walk.policy.__qualname__
    with pytest.raises(InterruptedRunError):
        run(walk, ledger, policy=Stopping())


def test_a_stopped_evaluation_continues_without_repeating_episodes(
    walk: Any, tmp_path: Path
) -> None:
    ledger = tmp_path / "sub" / "records.jsonl"
    interrupted(walk, ledger, after=4)
    kept = read_ledger(ledger).records
    assert 4 <= len(kept) < len(SEEDS)
    policy = walk.policy()
    resumed = run(walk, ledger, resume=True, policy=policy)
    fresh = run(walk, tmp_path / "other.jsonl")
    assert resumed.records == fresh.records
    assert resumed.to_json() == fresh.to_json()
    assert sum(policy.batches) == sum(
        record.n_chunks for record in fresh.records if record.seed not in kept
    )
    assert read_ledger(ledger).result() == resumed


def test_every_line_is_json_and_only_appended(walk: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "records.jsonl"
    interrupted(walk, ledger, after=4)
    before = ledger.read_bytes()
    run(walk, ledger, resume=True)
    assert ledger.read_bytes().startswith(before)
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert lines[0]["ledger"] == 1
    recorded = [line["record"]["seed"] for line in lines if "record" in line]
    assert sorted(recorded) == SEEDS
    assert sum("session" in line for line in lines) == 2


@pytest.mark.parametrize("n_cut", [1, 2, 40])
def test_a_torn_last_line_is_dropped_and_its_episode_repeated(
    walk: Any, tmp_path: Path, n_cut: int
) -> None:
    ledger = tmp_path / "records.jsonl"
    whole = run(walk, ledger)
    ledger.write_bytes(ledger.read_bytes()[:-n_cut])
    torn = read_ledger(ledger)
    assert len(torn.records) == len(SEEDS) - 1
    with pytest.raises(IncompleteEvaluationError, match=r"9 of 10 records, seeds .* are missing"):
        torn.result()
    assert run(walk, ledger, resume=True).records == whole.records
    assert [json.loads(line) for line in ledger.read_text().splitlines()]


def test_a_torn_header_is_no_evaluation_yet(walk: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "records.jsonl"
    ledger.write_bytes(b'{"ledger": 1, "ta')
    with pytest.raises(DataError, match="empty"):
        read_ledger(ledger)
    assert len(run(walk, ledger).records) == len(SEEDS)


def test_a_line_damaged_in_the_middle_is_refused(walk: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "records.jsonl"
    run(walk, ledger)
    lines = ledger.read_bytes().split(b"\n")
    lines[4] = lines[4][:20]
    ledger.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match="damaged in line 5"):
        run(walk, ledger, resume=True)


def test_an_incomplete_evaluation_has_no_score(walk: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "records.jsonl"
    interrupted(walk, ledger, after=3)
    with pytest.raises(IncompleteEvaluationError, match="resume=True") as caught:
        read_ledger(ledger).result()
    assert caught.value.exit_code == 7


def test_an_existing_ledger_is_not_continued_unasked(walk: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "records.jsonl"
    run(walk, ledger)
    before = ledger.read_bytes()
    with pytest.raises(UsageError, match=r"already holds 10 records.*resume=True"):
        run(walk, ledger)
    assert ledger.read_bytes() == before


def test_a_ledger_without_records_does_not_stand_in_the_way(walk: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "records.jsonl"
    other = walk.policy(spec=replace(walk.spec, action_dim=7))
    with pytest.raises(UsageError, match="does not fit"):
        run(walk, ledger, policy=other)
    assert run(walk, ledger) == read_ledger(ledger).result()


def test_a_foreign_file_is_not_overwritten(walk: Any, tmp_path: Path) -> None:
    for content in (b"my notes", b"my notes\n", b'{"a": 1}\n', b"[1]\n"):
        file = tmp_path / "notes.txt"
        file.write_bytes(content)
        with pytest.raises(DataError, match="ledger"):
            run(walk, file, resume=True)
        assert file.read_bytes() == content


def test_more_seeds_can_be_added(walk: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "records.jsonl"
    run(walk, ledger, seeds=range(5))
    policy = walk.policy()
    more = run(walk, ledger, seeds=range(8), resume=True, policy=policy)
    assert more.seeds == tuple(range(8))
    assert sum(policy.batches) == sum(record.n_chunks for record in more.records[5:])
    assert run(walk, ledger, seeds=[6, 2], resume=True).seeds == (6, 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"policy": {"spec": {"n_obs_steps": 3}}}, "spec"),
        ({"task": {"name": "run"}}, "task"),
        ({"task": {"settings": {"max_steps": 9}}}, "environment"),
        ({"n_action_steps": 2}, "n_action_steps"),
    ],
)
def test_another_evaluation_is_refused(
    walk: Any, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    ledger = tmp_path / "records.jsonl"
    run(walk, ledger)
    settings: dict[str, Any] = {}
    if "policy" in change:
        settings["policy"] = walk.policy(spec=replace(walk.spec, **change["policy"]["spec"]))
    if "task" in change:
        settings["task"] = walk.task(**change["task"])
    if "n_action_steps" in change:
        settings["n_action_steps"] = 2
    with pytest.raises(UsageError, match=f"another evaluation: its {named} is"):
        run(walk, ledger, resume=True, **settings)


def test_another_simulator_is_refused(walk: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "records.jsonl"
    run(walk, ledger)
    with pytest.raises(SimulatorError, match=r"'1\.0'.*'2\.0'") as caught:
        run(walk, ledger, resume=True, task=walk.task(simulators={"walk": "2.0"}))
    assert caught.value.exit_code == 6


def test_two_records_of_one_seed_have_to_agree(walk: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "records.jsonl"
    result = run(walk, ledger)
    line = json.dumps({"record": result.records[3].to_json()}) + "\n"
    with open(ledger, "a") as handle:
        handle.write(line)
    assert read_ledger(ledger).result() == result
    other = {**result.records[3].to_json(), "n_steps": 999}
    with open(ledger, "a") as handle:
        handle.write(json.dumps({"record": other}) + "\n")
    with pytest.raises(DataError, match="seed 23 has two different records"):
        read_ledger(ledger)


def test_a_newer_ledger_and_an_unknown_entry_are_refused(walk: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "records.jsonl"
    run(walk, ledger)
    text = ledger.read_text()
    ledger.write_text(text.replace('{"ledger": 1', '{"ledger": 2', 1))
    with pytest.raises(DataError, match="schema 2"):
        read_ledger(ledger)
    ledger.write_text(text + '{"surprise": 1}\n')
    with pytest.raises(DataError, match="unknown entry"):
        read_ledger(ledger)


def test_a_second_writer_is_refused(walk: Any, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    run(walk, path)
    header = read_ledger(path).header
    with (
        Ledger(path, header, seeds=SEEDS, versions={}, resume=True),
        pytest.raises(UsageError, match="being written by another process"),
    ):
        run(walk, path, resume=True)
    assert run(walk, path, resume=True).seeds == tuple(SEEDS)


def test_numbers_survive_the_file_exactly(walk: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "records.jsonl"
    assert run(walk, ledger).records == tuple(read_ledger(ledger).records[seed] for seed in SEEDS)
