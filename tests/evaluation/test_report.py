from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from genpolicy.errors import UsageError
from genpolicy.evaluation import evaluate, measure_latency
from genpolicy.evaluation.page import (
    Code,
    Facts,
    Figure,
    Section,
    Table,
    Text,
    render_report,
    write_report,
)
from genpolicy.evaluation.plot_style import png
from genpolicy.evaluation.report import (
    comparison_table,
    differences_table,
    latency_table,
    result_facts,
    results_table,
)
from tests.html_checks import parse

HOSTILE = """<script>alert("1")</script> & 'q' <a href="http://example.org/x">y</a>"""


def picture() -> bytes:
    figure = MatplotlibFigure(figsize=(1, 0.5))
    figure.subplots().plot([0, 1])
    return png(figure)


@pytest.fixture
def results(walk: Any) -> dict[str, Any]:
    settings = {"seeds": range(10), "progress": False}
    return {
        "calm": evaluate(walk.policy(scale=0.1), walk.task(), **settings),
        "wild": evaluate(walk.policy(scale=3.0), walk.task(), **settings),
    }


def test_a_report_is_one_page_without_a_network(
    walk: Any, results: dict[str, Any], tmp_path: Path
) -> None:
    import torch

    obs = {"state": torch.zeros(1, 2, 3)}
    latency = measure_latency(walk.policy(), obs, batch_sizes=[1], n_repeats=2)
    sections = [
        Section(HOSTILE, [Text(f"one {HOSTILE}\n\ntwo"), Facts({HOSTILE: HOSTILE})]),
        Section(
            "Results",
            [
                results_table(results, caption=HOSTILE),
                comparison_table(results, "calm"),
                result_facts(results["calm"]),
                Figure(picture(), HOSTILE, HOSTILE, dark_png=picture()),
            ],
        ),
        Section("Rest", [latency_table({"calm": latency}), Code(HOSTILE, HOSTILE)]),
    ]
    path = write_report(tmp_path / "sub" / "report.html", HOSTILE, sections, subtitle=HOSTILE)
    page = path.read_text(encoding="utf-8")
    checker = parse(page)
    assert all(a.startswith(("data:image/png;base64,", "#s")) for a in checker.addresses)
    assert "script" not in checker.tags
    assert "link" not in checker.tags
    (style,) = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    assert not re.search(r"url\(|@import|//", style)
    assert "default-src 'none'" in page
    assert sum(HOSTILE in text for text in checker.texts) >= 8
    assert {"#s1", "#s2", "#s3"} <= set(checker.addresses)
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_an_empty_report_is_a_page(tmp_path: Path) -> None:
    checker = parse(render_report("Nothing", []))
    assert "nav" not in checker.tags
    assert checker.texts.count("Nothing") == 2


def test_numbers_stand_at_the_right_and_have_few_digits() -> None:
    page = Table(["name", "value", "note"], [["a", 1.23456, "x"], ["b", 2, "3 or 4"]]).to_html()
    assert '<td class="n">1.235</td>' in page
    assert '<td class="n">2</td>' in page
    assert "<td>x</td>" in page
    with pytest.raises(UsageError, match="2 entries, expected 3"):
        Table(["name", "value", "note"], [["a", 1.0]])


def test_the_table_shows_figures_intervals_and_counts(results: dict[str, Any]) -> None:
    table = results_table(results)
    assert table.columns[:3] == ["policy", "closeness", "95% interval"]
    calm, wild = table.rows
    assert calm[0] == "calm"
    assert calm[1] == results["calm"].mean()
    assert calm[3] == results["calm"].mean("success")
    assert calm[-3] == 10
    assert wild[-2] == f"{results['wild'].clipped_share:.1%}" != "0.0%"


def test_differences_are_paired(results: dict[str, Any]) -> None:
    (row,) = comparison_table(results, "calm").rows
    assert row[0] == "wild"
    assert row[1] == pytest.approx(results["wild"].mean() - results["calm"].mean())
    assert row[-1] == 10
    with pytest.raises(UsageError, match="no result 'best'"):
        comparison_table(results, "best")


def test_only_what_differs_between_configurations_is_shown() -> None:
    table = differences_table(
        {
            "a": {"lr": 0.1, "net": {"width": 64, "depth": 2}, "seed": 0},
            "b": {"lr": 0.1, "net": {"width": 128, "depth": 2}, "ema": None, "seed": 0},
        },
        caption="Two runs.",
    )
    assert table.columns == ["setting", "a", "b"]
    assert table.rows == [["net.width", "64", "128"], ["ema", "-", "None"]]
    assert table.caption == "Two runs. 3 further entries are equal."


def test_what_is_no_png_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a PNG"):
        Figure(b"GIF89a", "x").to_html()


def test_a_picture_is_shown_at_its_size() -> None:
    page = Figure(picture(), "a line").to_html()
    assert 'width="128" height="64"' in page
    assert np.isclose(128 * 1.25, 160)
