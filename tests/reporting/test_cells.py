from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genpolicy.errors import UsageError
from genpolicy.reporting import Cell, Sweep, cells_of, read_sweep
from genpolicy.reporting.figures import figures_of, figures_table
from tests.reporting.sweeps import DATASET, SIMULATORS, SweepWriter, both, make_result

TASK = "maze2d-umaze"


def cells_with(tmp_path: Path, *jobs: dict[str, Any]) -> list[Cell]:
    """Cells of one method, one job per seed, each with its own changes."""
    writer = SweepWriter(tmp_path)
    for seed, job in enumerate(jobs):
        of = {"results": both(TASK, 50.0, seed), **job}
        writer.job(of.pop("method", "iql"), TASK, of.pop("seed", seed), **of)
    return cells_of(read_sweep(writer.write()).entries)


def test_cells_average_finished_runs_only(sweep: Sweep) -> None:
    cells = cells_of(sweep.entries)
    assert len(cells) == 12  # methods x tasks x last and best
    first = cells[0]
    assert (first.method, first.task, first.checkpoint, first.variant) == ("iql", TASK, "last", "")
    assert [e.seed for e in first.entries] == [0, 1, 2]
    assert first.n_expected == 8
    assert first.n_text == "3 of 8 seeds x 10"
    # A failed run left a result with scores around 500; it is in no cell.
    assert max(r.mean() for cell in cells for r in cell.results) < 120.0
    scores = first.scores()
    assert scores.scores == pytest.approx([r.mean() for r in first.results])
    assert scores.episode_seeds == tuple(range(1000, 1010))
    rows = figures_table(figures_of(cells))
    mean = rows.rows[0][rows.columns.index("mean")]
    assert mean == pytest.approx(np.mean([r.mean() for r in first.results]))
    assert rows.rows[0][rows.columns.index("n_seeds")] == 3
    assert rows.rows[0][rows.columns.index("n_seeds_expected")] == 8


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"dataset": {**DATASET, "kind": "regenerated"}}, "data regenerated"),
        ({"dataset": {**DATASET, "fingerprint": "ffff"}}, "data set maze ffff"),
        ({"settings": {"alpha": 3.0}}, "algorithm.alpha=3.0"),
        (
            {"results": both(TASK, 50.0, 1, simulators={**SIMULATORS, "mujoco": "3.3.0"})},
            "simulator gymnasium 1.4.0, mujoco 3.3.0",
        ),
        ({"results": both(TASK, 50.0, 1, first_seed=2000)}, "episodes 2000-2009"),
        ({"results": both(TASK, 50.0, 1, n_episodes=7)}, "episodes 1000-1006"),
        (
            {
                "results": {
                    "last": replace(
                        make_result(TASK, 50.0, training_seed=1), settings={"max_steps": 10}
                    )
                }
            },
            "environment max_steps=10",
        ),
        (
            {
                "results": {
                    "last": replace(make_result(TASK, 50.0, training_seed=1), n_action_steps=1)
                }
            },
            "executed actions 1",
        ),
    ],
)
def test_what_differs_is_not_averaged(tmp_path: Path, change: dict[str, Any], label: str) -> None:
    cells = [c for c in cells_with(tmp_path, {}, change, {}) if c.checkpoint == "last"]
    assert [[e.seed for e in c.entries] for c in cells] == [[0, 2], [1]]
    assert label in cells[1].variant
    assert label in cells[1].label
    assert cells[0].variant != cells[1].variant
    assert [c.n_text.split(" x ")[0] for c in cells] == ["2 of 3 seeds", "1 of 3 seeds"]


def test_what_belongs_to_a_seed_sets_nothing_apart(tmp_path: Path) -> None:
    """Folders and the jobs that a run builds on differ between seeds."""
    writer = SweepWriter(tmp_path)
    for seed in (0, 1):
        base = writer.job("bc", TASK, seed, reported=False)
        writer.job(
            "eda",
            TASK,
            seed,
            settings={"behavior": base.name, "teacher": f"runs/seed-{seed}/last"},
            needs={"algorithm.behavior": base.name},
            results=both(TASK, 50.0, seed),
        )
    cells = cells_of(read_sweep(writer.write()).entries)
    assert [(c.method, c.checkpoint, c.n_text) for c in cells] == [
        ("eda", "last", "2 seeds x 10"),
        ("eda", "best", "2 seeds x 10"),
    ]


def test_swept_settings_are_methods_of_their_own(tmp_path: Path) -> None:
    jobs = [
        {"seed": 0, "settings": {"alpha": alpha}, "labels": {"alpha": alpha}} for alpha in (1, 10)
    ]
    cells = [c for c in cells_with(tmp_path, *jobs) if c.checkpoint == "last"]
    assert [c.label for c in cells] == ["iql, alpha=1", "iql, alpha=10"]


def test_a_training_seed_counts_once(tmp_path: Path) -> None:
    twice = {"seed": 0, "labels": {"method": "iql"}}
    writer = SweepWriter(tmp_path)
    writer.job("iql", TASK, 0, results=both(TASK, 50.0, 0))
    job = writer.job("iql", TASK, 0, results=both(TASK, 60.0, 0), labels=twice["labels"])
    assert job.name in writer.keys
    with pytest.raises(UsageError, match="training seed 0 and nothing that sets them apart"):
        cells_of(read_sweep(writer.write()).entries)
