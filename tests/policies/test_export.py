"""Policies written as programs: the same actions, for any batch; refusals; nothing left behind."""

import json
import sys

import pytest
import torch

import genpolicy as gp
from genpolicy.cli.main import main
from genpolicy.errors import NumericsError, UsageError
from genpolicy.policies import draws_of, export, export_policy, load_exported
from tests.native.cases import observations, policy

SMALL = {"network_options": {"width": 16, "n_blocks": 1}}
INSIDE = {"path": "LinearPath", "path_options": {"t_min": 0.001, "t_max": 0.999}}


def composed():
    first, second = policy(**SMALL, **INSIDE), policy(**SMALL, **INSIDE, seed=1)
    return gp.compose.mean([first, second], [0.3, 0.7])


CASES = {
    "stochastic": lambda: policy(**SMALL, sampler={"rule": "ddpm", "n_steps": 3}),
    "two stages": lambda: policy(**SMALL, sampler={"rule": "midpoint", "n_steps": 2}),
    "two steps back": lambda: policy(
        **SMALL, **INSIDE, sampler={"rule": "dpmpp_2m", "n_steps": 3, "grid": "log_snr"}
    ),
    "consistency": lambda: policy(
        **SMALL,
        path="KarrasPath",
        denoiser="FlowMapDenoiser",
        sampler={"rule": "renoise", "n_steps": 2},
    ),
    "unet": lambda: policy(
        network="ConditionalUnet1D",
        network_options={"dims": [8, 16], "n_groups": 4, "time_dim": 8},
        sampler={"n_steps": 1},
    ),
    "transformer": lambda: policy(
        network="DiT",
        network_options={"width": 16, "n_heads": 2, "n_layers": 1},
        sampler={"n_steps": 1},
    ),
    "mean": composed,
}


@pytest.mark.parametrize("name", CASES)
def test_programs_of_torch_act_like_the_policy(name, tmp_path):
    made = CASES[name]()
    found = export_policy(made, tmp_path / "made", name=name)
    assert {p.name for p in tmp_path.iterdir()} == {"made.pt2", "made.pt2.json"}
    assert found == json.loads((tmp_path / "made.pt2.json").read_text())
    assert found["largest_difference"] < 1e-5
    program = load_exported(tmp_path / "made.pt2")
    for n_rows in (1, 7):
        obs, seeds = observations(made, n_rows), list(range(n_rows))
        noise = draws_of(made, seeds)
        assert list(noise.shape) == [found["inputs"]["noise"]["shape"][0], n_rows, 4, 2]
        torch.testing.assert_close(
            program(obs, noise), made.sample(obs, seeds=seeds), atol=1e-4, rtol=1e-4
        )


def test_only_noise_that_is_used_is_asked_for():
    assert draws_of(policy(**SMALL), [0]).shape[0] == 1
    stochastic = policy(**SMALL, sampler={"rule": "ddpm", "n_steps": 3})
    assert draws_of(stochastic, [0]).shape[0] == 3  # the last step adds none


def test_programs_of_onnx_act_like_the_policy(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    made = policy(**SMALL, sampler={"rule": "ddpm", "n_steps": 2})
    found = export_policy(made, tmp_path / "made.onnx", format="onnx")
    program = load_exported(tmp_path / "made.onnx")
    assert program.keys == ("goal", "state") or program.keys == ("state", "goal")
    obs = observations(made, 5)
    expected = made.sample(obs, seeds=range(5))
    torch.testing.assert_close(
        program(obs, draws_of(made, range(5))), expected, atol=1e-4, rtol=1e-4
    )
    assert set(found["inputs"]) == {"obs_state", "obs_goal", "noise"}
    with pytest.raises(UsageError, match=r"observations \['goal'\] are missing"):
        program({"state": obs["state"]}, draws_of(made, range(5)))


def test_a_program_that_differs_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_largest_difference", lambda policy, program: 0.3)
    (tmp_path / "made.pt2").write_text("the one before")
    with pytest.raises(NumericsError, match=r"differs from the policy by 3\.0e-01"):
        export_policy(policy(**SMALL, sampler={"n_steps": 1}), tmp_path / "made")
    assert [p.name for p in tmp_path.iterdir()] == ["made.pt2"]
    assert (tmp_path / "made.pt2").read_text() == "the one before"


def test_differences_that_are_no_numbers_count(monkeypatch):
    made = policy(**SMALL)
    broken = export.Exported(lambda obs, noise: noise[0] * torch.nan, made.spec.obs_shapes)
    assert not export._largest_difference(made, broken) <= 1e30


def test_what_cannot_be_exported_is_refused_with_the_reason(tmp_path):
    plain = policy(**SMALL, **INSIDE)
    tilted = gp.compose.with_cost(plain, cost=gp.compose.costs.Smoothness(), scale=1.0)
    corrected = gp.compose.product([plain, plain], corrector="ula")
    for made, reason in ((tilted, "differentiates"), (corrected, "corrector")):
        with pytest.raises(UsageError, match=reason):
            export_policy(made, tmp_path / "made")
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        export_policy(plain, tmp_path / "made", format="onx")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    pytest.importorskip("onnx")
    with pytest.raises(UsageError, match=r"onnxscript.*pip install 'genpolicy\[onnx\]'"):
        export_policy(policy(**SMALL, sampler={"n_steps": 1}), tmp_path / "made", format="onnx")


@pytest.mark.parametrize(("name", "message"), [("made.pt2", "is not there"), ("a.txt", "neither")])
def test_files_that_are_no_programs_are_refused(name, message, tmp_path):
    (tmp_path / "a.txt").write_text("no program")
    with pytest.raises(UsageError, match=message):
        load_exported(tmp_path / name)


def test_the_command(tmp_path, capsys):
    out = tmp_path / "policy"
    arguments = ["export", "checkpoint=maze2d-umaze-flow", "sampler.n_steps=1", f"out={out}"]
    assert main(arguments) == 0
    assert "policy.pt2: as the policy to" in capsys.readouterr().out
    notes = json.loads((tmp_path / "policy.pt2.json").read_text())
    assert notes["policy"] == "maze2d-umaze-flow"
    assert notes["sampler"]["n_steps"] == 1
    assert notes["inputs"]["obs_state"] == {"shape": ["batch", 1, 4], "dtype": "float32"}
