"""Consistency trajectory distillation: identities of the exact map, gradients of each term."""

import copy
import math

import pytest
import torch
from torch import nn

from genpolicy.config import build
from genpolicy.denoisers import ParameterizedDenoiser, TrajectoryDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import (
    CleanWeighting,
    EdmWeighting,
    KarrasTimes,
    LogNormalSigmaTimes,
    MixedTimes,
    PredictionWeighting,
    PseudoHuber,
    Squared,
    TrajectoryDistillation,
    UniformTimes,
    trajectory_loss,
)
from genpolicy.paths import KarrasPath, LinearPath, Path, expand_t

MEAN, VARIANCE = 0.5, 0.04
KARRAS = KarrasPath(sigma_min=0.02, sigma_max=80.0)
ON_KARRAS = TrajectoryDistillation()
ON_LINEAR = TrajectoryDistillation(
    n_levels=20,
    spacing="uniform",
    max_teacher_levels=3,
    dsm_times=UniformTimes(),
    dsm_weighting=PredictionWeighting(),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian_data(batch: int, seed: int = 9) -> torch.Tensor:
    draw = torch.randn(batch, 4, 2, generator=generator(seed), dtype=torch.float64)
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


class ExactTrajectory(TrajectoryDenoiser):
    """The exact jumps of Gaussian data: the standardized state is kept."""

    def __init__(self, path: Path) -> None:
        super().__init__(network=nn.Identity(), path=path)

    def denoised(self, x_t, t, s, cond):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (
            tuple(expand_t(v, x_t) for v in self.path.alpha_sigma(time)) for time in (t, s)
        )
        spread_t = alpha_t**2 * VARIANCE + sigma_t**2
        keep = sigma_s / sigma_t
        ratio = ((alpha_s**2 * VARIANCE + sigma_s**2) / spread_t).sqrt()
        state = alpha_s * MEAN + ratio * (x_t - alpha_t * MEAN)
        mean = MEAN + alpha_t * VARIANCE / spread_t * (x_t - alpha_t * MEAN)
        return torch.where(
            expand_t(s == t, x_t) > 0, mean, (state - keep * x_t) / (alpha_s - alpha_t * keep)
        )


class TinyNetwork(nn.Module):
    """A network of two times that mixes all entries of a chunk."""

    def __init__(self, seed: int, n_times: int = 2) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(11 + n_times, 16), nn.Linear(16, 8)
        with torch.no_grad():
            for k, p in enumerate(self.parameters()):
                p.copy_(0.3 * torch.randn(p.shape, generator=generator(10 * seed + k)))

    def forward(self, x, time, obs):
        flat = torch.cat([x.flatten(1), obs.flatten(1), time.view(len(x), -1) / 1000.0], dim=1)
        return self.out(torch.tanh(self.hidden(flat))).view_as(x)


def student_on(path: Path, seed: int = 1) -> TrajectoryDenoiser:
    return TrajectoryDenoiser(network=TinyNetwork(seed).double(), path=path)


def teacher_on(path: Path) -> ParameterizedDenoiser:
    predicts, precondition = ("velocity", "none") if path == LinearPath() else ("clean", "edm")
    return ParameterizedDenoiser(
        network=TinyNetwork(7, 1).double(), path=path, predicts=predicts, precondition=precondition
    )


def conditions(batch: int) -> torch.Tensor:
    return torch.randn(batch, 1, 3, generator=generator(6), dtype=torch.float64)


CASES = [(KARRAS, ON_KARRAS), (LinearPath(), ON_LINEAR)]
BY_PATH = pytest.mark.parametrize(("path", "settings"), CASES, ids=["karras", "linear"])


def changed(settings: TrajectoryDistillation, **changes) -> TrajectoryDistillation:
    fields = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    return TrajectoryDistillation(**{**fields, **changes})


# --- the exact map --------------------------------------------------------------------------------


def test_slope_and_composition_of_the_exact_jumps():
    path = KarrasPath(sigma_min=0.002)
    exact = ExactTrajectory(path)
    t, u, s = (
        path.t_of_log_snr(torch.tensor([-2 * math.log(sigma)], dtype=torch.float64))
        for sigma in (80.0, 9.0, 2.0)
    )
    low, high = (torch.full((1, 1, 1), v, dtype=torch.float64) for v in (0.0, 1.0))
    slope = exact.jump(high, t, s, None) - exact.jump(low, t, s, None)
    assert slope.item() == pytest.approx(0.025124611, rel=1e-7)
    via = exact.jump(exact.jump(high, t, u, None), u, s, None)
    assert via.item() == pytest.approx(exact.jump(high, t, s, None).item(), abs=1e-12)


@BY_PATH
def test_a_jump_of_length_zero_is_the_identity(path, settings):
    x = torch.randn(5, 4, 2, generator=generator(), dtype=torch.float64)
    t = torch.linspace(path.t_min, path.t_max, 5, dtype=torch.float64)
    assert torch.equal(student_on(path).jump(x, t, t, conditions(5)), x)


@BY_PATH
def test_exact_student_of_an_exact_teacher_has_only_the_solvers_error(path, settings):
    exact = ExactTrajectory(path)
    loss, metrics = trajectory_loss(
        exact,
        exact,
        ExactDenoiser(path),
        gaussian_data(512),
        None,
        generator=generator(1),
        settings=changed(settings, dsm_weight=0.0, distance=Squared()),
    )
    assert 0.0 < loss.item() < (3e-5 if path == LinearPath() else 1e-7)
    assert set(metrics) == {"loss", "ctm_loss"}


@pytest.mark.parametrize("jump", ["end", "same"])
def test_denoising_floor_of_the_exact_jumps(jump):
    """Posterior variance for the zero-length jump; more for the jump to the end."""
    path, sigma = KARRAS, 0.3
    t = float(path.t_of_log_snr(torch.tensor(-2 * math.log(sigma), dtype=torch.float64)))
    settings = TrajectoryDistillation(
        ctm_weight=0.0,
        distance=Squared(),
        dsm_jump=jump,
        dsm_times=UniformTimes(low=t - 1e-9, high=t + 1e-9),
        dsm_weighting=EdmWeighting(sigma_data=0.5),
    )
    exact = ExactTrajectory(path)
    loss, metrics = trajectory_loss(
        exact, exact, None, gaussian_data(20_000), None, generator=generator(2), settings=settings
    )
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    slope = math.sqrt((VARIANCE + 0.02**2) / (VARIANCE + sigma**2))
    floor = {
        "end": (1 - slope) ** 2 * VARIANCE + (slope * sigma) ** 2,
        "same": VARIANCE * sigma**2 / (VARIANCE + sigma**2),
    }
    assert loss.item() == pytest.approx(weight * floor[jump], rel=2e-2)
    assert set(metrics) == {"loss", "dsm_loss"}


# --- gradients ------------------------------------------------------------------------------------


@BY_PATH
@pytest.mark.parametrize("term", ["ctm_weight", "dsm_weight"])
def test_each_term_alone_trains_the_student_and_nothing_else(path, settings, term):
    only = changed(settings, **{"ctm_weight": 0.0, "dsm_weight": 0.0, term: 1.0})
    student, target, teacher = student_on(path, 1), student_on(path, 2), teacher_on(path)
    loss, _ = trajectory_loss(
        student,
        target,
        teacher,
        gaussian_data(16),
        conditions(16),
        generator=generator(3),
        settings=only,
    )
    assert torch.isfinite(loss)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    for frozen in (target, teacher):
        assert all(p.grad is None for p in frozen.parameters())
        assert all(p.requires_grad for p in frozen.parameters())


@BY_PATH
def test_the_student_as_its_own_target_is_a_frozen_copy(path, settings):
    student, teacher = student_on(path), teacher_on(path)
    copied = copy.deepcopy(student).requires_grad_(False)
    only = changed(settings, dsm_weight=0.0, distance=Squared())
    clean, cond = gaussian_data(6), conditions(6)
    results = []
    for target in (student, copied):
        loss, _ = trajectory_loss(
            student, target, teacher, clean, cond, generator=generator(4), settings=only
        )
        results.append([loss, *torch.autograd.grad(loss, list(student.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_gradient_passes_through_the_input_of_the_frozen_copy():
    """By finite differences: the student's weights move, the frozen copy's do not."""
    path = KARRAS
    student, target, teacher = student_on(path, 1), student_on(path, 2), teacher_on(path)
    settings = changed(ON_KARRAS, dsm_weight=0.0, n_levels=6, distance=Squared())
    clean, cond = gaussian_data(4), conditions(4)

    def loss() -> torch.Tensor:
        return trajectory_loss(
            student, target, teacher, clean, cond, generator=generator(5), settings=settings
        )[0]

    weight = student.network.out.bias
    (gradient,) = torch.autograd.grad(loss(), [weight])
    step = torch.zeros_like(weight)
    step[3] = 1e-5
    with torch.no_grad():
        weight += step
        above = loss().item()
        weight -= 2 * step
        below = loss().item()
    assert gradient[3].item() == pytest.approx((above - below) / 2e-5, rel=1e-4)
    assert gradient[3].item() != 0.0


# --- padding, determinism, settings ---------------------------------------------------------------


@BY_PATH
def test_padded_entries_change_neither_loss_nor_gradient(path, settings):
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    student, teacher, cond = student_on(path), teacher_on(path), conditions(3)
    results = []
    for filler in (0.0, math.nan):
        clean = torch.where(mask.unsqueeze(-1), gaussian_data(3), filler)
        clean.requires_grad_()
        loss, _ = trajectory_loss(
            student,
            student,
            teacher,
            clean,
            cond,
            generator=generator(4),
            settings=settings,
            mask=mask,
        )
        gradients = torch.autograd.grad(loss, [clean, *student.parameters()])
        assert (gradients[0][~mask] == 0).all()
        results.append([loss, *gradients[1:]])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@BY_PATH
def test_the_loss_is_a_function_of_the_generator_and_the_sum_of_its_terms(path, settings):
    student, teacher = student_on(path), teacher_on(path)

    def run(seed: int, **changes):
        return trajectory_loss(
            student,
            student,
            teacher,
            gaussian_data(8),
            conditions(8),
            generator=generator(seed),
            settings=changed(settings, **changes),
        )

    loss, metrics = run(1, ctm_weight=2.0, dsm_weight=0.5)
    assert torch.equal(loss, run(1, ctm_weight=2.0, dsm_weight=0.5)[0])
    assert not torch.equal(loss, run(2, ctm_weight=2.0, dsm_weight=0.5)[0])
    total = 2.0 * metrics["ctm_loss"] + 0.5 * metrics["dsm_loss"]
    assert loss.item() == pytest.approx(total.item(), rel=1e-12)
    assert not any(value.requires_grad for value in metrics.values())


def test_default_delta_is_the_published_constant_per_entry():
    distance = TrajectoryDistillation().distance
    assert isinstance(distance, PseudoHuber)
    assert distance.delta * math.sqrt(160) == pytest.approx(0.006831, rel=1e-4)
    error = torch.randn(3, 16, 10, generator=generator(), dtype=torch.float64)
    published = (error.square().sum(dim=(1, 2)) + 0.006831**2).sqrt() - 0.006831
    assert torch.allclose(distance(error, None) * math.sqrt(160), published, rtol=1e-4)


def test_settings_are_built_from_plain_containers_and_checked():
    found = build(
        {
            "_target_": "genpolicy.losses.TrajectoryDistillation",
            "dsm_times": {"_target_": "genpolicy.losses.UniformTimes"},
            "dsm_weighting": {"_target_": "genpolicy.losses.CleanWeighting"},
        }
    )
    assert found == TrajectoryDistillation(dsm_times=UniformTimes(), dsm_weighting=CleanWeighting())
    assert TrajectoryDistillation().dsm_times == MixedTimes(
        first=KarrasTimes(sigma_min=0.02, high=0.7), second=LogNormalSigmaTimes()
    )
    for wrong in (
        {"n_levels": 1},
        {"max_teacher_levels": 0},
        {"ctm_weight": 0.0, "dsm_weight": 0.0},
        {"dsm_weight": -1.0},
    ):
        with pytest.raises(UsageError, match="expected"):
            TrajectoryDistillation(**wrong)


def test_the_trajectory_term_needs_a_teacher():
    student = student_on(KARRAS)
    with pytest.raises(UsageError, match="teacher"):
        trajectory_loss(
            student, student, None, gaussian_data(2), conditions(2), generator=generator()
        )
