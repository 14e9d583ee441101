"""Prediction types: every pair of them on every path, closed forms, refusals."""

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genpolicy.errors import UsageError
from genpolicy.paths import (
    CosinePath,
    KarrasPath,
    LinearPath,
    Prediction,
    TabulatedPath,
    VPPath,
    check_prediction,
    convert,
    expand_t,
    from_clean_and_noise,
    to_denoised,
)
from tests.unchecked import unchecked

TYPES = get_args(Prediction)
PATHS = {
    "linear": LinearPath(t_min=0.001, t_max=0.999),
    "cosine": CosinePath(),
    "vp": VPPath(),
    "karras": KarrasPath(),
    "ddpm": TabulatedPath(),
    "dql": TabulatedPath(schedule="dql_vp", n_levels=5),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())


def case(path, batch=6):
    draw = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, batch, 3, 2, generator=draw, dtype=torch.float64)
    t = torch.linspace(path.t_min, path.t_max, batch, dtype=torch.float64)
    alpha, sigma = (expand_t(v, clean) for v in path.alpha_sigma(t))
    return clean, noise, t, alpha * clean + sigma * noise


@every_path
@pytest.mark.parametrize("predicts", TYPES)
def test_the_target_of_every_type_denoises_to_the_clean_action(path, predicts):
    clean, noise, t, x_t = case(path)
    target = from_clean_and_noise(clean, noise, t, path=path, predicts=predicts)
    denoised = to_denoised(target, x_t, t, path=path, predicts=predicts)
    torch.testing.assert_close(denoised, clean, atol=2e-9, rtol=1e-9)


@every_path
@pytest.mark.parametrize(("start", "to"), list(itertools.product(TYPES, TYPES)))
def test_every_type_converts_to_every_other_and_back(path, start, to):
    clean, noise, t, x_t = case(path)
    pred = from_clean_and_noise(clean, noise, t, path=path, predicts=start)
    there = convert(pred, x_t, t, path=path, predicts=start, to=to)
    expected = from_clean_and_noise(clean, noise, t, path=path, predicts=to)
    back = convert(there, x_t, t, path=path, predicts=to, to=start)
    torch.testing.assert_close(there, expected, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(back, pred, atol=1e-7, rtol=1e-7)


@settings(max_examples=20, deadline=None)
@given(
    types=st.permutations(TYPES),
    name=st.sampled_from(sorted(PATHS)),
    unit=st.floats(0.05, 0.95),
)
def test_a_cycle_through_all_types_returns_to_its_start(types, name, unit):
    path = PATHS[name]
    clean, noise, _, _ = case(path)
    t = torch.full((6,), path.t_min + unit * (path.t_max - path.t_min), dtype=torch.float64)
    alpha, sigma = (expand_t(v, clean) for v in path.alpha_sigma(t))
    x_t = alpha * clean + sigma * noise
    start = from_clean_and_noise(clean, noise, t, path=path, predicts=types[0])
    pred = start
    for now, then in itertools.pairwise([*types, types[0]]):
        pred = convert(pred, x_t, t, path=path, predicts=now, to=then)
    torch.testing.assert_close(pred, start, atol=1e-8, rtol=1e-8)


@every_path
def test_velocity_is_the_time_derivative_of_the_state(path):
    clean, noise, _, _ = case(path)
    unit = torch.linspace(0.15, 0.85, 6, dtype=torch.float64)
    t = path.t_min + unit * (path.t_max - path.t_min)
    if isinstance(path, TabulatedPath):
        t = (torch.floor(t * path.n_levels) + 0.5) / path.n_levels

    def state(times):
        alpha, sigma = (expand_t(v, clean) for v in path.alpha_sigma(times))
        return alpha * clean + sigma * noise

    h = 1e-6
    expected = (state(t + h) - state(t - h)) / (2 * h)
    velocity = from_clean_and_noise(clean, noise, t, path=path, predicts="velocity")
    torch.testing.assert_close(velocity, expected, atol=1e-6, rtol=1e-6)


def test_closed_forms_on_the_straight_line():
    path = LinearPath()
    clean, noise, t, x_t = case(path)
    velocity = from_clean_and_noise(clean, noise, t, path=path, predicts="velocity")
    torch.testing.assert_close(velocity, noise - clean)
    denoised = to_denoised(velocity, x_t, t, path=path, predicts="velocity")
    torch.testing.assert_close(denoised, x_t - expand_t(t, x_t) * velocity)


def test_velocity_and_v_differ():
    path = CosinePath()
    clean, noise, t, _ = case(path)
    both = [from_clean_and_noise(clean, noise, t, path=path, predicts=p) for p in ("velocity", "v")]
    assert (both[0] - both[1]).abs().max() > 0.1


def test_published_numbers_at_level_49_of_the_squared_cosine():
    """Data N(0.5, 0.04), x = 0.7: the posterior means of clean and noise."""
    path = TabulatedPath()
    t = torch.tensor([0.5], dtype=torch.float64)
    x = torch.full((1, 1, 1), 0.7, dtype=torch.float64)
    clean = torch.full_like(x, 0.518634076)
    noise = convert(clean, x, t, path=path, predicts="clean", to="noise")
    assert noise.item() == pytest.approx(0.471623606, abs=2e-9)


def test_low_precision_stays_in_the_dtype_of_the_state():
    path = LinearPath()
    x = torch.ones(2, 1, 1, dtype=torch.bfloat16)
    denoised = to_denoised(x, x, torch.tensor([0.25, 0.5]), path=path, predicts="velocity")
    assert denoised.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("path", "predicts", "message"),
    [
        (LinearPath(), "noise", r"LinearPath\(t_max=0.999\) or predicts='velocity'"),
        (LinearPath(), "score", r"LinearPath\(t_max=0.999\)"),
        (LinearPath(t_max=0.999), "score", "sigma is 0 at t_min"),
        (CosinePath(t_max=1.0), "noise", "alpha/sigma falls to"),
        (CosinePath(t_min=0.0), "velocity", "not finite at t=0"),
        (VPPath(t_min=0.0), "velocity", r"VPPath\(t_min=0.001, ...\)"),
        (LinearPath(), "epsilon", "valid names: clean, noise"),
        (LinearPath(), "velocit", "did you mean 'velocity'"),
    ],
)
def test_predictions_that_are_not_finite_on_the_path_are_refused(path, predicts, message):
    with pytest.raises(UsageError, match=message):
        unchecked(check_prediction)(path, predicts)


@every_path
@pytest.mark.parametrize("predicts", TYPES)
def test_all_predictions_are_allowed_inside_the_ends(path, predicts):
    check_prediction(path, predicts)


@pytest.mark.parametrize("predicts", ["clean", "velocity", "v"])
def test_the_full_straight_line_allows_these(predicts):
    check_prediction(LinearPath(), predicts)
