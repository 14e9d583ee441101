from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genpolicy.errors import UsageError
from genpolicy.reporting import Cell, Sweep, cells_of, read_sweep
from genpolicy.reporting.comparison import (
    aggregate_table,
    compare_methods,
    improvement_table,
    order_table,
    overview_table,
    paired_table,
    published_table,
)
from tests.reporting.sweeps import DATASET, SIMULATORS, SweepWriter, both

UMAZE, MEDIUM = "maze2d-umaze", "maze2d-medium"


@pytest.fixture(scope="session")
def cells(sweep: Sweep) -> list[Cell]:
    return cells_of(sweep.entries)


def figure(text: str) -> float:
    return float(text.split(" ")[0])


def test_the_overview_has_every_method_task_and_n(cells: list[Cell]) -> None:
    table = overview_table(cells, "last")
    assert table.columns == ["method", f"{UMAZE}: d4rl_score", f"{MEDIUM}: d4rl_score"]
    assert [row[0] for row in table.rows] == ["iql", "fql", "diffuser"]
    mean = np.mean([r.mean() for r in cells[0].results])
    assert str(table.rows[0][1]).startswith(f"{mean:.2f} (")
    assert all(" seeds x 10" in str(entry) for row in table.rows for entry in row[1:])
    best = overview_table(cells, "best")
    assert figure(str(best.rows[0][1])) == pytest.approx(mean + 3.0, abs=0.01)


def test_figures_over_tasks_are_in_units_of_the_reference(cells: list[Cell]) -> None:
    comparison = compare_methods(cells, "last")
    assert comparison.tasks == (UMAZE, MEDIUM)
    assert comparison.left_out == ()
    rows = aggregate_table(comparison).rows
    last = {(c.method, c.task): c for c in cells if c.checkpoint == "last"}
    for method, _, mean, *_, n in rows:
        means = [np.mean([r.mean() for r in last[method, t].results]) for t in (UMAZE, MEDIUM)]
        assert figure(str(mean)) == pytest.approx(np.mean(means) / 100, abs=1e-3)
        assert n == "2 tasks, 6 runs, 60 episodes"
    table = improvement_table(comparison)
    assert table.columns == ["method", "iql", "fql", "diffuser", "runs"]
    assert figure(str(table.rows[1][1])) == 1.0  # fql beats iql
    assert figure(str(table.rows[0][2])) == 0.0


def test_differences_are_paired_and_have_their_n(cells: list[Cell]) -> None:
    rows = paired_table(cells, "last").rows
    assert [row[0] for row in rows] == 2 * ["fql - iql", "diffuser - iql"]
    by_name = {(row[0], row[1]): row for row in rows}
    found = by_name["fql - iql", UMAZE]
    assert found[2] == pytest.approx(20.0)  # the same episodes and noise: 60 - 40
    assert found[4:] == ["3 and 3", 10]
    rows = paired_table(cells, "last", "fql").rows
    assert rows[0][0] == "iql - fql"
    with pytest.raises(UsageError, match="baseline='td7' has no result"):
        paired_table(cells, "last", "td7")


def test_published_scores_stand_in_columns_of_their_own(cells: list[Cell]) -> None:
    table = published_table(cells)
    columns = list(table.columns)
    rows = [dict(zip(columns, row, strict=True)) for row in table.rows]
    assert {(r["method"], r["task"]) for r in rows} == {
        (m, t) for m in ("iql", "diffuser") for t in (UMAZE, MEDIUM)
    }
    iql = next(r for r in rows if (r["method"], r["task"]) == ("iql", UMAZE))
    assert iql["published"] == "42.11"
    assert iql["data"] == "official, v1"
    assert iql["our data"] == "official"
    assert "mujoco-py" in str(iql["simulator"])
    assert iql["our simulator"] == "gymnasium 1.4.0, mujoco 3.9.0"
    assert str(iql["ours, last"]).endswith("3 of 8 seeds x 10")
    assert iql["read in"] == "repository"
    # Two methods with published scores are no order yet.
    assert order_table(cells, "last").rows == []


def test_the_order_is_compared_with_the_published_one(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    means = {"iql": 50.0, "diffuser": 40.0, "hierarchical_diffuser": 90.0, "flow_bc": 10.0}
    for method, mean in means.items():
        writer.job(method, UMAZE, 0, results=both(UMAZE, mean, 0))
    (row,) = order_table(cells_of(read_sweep(writer.write()).entries), "last").rows
    assert row[1] == "hierarchical_diffuser, iql, diffuser"
    assert row[2] == "hierarchical_diffuser, diffuser, iql"
    assert row[3] == pytest.approx(1 / 3)
    assert row[4] == 3


def test_other_data_and_simulators_are_not_compared(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    old = {**SIMULATORS, "mujoco": "2.1.0"}
    for seed in (0, 1):
        writer.job("iql", UMAZE, seed, results=both(UMAZE, 50.0, seed))
        writer.job("fql", UMAZE, seed, results=both(UMAZE, 60.0, seed))
        writer.job("eda", UMAZE, seed, results=both(UMAZE, 60.0, seed, simulators=old))
        writer.job(
            "idql",
            UMAZE,
            seed,
            results=both(UMAZE, 60.0, seed),
            dataset={**DATASET, "kind": "generated"},
        )
        writer.job("awr", UMAZE, seed, results=both(UMAZE, 60.0, seed, first_seed=5000))
    cells = cells_of(read_sweep(writer.write()).entries)
    comparison = compare_methods(cells, "last")
    assert list(comparison.methods) == ["iql", "fql", "awr"]
    assert any("eda on maze2d-umaze: its data are official" in t for t in comparison.left_out)
    assert any("idql on maze2d-umaze: its data are generated" in t for t in comparison.left_out)
    said = {row[0]: row[3] for row in paired_table(cells, "last").rows}
    assert said["eda - iql"] == said["idql - iql"] == "other data or simulator: not compared"
    assert said["awr - iql"] == "no common episode seeds: not compared"
    assert " to " in str(said["fql - iql"])


def test_a_method_without_a_task_is_left_out_of_figures_over_tasks(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    for seed in (0, 1):
        for method, tasks in {"iql": (UMAZE, MEDIUM), "fql": (UMAZE,)}.items():
            for task in tasks:
                writer.job(method, task, seed, results=both(task, 50.0, seed))
    comparison = compare_methods(cells_of(read_sweep(writer.write()).entries), "last")
    assert list(comparison.methods) == ["iql"]
    assert comparison.left_out == (f"fql: no result on {MEDIUM}",)


def test_without_a_complete_method_the_common_tasks_are_compared(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    for seed in (0, 1):
        for method, tasks in {"iql": (UMAZE, MEDIUM), "fql": (UMAZE, "maze2d-large")}.items():
            for task in tasks:
                writer.job(method, task, seed, results=both(task, 50.0, seed))
    comparison = compare_methods(cells_of(read_sweep(writer.write()).entries), "last")
    assert comparison.tasks == (UMAZE,)
    assert list(comparison.methods) == ["iql", "fql"]
    assert comparison.left_out == (
        f"{MEDIUM}: not every method has a result on it",
        "maze2d-large: not every method has a result on it",
    )
