"""Consistency losses: who gets a gradient, padding, settings, two modes."""

import copy
import math

import pytest
import torch
from torch import nn

from genpolicy.config import build
from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import (
    ConsistencyDistillation,
    ConsistencyTraining,
    ConstantCurriculum,
    DoublingCurriculum,
    PseudoHuber,
    consistency_distillation_loss,
    consistency_training_loss,
    solve_ode,
)
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, expand_t
from tests.losses.consistency_cases import (
    KARRAS,
    TinyNetwork,
    flow_map,
    gaussian_data,
    generator,
    velocity_teacher,
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
