"""One ODE step of a teacher: orders of accuracy, published end points, other paths."""

import itertools
import math

import pytest
import torch

from genpolicy.errors import UsageError
from genpolicy.losses import level_times, ode_step, solve_ode
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, Path, VPPath, expand_t

MEAN, VARIANCE = 0.5, 0.04


class ExactDenoiser:
    """E[clean | x_t] for actions that are N(MEAN, VARIANCE) in every entry."""

    kind = "posterior_mean"

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, x_t, t, cond):
        alpha, sigma = (expand_t(v, x_t) for v in self.path.alpha_sigma(t))
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        return MEAN + gain * (x_t - alpha * MEAN)


def exact_state(path: Path, x_t, t, s):
    """The ODE keeps the standardized state: (x - alpha m)/sqrt(alpha^2 v + sigma^2)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        tuple(expand_t(v, x_t) for v in path.alpha_sigma(time)) for time in (t, s)
    )
    ratio = (alpha_s**2 * VARIANCE + sigma_s**2) / (alpha_t**2 * VARIANCE + sigma_t**2)
    return alpha_s * MEAN + ratio.sqrt() * (x_t - alpha_t * MEAN)


def times(value: float, batch: int = 1) -> torch.Tensor:
    return torch.full((batch,), value, dtype=torch.float64)


def test_heun_over_the_karras_grid_of_consistency_policy():
    path = KarrasPath(sigma_min=0.02, sigma_max=80.0)
    levels = level_times(path, 80, spacing="karras", t_end=path.t_min).flip(0)
    x = torch.full((1, 1, 1), 80.0, dtype=torch.float64)
    for t, s in itertools.pairwise(levels):
        x = ode_step(ExactDenoiser(path), x, t.view(1), s.view(1), None, solver="heun")
    assert x.item() == pytest.approx(0.700217, abs=2e-6)
    start = torch.full((1, 1, 1), 80.0, dtype=torch.float64)
    exact = exact_state(path, start, levels[:1], levels[-1:])
    assert exact.item() == pytest.approx(0.699741, abs=1e-6)


@pytest.mark.parametrize(
    ("solver", "steps", "std"),
    [("euler", 1, 0.0), ("euler", 10, 0.154175), ("heun", 1, 0.5), ("heun", 10, 0.204506)],
)
def test_flow_steps_give_the_published_spread(solver, steps, std):
    """From noise at t = 1 to the clean end; Heun's last step is the Euler step there."""
    path = LinearPath()
    x = torch.tensor([[[-1.0]], [[1.0]]], dtype=torch.float64)
    # The published Heun evaluates the velocity at the clean end itself, which is excluded here.
    last = times(1e-9 if solver == "heun" else 0.0, 2)
    x = solve_ode(
        ExactDenoiser(path), x, times(1.0, 2), last, None, path=path, n_steps=steps, solver=solver
    )
    assert x.mean().item() == pytest.approx(0.5, abs=1e-6)
    assert ((x[1] - x[0]) / 2).item() == pytest.approx(std, abs=2e-6)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize(
    "path", [LinearPath(), CosinePath(), VPPath(), KarrasPath()], ids=lambda p: type(p).__name__
)
def test_order_of_accuracy(path, solver, order):
    t = path.t_of_log_snr(torch.tensor([-3.0], dtype=torch.float64))
    s = path.t_of_log_snr(torch.tensor([3.0], dtype=torch.float64))
    x = torch.full((1, 1, 1), 1.3, dtype=torch.float64)
    errors = []
    for n in (64, 128):
        found = solve_ode(ExactDenoiser(path), x, t, s, None, path=path, n_steps=n, solver=solver)
        errors.append((found - exact_state(path, x, t, s)).abs().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_step_of_length_zero_is_the_identity(solver):
    path = LinearPath()
    x = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 0.4, 1.0])
    assert torch.equal(ode_step(ExactDenoiser(path), x, t, t, None, solver=solver), x)


@pytest.mark.parametrize("teacher_path", [CosinePath(), VPPath(), KarrasPath()])
def test_a_teacher_on_another_path_follows_the_same_trajectory(teacher_path):
    path = LinearPath()
    x = torch.tensor([[[0.3]], [[1.2]]], dtype=torch.float64)
    t, s = times(0.8, 2), times(0.3, 2)
    found = solve_ode(
        ExactDenoiser(teacher_path), x, t, s, None, path=path, n_steps=60, solver="heun"
    )
    assert torch.allclose(found, exact_state(path, x, t, s), atol=2e-4)
    whole = solve_ode(
        ExactDenoiser(teacher_path), x, times(1.0, 2), times(0.0, 2), None, path=path, n_steps=200
    )
    assert torch.allclose(whole, exact_state(path, x, times(1.0, 2), times(0.0, 2)), atol=5e-3)


def test_flow_maps_and_impossible_settings_are_refused():
    path = LinearPath()
    x, t, s = torch.zeros(1, 1, 1), torch.ones(1), torch.zeros(1)
    flow_map = ExactDenoiser(path)
    flow_map.kind = "flow_map"
    with pytest.raises(UsageError, match="posterior_mean"):
        solve_ode(flow_map, x, t, s, None, path=path)
    with pytest.raises(UsageError, match="n_steps"):
        solve_ode(ExactDenoiser(path), x, t, s, None, path=path, n_steps=0)
