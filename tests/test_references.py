"""D4RL's references: every row, the documented scores, and no score where there is no reference."""

from __future__ import annotations

import hashlib

import pytest

from genpolicy.errors import UsageError
from genpolicy.references import (
    D4RL_REFERENCES,
    normalized_score,
    reference_returns,
    return_of_score,
)


def test_the_table_is_the_upstream_one_row_for_row():
    # Digest of "name minimum maximum" lines made from d4rl/infos.py and d4rl/pointmaze/__init__.py.
    lines = "\n".join(f"{n} {low!r} {high!r}" for n, (low, high) in sorted(D4RL_REFERENCES.items()))
    assert len(D4RL_REFERENCES) == 159
    assert hashlib.sha256(lines.encode()).hexdigest() == (
        "94fc5d3fee60c8355ab3fc40b699c34a88e483a697cef2b04f822d5da9bac4c9"
    )


@pytest.mark.parametrize(
    ("name", "episode_return", "score"),
    [
        ("hopper-medium-v2", 1000, 31.348890),
        ("halfcheetah-medium-replay-v2", 5000, 42.530027),
        ("walker2d-medium-expert-v2", 2000, 43.531131),
        ("pen-human-v1", 3000, 97.422201),
        ("door-cloned-v1", -50, 0.221745),
        ("maze2d-large-v1", 300, 109.731004),
        ("maze2d-umaze-v1", 0, -17.281356),
        ("kitchen-mixed-v0", 3, 75),
        ("antmaze-large-diverse-v2", 1, 100),
    ],
)
def test_scores_of_known_returns(name: str, episode_return: float, score: float):
    assert normalized_score(name, episode_return) == pytest.approx(score, abs=5e-7)
    assert return_of_score(name, normalized_score(name, episode_return)) == pytest.approx(
        episode_return, abs=1e-9
    )


def test_old_and_new_mazes_have_their_own_references():
    assert reference_returns("maze2d-large-v0") == (4.83, 191.99)
    assert reference_returns("maze2d-large-v1") == (6.7, 273.99)


@pytest.mark.parametrize("name", ["ant-random-expert-v0", "carla-town-full-v0", "hopper-medium"])
def test_without_references_there_is_no_score(name: str):
    with pytest.raises(UsageError, match="no D4RL reference returns"):
        normalized_score(name, 1.0)


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(UsageError, match="did you mean 'maze2d-umaze-v1'"):
        normalized_score("maze2d-umaz-v1", 1.0)
