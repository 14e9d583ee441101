"""The probability-flow ODE between per-row times: what a teacher does between two noise levels.

With the noise implied by a denoised action, eps = (x - alpha D)/sigma, the ODE of every path is
``dx = D dalpha + eps dsigma``. Both solvers discretise this form, so no derivative of the path
appears, nothing is singular where alpha = 0, and a step of length zero returns x exactly::

    euler   x_s = x_t + (alpha_s - alpha_t) D_t + (sigma_s - sigma_t) eps_t         (this is DDIM)
    heun    the same with the means of (D_t, eps_t) and of (D, eps) at the Euler point

On LinearPath they are the Euler and Heun steps of a velocity field, on KarrasPath those of EDM
(arXiv 2206.00364, algorithm 1). At the clean end, where sigma_s = 0 leaves eps undefined, Heun
falls back to Euler.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from genpolicy.denoisers import Denoiser
from genpolicy.errors import UsageError
from genpolicy.losses.levels import check_choice
from genpolicy.paths import Path, expand_t, log_snr
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["Solver", "ode_step", "solve_ode"]

Solver: TypeAlias = Literal["euler", "heun"]

_LOG_SNR_BOUND = 80.0


def ode_step(
    denoiser: Denoiser, x_t: Chunk, t: Time, s: Time, cond: Cond, *, solver: Solver = "heun"
) -> Chunk:
    """Take one step of the probability-flow ODE from time ``t`` to time ``s <= t``, per row.

    Args:
        denoiser: an estimate of E[clean | x_t] on its own path.
        x_t: noisy actions at ``t``.
        t: starting times.
        s: final times; 0 is the clean end. Rows with ``s == t`` are returned unchanged.
        cond: conditions.
        solver: ``"euler"`` or ``"heun"``.

    Returns:
        ``(batch, horizon, action)``: the state at ``s``.

    Cost: 1 network evaluation for euler, 2 for heun.
    """
    check_choice("ode_step", "solver", solver, Solver)
    path = denoiser.path
    alpha_t, sigma_t = (expand_t(v, x_t) for v in path.alpha_sigma(t))
    alpha_s, sigma_s = (expand_t(v, x_t) for v in path.alpha_sigma(s))
    denoised = denoiser(x_t, t.clamp(min=path.t_min), cond)
    eps = _implied_noise(x_t, denoised, alpha_t, sigma_t)
    x_s = x_t + (alpha_s - alpha_t) * denoised + (sigma_s - sigma_t) * eps
    if solver == "euler":
        return x_s
    denoised_s = denoiser(x_s, s.clamp(min=path.t_min), cond)
    eps_s = _implied_noise(x_s, denoised_s, alpha_s, sigma_s)
    mean_denoised, mean_eps = (denoised + denoised_s) / 2, (eps + eps_s) / 2
    second = x_t + (alpha_s - alpha_t) * mean_denoised + (sigma_s - sigma_t) * mean_eps
    return torch.where(sigma_s > 0, second, x_s)


def solve_ode(
    denoiser: Denoiser,
    x_t: Chunk,
    t: Time,
    s: Time,
    cond: Cond,
    *,
    path: Path,
    n_steps: int = 1,
    solver: Solver = "heun",
) -> Chunk:
    """Carry states of ``path`` from ``t`` to ``s`` with a denoiser that may live on another path.

    States are moved to the denoiser's path at equal signal to noise ratio, integrated there in
    ``n_steps`` equal steps of its time, and moved back.

    Args:
        denoiser: an estimate of E[clean | x_t], ``kind="posterior_mean"``.
        x_t: noisy actions on ``path`` at ``t``.
        t: starting times on ``path``.
        s: final times on ``path``, at most ``t`` row by row.
        cond: conditions of the denoiser.
        path: path of ``x_t``, ``t``, ``s`` and of the result.
        n_steps: at least 1.
        solver: ``"euler"`` or ``"heun"``.

    Returns:
        ``(batch, horizon, action)``: the state at ``s`` on ``path``.

    Raises:
        UsageError: for a flow map, which defines no ODE, and for ``n_steps`` below 1.

    Cost: ``n_steps`` times that of ``ode_step``.
    """
    if denoiser.kind != "posterior_mean":
        raise UsageError(
            f"solve_ode: got a denoiser of kind {denoiser.kind!r}, expected 'posterior_mean'; a "
            "teacher has to be a diffusion or flow model, or a composition of such"
        )
    if n_steps < 1:
        raise UsageError(f"solve_ode: n_steps is {n_steps}, expected at least 1")
    other = denoiser.path
    same = other == path
    start = t if same else _equal_snr_time(path, t, other)
    stop = s if same else _equal_snr_time(path, s, other)
    x = x_t if same else x_t * _scale(path, t, other, start, x_t)
    for k in range(n_steps):
        now, then = torch.lerp(start, stop, k / n_steps), torch.lerp(start, stop, (k + 1) / n_steps)
        x = ode_step(denoiser, x, now, then, cond, solver=solver)
    return x if same else x / _scale(path, s, other, stop, x)


def _implied_noise(x: Chunk, denoised: Chunk, alpha: Tensor, sigma: Tensor) -> Chunk:
    """Return ``(x - alpha*denoised)/sigma``, or 0 where sigma is 0."""
    safe = torch.where(sigma > 0, sigma, torch.ones_like(sigma))
    return torch.where(sigma > 0, (x - alpha * denoised) / safe, torch.zeros_like(x))


def _equal_snr_time(path: Path, t: Time, other: Path) -> Time:
    """Return the time of ``other`` with the same signal to noise ratio, 0 at the clean end."""
    ratio = log_snr(path, t).clamp(-_LOG_SNR_BOUND, _LOG_SNR_BOUND)
    _, sigma = path.alpha_sigma(t)
    time = other.t_of_log_snr(ratio).clamp(other.t_min, other.t_max)
    return torch.where(sigma > 0, time, torch.zeros_like(time))


def _scale(path: Path, t: Time, other: Path, u: Time, like: Chunk) -> Tensor:
    """Return the factor from a state of ``path`` at ``t`` to one of ``other`` at ``u``, equal SNR.

    It is a ratio of norms, which is alpha/alpha and sigma/sigma at once where both are defined.
    """
    alpha, sigma = path.alpha_sigma(t)
    alpha_u, sigma_u = other.alpha_sigma(u)
    return expand_t(torch.hypot(alpha_u, sigma_u) / torch.hypot(alpha, sigma), like)
