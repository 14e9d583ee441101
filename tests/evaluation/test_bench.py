"""Benchmarks: what is timed, what is left out, what is refused."""

import json
import os

import pytest

import genpolicy as gp
from genpolicy.cli.main import main
from genpolicy.errors import UsageError
from genpolicy.evaluation.bench import bench, plot_bench
from genpolicy.evaluation.plot_style import png
from tests.native.cases import needs_kernels, policy

SMALL = {"width": 16, "n_blocks": 1}


@needs_kernels
def test_backends_take_turns_and_are_compared():
    made = policy(network_options=SMALL)
    found = bench(made, batch_sizes=[1, 9], seconds=0.05)
    assert [(r.batch, r.backend) for r in found.rows] == [
        (1, "reference"),
        (1, "native"),
        (9, "reference"),
        (9, "native"),
    ]
    for row in found.rows:
        assert 0.0 < row.p50_s <= row.p99_s
        assert row.actions_per_s == pytest.approx(row.batch * 1 / row.p50_s)
        assert row.n >= 3
        assert row.share_of_peak is not None
    assert found.rows[1].over_native == 1.0
    assert found.rows[0].over_native > 1.0
    assert found.flops_per_row["native"] < found.flops_per_row["reference"]
    text = str(found)
    assert "4 evaluations" in text
    assert "GFLOP/s" in text
    json.dumps(found.to_json(), allow_nan=False)
    assert png(plot_bench(found))[:4] == b"\x89PNG"


def test_flops_of_torch_are_those_of_its_layers():
    made = policy(network="MLP", network_options={"width": 16, "n_layers": 1, "time_dim": 4})
    found = bench(made, batch_sizes=[1], backends=["reference"], seconds=0.01)
    n_in = 4 * 2 + 4 + 2 * 5
    layers = n_in * 16 + 16 * 8 + 4 * 8 + 8 * 4  # two layers, two of the time embedding
    assert found.flops_per_row == {"reference": 4 * 2 * layers}
    assert found.rows[0].over_native is None


@needs_kernels
def test_what_has_no_program_is_left_out_with_the_reason():
    made = policy(network="DiT", network_options={"width": 16, "n_heads": 2, "n_layers": 1})
    found = bench(made, batch_sizes=[1], seconds=0.01)
    assert {row.backend for row in found.rows} == {"reference"}
    assert "no network with a program" in found.left_out["native"]
    assert "no native" in str(found)
    with pytest.raises(UsageError, match="nothing is left to time"):
        bench(made, backends=["native"], seconds=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backends": ["nativ"]}, "did you mean 'native'"),
        ({"batch_sizes": [0]}, "sizes of at least 1"),
        ({"seconds": 0.0}, "a positive time"),
        ({"backends": []}, "at least one of each"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        bench(policy(network_options=SMALL), **settings)


def test_the_command_writes_table_plot_and_json(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GENPOLICY_EXT", raising=False)
    arguments = ["bench", "policy=maze2d-umaze-flow", "batch=1,2", "backend=reference"]
    arguments += ["seconds=0.01", f"out={tmp_path}", "sampler.n_steps=1"]
    assert main(arguments) == 0
    assert "reference" in capsys.readouterr().out
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["policy"] == "maze2d-umaze-flow"
    assert [row["batch"] for row in written["rows"]] == [1, 2]
    assert (tmp_path / "bench.png").read_bytes()[:4] == b"\x89PNG"
    assert "GENPOLICY_EXT" not in os.environ
    assert gp.load_policy("maze2d-umaze-flow").nfe == 10
