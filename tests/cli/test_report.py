from __future__ import annotations

from pathlib import Path

import pytest

from genpolicy.cli.main import main
from genpolicy.evaluation import plot_style
from genpolicy.files import RunLock
from tests.reporting.sweeps import SweepWriter, both, write_json, write_sweep

UMAZE = "maze2d-umaze"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    means = {"iql": {UMAZE: 40.0}, "fql": {UMAZE: 60.0}}
    return write_sweep(tmp_path / "small", means=means, n_seeds=2, unfinished=("failed",))


@pytest.fixture
def run_folders(tmp_path: Path) -> list[Path]:
    """Two plain runs with an evaluation each."""
    writer = SweepWriter(tmp_path)
    folders = []
    for seed in (0, 1):
        run = tmp_path / "runs" / f"seed-{seed}"
        writer.run(run, writer.config("flow", UMAZE, seed), {}, is_done=True)
        result = both(UMAZE, 50.0, seed)["last"]
        write_json(run / "evaluations" / "last" / "result.json", result.to_json())
        folders.append(run)
    return folders


def test_a_report_is_written_into_the_sweep(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    dot = plot_style.png(Figure(figsize=(0.1, 0.1)))
    monkeypatch.setattr(plot_style, "light_and_dark", lambda draw: (dot, dot))
    assert main(["report", str(sweep)]) == 0
    names = {path.name for path in sweep.iterdir()}
    assert {"report.html", "report.md", "report.csv", "report.tex", "plots"} <= names
    assert str(sweep / "report.html") in capsys.readouterr().out
    out = sweep / "elsewhere"
    for arguments in (["--format", "csv"], ["--format=csv"], ["format=csv"]):
        assert main(["report", str(sweep), *arguments, f"out={out}"]) == 0
    assert [path.name for path in out.iterdir()] == ["report.csv"]
    assert main(["report", str(sweep), "--format", "md", "baseline=fql"]) == 0
    assert "iql - fql" in (sweep / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a sweep or runs"),
        (["SWEEP", "--format"], "--format needs one of"),
        (["SWEEP", "--format", "pdf"], "unknown format 'pdf'"),
        (["SWEEP", "baseline=td7"], "baseline='td7' has no result"),
        (["SWEEP", "--video"], "did you mean '--videos'"),
        (["missing"], "neither a sweep"),
    ],
)
def test_wrong_arguments_of_report(
    sweep: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(sweep) if a == "SWEEP" else a for a in arguments]
    assert main(["report", *given]) == 2
    assert message in capsys.readouterr().err


def test_runs_are_listed(
    sweep: Path, run_folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "list", str(sweep), str(run_folders[0].parent)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split() == [
        *("method", "task", "seed", "status", "steps"),
        *("metric", "last", "best", "n", "folder"),
    ]
    assert sum("finished" in line for line in lines) == 6
    assert "iql, maze2d-umaze, seed 2: NumericsError: the loss is nan at step 120" in out
    assert "flow-maze2d-umaze" in out


def test_a_run_is_shown(run_folders: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "show", str(run_folders[1])]) == 0
    out = capsys.readouterr().out
    assert "200 of 200" in out
    assert "eval/d4rl_score" in out
    assert "evaluation of last: maze2d-umaze" in out
    assert main(["runs", "show", str(run_folders[0].parent)]) == 2
    assert "holds 2 runs; name one" in capsys.readouterr().err


def test_two_runs_are_compared(
    run_folders: list[Path], sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "compare", *map(str, run_folders)]) == 0
    out = capsys.readouterr().out
    assert "run_dir" in out
    assert "batch_size" not in out  # equal in both
    last = next(line for line in out.splitlines() if line.startswith("last "))
    assert last.split()[-1] == "10"
    failed = next(p for p in (sweep / "jobs").iterdir() if not _has_finished(p, sweep))
    assert main(["runs", "compare", str(run_folders[0]), str(failed)]) == 0
    assert "No checkpoint was evaluated in both" in capsys.readouterr().out
    assert main(["runs", "compare", str(run_folders[0])]) == 2
    assert "needs 2 run(s), got 1" in capsys.readouterr().err


def _has_finished(job: Path, sweep: Path) -> bool:
    lines = (sweep / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    return any(job.name in line and '"finished"' in line for line in lines)


def test_a_run_is_removed_only_when_told(
    run_folders: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = run_folders
    assert main(["runs", "rm", str(first)]) == 2  # no terminal to ask at
    assert "add --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main(["runs", "rm", str(first)]) == 0
    assert "nothing removed" in capsys.readouterr().out
    assert first.is_dir()
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert main(["runs", "rm", str(first)]) == 0
    assert not first.exists()
    assert main(["runs", "rm", str(second), "--yes"]) == 0
    assert not second.exists()


def test_what_must_stay_is_not_removed(
    tmp_path: Path, run_folders: list[Path], sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "notes"
    other.mkdir()
    (other / "thesis.txt").write_text("precious", encoding="utf-8")
    link = tmp_path / "link"
    link.symlink_to(run_folders[0])
    cases = [(other, "is no run"), (sweep, "is a sweep"), (link, "is a link")]
    for path, message in cases:
        assert main(["runs", "rm", str(path), "--yes"]) == 2
        assert message in capsys.readouterr().err
    with RunLock(run_folders[0]):
        assert main(["runs", "rm", str(run_folders[1]), str(run_folders[0]), "--yes"]) == 2
    assert "is in use by pid" in capsys.readouterr().err
    assert run_folders[1].is_dir()  # all are checked before the first is removed
    job = next((sweep / "jobs").iterdir())
    with RunLock(sweep):
        assert main(["runs", "rm", str(job), "--yes"]) == 2
    assert "is in use by pid" in capsys.readouterr().err
    assert (other / "thesis.txt").exists()


def test_a_job_keeps_its_description(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = SweepWriter(tmp_path)
    base = writer.job("bc", UMAZE, 0, reported=False)
    user = writer.job(
        "eda", UMAZE, 0, needs={"algorithm.behavior": base.name}, results=both(UMAZE, 50.0, 0)
    )
    writer.write()
    assert main(["runs", "rm", str(base), "--yes"]) == 2
    assert "is needed by eda, maze2d-umaze, seed 0" in capsys.readouterr().err
    assert main(["runs", "rm", str(user), "--yes"]) == 0
    assert [path.name for path in user.iterdir()] == ["job.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "unknown action"),
        (["remove"], "unknown action 'remove'; did you mean 'rm'"),
        (["list", "--yes"], "unknown option '--yes'"),
        (["rm"], "needs the folder of a run"),
    ],
)
def test_wrong_arguments_of_runs(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", *arguments]) == 2
    assert message in capsys.readouterr().err
