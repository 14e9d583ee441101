"""A search is an ordinary sweep: it finds the better setting, and continues where it stopped."""

import json

import pytest

from genpolicy.errors import UsageError
from genpolicy.sweeps import Method, SweepFolder, SweepPlan
from genpolicy.sweeps import search as search_module
from genpolicy.sweeps.search import distribution_of, search
from tests.sweeps.conftest import Inline, compose

pytest.importorskip("optuna")
PLAN = SweepPlan(methods={"a": Method(overrides=("method=a",))}, seeds=(0, 1))
SPACE = ["trainer.max_steps=range(1,41)"]


@pytest.fixture
def scored(monkeypatch, toy_jobs):
    """Score a job by how near its number of steps is to 30."""

    def value(folder, jobs):
        if not all(folder.is_done(job) for job in jobs):
            return None
        return -sum(abs(job.train["trainer"]["max_steps"] - 30) for job in jobs) / len(jobs)

    monkeypatch.setattr(search_module, "_value", value)
    return toy_jobs


def _search(path, launcher, **options):
    folder = SweepFolder(path)
    folder.write([], command="", launcher={})
    now = search(folder, launcher, PLAN, SPACE, compose, **options)
    return folder, now


def test_trials_approach_the_best_setting(scored, tmp_path):
    folder, now = _search(tmp_path / "s", Inline(), n_trials=25, seed=1)
    trials = json.loads((folder.path / "search.json").read_text())["studies"][0]["trials"]
    assert now.missing == 0
    assert len(trials) == 25
    values = [trial["value"] for trial in trials]
    assert values == sorted(values, reverse=True)
    assert values[0] >= -2
    assert all(len(trial["jobs"]) == 2 for trial in trials)


def test_a_search_that_was_stopped_proposes_the_same_trials(scored, tmp_path):
    whole, _ = _search(tmp_path / "whole", Inline(), n_trials=12)

    class Dies(Inline):
        def run(self, sweep, keys, *, deadline=None):
            for outcome in super().run(sweep, keys, deadline=deadline):
                yield outcome
                if len(SweepFolder(sweep).states()) >= 9:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _search(tmp_path / "parts", Dies(), n_trials=12)
    rest = Inline()
    parts, _ = _search(tmp_path / "parts", rest, n_trials=12)
    assert [job.key for job in parts.jobs()] == [job.key for job in whole.jobs()]
    assert (parts.path / "search.json").read_text() == (whole.path / "search.json").read_text()
    assert len(rest.ran) == len(parts.jobs()) - 9


def test_a_trial_with_a_failed_job_has_no_value(scored, tmp_path):
    first, _ = _search(tmp_path / "first", Inline(), n_trials=1)
    scored[first.jobs()[0].key] = ValueError("diverged")
    folder, now = _search(tmp_path / "s", Inline(), n_trials=4)
    trials = json.loads((folder.path / "search.json").read_text())["studies"][0]["trials"]
    assert [trial["value"] is None for trial in trials] == [False] * 3 + [True]
    assert len(now.failed) == 1


def test_a_space_is_written_in_hydras_grammar():
    key, values = distribution_of("a.b=1,2,x")
    assert (key, list(values.choices)) == ("a.b", ["1", "2", "x"])
    _, whole = distribution_of("n=range(2,9,2)")
    assert (whole.low, whole.high, whole.step) == (2, 8, 2)
    _, scale = distribution_of("lr=tag(log,interval(1e-5,1e-2))")
    assert (scale.low, scale.high, scale.log) == (1e-5, 1e-2, True)
    with pytest.raises(UsageError, match="cannot be searched"):
        distribution_of("a=3")
    with pytest.raises(UsageError, match="expected at least 1"):
        search(SweepFolder("x"), Inline(), PLAN, SPACE, compose, n_trials=0)
