"""`genpolicy compose` on the shipped policies."""

from __future__ import annotations

import json

import pytest

from genpolicy.cli.main import main
from genpolicy.evaluation.weight_search import WeightSearch
from genpolicy.policies import load_policy

MEMBERS = "members=[pusht-flow,pusht-diffusion]"
QUICK = "sampler.n_steps=2"


def call(capsys, *arguments):
    """Run the command and return exit code, output and error output."""
    code = main(["compose", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["weights=[0.4,0.6]"], ["Mean(weights=[0.4, 0.6])", "20 network evaluations"]),
        ([], ["Mean(weights=[0.5, 0.5])"]),
        (["op=rl_guidance", "scale=1.5"], ["RLGuidance(scale=1.5)"]),
        (["op=negation", "strength=0.3"], ["Negation(strength=0.3)"]),
        (["op=product", "sampler.rule=ddpm"], ["Product(weights=None)", "total weight 2", "sde"]),
        (["op=mixture", "prior=[0.3,0.7]", "sampler.rule=ddpm"], ["prior=[0.3, 0.7]"]),
        (["op=superpose_or", "temperature=2", "sampler.rule=ddpm"], ["temperature=2.0"]),
        (["op=superpose_and", "sampler.rule=ddpm"], ["mode=and"]),
        (["sampler.n_steps=3", "reference=1"], ["CosinePath", "ddim, 3 steps", "6 network"]),
    ],
)
def test_a_composition_is_explained(arguments, words, capsys):
    code, out, err = call(capsys, MEMBERS, *arguments)
    assert (code, err) == (0, "")
    for word in [*words, "member 0", "target"]:
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["op=maen"], "unknown op 'maen'; did you mean 'mean'?"),
        (["op=mean", "scale=2"], "op=mean takes no scale; it takes weights"),
        (["op=rl_guidance"], "op=rl_guidance needs scale=NUMBER"),
        (["op=rl_guidance", "search=gird"], "did you mean 'grid'?"),
        (["op=mixture", "search=grid"], "nothing to search"),
        (["op=mean", "weights=[1,0]", "search=grid"], "finds weights itself"),
        (["weigths=[1,0]"], "did you mean 'weights' or"),
        (["sampler.n_step=3"], "sampler.n_steps"),
        (["weights=[0.7,0.7]"], "sum 1"),
        (["op=product"], "deterministic sampler"),
        (["reference=2"], "reference is 2, expected 0 to 1"),
        (["search=grid", "seeds=9-3"], "seeds is '9-3', expected a range such as 0-99"),
        (["search=grid", "seeds=5"], "seeds is 5, expected a range"),
        (["search=grid", "seeds=0-9", "report_seeds=[9,10]"], "share [9]"),
        (["--evaluate"], "unknown option '--evaluate'"),
    ],
)
def test_mistakes_are_answered_with_what_was_meant(arguments, message, capsys, tmp_path):
    code, out, err = call(capsys, MEMBERS, f"out={tmp_path}", *arguments)
    assert code == 2
    assert out == ""
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["members=[pusht-flow]"], "expected at least two checkpoints"),
        (["members=pusht-flow"], "expected at least two checkpoints"),
        (["members=[a,b,c]", "op=negation", "strength=1"], "takes 2 members, got 3"),
        (["members=[pusht-flow,pusht-consistency]"], "is a consistency policy"),
    ],
)
def test_members_that_do_not_fit_are_refused(arguments, message, capsys):
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert message in err


def test_a_composition_is_saved_and_loads_again(capsys, tmp_path):
    folder = tmp_path / "mixed"
    code, out, _ = call(capsys, MEMBERS, "weights=[0.4,0.6]", QUICK, f"save={folder}")
    assert code == 0
    assert f"saved: {folder}" in out
    again = load_policy(folder)
    assert again.sampler.n_steps == 2
    assert again.operator.weights == [0.4, 0.6]


@pytest.mark.sim
def test_evaluate_writes_records_and_refuses_those_of_another_composition(capsys, tmp_path):
    common = [MEMBERS, QUICK, "evaluate=true", "report_seeds=1000-1001", f"out={tmp_path}"]
    code, out, err = call(capsys, *common, "weights=[0.4,0.6]")
    assert (code, err) == (0, "")
    for word in ("Mean(weights=[0.4, 0.6]) of 2 members", "max_reward", "seeds 1000-1001"):
        assert word in out
    result = json.loads((tmp_path / "result.json").read_text())
    assert [r["seed"] for r in result["records"]] == [1000, 1001]
    assert result["policy"]["nfe"] == 4
    assert call(capsys, *common, "weights=[0.4,0.6]", "--resume")[0] == 0
    code, _, err = call(capsys, *common, "weights=[0.5,0.5]", "--resume")
    assert code == 2
    assert "is of another evaluation" in err


@pytest.mark.sim
def test_search_prints_a_table_draws_a_curve_and_saves_the_best(capsys, tmp_path):
    out_folder, saved = tmp_path / "search", tmp_path / "best"
    arguments = [
        MEMBERS,
        QUICK,
        "search=grid",
        "n_trials=3",
        "seeds=[0]",
        "report_seeds=[1000]",
        f"out={out_folder}",
        f"save={saved}",
    ]
    code, out, err = call(capsys, *arguments)
    assert (code, err) == (0, "")
    for word in ("pusht: grid search of mean by max_reward", "fresh seeds 1000", "verdict", "luck"):
        assert word in out
    search = WeightSearch.from_json(json.loads((out_folder / "result.json").read_text()))
    assert [c.point for c in search.candidates] == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    assert (out_folder / "curve.png").is_file()
    assert list(load_policy(saved).operator.weights) == list(search.best.point)
    assert load_policy(saved).sampler == search.sampler
    again = call(capsys, *arguments)
    assert again[:2] == (0, out)
