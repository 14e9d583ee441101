"""Consistency trajectory distillation (CTM): a student that jumps between any two noise levels.

With G(x, t, s) the student's jump from t to s < t, G_end the jump to the clean end, a bar for the
frozen copy and u the teacher's next level after t (s <= u < t)::

    (1)  ctm = distance( G_bar_end(G(x_t, t, s), s) - G_bar_end(G_bar(solve(x_t, t, u), u, s), s) )
    (2)  dsm = distance( sqrt(w(t)) (D(x_t, t) - clean) ),   D = G_end, or g(x_t, t, t)
    (3)  loss = ctm_weight ctm + dsm_weight dsm

Where gradients flow: in (1) through the student's jump, and through the *input* of the frozen copy
that carries it to the clean end, never through the copy's weights nor the right-hand side; in (2)
through the student only. The weight of (2) acts on the squared error, inside the distance.

The two choices of D differ: g(x_t, t, t), the zero-length jump's denoised action, has the posterior
mean as its right value, so the exact ODE solution minimises (1) and (2) at once. Asking G_end for
the clean action, as Consistency Policy does, pulls the one-evaluation jump towards the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from genpolicy.denoisers import Denoiser, TrajectoryDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses.consistency import noisy, root_weight
from genpolicy.losses.levels import Spacing, check_choice, level_times
from genpolicy.losses.ode import Solver, solve_ode
from genpolicy.losses.reduction import (
    Distance,
    Mask,
    PseudoHuber,
    draw_noise,
    fill_padding,
    mean_over_valid,
)
from genpolicy.losses.times import KarrasTimes, LogNormalSigmaTimes, MixedTimes, TimeSampler
from genpolicy.losses.weighting import EdmWeighting, Weighting
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["TrajectoryDistillation", "trajectory_loss"]

Metrics: TypeAlias = dict[str, Tensor]
Denoises: TypeAlias = Literal["end", "same"]


def _default_times() -> TimeSampler:
    return MixedTimes(first=KarrasTimes(sigma_min=0.02, high=0.7), second=LogNormalSigmaTimes())


@dataclass(frozen=True, kw_only=True)
class TrajectoryDistillation:
    """Settings of ``trajectory_loss``.

    The defaults are Consistency Policy's, for an EDM teacher on ``KarrasPath(sigma_min=0.02)``. For
    a flow-matching teacher on ``LinearPath`` use ``spacing="uniform"``,
    ``dsm_times=UniformTimes()`` and ``dsm_weighting=PredictionWeighting()``, which makes (2) the
    flow-matching loss of the average velocity.

    Args:
        n_levels: noise levels, at least 2.
        spacing: where the levels lie, see ``level_times``.
        max_teacher_levels: the teacher integrates over 1 to this many levels, at least 1.
        solver: of the teacher's ODE, one step per level.
        distance: between two chunks, for both terms.
        ctm_weight: factor of the trajectory term (1), at least 0; at 0 it is not computed.
        dsm_weight: factor of the denoising term (2), at least 0; at 0 it is not computed.
        dsm_times: noise levels of the denoising term.
        dsm_jump: what the denoising term trains: ``"end"`` the jump to the clean end (Consistency
            Policy), ``"same"`` the denoised action of a zero-length jump (CTM).
        dsm_weighting: weight of the denoising term by noise level; ``PredictionWeighting`` counts
            the error of the average velocity from ``x_t`` to the clean end.

    Source: arXiv 2405.07503, section III and its released settings.
    """

    n_levels: int = 80
    spacing: Spacing = "karras"
    max_teacher_levels: int = 1
    solver: Solver = "heun"
    distance: Distance = field(default_factory=PseudoHuber)
    ctm_weight: float = 1.0
    dsm_weight: float = 1.0
    dsm_jump: Denoises = "end"
    dsm_times: TimeSampler = field(default_factory=_default_times)
    dsm_weighting: Weighting = field(default_factory=EdmWeighting)

    def __post_init__(self) -> None:
        check_choice("TrajectoryDistillation", "spacing", self.spacing, Spacing)
        check_choice("TrajectoryDistillation", "solver", self.solver, Solver)
        check_choice("TrajectoryDistillation", "dsm_jump", self.dsm_jump, Denoises)
        if self.n_levels < 2 or self.max_teacher_levels < 1:
            raise UsageError(
                f"TrajectoryDistillation: got n_levels {self.n_levels} and max_teacher_levels "
                f"{self.max_teacher_levels}, expected at least 2 and 1"
            )
        if min(self.ctm_weight, self.dsm_weight) < 0 or self.ctm_weight + self.dsm_weight <= 0:
            raise UsageError(
                f"TrajectoryDistillation: got ctm_weight {self.ctm_weight} and dsm_weight "
                f"{self.dsm_weight}, expected both at least 0 and one positive"
            )


def trajectory_loss(
    student: TrajectoryDenoiser,
    target: TrajectoryDenoiser,
    teacher: Denoiser | None,
    clean: Chunk,
    cond: Cond,
    *,
    generator: torch.Generator,
    settings: TrajectoryDistillation | None = None,
    mask: Mask = None,
    teacher_cond: Cond = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the trajectory distillation loss (3) of a student that jumps between noise levels.

    Args:
        student: the map being trained.
        target: the frozen copy: an average of the student, or the student itself (averaging 0, as
            in Consistency Policy). Its weights get no gradient either way.
        teacher: ``kind="posterior_mean"``, on any path; None only where ``ctm_weight`` is 0.
        clean: normalized actions.
        cond: conditions of the student.
        generator: the only source of randomness.
        settings: None is ``TrajectoryDistillation()``.
        mask: True on valid entries of ``clean``; None when all are.
        teacher_cond: conditions of the teacher where it has its own encoder; None is ``cond``.

    Returns:
        The loss, and metrics ``loss``, ``ctm_loss`` and ``dsm_loss`` (those that are computed).

    Raises:
        UsageError: when the trajectory term is asked for without a teacher.

    Source: arXiv 2405.07503, equations 5 to 8. Differences: any path; the stop level is strictly
        below the start (equal levels add nothing); weights act inside the distance, where the
        released code squares a squared error and so weights nearly squared errors.

    Cost: student 2 with gradient; frozen copy 1 with gradient and 2 without; teacher
        ``max_teacher_levels`` (twice that with heun) without.
    """
    settings = TrajectoryDistillation() if settings is None else settings
    clean = fill_padding(clean, mask)
    terms: dict[str, Tensor] = {}
    loss = clean.new_zeros(())
    if settings.ctm_weight > 0:
        if teacher is None:
            raise UsageError(
                "trajectory_loss: got no teacher, expected one where ctm_weight is positive; pass "
                "a trained denoiser, or set ctm_weight=0"
            )
        seen = cond if teacher_cond is None else teacher_cond
        terms["ctm_loss"] = _ctm_term(
            student, target, teacher, clean, cond, seen, generator, settings, mask
        )
        loss = loss + settings.ctm_weight * terms["ctm_loss"]
    if settings.dsm_weight > 0:
        terms["dsm_loss"] = _dsm_term(student, clean, cond, generator, settings, mask)
        loss = loss + settings.dsm_weight * terms["dsm_loss"]
    metrics = {name: value.detach() for name, value in terms.items()}
    return loss, {"loss": loss.detach(), **metrics}


def _ctm_term(
    student: TrajectoryDenoiser,
    target: TrajectoryDenoiser,
    teacher: Denoiser,
    clean: Chunk,
    cond: Cond,
    teacher_cond: Cond,
    generator: torch.Generator,
    settings: TrajectoryDistillation,
    mask: Mask,
) -> Float[Tensor, ""]:
    """Return equation (1)."""
    path = student.path
    times = level_times(path, settings.n_levels, spacing=settings.spacing, t_end=student.t_end)
    table = times.to(clean)
    unit = torch.rand(3, len(clean), generator=generator, device=generator.device)
    # In float32 the product of a number below 1 and a count can round up to the count.
    unit = unit.double().to(clean.device)
    start = 1 + (unit[0] * (settings.n_levels - 1)).long()
    stop = (unit[1] * start).long()
    n_teacher = 1 + (unit[2] * (start - stop).clamp(max=settings.max_teacher_levels)).long()
    noise = draw_noise(clean, generator)
    t, s = table[start], table[stop]
    x_t = noisy(path, clean, noise, t)
    frozen = _Frozen(target)
    frozen_cond = None if cond is None else cond.detach()
    with torch.no_grad():
        x_u = x_t
        for k in range(settings.max_teacher_levels):
            now, then = (table[start - n_teacher.clamp(max=j)] for j in (k, k + 1))
            x_u = solve_ode(
                teacher, x_u, now, then, teacher_cond, path=path, solver=settings.solver
            )
        u = table[start - n_teacher]
        goal = frozen.end(frozen.jump(x_u, u, s, frozen_cond), s, frozen_cond)
    reached = frozen.end(student.jump(x_t, t, s, cond), s, frozen_cond)
    return mean_over_valid(settings.distance(reached - goal, mask), mask)


def _dsm_term(
    student: TrajectoryDenoiser,
    clean: Chunk,
    cond: Cond,
    generator: torch.Generator,
    settings: TrajectoryDistillation,
    mask: Mask,
) -> Float[Tensor, ""]:
    """Return equation (2)."""
    path = student.path
    t = settings.dsm_times.sample(len(clean), path, generator, clean.device, clean.dtype)
    t = t.clamp(min=student.t_end)
    noise = draw_noise(clean, generator)
    x_t = noisy(path, clean, noise, t)
    if settings.dsm_jump == "end":
        error = student(x_t, t, cond) - clean
    else:
        error = student.denoised(x_t, t, t, cond) - clean
    weighted = error * root_weight(settings.dsm_weighting, path, t, error)
    return mean_over_valid(settings.distance(weighted, mask), mask)


class _Jump(nn.Module):
    """``TrajectoryDenoiser.jump`` as a forward, for ``functional_call``."""

    def __init__(self, inner: TrajectoryDenoiser) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x_t: Chunk, t: Time, s: Time, cond: Cond) -> Chunk:
        return self.inner.jump(x_t, t, s, cond)


class _Frozen:
    """A denoiser whose weights are constants of the graph while its inputs are not."""

    def __init__(self, module: TrajectoryDenoiser) -> None:
        self._module, self._jump = module, _Jump(module)
        tensors = chain(module.named_parameters(), module.named_buffers())
        self._state = {name: tensor.detach() for name, tensor in tensors}
        self._jump_state = {f"inner.{name}": tensor for name, tensor in self._state.items()}

    def jump(self, x_t: Chunk, t: Time, s: Time, cond: Cond) -> Chunk:
        """Return the state at ``s``."""
        return functional_call(self._jump, self._jump_state, (x_t, t, s, cond))

    def end(self, x_t: Chunk, t: Time, cond: Cond) -> Chunk:
        """Return the action at the clean end."""
        return functional_call(self._module, self._state, (x_t, t, cond))
