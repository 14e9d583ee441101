from __future__ import annotations

import re

import pytest

from genpolicy.published import (
    PUBLISHED,
    published_method,
    published_scores,
    published_task,
)
from genpolicy.references import D4RL_REFERENCES

ROBOTS = r"(halfcheetah|hopper|walker2d)-"


@pytest.mark.parametrize(
    ("method", "tasks", "source", "mean"),
    [
        ("iql", ROBOTS, "CORL", 81.63),
        ("iql", ROBOTS, "jannerm", 77.0),
        ("diffusion_ql", ROBOTS, "", 87.9),
        ("diffusion_bc", ROBOTS, "", 76.2),  # it states 76.3
        ("consistency_bc", ROBOTS, "", 69.7),
        ("consistency_ac", ROBOTS, "", 85.1),
        ("eda", ROBOTS, "", 87.3),
        ("qgpo", ROBOTS, "", 86.6),
        ("diffuser", ROBOTS, "", 77.5),
        ("decision_diffuser", ROBOTS, "", 81.8),
        ("hierarchical_diffuser", ROBOTS, "", 84.6),
        ("diffuser", "maze2d", "", 119.5),
        ("hierarchical_diffuser", "maze2d", "", 139.9),
        ("eda", "kitchen", "", 72.0),
        ("qgpo", "kitchen", "", 58.1),
        ("diffusion_ql", "kitchen", "", 69.0),
        ("hierarchical_diffuser", "kitchen", "", 72.5),
        ("diffusion_ql", "antmaze", "", 69.6),
        ("iql", "antmaze", "CORL", 57.17),
        ("iql", "antmaze", "2110.06169", 63.0),
        ("fql", "antmaze", "", 84),
        ("eda", "antmaze", "", 84.3),
        ("iql", "(pen|door|hammer|relocate)", "CORL", 53.43),
    ],
)  # fmt: skip
def test_means_are_the_published_means(method: str, tasks: str, source: str, mean: float) -> None:
    """A transposed column or a typing error moves the mean that the source states."""
    found = [
        r
        for r in PUBLISHED
        if r.method == method and re.match(tasks, r.task) and source in r.source
    ]
    rounding = 0.5 if isinstance(mean, int) else 0.051
    assert sum(r.score for r in found) / len(found) == pytest.approx(mean, abs=rounding)


def test_every_score_says_where_it_was_read_and_on_what() -> None:
    known = {re.sub(r"-v\d$", "", name) for name in D4RL_REFERENCES}
    for row in PUBLISHED:
        assert row.task in known
        assert row.source
        assert row.data.startswith("official")
        assert "mujoco-py" in row.simulator
        assert row.selection in ("", "last", "best over training")
        assert row.spread is None or row.spread >= 0
    keys = [(r.method, r.task, r.source) for r in PUBLISHED]
    assert len(keys) == len(set(keys))


def test_labels_of_a_sweep_find_their_scores() -> None:
    assert published_task("d4rl/hopper-medium-expert-v2") == "hopper-medium-expert"
    assert published_method("DQL") == "diffusion_ql"
    assert published_method("fql, alpha=10") == "fql"
    found = published_scores("maze2d-umaze", ["iql", "flow_bc"])
    assert [(r.method, r.score) for r in found] == [("iql", 42.11)]
    assert published_scores("pusht") == ()
    assert len(published_scores("hopper-medium")) > 10
