"""From a plan to jobs: the product, what methods need, and keys that say when two are one."""

import json
import shlex

import pytest

from genpolicy.cli.compose_config import compose_config, option_names
from genpolicy.cli.sweep_plan import experiment_of, read_sweep
from genpolicy.errors import UsageError
from genpolicy.sweeps import Axis, Job, Method, SweepPlan, expand, job_key
from genpolicy.sweeps.expand import split_axes
from tests.sweeps.conftest import compose


def test_methods_tasks_axes_and_seeds_are_multiplied(plan, tmp_path):
    plan = SweepPlan(
        **{
            **vars(plan),
            "axes": (Axis(key="trainer.max_steps", overrides=("trainer.max_steps=3",)),),
        }
    )
    jobs = expand(plan, compose, sweep=tmp_path)
    reported = [job for job in jobs if job.reported]
    assert len(reported) == 2 * 2 * 2
    assert len({job.key for job in jobs}) == len(jobs)
    assert {(j.labels["method"], j.labels["task"], j.labels["seed"]) for j in reported} == {
        (m, t, s) for m in ("a", "eda") for t in ("t", "u") for s in (0, 1)
    }
    assert all(job.labels["trainer.max_steps"] == "3" for job in reported)
    assert [job.train["seed"] for job in reported if job.labels["method"] == "a"] == [0, 1, 0, 1]


def test_what_a_method_needs_is_a_job_of_the_same_task_and_seed_and_comes_first(plan, tmp_path):
    jobs = {job.key: job for job in expand(plan, compose, sweep=tmp_path)}
    order = list(jobs)
    for job in jobs.values():
        for dotted, key in job.needs.items():
            need = jobs[key]
            assert dotted == "algorithm.behavior"
            assert job.train["algorithm"]["behavior"] == f"job:{key}"
            assert (need.labels["task"], need.labels["seed"]) == (
                job.labels["task"],
                job.labels["seed"],
            )
            assert not need.reported
            assert order.index(key) < order.index(job.key)
            assert f"jobs/{key}/run/last" in job.command
    assert sum(bool(job.needs) for job in jobs.values()) == 4


def test_a_needed_job_that_is_also_asked_for_is_one_reported_job(plan, tmp_path):
    both = {**plan.methods, "base": plan.support["base"]}
    jobs = expand(SweepPlan(**{**vars(plan), "methods": both}), compose, sweep=tmp_path)
    assert len(jobs) == 12
    assert all(job.reported for job in jobs)


def test_overrides_for_what_was_asked_for_do_not_reach_what_it_needs(plan, tmp_path):
    extra = ("algorithm.eta=7", "trainer.max_steps=20")
    jobs = expand(SweepPlan(**{**vars(plan), "extra": extra}), compose, sweep=tmp_path)
    for job in jobs:
        assert job.train["trainer"]["max_steps"] == 20
        assert job.train["algorithm"]["eta"] == (7 if job.reported else 1.0)


def test_the_key_is_of_the_settings_and_not_of_names_and_folders():
    train = {"name": "a", "run_dir": "x", "seed": 0, "algorithm": {"eta": 1.0, "alpha": 2}}
    key = job_key(train, {"n_episodes": 5})
    turned = {"algorithm": {"alpha": 2, "eta": 1.0}, "seed": 0, "run_dir": "y", "name": "b"}
    assert key == job_key(turned, {"n_episodes": 5})
    assert len(key) == 16
    assert key != job_key({**train, "seed": 1}, {"n_episodes": 5})
    assert key != job_key(train, {"n_episodes": 6})


def test_a_job_survives_its_file(plan, tmp_path):
    for job in expand(plan, compose, sweep=tmp_path):
        assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_methods_that_need_each_other_and_unknown_ones_are_refused(plan, tmp_path):
    circle = {"a": Method(needs={"algorithm.behavior": "a"})}
    with pytest.raises(UsageError, match="a -> a"):
        expand(SweepPlan(methods=circle), compose, sweep=tmp_path)
    lost = {"a": Method(needs={"algorithm.behavior": "bse"})}
    with pytest.raises(UsageError, match="did you mean 'base'"):
        expand(SweepPlan(methods=lost, support=plan.support), compose, sweep=tmp_path)
    with pytest.raises(UsageError, match="one process with one device"):
        expand(SweepPlan(extra=("trainer.devices=2",)), compose, sweep=tmp_path)


def test_sweeps_are_read_in_hydras_grammar():
    axes, rest = split_axes(["a.b=1,2", "c=range(0,3)", "d=[1,2]", "e=x"])
    assert [axis.overrides for axis in axes] == [("a.b=1", "a.b=2"), ("c=0", "c=1", "c=2")]
    assert rest == ["d=[1,2]", "e=x"]
    with pytest.raises(UsageError, match="sweeper=optuna"):
        split_axes(["a=interval(0,1)"])


def test_the_command_of_the_documentation_expands(tmp_path):
    argv = shlex.split(
        "algorithm=dql,consistency_ac,fql,idql,eda task=maze2d-umaze,maze2d-large seed=0,1,2 "
        "launcher=ray launcher.n_cpus=2"
    )
    request = read_sweep(argv)
    assert list(request.plan.methods) == ["diffusion_ql", "consistency_ac", "fql", "idql", "eda"]
    assert request.settings["launcher"]["_target_"].endswith("RayLauncher")
    assert request.name == read_sweep([argv[2], *argv[:2], "launcher=joblib"]).name
    small = read_sweep([*argv[:1], "task=maze2d-umaze", "seed=0"]).plan
    jobs = expand(small, compose_config, sweep=tmp_path)
    assert [job.labels["method"] for job in jobs if job.reported] == list(small.methods)
    eda = jobs[-1]
    assert {name: next(j for j in jobs if j.key == key) for name, key in eda.needs.items()}[
        "algorithm.critic_from"
    ].labels["method"] == "iql"


def test_tasks_name_experiments():
    assert experiment_of("maze2d-umaze") == "maze2d_umaze"
    with pytest.raises(UsageError, match="did you mean"):
        experiment_of("maze2d-umase")
    with pytest.raises(UsageError, match="no method 'fqll'"):
        read_sweep(["algorithm=fqll", "task=maze2d-umaze"])
    with pytest.raises(UsageError, match="given twice"):
        read_sweep(["algorithm=fql", "method=iql", "task=maze2d-umaze"])


def test_a_yaml_sweep_can_be_narrowed_and_keeps_its_settings(tmp_path):
    plan = read_sweep(
        ["sweep=d4rl_mini", "method=eda,iql", "task=maze2d-umaze", "seed=5", "budget=9"]
    ).plan
    assert list(plan.methods) == ["eda", "iql"]
    assert plan.seeds == [5]
    jobs = expand(plan, compose_config, sweep=tmp_path)
    by_method = {job.labels["method"]: job for job in jobs}
    assert set(by_method) == {"eda", "iql", "eda_behavior"}
    assert by_method["eda"].needs["algorithm.critic_from"] == by_method["iql"].key
    assert by_method["iql"].reported
    assert by_method["iql"].train["critic"]["q"]["width"] == 128
    assert by_method["eda"].evaluate["n_episodes"] == 24


@pytest.mark.parametrize(
    ("name", "n_methods", "n_tasks"), [("d4rl_mini", 8, 4), ("d4rl_full", 10, 33)]
)
def test_shipped_sweeps_name_methods_and_tasks_that_exist(name, n_methods, n_tasks):
    if "d4rl_hopper_medium_expert" not in option_names("experiment"):
        pytest.skip("the experiments of D4RL's tasks are not here")
    plan = read_sweep([f"sweep={name}"]).plan
    assert (len(plan.methods), len(plan.tasks)) == (n_methods, n_tasks)
    assert plan.methods["eda"].needs == {
        "algorithm.behavior": "eda_behavior",
        "algorithm.critic_from": "iql",
    }
