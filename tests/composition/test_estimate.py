"""Weights from errors: the model of two members, the simplex of several, and exact denoisers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genpolicy.composition import Part, mean, on_path
from genpolicy.composition.estimate import (
    MOST_MEMBERS,
    gram_of_errors,
    noise_errors,
    optimal_weights,
    weights_of_errors,
)
from genpolicy.errors import UsageError
from genpolicy.paths import CosinePath, LinearPath
from tests.oracles import GaussianDenoiser, GaussianFlowMap


def correlated_errors(biases, stds, correlation, n=200_000):
    """Errors b_i + eta_i of two members, with correlated eta."""
    generator = torch.Generator().manual_seed(3)
    eta = torch.randn(2, n, generator=generator, dtype=torch.float64)
    second = correlation * eta[0] + (1 - correlation**2) ** 0.5 * eta[1]
    return torch.stack([biases[0] + stds[0] * eta[0], biases[1] + stds[1] * second])


@pytest.mark.parametrize(
    ("biases", "stds", "correlation"),
    [
        ((0.3, -0.2), (1.0, 0.7), 0.2),  # interior
        ((0.0, 0.0), (1.0, 1.0), 0.0),  # half and half
        ((0.5, 0.1), (1.0, 0.4), 0.6),  # second member alone
        ((0.0, 1.0), (0.3, 0.6), 0.9),  # first member alone
    ],
)
def test_the_error_model_of_two_members(biases, stds, correlation):
    # A, B, C of Q(w) = E|w e_1 + (1 - w) e_2|^2 in closed form, against 200,000 drawn errors.
    (b1, b2), (s1, s2) = biases, stds
    cross = correlation * s1 * s2
    a = (b1 - b2) ** 2 + s1**2 + s2**2 - 2 * cross
    b = 2 * b2 * (b1 - b2) - 2 * s2**2 + 2 * cross
    c = b2**2 + s2**2
    free = -b / (2 * a)
    wanted = min(max(free, 0.0), 1.0)
    errors = correlated_errors(biases, stds, correlation)
    weight = weights_of_errors(errors)[0].item()
    assert weight == pytest.approx(wanted, abs=1e-2)
    measured = (weight * errors[0] + (1 - weight) * errors[1]).square().mean().item()
    assert measured == pytest.approx(a * wanted**2 + b * wanted + c, abs=1e-2)
    best_alone = errors.square().mean(1).min().item()
    if 0.0 < free < 1.0:
        assert measured < best_alone - 0.01
    else:
        assert weight == wanted
        assert measured == best_alone


def brute_force(gram, steps):
    """Return the smallest value of w' G w on a lattice of the simplex."""
    n = len(gram)
    counts = itertools.product(range(steps + 1), repeat=n - 1)
    lattice = np.array([c for c in counts if sum(c) <= steps]) / steps
    lattice = np.concatenate([lattice, 1 - lattice.sum(1, keepdims=True)], axis=1)
    return np.einsum("pi,ij,pj->p", lattice, gram, lattice).min()


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 4),
    seed=st.integers(0, 10_000),
    rank=st.integers(1, 6),
    shared=st.floats(0.0, 30.0),
)
def test_the_minimum_on_the_simplex_is_that_of_a_fine_lattice(n, seed, rank, shared):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(n, rank)) * rng.uniform(0.2, 2.0, size=(n, 1))
    gram = factor @ factor.T + shared
    weights = optimal_weights(torch.tensor(gram)).numpy()
    assert weights.sum() == pytest.approx(1.0, abs=1e-9)
    assert weights.min() >= 0.0
    found, least = weights @ gram @ weights, brute_force(gram, {2: 400, 3: 60, 4: 24}[n])
    size = np.diag(gram).max()
    assert found <= least + 1e-7 * size
    assert found >= least - 0.02 * size  # the lattice is not finer than that


@settings(max_examples=25, deadline=None)
@given(n=st.integers(3, 5), seed=st.integers(0, 10_000))
def test_no_direction_inside_the_simplex_lowers_the_error(n, seed):
    factor = np.random.default_rng(seed).normal(size=(n, n + 2))
    gram = factor @ factor.T
    weights = optimal_weights(torch.tensor(gram)).numpy()
    slopes = gram @ weights
    lowest = weights @ gram @ weights
    # The gradient at the optimum: equal on members in use, not smaller on the others.
    assert slopes[weights > 0] == pytest.approx(np.full((weights > 0).sum(), lowest), abs=1e-8)
    assert (slopes >= lowest - 1e-8).all()


def test_two_members_agree_with_the_solution_by_faces():
    generator = torch.Generator().manual_seed(5)
    factor = torch.randn(300, 2, 3, generator=generator, dtype=torch.float64)
    gram = factor @ factor.mT
    far = torch.zeros(300, 3, 3, dtype=torch.float64)
    far[:, :2, :2] = gram
    far[:, 2, 2] = 1e6  # a third member that is never used
    third = optimal_weights(far)
    assert (third[:, 2] < 1e-4).all()
    assert third[:, 0].numpy() == pytest.approx(optimal_weights(gram)[:, 0].numpy(), abs=1e-3)


def test_members_that_do_not_differ_share_their_weight():
    ones = torch.ones(2, 2, dtype=torch.float64)
    assert optimal_weights(ones).tolist() == [0.5, 0.5]
    assert optimal_weights(torch.ones(3, 3)).tolist() == pytest.approx([1 / 3] * 3, abs=1e-3)
    assert optimal_weights(torch.zeros(2, 2)).tolist() == [0.5, 0.5]


def test_many_matrices_at_once_give_what_each_gives_alone():
    factor = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = factor @ factor.mT
    together = optimal_weights(gram)
    for i in range(7):
        assert together[i].tolist() == pytest.approx(optimal_weights(gram[i]).tolist(), abs=1e-12)


@pytest.mark.parametrize(
    "gram",
    [
        torch.zeros(2, 3),
        torch.full((2, 2), torch.nan),
        torch.zeros(MOST_MEMBERS + 1, MOST_MEMBERS + 1),
        torch.zeros(0, 0),
    ],
)
def test_matrices_that_are_none_are_refused(gram):
    with pytest.raises(UsageError, match="optimal_weights"):
        optimal_weights(gram)


def test_errors_without_samples_are_refused():
    with pytest.raises(UsageError, match="at least one sample"):
        weights_of_errors(torch.zeros(2, 0, 3))


def batch(n, mean, std, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean = mean + std * torch.randn(n, 2, 1, generator=generator, dtype=torch.float64)
    return clean, torch.randn(n, 2, 1, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("level", [-2.0, 0.0, 3.0])
def test_gaussian_members_get_the_weights_of_their_means(level):
    # Data N(0.1, s^2), members N(-0.3, s^2) and N(0.7, s^2): a share of 0.6 of the first has the
    # right mean, at every level, whatever noise remains.
    std = 0.4
    path = LinearPath()
    members = [GaussianDenoiser(path, mean=m, std=std) for m in (-0.3, 0.7)]
    clean, noise = batch(100_000, 0.1, std)
    errors, covered = noise_errors(members, clean, noise, log_snr=level)
    assert covered.all()
    assert weights_of_errors(errors)[0].item() == pytest.approx(0.6, abs=1e-2)
    # The mixture's error is what the exact denoiser cannot know either, and no more.
    exact, _ = noise_errors([GaussianDenoiser(path, 0.1, std)], clean, noise, log_snr=level)
    mixed = 0.6 * errors[0] + 0.4 * errors[1]
    assert (mixed - exact[0]).abs().max().item() < 1e-9


def test_members_on_other_paths_imply_the_same_noise():
    clean, noise = batch(50, 0.0, 0.5)
    own = GaussianDenoiser(CosinePath(), mean=0.2, std=0.3)
    linear = GaussianDenoiser(LinearPath(), mean=0.2, std=0.3)
    path = LinearPath(t_min=0.01, t_max=0.98)
    errors, _ = noise_errors([on_path(own, path), on_path(linear, path)], clean, noise, log_snr=0.5)
    assert errors[0].numpy() == pytest.approx(errors[1].numpy(), abs=1e-6)


def test_errors_count_where_all_members_say_something():
    path = LinearPath()
    whole = GaussianDenoiser(path)
    part = Part(inner=whole, horizon=2, action_dim=1, first=0, steps=1, dims=(0,))
    clean, noise = batch(10, 0.0, 0.5)
    errors, covered = noise_errors([whole, part], clean, noise, log_snr=0.0)
    assert covered.tolist() == [[True], [False]]
    assert errors[0][:, 0].tolist() == errors[1][:, 0].tolist()
    other = Part(inner=whole, horizon=2, action_dim=1, first=1, steps=1, dims=(0,))
    with pytest.raises(UsageError, match="no action entry"):
        noise_errors([part, other], clean, noise, log_snr=0.0)


def test_flow_maps_and_mixed_paths_are_refused():
    clean, noise = batch(3, 0.0, 0.5)
    linear, cosine = GaussianDenoiser(LinearPath()), GaussianDenoiser(CosinePath())
    for members in ([linear, cosine], [linear, GaussianFlowMap(LinearPath())]):
        with pytest.raises(UsageError, match="noise_errors"):
            noise_errors(members, clean, noise, log_snr=0.0)


def test_the_estimate_is_the_minimum_over_mixtures_that_are_really_evaluated():
    path = LinearPath()
    members = [GaussianDenoiser(path, m, s) for m, s in ((-0.2, 0.3), (0.5, 0.2), (0.1, 0.6))]
    clean, noise = batch(4000, 0.15, 0.35, seed=4)
    errors, _ = noise_errors(members, clean, noise, log_snr=0.7)
    weights = weights_of_errors(errors).tolist()

    def loss(w):
        found, _ = noise_errors([mean(members, w)], clean, noise, log_snr=0.7)
        return found.square().mean().item()

    best = loss(weights)
    product = gram_of_errors(errors).mean(0)
    w = torch.tensor(weights, dtype=torch.float64)
    assert best == pytest.approx((w @ product @ w).item() / clean[0].numel(), rel=1e-9)
    nearby = [[weights[i] * 0.97 + (0.03 if i == j else 0.0) for i in range(3)] for j in range(3)]
    assert all(loss(other) >= best - 1e-12 for other in nearby)
