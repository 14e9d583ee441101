"""Grids of times: ends, spacing, agreement with diffusers, refusals."""

import pytest
import torch

from genpolicy.errors import UsageError
from genpolicy.paths import (
    GRIDS,
    CosinePath,
    KarrasPath,
    LinearPath,
    TabulatedPath,
    VPPath,
    check_grid,
    grid,
    log_snr,
)

CONTINUOUS = ["uniform", "karras", "log_snr", "sigma"]
PATHS = [CosinePath(), VPPath(), KarrasPath(), TabulatedPath(), LinearPath(t_min=0.01, t_max=0.99)]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("kind", CONTINUOUS)
@pytest.mark.parametrize("n_steps", [1, 2, 7, 40])
def test_grids_fall_from_the_noise_end_to_the_clean_end(path, kind, n_steps):
    times = grid(path, n_steps, kind)
    assert times.shape == (n_steps + 1,)
    assert times.dtype == torch.float64
    assert times[0].item() == path.t_max
    assert times[-1].item() == 0.0
    assert bool((times.diff() < 0).all())
    assert times[-2].item() >= path.t_min


@pytest.mark.parametrize("kind", ["levels", "leading", "linspace"])
@pytest.mark.parametrize("n_steps", [1, 3, 10, 99, 100])
def test_grids_of_levels_visit_levels_once(kind, n_steps):
    path = TabulatedPath()
    times = grid(path, n_steps, kind)
    levels = times[:-1] * 100 - 1
    torch.testing.assert_close(levels, levels.round(), atol=1e-9, rtol=0)
    assert len(set(levels.round().tolist())) == n_steps
    assert levels.min().item() + 1e-9 >= 0
    assert levels.max().item() - 1e-9 <= 99


def test_all_kinds_are_tested():
    assert {*CONTINUOUS, "levels", "leading", "linspace"} == set(GRIDS)


def test_equal_steps_on_a_table_are_levels():
    for n_steps in (1, 3, 100):
        equal = grid(TabulatedPath(), n_steps, "uniform")
        assert torch.equal(equal, grid(TabulatedPath(), n_steps, "levels"))


def test_spacings():
    assert grid(LinearPath(), 4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    path = VPPath()
    even = log_snr(path, grid(path, 6, "log_snr")[:-1]).diff()
    torch.testing.assert_close(even, even[0].expand(5), atol=1e-6, rtol=0)
    karras = KarrasPath()
    even = grid(karras, 6, "karras")[:-1]
    expected = torch.linspace(1.0, karras.t_min, 6, dtype=torch.float64)
    torch.testing.assert_close(even, expected, atol=1e-12, rtol=0)
    other = karras.alpha_sigma(grid(karras, 3, "karras", options={"rho": 1.0}))[1]
    assert other.tolist() == pytest.approx([80.0, 40.001, 0.002, 0.0])


def test_consistency_actor_critic_times():
    path = KarrasPath()
    sigma = path.alpha_sigma(grid(path, 5, "sigma", options={"sigma_end": 2.0}))[1]
    assert sigma.tolist() == pytest.approx([80.0, 60.5, 41.0, 21.5, 2.0, 0.0])


def test_the_end_can_lie_above_the_clean_end():
    assert grid(LinearPath(), 2, end=0.1).tolist() == [1.0, 0.5, 0.1]


@pytest.mark.parametrize(
    ("spacing", "kind"), [("trailing", "levels"), ("leading", "leading"), ("linspace", "linspace")]
)
@pytest.mark.parametrize("n_steps", [1, 3, 10, 16, 100])
def test_levels_are_those_of_diffusers(spacing, kind, n_steps):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", timestep_spacing=spacing
    )
    scheduler.set_timesteps(n_steps)
    ours = (grid(TabulatedPath(), n_steps, kind)[:-1] * 100 - 1).round().long().tolist()
    expected = scheduler.timesteps.tolist()
    if (n_steps, spacing) == (1, "linspace"):
        assert ours == [99]  # diffusers starts a single step at the clean end
        assert expected == [0]
    else:
        assert ours == expected


def test_leading_takes_an_offset():
    times = grid(TabulatedPath(), 10, "leading", options={"offset": 1})
    assert times[0].item() == pytest.approx(0.92)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((LinearPath(), 0), {}, "n_steps is 0, expected at least 1"),
        ((LinearPath(), -3), {}, "n_steps is -3"),
        ((LinearPath(), 5, "uniforn"), {}, "did you mean 'uniform'"),
        ((LinearPath(), 5, "karras"), {}, r"LinearPath\(t_min=0.001, t_max=0.999\)"),
        ((LinearPath(), 5, "levels"), {}, "needs a TabulatedPath, got LinearPath"),
        ((TabulatedPath(), 101, "leading"), {}, "only 100 levels"),
        ((TabulatedPath(), 101), {}, "use at most 100 steps"),
        ((TabulatedPath(), 10, "leading"), {"options": {"offset": 10}}, "offset is 10"),
        ((TabulatedPath(), 10, "leading"), {"options": {"offst": 1}}, "did you mean 'offset'"),
        ((KarrasPath(), 5, "sigma"), {"options": {"sigma_end": 81.0}}, "sigma_end is 81.0"),
        ((LinearPath(), 5), {"end": 0.5}, "do not decrease"),
    ],
)
def test_grids_that_do_not_fit_are_refused(arguments, options, message):
    with pytest.raises(UsageError, match=message):
        grid(*arguments, **options)


def test_check_grid_accepts_its_own_options():
    check_grid("karras", {"rho": 3.0})
    with pytest.raises(UsageError, match="has no option 'rho'"):
        check_grid("uniform", {"rho": 3.0})
