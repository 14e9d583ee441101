"""Points of a search, proposals, and the luck of the best of equal candidates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genpolicy.errors import UsageError
from genpolicy.evaluation.weight_candidates import expected_optimism
from genpolicy.evaluation.weight_family import Family, suggest


def test_grids_over_many_members_need_enough_trials():
    family = Family(operator="mean", n_members=4)
    assert len(family.grid(11)) == 10
    with pytest.raises(UsageError, match="is 10 points; raise n_trials"):
        family.grid(9)
    assert set(family.ends) <= set(family.grid(40))
    with pytest.raises(UsageError, match="has 3 members, expected 2"):
        Family(operator="negation", n_members=3)


def test_a_grid_over_a_scale_has_the_members_on_it():
    family = Family(operator="rl_guidance", n_members=2, bounds=(0.5, 2.0))
    assert family.grid(3) == [(0.0,), (0.5,), (1.0,), (1.25,), (2.0,)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4))
def test_coordinates_and_weights_are_each_others_inverse(coords):
    family = Family(operator="mean", n_members=len(coords) + 1)
    point = family.at(coords)
    assert math.fsum(point) == pytest.approx(1.0, abs=1e-9)
    assert min(point) >= 0.0
    assert all(round(w, 3) == w for w in point)
    assert family.at(family.coords(point)) == pytest.approx(point, abs=2e-3)


def test_uniform_coordinates_give_uniform_weights():
    family = Family(operator="mean", n_members=3)
    rng = np.random.default_rng(0)
    points = np.array([family.at(row) for row in rng.uniform(size=(20_000, 2))])
    # Dirichlet(1, 1, 1): mean 1/3, variance 1/18, covariance -1/36.
    assert points.mean(0) == pytest.approx(np.full(3, 1 / 3), abs=5e-3)
    wanted = np.full((3, 3), -1 / 36) + np.eye(3) * (1 / 18 + 1 / 36)
    assert np.cov(points.T) == pytest.approx(wanted, abs=2e-3)


def test_a_proposal_is_a_function_of_what_was_tried():
    family = Family(operator="rl_guidance", n_members=2, bounds=(0.0, 2.0))
    tried = [((0.0,), 0.2), ((1.0,), 0.5), ((2.0,), 0.6), ((1.5,), 0.7)]
    found = suggest(family, tried, seed=3)
    assert found == suggest(family, tried, seed=3)
    assert found is not None
    assert 0.0 <= found[0] <= 2.0
    assert found not in {point for point, _ in tried}


def test_the_best_of_equal_candidates_looks_as_lucky_as_computed():
    # 11 independent candidates of rate 0.5 on 200 seeds: 1.586 standard errors = 0.0561.
    rng = np.random.default_rng(1)
    draws = [
        expected_optimism(rng.integers(0, 2, size=(11, 200)).astype(float), n_seeds=200, seed=i)
        for i in range(8)
    ]
    assert np.mean(draws) == pytest.approx(0.0561, abs=2e-3)
    row = rng.normal(size=50)
    assert expected_optimism([row, row, row], n_seeds=50) == pytest.approx(0.0, abs=1e-12)
    assert expected_optimism([row], n_seeds=50) == pytest.approx(0.0, abs=2e-3)
    # Common seeds: candidates that differ by constants are not chosen by luck.
    assert expected_optimism([row, row + 1.0], n_seeds=50) == pytest.approx(0.0, abs=1e-12)
    # On the common part of unequal lengths, scaled to all seeds.
    table = rng.normal(size=(5, 400))
    short = expected_optimism([table[0][:100], *table[1:]], n_seeds=400)
    assert short == pytest.approx(expected_optimism(table, n_seeds=400), rel=0.2)
