"""Consistency training and distillation: fixed points and floors on Gaussian data."""

import math

import pytest
import torch

from genpolicy.losses import (
    ConsistencyDistillation,
    ConsistencyTraining,
    ConstantCurriculum,
    EdmWeighting,
    PredictionWeighting,
    PseudoHuber,
    SquareRootCurriculum,
    consistency_distillation_loss,
    consistency_training_loss,
    level_times,
)
from genpolicy.paths import CosinePath, LinearPath
from tests.losses.consistency_cases import (
    KARRAS,
    VARIANCE,
    AffineFlowMap,
    ExactDenoiser,
    flow_map,
    gaussian_data,
    generator,
    velocity_teacher,
)


def training_slopes(sigmas: torch.Tensor) -> torch.Tensor:
    """The fixed point of consistency training: k_{i+1} = k_i (v + s_i s_{i+1})/(v + s_{i+1}^2)."""
    slopes = [1.0]
    for low, high in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        slopes.append(slopes[-1] * (VARIANCE + low * high) / (VARIANCE + high**2))
    return torch.tensor(slopes, dtype=torch.float64)


def karras_levels(n_levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    times = level_times(KARRAS, n_levels, spacing="karras", t_end=KARRAS.t_min)
    return times, KARRAS.alpha_sigma(times)[1]


def train(student: AffineFlowMap, loss_of, *, steps: int) -> None:
    """Newton steps: the loss is a quadratic of the parameters while the target is frozen."""
    parameters = [student.slope, student.offset]
    for _ in range(steps):
        first = torch.autograd.grad(loss_of(), parameters, create_graph=True)
        flat = torch.cat(first)
        rows = [torch.cat(torch.autograd.grad(g, parameters, retain_graph=True)) for g in flat]
        update = torch.linalg.pinv(torch.stack(rows), rtol=1e-14) @ flat.detach()
        with torch.no_grad():
            for parameter, change in zip(parameters, update.split(len(student.slope)), strict=True):
                parameter -= change


# --- consistency training -------------------------------------------------------------------------

TABLE = [
    # n_levels, slope at 80, one-step std, mean floor, mean floor with the 100/gap factor
    (2, 0.000031250, 0.002500, 0.0399978, 0.0499984),
    (3, 0.000222427, 0.017794, 0.0198437, 0.789536),
    (10, 0.001744899, 0.139592, 0.00227977, 1.37171),
    (40, 0.002300891, 0.184071, 0.000156963, 0.379162),
]


@pytest.mark.parametrize(("n_levels", "slope", "std", "floor", "scaled_floor"), TABLE)
def test_training_loss_floor_at_its_fixed_point(n_levels, slope, std, floor, scaled_floor):
    times, sigmas = karras_levels(n_levels)
    student = AffineFlowMap(KARRAS, times).set_slopes(training_slopes(sigmas))
    assert student.slopes()[-1].item() == pytest.approx(slope, rel=1e-5)
    assert 80.0 * student.slopes()[-1].item() == pytest.approx(std, rel=1e-4)
    clean = gaussian_data(30_000)
    for weighting, expected in (("uniform", floor), ("inverse_sigma_gap", scaled_floor)):
        loss, metrics = consistency_training_loss(
            student,
            student,
            clean,
            None,
            step=0,
            generator=generator(1),
            settings=ConsistencyTraining(
                curriculum=ConstantCurriculum(levels=n_levels),
                weighting=weighting,
                gap_scale=100.0,
            ),
        )
        assert loss.item() == pytest.approx(expected, rel=3e-2)
        assert metrics["n_levels"].item() == n_levels
        assert metrics["consistency_error"].item() == pytest.approx(floor, rel=3e-2)


@pytest.mark.parametrize(("n_levels", "residual"), [(3, 0.036553), (10, 0.0029514)])
def test_exact_flow_map_has_the_larger_shared_noise_residual(n_levels, residual):
    times, sigmas = karras_levels(n_levels)
    exact = ((VARIANCE + sigmas[0] ** 2) / (VARIANCE + sigmas**2)).sqrt()
    student = AffineFlowMap(KARRAS, times).set_slopes(exact)
    loss, _ = consistency_training_loss(
        student,
        student,
        gaussian_data(30_000),
        None,
        step=0,
        generator=generator(2),
        settings=ConsistencyTraining(curriculum=ConstantCurriculum(levels=n_levels)),
    )
    assert loss.item() == pytest.approx(residual, rel=3e-2)


def test_training_converges_to_the_narrow_fixed_point():
    times, sigmas = karras_levels(10)
    student = AffineFlowMap(KARRAS, times)
    clean, draws = gaussian_data(8192), generator(3)
    settings = ConsistencyTraining(curriculum=ConstantCurriculum(levels=10))

    def loss() -> torch.Tensor:
        return consistency_training_loss(
            student, student, clean, None, step=0, generator=draws, settings=settings
        )[0]

    train(student, loss, steps=9)
    assert student.slopes()[-1].item() * 80.0 == pytest.approx(0.139592, rel=2e-2)
    assert torch.allclose(student.slopes()[1:], training_slopes(sigmas)[1:], rtol=4e-2)


def test_curriculum_sets_the_number_of_levels():
    network = flow_map(KARRAS, "edm")
    settings = ConsistencyTraining(curriculum=SquareRootCurriculum(total_steps=50_000))
    clean, cond = gaussian_data(4), torch.zeros(4, 1, 3, dtype=torch.float64)
    for step, expected in ((0, 2), (1000, 22), (49_999, 151)):
        _, metrics = consistency_training_loss(
            network, network, clean, cond, step=step, generator=generator(), settings=settings
        )
        assert metrics["n_levels"].item() == expected


# --- consistency distillation ---------------------------------------------------------------------


def linear_slopes(times: torch.Tensor) -> torch.Tensor:
    alpha, sigma = LinearPath().alpha_sigma(times)
    return (VARIANCE / (alpha**2 * VARIANCE + sigma**2)).sqrt()


def test_exact_student_of_an_exact_teacher_has_no_loss():
    times = level_times(LinearPath(), 9, spacing="uniform", t_end=0.0)
    student = AffineFlowMap(LinearPath(), times).set_slopes(linear_slopes(times))
    for teacher_path in (LinearPath(), CosinePath(t_max=0.9999), KARRAS):
        loss, _ = consistency_distillation_loss(
            student,
            student,
            ExactDenoiser(teacher_path),
            gaussian_data(64),
            None,
            generator=generator(),
            settings=ConsistencyDistillation(
                n_levels=9, jump=3, n_solver_steps=32, solver="heun", weighting=EdmWeighting()
            ),
        )
        assert loss.item() < 1e-4


@pytest.mark.parametrize(("jump", "steps"), [(1, 6), (3, 2)])
def test_distillation_converges_to_the_exact_flow_map(jump, steps):
    """A chain of 6 levels is learned in 6 jumps of one level, or in 2 jumps of three."""
    times = level_times(LinearPath(), 7, spacing="uniform", t_end=0.0)
    student = AffineFlowMap(LinearPath(), times)
    clean, draws = gaussian_data(256), generator(4)
    settings = ConsistencyDistillation(
        n_levels=7, jump=jump, n_solver_steps=8 * jump, solver="heun"
    )

    def loss() -> torch.Tensor:
        return consistency_distillation_loss(
            student,
            student,
            ExactDenoiser(LinearPath()),
            clean,
            None,
            generator=draws,
            settings=settings,
        )[0]

    train(student, loss, steps=steps)
    assert student.slopes()[-1].item() == pytest.approx(0.2, rel=6e-3)
    assert torch.allclose(student.slopes()[1:], linear_slopes(times)[1:], rtol=6e-3)


def test_a_jump_past_the_last_level_compares_with_the_teachers_own_sample():
    student, teacher = flow_map(LinearPath(), "linear"), velocity_teacher()
    clean, cond = gaussian_data(6), torch.zeros(6, 1, 3, dtype=torch.float64)
    settings = ConsistencyDistillation(n_levels=2, jump=5, n_solver_steps=10, solver="euler")
    loss, _ = consistency_distillation_loss(
        student, student, teacher, clean, cond, generator=generator(5), settings=settings
    )
    repeat = generator(5)
    torch.multinomial(torch.ones(1), 6, replacement=True, generator=repeat)
    noise = torch.randn(clean.shape, generator=repeat, dtype=clean.dtype)
    one = torch.ones(6, dtype=clean.dtype)
    x = noise
    for k in range(10):
        x = x - 0.1 * teacher.raw(x, one * (1 - k / 10), cond)
    expected = (student(noise, one, cond) - x).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)


def test_weighting_acts_on_the_squared_error_inside_the_distance():
    student, teacher = flow_map(LinearPath(), "linear"), velocity_teacher()
    cond = torch.zeros(1, 1, 3, dtype=torch.float64)

    def loss(**kwargs) -> float:
        settings = ConsistencyDistillation(n_levels=3, jump=1, **kwargs)
        value, _ = consistency_distillation_loss(
            student,
            student,
            teacher,
            gaussian_data(1),
            cond,
            generator=generator(0),
            settings=settings,
        )
        return value.item()

    plain = loss()
    ratio = loss(weighting=PredictionWeighting()) / plain
    assert ratio == pytest.approx(1.0, rel=1e-9) or ratio == pytest.approx(4.0, rel=1e-9)
    huber = loss(weighting=PredictionWeighting(), distance=PseudoHuber(delta=0.1))
    assert huber == pytest.approx(math.sqrt(ratio * plain + 0.01) - 0.1, rel=1e-9)


# --- gradients, padding, determinism: both losses -------------------------------------------------
