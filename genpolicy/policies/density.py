"""The logarithm of a policy's density: exactly along its ODE, or from a scalar network.

The density of the samples of the probability-flow ODE ``dx/dt = v(x, t)`` from t_max to t_min is

    (1)  log p(x) = log N(x(t_max); 0, sigma(t_max)^2) + int_(t_min)^(t_max) div v dt

along the trajectory through x; it integrates to 1 whatever the network. A scalar network whose
gradient is the noise prediction (``EnergyMLP``) gives it up to a constant of observation and time,
without a trajectory, where it fits its data::

    (2)  log p_t(x) = g(x, t)/sigma(t) + C(obs, t)

Source: arXiv 2011.13456 section 4.3 (1); arXiv 2407.09024 equation 8 (2).
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.denoisers import Denoiser, ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.networks import EnergyMLP
from genpolicy.paths import convert, grid
from genpolicy.policies.generative import GenerativePolicy
from genpolicy.shapes import Chunk, Cond, Obs, Time

__all__ = ["energy_of", "log_density", "scalar_log_density"]


def log_density(
    policy: GenerativePolicy, obs: Obs, actions: Chunk, *, n_steps: int = 100
) -> Float[Tensor, " batch"]:
    """Return the log-density (1) of chunks under a policy, per physical unit of every entry.

    Args:
        policy: a diffusion or flow policy (limits of its sampler play no part).
        obs: by key ``(batch, n_obs_steps, *shape)``, physical units.
        actions: ``(batch, horizon, action)``, physical units.
        n_steps: steps of the integrator, at least 1; it is of order 4.

    Raises:
        UsageError: for a consistency policy, or one with constant actions, which have no density.

    Cost: ``4 n_steps`` evaluations and as many backward passes per entry of the chunk.
    """
    if policy.kind != "posterior_mean":
        raise UsageError(
            "log_density: a consistency policy has no ODE; give a diffusion or flow policy"
        )
    action = policy.normalizer.stats["action"]
    if action.is_constant.any():
        raise UsageError(
            "log_density: an action entry is constant in the data, so there is no density"
        )
    with torch.inference_mode(False):
        cond = policy.encode({key: value.clone() for key, value in obs.items()})
        x = policy.normalizer.normalize_action(actions.clone()).double()
        own = None if cond is None else cond.detach().double()
        found = _along_ode(policy.denoiser, x, own, n_steps=n_steps)
    # A density of normalized actions becomes one of physical units through their spans.
    _, _, span = action.affine()
    return found - policy.spec.horizon * float(torch.as_tensor(span).double().log().sum())


def energy_of(
    denoiser: ParameterizedDenoiser, x_t: Chunk, t: Time, cond: Cond
) -> Float[Tensor, " batch"]:
    """Return ``g/sigma`` of (2) for noisy normalized actions, with gradient.

    Raises:
        UsageError: unless the denoiser predicts noise as the gradient of a scalar network.
    """
    network = denoiser.network
    is_scalar = isinstance(network, EnergyMLP) and denoiser.predicts == "noise"
    if not is_scalar or denoiser.precondition != "none":
        raise UsageError(
            "energy_of: the policy is no gradient of a scalar network; train it with "
            "network=energy denoiser=noise"
        )
    assert isinstance(network, EnergyMLP)
    assert cond is not None
    _, sigma = denoiser.path.alpha_sigma(t)
    seen, time = denoiser.network_input(x_t, t)
    return network.energy(seen, time, cond) / sigma


def scalar_log_density(
    policy: GenerativePolicy, obs: Obs, actions: Chunk, *, t: float | None = None
) -> Float[Tensor, " batch"]:
    """Return (2) without its constant: differences within one observation are log-ratios.

    Args:
        policy: with a scalar network.
        obs: by key ``(batch, n_obs_steps, *shape)``, physical units.
        actions: ``(batch, horizon, action)``, physical units.
        t: level; None is the lowest of the path. Actions are taken as they are at that level.
    """
    denoiser = policy.denoiser
    if not isinstance(denoiser, ParameterizedDenoiser):
        raise UsageError("scalar_log_density: a consistency policy has no density")
    x = policy.normalizer.normalize_action(actions)
    level = denoiser.path.t_min if t is None else t
    return energy_of(denoiser, x, x.new_full((len(x),), level), policy.encode(obs))


def _along_ode(
    denoiser: Denoiser, x: Chunk, cond: Cond, *, n_steps: int
) -> Float[Tensor, " batch"]:
    """Return (1) for normalized actions, by the classical Runge-Kutta rule on a log-SNR grid."""
    path = denoiser.path
    times = grid(path, n_steps, "log_snr", options={})[:-1]
    levels = torch.as_tensor(times).double().flip(0).tolist()
    if len(levels) < 2:
        raise UsageError(f"log_density: n_steps is {n_steps}, expected at least 2")
    total = x.new_zeros(len(x))
    for t, s in itertools.pairwise(levels):
        h = s - t
        v1, d1 = _velocity(denoiser, x, t, cond)
        v2, d2 = _velocity(denoiser, x + 0.5 * h * v1, t + 0.5 * h, cond)
        v3, d3 = _velocity(denoiser, x + 0.5 * h * v2, t + 0.5 * h, cond)
        v4, d4 = _velocity(denoiser, x + h * v3, s, cond)
        x = x + h / 6.0 * (v1 + 2.0 * v2 + 2.0 * v3 + v4)
        total = total + h / 6.0 * (d1 + 2.0 * d2 + 2.0 * d3 + d4)
    _, sigma = path.alpha_sigma(x.new_full((1,), levels[-1]))
    n_entries = x[0].numel()
    scaled = (x / sigma).square().sum(dim=(1, 2))
    normal = -0.5 * (scaled + n_entries * math.log(2.0 * math.pi))
    return normal - n_entries * sigma.log() + total


def _velocity(denoiser: Denoiser, x: Chunk, t: float, cond: Cond) -> tuple[Chunk, Tensor]:
    """Return dx/dt and its exact divergence."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        time = leaf.new_full((len(leaf),), t)
        dtype = torch.float32 if _is_single(denoiser) else torch.float64
        clean = denoiser(leaf.to(dtype), time.to(dtype), None if cond is None else cond.to(dtype))
        velocity = convert(
            clean.to(leaf.dtype), leaf, time, path=denoiser.path, predicts="clean", to="velocity"
        )
        flat = velocity.flatten(1)
        divergence = leaf.new_zeros(len(leaf))
        for entry in range(flat.shape[1]):
            (row,) = torch.autograd.grad(flat[:, entry].sum(), leaf, retain_graph=True)
            divergence = divergence + row.flatten(1)[:, entry]
    return velocity.detach(), divergence.detach()


def _is_single(denoiser: Denoiser) -> bool:
    weights = list(getattr(denoiser, "parameters", list)())
    return bool(weights) and weights[0].dtype == torch.float32
