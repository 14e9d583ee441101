"""Consistency losses: a flow map trained without a teacher (CT) or from one (CD).

A flow map f(x_t, t) returns the end of the ODE trajectory through x_t. Both losses compare the
student at a noise level with a frozen target at a lower level of the same trajectory::

    (1)  loss = distance( f(x_t, t) - stop_gradient f_target(x_s, s) ),   s < t
    (2)  training:      x_s = alpha_s clean + sigma_s noise, the noise that also made x_t
    (3)  distillation:  x_s = solution at s of the teacher's ODE started from (x_t, t)

At the lowest level f is the identity up to scale, which is where the chain of targets is anchored.
Everything is written in alpha and sigma, so any path serves; the noise levels of the papers are
s = sigma/alpha and their states x/alpha.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.denoisers import Denoiser
from genpolicy.errors import UsageError
from genpolicy.losses.levels import (
    ConstantCurriculum,
    Curriculum,
    Spacing,
    check_choice,
    draw_levels,
    level_times,
    lognormal_probabilities,
)
from genpolicy.losses.ode import Solver, solve_ode
from genpolicy.losses.reduction import (
    Distance,
    Mask,
    Squared,
    draw_noise,
    fill_padding,
    mean_over_valid,
)
from genpolicy.losses.weighting import CleanWeighting, Weighting, prediction_gain
from genpolicy.paths import Path, expand_t
from genpolicy.shapes import Chunk, Cond, Time

__all__ = [
    "ConsistencyDistillation",
    "ConsistencyTraining",
    "FlowMap",
    "consistency_distillation_loss",
    "consistency_training_loss",
]

PairIndex: TypeAlias = Literal["uniform", "lognormal"]
PairWeight: TypeAlias = Literal["uniform", "inverse_sigma_gap", "inverse_time_gap"]
Metrics: TypeAlias = dict[str, Tensor]

_SMALLEST_SIGMA = 1e-5


@runtime_checkable
class FlowMap(Protocol):
    """A denoiser that returns the end of the trajectory: ``kind == "flow_map"``.

    Attributes:
        path: path of its inputs.
        t_end: time of the end, where the map is ``x/alpha``.
    """

    path: Path
    t_end: float

    def __call__(self, x_t: Chunk, t: Time, cond: Cond) -> Chunk:
        """Return the action at the end of the trajectory through ``x_t``."""
        ...


@dataclass(frozen=True, kw_only=True)
class ConsistencyTraining:
    """Settings of ``consistency_training_loss``.

    The defaults are plain consistency training. Consistency-AC uses a ``SquareRootCurriculum``,
    ``weighting="inverse_sigma_gap"`` and ``gap_scale=100``; improved consistency training a
    ``DoublingCurriculum``, ``pairs="lognormal"``, ``weighting="inverse_sigma_gap"``,
    ``distance=PseudoHuber()`` and the student itself as target.

    Args:
        curriculum: number of noise levels by training step.
        spacing: where the levels lie, see ``level_times``.
        pairs: which pair of adjacent levels a row trains: ``"uniform"``, or ``"lognormal"`` in s
            with the two parameters below.
        log_sigma_mean: mean of log s for lognormal pairs.
        log_sigma_std: standard deviation of log s for lognormal pairs, positive.
        weighting: factor of a pair: 1, or ``gap_scale`` over its distance in s or in t. The first
            is zero for a pair that reaches alpha = 0; use the second on LinearPath.
        gap_scale: see ``weighting``, positive.
        distance: between the two chunks.

    Source: arXiv 2309.16984 (constants), arXiv 2310.14189 (improved training).
    """

    curriculum: Curriculum = field(default_factory=ConstantCurriculum)
    spacing: Spacing = "karras"
    pairs: PairIndex = "uniform"
    log_sigma_mean: float = -1.1
    log_sigma_std: float = 2.0
    weighting: PairWeight = "uniform"
    gap_scale: float = 1.0
    distance: Distance = field(default_factory=Squared)

    def __post_init__(self) -> None:
        check_choice("ConsistencyTraining", "spacing", self.spacing, Spacing)
        check_choice("ConsistencyTraining", "pairs", self.pairs, PairIndex)
        check_choice("ConsistencyTraining", "weighting", self.weighting, PairWeight)
        if not (self.log_sigma_std > 0 and self.gap_scale > 0):
            raise UsageError(
                f"ConsistencyTraining: got log_sigma_std {self.log_sigma_std} and gap_scale "
                f"{self.gap_scale}, expected both positive"
            )


def consistency_training_loss(
    student: FlowMap,
    target: FlowMap,
    clean: Chunk,
    cond: Cond,
    *,
    step: int,
    generator: torch.Generator,
    settings: ConsistencyTraining | None = None,
    mask: Mask = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the consistency training loss, equations (1) and (2): no teacher is needed.

    Args:
        student: the flow map being trained.
        target: frozen here whatever its parameters say: an averaged copy, or the student itself.
        clean: normalized actions.
        cond: conditions.
        step: optimizer steps since the start of the whole run; it selects the number of levels.
        generator: the only source of randomness.
        settings: None is ``ConsistencyTraining()``.
        mask: True on valid entries of ``clean``; None when all are.

    Returns:
        The loss, and metrics ``loss``, ``n_levels`` and ``consistency_error`` (mean squared
        difference of the two maps, unweighted).

    Source: arXiv 2303.01469, algorithm 3. Differences: any path, padding.

    Cost: 1 evaluation of the student with gradient and 1 of the target without.
    """
    settings = ConsistencyTraining() if settings is None else settings
    path = student.path
    clean = fill_padding(clean, mask)
    n_levels = settings.curriculum.n_levels(step)
    times = level_times(path, n_levels, spacing=settings.spacing, t_end=student.t_end)
    alphas, sigmas = path.alpha_sigma(times)
    ratios = sigmas / alphas
    if settings.pairs == "lognormal":
        chances = lognormal_probabilities(
            ratios, mean=settings.log_sigma_mean, std=settings.log_sigma_std
        )
    else:
        chances = torch.full((n_levels - 1,), 1.0 / (n_levels - 1), dtype=torch.float64)
    lower = draw_levels(chances, len(clean), generator).to(clean.device)
    noise = draw_noise(clean, generator)
    table = times.to(clean)
    t, s = table[lower + 1], table[lower]
    with torch.no_grad():
        goal = target(noisy(path, clean, noise, s), s, cond)
    error = student(noisy(path, clean, noise, t), t, cond) - goal
    per_row = settings.distance(error, mask)
    if settings.weighting != "uniform":
        levels = ratios if settings.weighting == "inverse_sigma_gap" else times
        per_row = per_row * (settings.gap_scale / levels.diff()).to(clean)[lower]
    loss = mean_over_valid(per_row, mask)
    return loss, _metrics(loss, error, mask, n_levels)


@dataclass(frozen=True, kw_only=True)
class ConsistencyDistillation:
    """Settings of ``consistency_distillation_loss``.

    The defaults distil a flow-matching teacher on LinearPath into ``FlowMapDenoiser(boundary=
    "linear")`` started from the teacher's weights. Why they are what they are:

    - Levels uniform in t. On LinearPath f and its targets stay as large as actions are at every
      level, pure noise at t = 1 included, where s = sigma/alpha is infinite: no level needs a
      factor to stay finite.
    - A long jump. The student's target is its own value ``jump`` levels lower, so what it gets
      wrong there is handed up a chain of ``(n_levels - 1)/jump`` links to t = 1. With 4 of 10
      the chain has three, and two rows in five are compared with the end of the teacher's own
      trajectory. ``jump >= n_levels - 1`` is regression on the teacher's samples: no chain, and
      more teacher evaluations per row. ``jump = 1`` is the loss of the paper.
    - Two Heun steps per jump, of 0.2 each: as many teacher evaluations as Euler steps of 0.1, the
      teacher's usual ten-step sampler, and closer to its ODE. The jump and its substeps set the
      accuracy of the target, the number of levels only says where the student is trained.
    - Weight 1 on the squared error of f. Errors of f shrink with t by construction; weights that
      make up for it (``PredictionWeighting`` is 1/t^2, the error of the average velocity) spend
      capacity where the student is nearly exact already. ``MinSnrWeighting`` is 0 at t = 1, where
      sampling starts: never use it here.
    - The student as its own frozen target: with so short a chain an average only lags behind.

    Args:
        n_levels: noise levels from ``t_end`` to ``t_max``, at least 2. Times at which the policy
            is sampled should be among them: the default has the multiples of 0.1.
        jump: levels between a row's start and the level of its target, at least 1; rows that start
            lower go to the last level.
        spacing: where the levels lie; ``"karras"`` for a student on KarrasPath.
        solver: of the teacher's ODE.
        n_solver_steps: equal steps, in the teacher's time, per jump; at least 1.
        weighting: weight on the squared error of f by start level, inside the distance.
        distance: between the two chunks. ``PseudoHuber(delta=0.03)`` limits what rows near the
            border between two modes contribute.

    Source: arXiv 2303.01469, algorithm 2 (there jump = 1); longer jumps as in arXiv 2310.02279.
    """

    n_levels: int = 11
    jump: int = 4
    spacing: Spacing = "uniform"
    solver: Solver = "heun"
    n_solver_steps: int = 2
    weighting: Weighting = field(default_factory=CleanWeighting)
    distance: Distance = field(default_factory=Squared)

    def __post_init__(self) -> None:
        check_choice("ConsistencyDistillation", "spacing", self.spacing, Spacing)
        check_choice("ConsistencyDistillation", "solver", self.solver, Solver)
        if self.n_levels < 2 or self.jump < 1 or self.n_solver_steps < 1:
            raise UsageError(
                f"ConsistencyDistillation: got n_levels {self.n_levels}, jump {self.jump} and "
                f"n_solver_steps {self.n_solver_steps}, expected at least 2, 1 and 1"
            )


def consistency_distillation_loss(
    student: FlowMap,
    target: FlowMap,
    teacher: Denoiser,
    clean: Chunk,
    cond: Cond,
    *,
    generator: torch.Generator,
    settings: ConsistencyDistillation | None = None,
    mask: Mask = None,
    teacher_cond: Cond = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the consistency distillation loss, equations (1) and (3).

    Args:
        student: the flow map being trained, on any path.
        target: frozen here whatever its parameters say: an averaged copy, or the student itself.
        teacher: ``kind="posterior_mean"``, of any prediction type and on any path; frozen here.
        clean: normalized actions.
        cond: conditions of the student.
        generator: the only source of randomness.
        settings: None is ``ConsistencyDistillation()``.
        mask: True on valid entries of ``clean``; None when all are.
        teacher_cond: conditions of the teacher where it has its own encoder; None is ``cond``.

    Returns:
        The loss, and metrics ``loss``, ``n_levels`` and ``consistency_error`` (mean squared
        difference of the two maps, unweighted).

    Raises:
        UsageError: for a teacher that is a flow map, or levels that the path does not allow.

    Source: arXiv 2303.01469, algorithm 2. Differences: any path, longer jumps, padding.

    Cost: 1 evaluation of the student with gradient; without, 1 of the target and
        ``n_solver_steps`` of the teacher (twice that with heun).
    """
    settings = ConsistencyDistillation() if settings is None else settings
    path = student.path
    clean = fill_padding(clean, mask)
    n_levels = settings.n_levels
    table = level_times(path, n_levels, spacing=settings.spacing, t_end=student.t_end).to(clean)
    upper = 1 + draw_levels(torch.ones(n_levels - 1), len(clean), generator).to(clean.device)
    noise = draw_noise(clean, generator)
    t, s = table[upper], table[(upper - settings.jump).clamp(min=0)]
    x_t = noisy(path, clean, noise, t)
    with torch.no_grad():
        x_s = solve_ode(
            teacher,
            x_t,
            t,
            s,
            cond if teacher_cond is None else teacher_cond,
            path=path,
            n_steps=settings.n_solver_steps,
            solver=settings.solver,
        )
        goal = target(x_s, s, cond)
    error = student(x_t, t, cond) - goal
    per_row = settings.distance(error * root_weight(settings.weighting, path, t, error), mask)
    loss = mean_over_valid(per_row, mask)
    return loss, _metrics(loss, error, mask, n_levels)


def noisy(path: Path, clean: Chunk, noise: Chunk, t: Time) -> Chunk:
    """Return ``alpha clean + sigma noise``."""
    alpha, sigma = path.alpha_sigma(t)
    return expand_t(alpha, clean) * clean + expand_t(sigma, clean) * noise


def root_weight(weighting: Weighting, path: Path, t: Time, like: Chunk) -> Tensor:
    """Return the factor of an error whose square is the weight of a squared denoised error.

    ``PredictionWeighting`` is that of a velocity. Errors at the clean end are 0 by construction;
    the lower limit of sigma keeps their weight finite.
    """
    alpha, sigma = path.alpha_sigma(t)
    scaled = weighting.scaled(alpha, sigma, prediction_gain(path, t, "velocity"))
    return expand_t(scaled.sqrt() / sigma.clamp(min=_SMALLEST_SIGMA), like)


def _metrics(loss: Tensor, error: Chunk, mask: Mask, n_levels: int) -> Metrics:
    return {
        "loss": loss.detach(),
        "consistency_error": mean_over_valid(Squared()(error.detach(), mask), mask),
        "n_levels": torch.tensor(float(n_levels)),
    }
