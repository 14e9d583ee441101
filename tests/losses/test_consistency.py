"""Consistency training and distillation: fixed points and floors on Gaussian data, gradients."""

import copy
import math

import pytest
import torch
from torch import nn

from genpolicy.config import build
from genpolicy.denoisers import FlowMapDenoiser, ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import (
    ConsistencyDistillation,
    ConsistencyTraining,
    ConstantCurriculum,
    DoublingCurriculum,
    EdmWeighting,
    PredictionWeighting,
    PseudoHuber,
    SquareRootCurriculum,
    consistency_distillation_loss,
    consistency_training_loss,
    level_times,
    solve_ode,
)
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, Path, expand_t

MEAN, VARIANCE = 0.5, 0.04
KARRAS = KarrasPath(sigma_min=0.002, sigma_max=80.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian_data(batch: int, seed: int = 9, dtype=torch.float64) -> torch.Tensor:
    draw = torch.randn(batch, 4, 2, generator=generator(seed), dtype=dtype)
    return MEAN + math.sqrt(VARIANCE) * draw


class ExactDenoiser:
    """E[clean | x_t] for actions that are N(MEAN, VARIANCE) in every entry."""

    kind = "posterior_mean"

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, x_t, t, cond):
        alpha, sigma = (expand_t(v, x_t) for v in self.path.alpha_sigma(t))
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        return MEAN + gain * (x_t - alpha * MEAN)


class AffineFlowMap(nn.Module):
    """One affine function of the state per noise level; level 0 is fixed to ``x/alpha``."""

    kind = "flow_map"

    def __init__(self, path: Path, times: torch.Tensor) -> None:
        super().__init__()
        self.path, self.t_end = path, float(times[0])
        alpha, sigma = path.alpha_sigma(times)
        self.times, self.alpha = times, alpha
        self.scale = (alpha**2 * VARIANCE + sigma**2).sqrt()
        self.slope = nn.Parameter(torch.zeros(len(times), dtype=torch.float64))
        self.offset = nn.Parameter(torch.zeros(len(times), dtype=torch.float64))

    def set_slopes(self, slopes: torch.Tensor) -> "AffineFlowMap":
        """Become ``f_i = MEAN + slopes[i] (x - alpha_i MEAN)``."""
        with torch.no_grad():
            self.slope.copy_(slopes * self.scale)
            self.offset.copy_(MEAN - slopes * self.alpha * MEAN)
        return self

    def slopes(self) -> torch.Tensor:
        return (self.slope / self.scale).detach()

    def forward(self, x_t, t, cond):
        level = (t[:, None] - self.times).abs().argmin(dim=1)
        inner = expand_t(self.offset[level], x_t) + x_t * expand_t(
            (self.slope / self.scale)[level], x_t
        )
        first = x_t / self.alpha[0]
        return torch.where(expand_t((level == 0).to(x_t), x_t) > 0, first, inner)


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


class TinyNetwork(nn.Module):
    """A network that mixes all entries of a chunk, so that padding could leak."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(12, 16), nn.Linear(16, 8)
        with torch.no_grad():
            for k, p in enumerate(self.parameters()):
                p.copy_(0.3 * torch.randn(p.shape, generator=generator(10 * seed + k)))

    def forward(self, x, time, obs):
        flat = torch.cat([x.flatten(1), obs.flatten(1), time[:, None] / 1000.0], dim=1)
        return self.out(torch.tanh(self.hidden(flat))).view_as(x)


def flow_map(path: Path, boundary: str, seed: int = 1) -> FlowMapDenoiser:
    return FlowMapDenoiser(network=TinyNetwork(seed).double(), path=path, boundary=boundary)


def velocity_teacher() -> ParameterizedDenoiser:
    return ParameterizedDenoiser(
        network=TinyNetwork(7).double(), path=LinearPath(), predicts="velocity"
    )


def noise_teacher() -> ParameterizedDenoiser:
    return ParameterizedDenoiser(
        network=TinyNetwork(8).double(), path=CosinePath(), predicts="noise"
    )


def run(student, target, teacher, clean, cond, mask=None, seed=5):
    if teacher is None:
        spacing = "karras" if isinstance(student.path, KarrasPath) else "uniform"
        return consistency_training_loss(
            student,
            target,
            clean,
            cond,
            step=0,
            generator=generator(seed),
            settings=ConsistencyTraining(
                curriculum=ConstantCurriculum(levels=12), spacing=spacing, pairs="lognormal"
            ),
            mask=mask,
        )[0]
    return consistency_distillation_loss(
        student, target, teacher, clean, cond, generator=generator(seed), mask=mask
    )[0]


CASES = [
    ("edm", KARRAS, None),
    ("linear", LinearPath(), None),
    ("linear", LinearPath(), velocity_teacher),
    ("linear", LinearPath(), noise_teacher),
    ("edm", KARRAS, velocity_teacher),
]


@pytest.mark.parametrize(("boundary", "path", "teacher_of"), CASES)
def test_only_the_student_gets_a_gradient(boundary, path, teacher_of):
    student, target = flow_map(path, boundary, 1), flow_map(path, boundary, 2)
    teacher = teacher_of() if teacher_of else None
    clean = gaussian_data(16)
    cond = torch.randn(16, 1, 3, generator=generator(6), dtype=torch.float64)
    loss = run(student, target, teacher, clean, cond)
    assert torch.isfinite(loss)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for p in target.parameters())
    assert teacher is None or all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(("boundary", "path", "teacher_of"), CASES)
def test_the_student_as_its_own_target_is_a_frozen_copy(boundary, path, teacher_of):
    student = flow_map(path, boundary)
    teacher = teacher_of() if teacher_of else None
    clean, cond = gaussian_data(8), torch.zeros(8, 1, 3, dtype=torch.float64)
    results = []
    for target in (student, copy.deepcopy(student)):
        loss = run(student, target, teacher, clean, cond)
        results.append([loss, *torch.autograd.grad(loss, list(student.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    other = run(student, student, teacher, clean, cond, seed=6)
    assert not torch.equal(other, results[0][0])


@pytest.mark.parametrize(("boundary", "path", "teacher_of"), CASES)
def test_padded_entries_change_neither_loss_nor_gradient(boundary, path, teacher_of):
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    student = flow_map(path, boundary)
    teacher = teacher_of() if teacher_of else None
    base, cond = gaussian_data(3), torch.zeros(3, 1, 3, dtype=torch.float64)
    results = []
    for filler in (0.0, math.nan):
        clean = torch.where(mask.unsqueeze(-1), base, torch.full_like(base, filler))
        clean.requires_grad_()
        loss = run(student, student, teacher, clean, cond, mask=mask)
        gradients = torch.autograd.grad(loss, [clean, *student.parameters()])
        assert (gradients[0][~mask] == 0).all()
        assert gradients[0][mask].abs().sum() > 0
        results.append([loss, *gradients[1:]])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_distilling_a_velocity_teacher_from_its_own_weights_improves_one_step_samples():
    """LinearPath, boundary 'linear': the practical use, on two modes per row."""
    path, draws = LinearPath(), generator(8)
    teacher = TwoModeTeacher()
    student = AffineInTime()
    settings = ConsistencyDistillation()
    noise = torch.randn(256, 4, 2, generator=generator(9))
    one = torch.ones(256)
    goal = solve_ode(teacher, noise, one, one * 0, None, path=path, n_steps=40, solver="euler")

    def error() -> float:
        with torch.no_grad():
            return (student(noise, one, None) - goal).square().mean().item()

    before = error()

    def loss() -> torch.Tensor:
        sign = torch.randint(0, 2, (128, 1, 1), generator=draws) * 2.0 - 1.0
        clean = (0.5 * sign).expand(128, 4, 2)
        return consistency_distillation_loss(
            student, student, teacher, clean, None, generator=draws, settings=settings
        )[0]

    parameters = list(student.parameters())
    for k in range(80):
        gradients = torch.autograd.grad(loss(), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.03 * (1 - k / 80) * gradient.sign()
    assert error() < 0.35 * before


class TwoModeTeacher:
    """The exact denoiser of two equally likely constant chunks, +0.5 and -0.5."""

    kind, path = "posterior_mean", LinearPath()

    def __call__(self, x_t, t, cond):
        alpha, sigma = (expand_t(v, x_t) for v in self.path.alpha_sigma(t))
        logit = (x_t * alpha * 0.5).sum(dim=(1, 2), keepdim=True) / sigma.clamp(min=1e-3) ** 2
        return 0.5 * torch.tanh(logit).expand_as(x_t)


class AffineInTime(nn.Module):
    """A flow map on LinearPath whose average velocity is a small network of the chunk's mean."""

    kind, path, t_end = "flow_map", LinearPath(), 0.0

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 1))

    def forward(self, x_t, t, cond):
        features = torch.stack([x_t.mean(dim=(1, 2)) * 3, t], dim=-1)
        clean = self.net(features).unsqueeze(-1).expand_as(x_t)
        return (1 - expand_t(t, x_t)) * x_t + expand_t(t, x_t) * clean


# --- settings -------------------------------------------------------------------------------------


def test_settings_are_built_from_plain_containers():
    found = build(
        {
            "_target_": "genpolicy.losses.ConsistencyTraining",
            "curriculum": {"_target_": "genpolicy.losses.DoublingCurriculum", "total_steps": 10},
            "pairs": "lognormal",
            "weighting": "inverse_sigma_gap",
            "distance": {"_target_": "genpolicy.losses.PseudoHuber"},
        }
    )
    assert found == ConsistencyTraining(
        curriculum=DoublingCurriculum(total_steps=10),
        pairs="lognormal",
        weighting="inverse_sigma_gap",
        distance=PseudoHuber(),
    )
    found = build({"_target_": "genpolicy.losses.ConsistencyDistillation", "jump": 2})
    assert found == ConsistencyDistillation(jump=2)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ConsistencyTraining(gap_scale=0.0),
        lambda: ConsistencyDistillation(n_levels=1),
        lambda: ConsistencyDistillation(jump=0),
        lambda: PseudoHuber(delta=0.0),
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError, match="expected"):
        wrong()
