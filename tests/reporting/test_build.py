from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from genpolicy.evaluation import plot_style
from genpolicy.evaluation.plot_style import png
from genpolicy.evaluation.weight_search import search_weights
from genpolicy.reporting import Sweep, cells_of, read_sweep
from genpolicy.reporting.build import Report, build_report, write_report_files
from genpolicy.reporting.figures import figures_of
from tests.evaluation.aiming import Aimer, aim
from tests.html_checks import check_self_contained
from tests.reporting.sweeps import SweepWriter, both, write_sweep

UMAZE = "maze2d-umaze"
SECTIONS = [
    "Overview",
    "Results",
    "Over tasks",
    "Paired differences",
    "Published scores",
    "Learning",
    "Configurations",
    "Runs",
    "Not finished",
    "Environment",
]


@pytest.fixture(scope="session")
def report(sweep: Sweep) -> Report:
    return build_report(sweep)


@pytest.fixture(scope="session")
def page(report: Report) -> str:
    return report.text("html")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, where a test is about something else: drawing takes most of the time."""
    dot = png(MatplotlibFigure(figsize=(0.1, 0.1)))
    monkeypatch.setattr(plot_style, "light_and_dark", lambda draw: (dot, dot))


def test_the_page_needs_nothing_else_and_has_every_section(page: str, sweep: Sweep) -> None:
    checker = check_self_contained(page)
    assert [name for name in SECTIONS if name in checker.texts] == SECTIONS
    text = "\n".join(checker.texts)
    for entry in sweep.entries:
        assert entry.command in text
    assert "NumericsError: the loss is nan at step 120" in text
    assert "ended without a word" in text
    assert "End of the log: iql, maze2d-umaze, seed 3" in text
    assert "3 of 8 seeds x 10: runs are missing" in text
    assert "genpolicy 0.1.0, numpy 2.4.6, torch 2.13.0" in text
    assert "genpolicy sweep sweep=synthetic" in text
    assert "mujoco 3.9.0" in text
    assert text.count("95% bootstrap over seeds and episodes") > 4


def test_no_results_of_failed_runs_are_in_it(page: str) -> None:
    # They were written with scores around 500.
    assert not re.search(r">\s*50\d\.\d", page)


def test_tables_agree_in_every_format(report: Report, sweep: Sweep) -> None:
    rows = list(csv.DictReader(io.StringIO(report.text("csv"))))
    cells = cells_of(sweep.entries)
    assert len(rows) == 3 * len(cells)  # metrics
    markdown, latex = report.text("md"), report.text("latex")
    for cell in cells:
        (row,) = [
            r
            for r in rows
            if (r["method"], r["task"], r["checkpoint"])
            == (cell.method, cell.task, cell.checkpoint)
            and r["is_primary"] == "1"
        ]
        mean = np.mean([r.mean() for r in cell.results])
        assert float(row["mean"]) == pytest.approx(mean)
        assert float(row["low"]) < mean < float(row["high"])
        assert row["simulator"] == "gymnasium 1.4.0, mujoco 3.9.0"
        assert row["data"] == "official"
        assert f"{mean:.2f} (" in markdown
        assert f"{mean:.2f} (" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") > 5
    assert not re.search(r"(?<!\\)[%_#]", latex)
    for line in markdown.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_files_and_pictures_are_written(report: Report, tmp_path: Path) -> None:
    written = write_report_files(report, tmp_path / "out")
    names = [path.name for path in written]
    assert names == ["report.html", "report.md", "report.csv", "report.tex", "plots"]
    pictures = sorted((tmp_path / "out" / "plots").iterdir())
    assert len(pictures) >= 10
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)
    (only,) = write_report_files(report, tmp_path / "one", formats=["md"])
    assert [p.name for p in (tmp_path / "one").iterdir()] == [only.name] == ["report.md"]


@pytest.mark.usefixtures("undrawn")
def test_a_sweep_without_results_has_a_report(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    writer.job("iql", UMAZE, 0, event=None)
    writer.job("iql", UMAZE, 1, event="failed", reason="OSError: disk full")
    report = build_report(read_sweep(writer.write()))
    text = "\n".join(check_self_contained(report.text("html")).texts)
    assert "No run has a complete evaluation yet." in text
    assert "OSError: disk full" in text
    assert report.text("csv").startswith("method,variant,task")


@pytest.mark.usefixtures("undrawn")
def test_one_seed_has_no_interval_over_seeds(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    writer.job("iql", UMAZE, 0, results=both(UMAZE, 50.0, 0))
    report = build_report(read_sweep(writer.write()))
    rows = list(csv.DictReader(io.StringIO(report.text("csv"))))
    assert rows[0]["low"] == rows[0]["low_seeds"] == rows[0]["low_t"] == ""
    assert float(rows[0]["low_episodes"]) < float(rows[0]["mean"])
    assert "1 seed x 10" in report.text("md")


@pytest.mark.usefixtures("undrawn")
def test_hostile_labels_are_text(tmp_path: Path) -> None:
    hostile = '<script>alert("1")</script> | & $x_1$ % \\'
    writer = SweepWriter(tmp_path)
    for seed in (0, 1):
        writer.job(hostile, UMAZE, seed, results=both(UMAZE, 50.0, seed))
    writer.job("iql", UMAZE, 0, event="failed", reason=hostile)
    report = build_report(read_sweep(writer.write(name=hostile)))
    checker = check_self_contained(report.text("html"))
    assert sum(hostile in text for text in checker.texts) > 5
    assert r"\textbackslash{}" in report.text("latex")
    write_report_files(report, tmp_path / "out")


@pytest.mark.usefixtures("undrawn")
def test_films_are_shown(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    job = writer.job("iql", UMAZE, 0, results=both(UMAZE, 50.0, 0))
    figure = MatplotlibFigure(figsize=(1, 0.5))
    videos = job / "evaluations" / "last" / "videos"
    videos.mkdir()
    (videos / "seed-1000.png").write_bytes(png(figure))
    (videos / "seed-1000.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42")
    sweep = read_sweep(writer.write())
    page = build_report(sweep).text("html")
    checker = check_self_contained(page)
    assert "iql, maze2d-umaze, checkpoint last, seed-1000" in checker.texts
    assert "video" not in checker.tags
    with_films = check_self_contained(build_report(sweep, videos=True).text("html"))
    assert with_films.tags.count("video") == 1


@pytest.mark.usefixtures("undrawn")
def test_weight_searches_are_shown(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    writer.job("iql", UMAZE, 0, results=both(UMAZE, 50.0, 0))
    folder = writer.write()
    search = search_weights(
        [Aimer(0.6), Aimer(-0.6)],
        aim(),
        seeds=range(10),
        report_seeds=range(100, 110),
        n_trials=3,
        n_envs=10,
        progress=False,
        out=folder / "compositions" / "mean",
    )
    damaged = folder / "compositions" / "damaged" / "result.json"
    damaged.parent.mkdir()
    damaged.write_text("{", encoding="utf-8")
    text = "\n".join(check_self_contained(build_report(read_sweep(folder)).text("html")).texts)
    assert f"compositions/mean: mean of 2 policies, {search.verdict}" in text
    assert "compositions/damaged/result.json is damaged" in text


@pytest.fixture(scope="session")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("no Chromium here; the structure of the page is tested without it")


FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=4000",
    "--dump-dom",
)

MEASURE = """<!DOCTYPE html><meta charset="utf-8"><body><iframe id="f" width="{width}" height="900"
style="border:0"></iframe><script id="page" type="text/plain">{page}</script><script>
const frame = document.getElementById("f");
frame.onload = () => {{
  const inside = frame.contentDocument, root = inside.documentElement, wide = [];
  for (const e of inside.querySelectorAll("h1, h2, p, figure, dl, pre, nav, img, details")) {{
    const right = e.getBoundingClientRect().right;
    if (right > {width} + 1 && !e.closest(".scroll")) wide.push(e.tagName);
  }}
  const images = [...inside.images].filter(i => !(i.complete && i.naturalWidth > 0)).length;
  document.body.innerHTML = `<p id="found">${{root.scrollWidth}};${{wide.join()}};${{images}};` +
    `${{inside.querySelectorAll("section").length}}</p>`;
}};
frame.srcdoc = atob(document.getElementById("page").textContent);
</script>"""


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window(chromium: str, page: str, tmp_path: Path, width: int) -> None:
    """Measured from outside, inside a frame of that width: the page itself forbids scripts."""
    import base64

    outer = tmp_path / "outer.html"
    encoded = base64.b64encode(page.encode("ascii", "xmlcharrefreplace")).decode()
    outer.write_text(MEASURE.format(width=width, page=encoded), encoding="utf-8")
    done = subprocess.run(
        [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"file://{outer}"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    found = re.search(r'id="found">(\d+);([^;]*);(\d+);(\d+)<', done.stdout)
    assert found, done.stderr[-2000:]
    assert int(found[1]) <= width
    assert found[2] == ""
    assert int(found[3]) == 0  # pictures that did not load
    assert int(found[4]) == len(SECTIONS)


def test_the_same_sweep_gives_the_same_figures(report: Report, sweep: Sweep) -> None:
    assert tuple(figures_of(cells_of(sweep.entries)[:1])) == report.figures[:3]


@pytest.mark.usefixtures("undrawn")
def test_a_small_sweep_of_one_method(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, means={"iql": {UMAZE: 40.0}}, n_seeds=2, unfinished=())
    text = "\n".join(check_self_contained(build_report(read_sweep(folder)).text("html")).texts)
    assert "Every run is finished, and every evaluation is complete." in text
