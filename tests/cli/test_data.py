"""`genpolicy data`: what is printed, what is refused, and what lies on disk afterwards."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest

from genpolicy.cli.arguments import setting_of as _number
from genpolicy.cli.main import main
from genpolicy.data.d4rl import write_d4rl
from genpolicy.data.episodes import DataSource
from genpolicy.data.registry import DATASETS, generated_path
from genpolicy.data.robomimic_file import Demo, write_robomimic
from genpolicy.errors import UsageError
from genpolicy.generators.maze2d import make_maze2d
from genpolicy.robomimic_tasks import robomimic_task

TASK = "maze2d-umaze"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENPOLICY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GENPOLICY_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def recorded(tmp_path):
    """A D4RL file of two episodes whose numbers are known."""
    path = tmp_path / "two.hdf5"
    states = np.arange(20, dtype=np.float32).reshape(5, 4)
    states[:, 3] = 7
    write_d4rl(
        path,
        observations=states,
        actions=np.array([[-1, 0.5], [0, 0], [1, 0], [0, 0], [0, -0.25]], np.float32),
        rewards=np.array([0, 1, 0, 0, 3], np.float32),
        terminals=np.zeros(5, bool),
        timeouts=np.array([0, 1, 0, 0, 1], bool),
        infos={"goal": np.array([[1, 1], [1, 1], [2, 2], [2, 2], [2, 2]], np.float32)},
        source=DataSource(TASK, "generated", details={"seed": 3}),
    )
    return path


def test_list_shows_every_data_set_and_how_to_get_it(capsys):
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    for name in DATASETS:
        assert name in out
    assert f"genpolicy data make {TASK}" in out


def test_list_shows_where_a_data_set_lies(recorded, capsys):
    place = generated_path(TASK)
    place.parent.mkdir(parents=True)
    recorded.rename(place)
    assert main(["data", "list"]) == 0
    assert place.name in capsys.readouterr().out.replace("\n", "")


def test_info_prints_what_is_in_the_file(recorded, capsys):
    assert main(["data", "info", TASK, f"path={recorded}"]) == 0
    out = capsys.readouterr().out
    lines = {line.split("  ")[0]: " ".join(line.split()) for line in out.splitlines() if line}
    assert lines["source"].startswith("source generated,")
    assert lines["episodes"] == "episodes 2, 2 to 3 (mean 2.5) steps long"
    assert lines["episodes end"] == "episodes end 0 terminated, 2 truncated"
    assert lines["returns"] == "returns 1 to 3 (mean 2)"
    assert lines["action"] == "action (2,) float32 -1, -0.25 1, 0.5"
    assert lines["obs/state"] == "obs/state (4,) float32 0, 1, 2, 7 16, 17, 18, 7 3"
    assert "seed 3" in " ".join(out.split())


def test_info_passes_options_to_the_reader_and_refuses_unknown_ones(recorded, capsys):
    assert main(["data", "info", TASK, f"path={recorded}", "split=terminals"]) == 0
    capsys.readouterr()
    assert main(["data", "info", TASK, f"path={recorded}", "slpit=terminals"]) == 2
    assert "did you mean 'split'" in capsys.readouterr().err


def test_info_without_the_data_says_how_to_get_it(capsys):
    assert main(["data", "info", TASK]) == 3
    assert f"genpolicy data make {TASK}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "needs one of list, info, get, make"),
        (["lst"], "did you mean 'list'"),
        (["list", "pusht"], "takes no arguments"),
        (["info"], "genpolicy data info maze2d-umaze"),
        (["make", "n=100"], "genpolicy data make maze2d-umaze"),
        (["info", "push-t"], "did you mean 'pusht'"),
        (["get", TASK, "--paht"], "did you mean '--path'"),
        (["make", TASK, "sed=1"], "did you mean 'seed'"),
        (["make", TASK, "n=many"], "n_steps is 'many', expected an integer"),
        (["make", TASK, "n=1.5"], "n_steps is 1.5, expected an integer"),
        (["make", TASK, "noise_std=.nan"], "noise_std is nan, expected a number"),
        (["make", TASK, "n=[1"], "cannot read the value"),
        (["make", "pusht"], "cannot be generated"),
    ],
)
def test_wrong_usage_says_what_is_right(argv, message, capsys):
    assert main(["data", *argv]) == 2
    assert message in capsys.readouterr().err


def test_get_is_refused_offline_with_the_way_by_hand(capsys):
    assert main(["data", "get", "pusht"]) == 3
    err = capsys.readouterr().err
    assert "GENPOLICY_OFFLINE" in err
    assert "pusht.zip" in err


def test_get_prints_the_path_of_what_is_here(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "pusht.zip").write_bytes(b"not read by get")
    monkeypatch.setenv("GENPOLICY_DATA", str(folder))
    assert main(["data", "get", "pusht", "--path"]) == 0
    assert capsys.readouterr().out == f"{folder / 'pusht.zip'}\n"


@pytest.mark.parametrize(
    ("value", "like", "number"),
    [(100, 1, 100), ("1e5", 1, 100_000), (2, 0.5, 2.0), ("1_000", 1, 1000), (-1, 1, -1)],
)
def test_numbers_take_the_type_of_the_default(value, like, number):
    got = _number("n", value, like=like)
    assert got == number
    assert type(got) is type(like)


@pytest.mark.parametrize("value", ["x", None, [1], float("inf"), 0.5])
def test_numbers_refuse_what_is_no_integer(value):
    with pytest.raises(UsageError, match="expected an integer"):
        _number("n", value, like=1)


def test_the_defaults_in_the_help_are_those_of_the_generator():
    from genpolicy.cli.data import HELP

    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(make_maze2d).parameters.items()
    }
    assert f"[n={defaults['n_steps']}]" in HELP
    assert f"[workers={defaults['n_workers']}]" in HELP


@pytest.mark.sim
def test_make_writes_where_it_is_found_and_does_not_do_it_twice(capsys):
    arguments = ["data", "make", TASK, "n=300", "seed=5", "noise_std=0.25"]
    assert main(arguments) == 0
    path = generated_path(TASK)
    assert str(path) in capsys.readouterr().out
    written = path.stat().st_mtime_ns

    assert main([*arguments, "--path", "workers=2"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert path.stat().st_mtime_ns == written

    assert main(["data", "info", TASK]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "steps 300" in out
    assert "noise_std 0.25" in out


@pytest.mark.sim
def test_make_refuses_to_replace_another_file_unless_forced(tmp_path, capsys):
    path = tmp_path / "a.hdf5"
    arguments = ["data", "make", TASK, "n=200", f"path={path}"]
    assert main([*arguments, "seed=1"]) == 0
    before = path.read_bytes()
    assert main([*arguments, "seed=2"]) == 3
    assert "seed 1 there, 2 asked" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert main([*arguments, "seed=2", "force=true"]) == 0
    assert path.read_bytes() != before
    assert not generated_path(TASK).exists()


@pytest.mark.sim
def test_make_says_when_another_file_comes_first(tmp_path, monkeypatch, capsys, recorded):
    folder = tmp_path / "mine"
    folder.mkdir()
    Path(recorded).rename(folder / f"{TASK}.hdf5")
    monkeypatch.setenv("GENPOLICY_DATA", str(folder))
    assert main(["data", "make", TASK, "n=100"]) == 0
    assert f"note: {folder}" in capsys.readouterr().out


def _robomimic_file(path, **changes):
    n = 4
    demo = Demo(
        **{
            "actions": np.linspace(-1, 1, 7 * n).reshape(n, 7),
            "obs": {"object": np.arange(2.0 * n).reshape(n, 2)},
            "rewards": np.array([0, 0, 0, 1.0]),
        }
        | changes
    )
    return write_robomimic(path, [demo], env_args=robomimic_task("lift").env_args())


def test_check_prints_what_a_robomimic_file_has_and_lacks(tmp_path, capsys):
    file = _robomimic_file(tmp_path / "mine äö.hdf5")
    assert main(["data", "check", str(file)]) == 0
    out = capsys.readouterr().out
    assert "demonstrations: 1, 4 to 4 steps, 4 in all" in out
    assert "environment: Lift" in out
    assert "note: 1 of 1 demonstrations have no states: they cannot be replayed" in out


def test_check_fails_on_what_is_wrong(tmp_path, capsys):
    values = np.zeros((4, 2))
    values[2, 1] = np.nan
    file = _robomimic_file(tmp_path / "nan.hdf5", obs={"object": values})
    assert main(["data", "check", str(file)]) == 3
    captured = capsys.readouterr()
    assert "WRONG: demo_0: obs/object has 1 values that are nan or inf" in captured.out
    assert "1 problems; the first: demo_0" in captured.err
    assert main(["data", "check", str(tmp_path / "none.hdf5")]) == 3
    assert main(["data", "check"]) == 2
    assert main(["data", "check", str(file), "reply=3"]) == 2


def test_a_replay_needs_states(tmp_path, capsys):
    file = _robomimic_file(tmp_path / "few.hdf5")
    assert main(["data", "check", str(file), "replay=all"]) == 3
    assert "has no states, so it cannot be replayed" in capsys.readouterr().err


def test_demonstrations_without_robosuite_name_the_extra(monkeypatch, capsys):
    generator = importlib.import_module("genpolicy.generators.robomimic")
    generator._environment.cache_clear()  # one that another test made needs no import
    monkeypatch.setitem(sys.modules, "robosuite", None)
    assert main(["data", "make", "robomimic/lift", "n_demos=1"]) == 6
    assert "pip install 'genpolicy[robosuite]'" in capsys.readouterr().err
    assert main(["data", "make", "robomimic/tool_hang"]) == 2
    assert main(["data", "make", "robomimic/lift", "n_demo=1"]) == 2
    assert "did you mean 'n_demos'" in capsys.readouterr().err
