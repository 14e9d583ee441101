"""Weight searches in a task of one action, with Gaussian policies whose errors are opposite."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from genpolicy import compose
from genpolicy.composition import LevelWeights
from genpolicy.errors import UsageError
from genpolicy.evaluation import evaluate, identify_policy
from genpolicy.evaluation.statistics import PairedDifference
from genpolicy.evaluation.weight_search import WeightSearch, search_weights
from genpolicy.paths import CosinePath
from genpolicy.policies.composed import MemberOf
from genpolicy.sampling import Sampler
from tests.evaluation.aiming import Aimer, aim


@pytest.fixture(scope="module")
def opposite():
    return [Aimer(0.6), Aimer(-0.6)]


def run(members, **changes) -> WeightSearch:
    options: dict[str, Any] = {
        "seeds": range(40),
        "report_seeds": range(100, 140),
        "n_trials": 5,
        "n_envs": 20,
        "progress": False,
        "task": aim(),
        **changes,
    }
    return search_weights(members, **options)


def test_opposite_errors_cancel_and_the_composition_beats_both_parents(opposite):
    search = run(opposite)
    assert [c.point for c in search.candidates] == [
        (0.0, 1.0),
        (0.25, 0.75),
        (0.5, 0.5),
        (0.75, 0.25),
        (1.0, 0.0),
    ]
    assert search.best.point == (0.5, 0.5)
    assert search.metric == "closeness"
    assert search.report_seeds == tuple(range(100, 140))
    assert {c.parent for c in search.parents} == {0, 1}
    assert set(search.report) == {2, 0, 4}
    difference = search.difference
    assert difference is not None
    mine = search.report[2].mean()
    parents = [search.report[n].mean() for n in (0, 4)]
    assert difference.mean == pytest.approx(mine - max(parents), abs=1e-12)
    assert difference.interval.low > 0.0
    assert search.verdict.startswith("beats the better parent, member")
    bias = search.selection_bias
    assert bias.observed == pytest.approx(search.best.mean - mine, abs=1e-12)
    assert (bias.n_candidates, bias.n_seeds) == (5, 40)
    text = str(search)
    for part in ("0.5, 0.5", "member 1 alone", "fresh seeds 100-139", "by luck", "verdict"):
        assert part in text


def test_weights_one_are_the_parent_bit_for_bit_under_the_same_sampler(opposite):
    sampler = Sampler(rule="ddpm", n_steps=3)
    search = run(opposite, sampler=sampler, n_trials=3, seeds=range(12))
    by_parent = {c.parent: c.number for c in search.parents}
    for number, member in enumerate(opposite):
        alone = Aimer(member.bias[0].item(), sampler=sampler)
        result = evaluate(alone, aim(), seeds=range(100, 140), progress=False)
        assert search.report[by_parent[number]].records == result.records
        values = tuple(evaluate(alone, aim(), seeds=range(12), progress=False).values("closeness"))
        assert search.candidates[by_parent[number]].values == values


def test_members_on_other_paths_are_all_asked_at_the_same_times():
    members = [Aimer(0.6), Aimer(-0.6, path=CosinePath())]
    search = run(members, n_trials=3, seeds=range(6), report_seeds=range(100, 106))
    used = [result.policy.sampler for result in search.report.values()]
    assert used[0]["times"] is not None
    assert all(s == used[0] for s in used)
    assert search.sampler is not None
    rebuilt = compose.mean(members, search.best.numbers, sampler=search.sampler)
    records = evaluate(rebuilt, aim(), seeds=range(6), progress=False).records
    assert records == search.validation.records


def test_hopeless_weights_are_given_up_and_the_ends_never_are(tmp_path):
    members = [Aimer(0.0), Aimer(3.0)]
    search = run(members, out=tmp_path, seeds=range(60), n_trials=6)
    stopped = [c for c in search.candidates if c.is_stopped]
    assert [c.number for c in stopped] == [1, 2, 3, 4]
    assert all(c.n == 20 for c in stopped)
    worst = min(search.candidates, key=lambda c: c.mean)
    assert worst.point == (0.0, 1.0)
    assert not worst.is_stopped
    assert worst.n == 60
    for c in search.candidates:
        note = json.loads((tmp_path / f"trial-{c.number:02d}" / "trial.json").read_text())
        assert note["stopped_after"] == (c.n if c.is_stopped else None)
        assert note["point"] == list(c.point)
        # Common seeds in a common order: what ran is a prefix of the whole.
        policy = compose.mean(members, c.point)
        whole = evaluate(policy, aim(), seeds=range(60), progress=False)
        assert c.values == tuple(whole.values("closeness")[: c.n])
    assert search.best.point == (1.0, 0.0)
    assert "the better parent, member 0, alone" in search.verdict
    assert search.difference is None
    assert f"stopped after {stopped[0].n} episodes" in str(search)


def test_equal_candidates_are_never_given_up():
    search = run([Aimer(0.1), Aimer(0.1)], n_trials=4, seeds=range(60))
    assert [c.n for c in search.candidates] == [60] * 4
    assert "does not beat" in search.verdict or "alone" in search.verdict
    assert search.selection_bias.expected == pytest.approx(0.0, abs=5e-3)


def test_nothing_is_given_up_on_a_handful_of_episodes():
    search = run([Aimer(0.0), Aimer(3.0)], seeds=range(12), batch=3)
    assert all(c.n == 12 or c.n >= 10 for c in search.candidates)
    early = run([Aimer(0.0), Aimer(3.0)], seeds=range(9), batch=3)
    assert [c.n for c in early.candidates] == [9] * 5


class Interrupting:
    """Stops the process that runs it after some calls, like a person who presses Ctrl-C."""

    def __init__(self, after):
        self.left, self.calls = after, 0

    def __call__(self, seed):
        self.calls += 1
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["grid", "bayes"])
def test_an_interrupted_search_continues_to_the_same_result(method, opposite, tmp_path):
    options: dict[str, Any] = {
        "method": method,
        "seeds": range(24),
        "report_seeds": range(100, 112),
        "batch": 12,
        "n_trials": 4,
        "n_envs": 4,
    }
    whole = run(opposite, **options)
    folder = tmp_path / "search"
    for after in (30, 50, 40):
        with pytest.raises(KeyboardInterrupt):
            run(opposite, task=aim(on_reset=Interrupting(after)), out=folder, **options)
        assert not (folder / "result.json").exists()
    assert run(opposite, out=folder, **options) == whole
    silent = Interrupting(-1)
    assert run(opposite, task=aim(on_reset=silent), out=folder, **options) == whole
    assert silent.calls == 0  # a finished search is read, not run again
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_of_another_search_is_refused(opposite, tmp_path):
    options: dict[str, Any] = {"seeds": range(4), "report_seeds": range(100, 103), "n_trials": 3}
    run(opposite, out=tmp_path, **options)
    with pytest.raises(UsageError, match="another weight search: its n_trials is 3, this"):
        run(opposite, out=tmp_path, **{**options, "n_trials": 5})
    with pytest.raises(UsageError, match="another weight search: its composition is"):
        run([opposite[0], Aimer(0.1)], out=tmp_path, **options)


def test_a_ledger_of_another_composition_is_refused(opposite, tmp_path):
    first = compose.mean(opposite, [0.4, 0.6])
    ledger = tmp_path / "records.jsonl"

    def play(policy, **options):
        return evaluate(policy, aim(), seeds=range(4), ledger=ledger, progress=False, **options)

    records = play(first).records
    assert play(first, resume=True).records == records
    others = [
        compose.mean(opposite, [0.5, 0.5]),
        compose.mean([opposite[0], Aimer(0.1)], [0.4, 0.6]),
        compose.mean(opposite, [0.4, 0.6], sampler=Sampler(rule="ddim", n_steps=3)),
        compose.mean(opposite, [0.4, 0.6], reference=1),
        compose.rl_guidance(base=opposite[0], tuned=opposite[1], scale=0.6),
    ]
    for other in others:
        with pytest.raises(UsageError, match="is of another evaluation"):
            play(other, resume=True)


def test_the_identity_of_a_composition_names_operator_and_members(opposite):
    nan = {"state": torch.full((3,), torch.nan)}
    given = MemberOf(policy=opposite[0], fixed_obs=nan)
    policy = compose.mean([opposite[0], given], [0.4, 0.6])  # shared weights, absent observations
    identity = identify_policy(policy)
    assert identity.nfe == 4
    assert "Mean(weights=[0.4, 0.6]) of 2 members" in identity.describe()
    json.dumps(identity.to_json(), allow_nan=False)
    zero = MemberOf(policy=opposite[0], fixed_obs={"state": torch.zeros(3)})
    assert identify_policy(compose.mean([opposite[0], zero], [0.4, 0.6])) != identity
    changed = identify_policy(compose.mean([Aimer(0.61), given], [0.4, 0.6]))
    assert changed.weights_sha256 != identity.weights_sha256


def test_bayes_finds_the_optimum_between_grid_points_and_repeats_itself():
    members = [Aimer(0.3), Aimer(-0.7)]  # biases cancel at 0.7
    options: dict[str, Any] = {"method": "bayes", "n_trials": 5, "seeds": range(40)}
    search = run(members, **options)
    assert [c.point for c in search.candidates[:2]] == [(1.0, 0.0), (0.0, 1.0)]
    assert len({c.point for c in search.candidates}) == 5
    assert search.best.numbers[0] == pytest.approx(0.7, abs=0.15)
    assert run(members, **options) == search


def test_starts_and_schedules_are_candidates_too(opposite):
    schedule = LevelWeights(log_snr=[-2.0, 2.0], weights=[[0.4, 0.6], [0.6, 0.4]])
    for method, n_trials in (("grid", 3), ("bayes", 2)):
        search = run(
            opposite,
            method=method,
            n_trials=n_trials,
            seeds=range(20),
            starts=[schedule, (0.45, 0.55)],
        )
        points = [c.point for c in search.candidates]
        assert len(points) == n_trials + 2
        assert schedule in points
        assert (0.45, 0.55) in points
        assert "schedule" in str(search)
        assert WeightSearch.from_json(json.loads(json.dumps(search.to_json()))) == search


@pytest.mark.parametrize(
    ("operator", "members", "bounds", "best"),
    [("rl_guidance", (0.8, 0.4), (0.0, 3.0), 2.0), ("negation", (0.4, 1.2), (0.0, 1.5), 0.5)],
)
def test_one_parameter_operators_are_searched_too(operator, members, bounds, best):
    # Scale 2 extrapolates 0.8 -> 0.4 to 0; strength 0.5 takes 1.5 * 0.4 - 0.5 * 1.2 = 0.
    policies = [Aimer(bias) for bias in members]
    search = run(policies, operator=operator, bounds=bounds, n_trials=4)
    assert search.best.point == (best,)
    assert search.verdict.startswith("beats the better parent")
    ends = [c.point[0] for c in search.candidates if c.is_end]
    assert ends[0] == bounds[0]
    assert ends[-1] == bounds[1]
    assert [c.parent for c in search.parents] == ([0, 1] if operator == "rl_guidance" else [0])


def test_three_members_are_searched_on_the_simplex(tmp_path):
    members = [Aimer(0.6), Aimer(-0.6), Aimer(2.0)]
    search = run(members, n_trials=7, seeds=range(20), out=tmp_path)
    assert len(search.candidates) == 6
    assert search.best.point == (0.5, 0.5, 0.0)
    assert len(search.report) == 4
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_json_holds_everything(opposite, tmp_path):
    search = run(opposite, out=tmp_path, n_trials=3, seeds=range(10))
    data = json.loads((tmp_path / "result.json").read_text())
    again = WeightSearch.from_json(data)
    assert again == search
    assert str(again) == str(search)
    assert data["summary"]["verdict"] == search.verdict
    assert data["summary"]["best"] == list(search.best.point)
    with pytest.raises(UsageError, match="upgrade genpolicy"):
        WeightSearch.from_json({**data, "schema_version": 99})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"report_seeds": range(30, 50)}, r"share \[30, 31, 32, 33, 34\] and more"),
        ({"report_seeds": []}, "report_seeds are 0 numbers"),
        ({"seeds": [1, 1]}, "seeds are 2 numbers, 1 of them distinct"),
        ({"method": "gird"}, "did you mean 'grid'"),
        ({"operator": "negaton"}, "did you mean 'negation'"),
        ({"metric": "closenes", "seeds": range(2)}, "did you mean 'closeness'"),
        ({"n_trials": 1}, "n_trials 1"),
        ({"batch": 0}, "batch is 0"),
        ({"bounds": (0.0, 1.0)}, "leave bounds out"),
        ({"operator": "rl_guidance", "bounds": (2.0, 1.0)}, "0 <= low < high"),
        ({"starts": [(0.5, 0.6)]}, "weights of at least 0 with sum 1"),
    ],
)
def test_wrong_arguments_are_refused(changes, message, opposite):
    with pytest.raises(UsageError, match=message):
        run(opposite, **changes)


def with_difference(search, mean, low, high):
    """Return a search whose best differs from the better parent as given."""
    interval = replace(next(iter(search.differences.values())).interval, low=low, high=high)
    found = PairedDifference(mean=mean, interval=interval, n=40, n_better=1, n_worse=1)
    changed = replace(search)
    changed.__dict__["differences"] = {n: found for n in search.differences}
    return changed


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ((0.1, 0.02, 0.2), "beats the better parent"),
        ((0.1, -0.02, 0.2), "does not beat the better parent"),
        ((-0.1, -0.2, -0.02), "does worse than the better parent"),
    ],
)
def test_the_verdict_follows_the_interval(figures, words, opposite):
    search = run(opposite, n_trials=3, seeds=range(10), report_seeds=range(100, 110))
    assert with_difference(search, *figures).verdict.startswith(words)


def test_a_weak_partner_and_an_end_of_the_range_are_named():
    search = run([Aimer(0.0), Aimer(3.0)], task=aim(primary="success"), n_trials=3)
    assert search.is_rate
    assert any("less than a third" in note for note in search.notes)
    ended = run([Aimer(2.0), Aimer(1.6)], operator="rl_guidance", n_trials=3)
    assert ended.best.point == (2.0,)
    assert any("widen it with bounds" in note for note in ended.notes)
