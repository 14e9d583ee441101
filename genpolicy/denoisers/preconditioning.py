"""Scalings that keep a network's input and output near unit size at every noise level.

EDM states them for x = clean + s noise. Every path becomes that one in ``y = x/alpha`` with
``s = sigma/alpha``; the factors below are EDM's, multiplied out so that they act on x and stay
finite where alpha is 0. With ``q^2 = sigma^2 + sigma_data^2 alpha^2`` and a flow map that ends at e

    (1)  input        c_in  = 1/q
    (2)  denoiser     D = (sigma_data^2 alpha/q^2) x + (sigma sigma_data/q) F
    (3)  flow map     f = (sigma_data^2 alpha/(d^2 + sigma_data^2 alpha^2)) x + (d sigma_data/q) F
                      d = sigma - alpha sigma_e/alpha_e
    (4)  time         250 ln(sigma/alpha)

(3) is x/alpha at the end, where d = 0, whatever F is.

Source: arXiv 2206.00364 table 1 (1, 2, 4; there ln(s)/4, here times 1000, the range that
time embeddings are made for), arXiv 2303.01469 equation 5 and appendix C (3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from genpolicy.errors import UsageError
from genpolicy.paths import Path, expand_t
from genpolicy.shapes import Chunk, Time

__all__ = ["check_sigma_data", "edm_input", "edm_output", "edm_time", "flow_map_output"]

_RATIO_RANGE = (1e-4, 1e4)


def check_sigma_data(owner: str, sigma_data: float) -> None:
    """Raise ``UsageError`` unless ``sigma_data`` is positive."""
    if not sigma_data > 0.0:
        raise UsageError(f"{owner}: sigma_data is {sigma_data}, expected a positive number")


def edm_time(path: Path, t: Time) -> Time:
    """Return (4), with sigma/alpha limited to 1e-4 ... 1e4 so that it is finite on every path."""
    alpha, sigma = path.alpha_sigma(t)
    low, high = _RATIO_RANGE
    return 250.0 * (sigma / alpha).clamp(low, high).log()


def edm_input(x_t: Chunk, t: Time, *, path: Path, sigma_data: float) -> Chunk:
    """Return the network's input (1)."""
    alpha, sigma = path.alpha_sigma(t)
    return x_t / expand_t(_spread(alpha, sigma, sigma_data), x_t)


def edm_output(raw: Chunk, x_t: Chunk, t: Time, *, path: Path, sigma_data: float) -> Chunk:
    """Return the denoised action (2) of a network's output."""
    alpha, sigma = path.alpha_sigma(t)
    spread = _spread(alpha, sigma, sigma_data)
    on_x = sigma_data**2 * alpha / spread.square()
    return expand_t(on_x, x_t) * x_t + expand_t(sigma * sigma_data / spread, x_t) * raw


def flow_map_output(
    raw: Chunk, x_t: Chunk, t: Time, *, path: Path, sigma_data: float, t_end: float
) -> Chunk:
    """Return the end of the trajectory (3) of a network's output."""
    alpha, sigma = path.alpha_sigma(t)
    alpha_end, sigma_end = path.alpha_sigma(torch.full_like(t, t_end))
    # Written as a difference of two products, d is exactly 0 at t_end.
    distance = (sigma * alpha_end - alpha * sigma_end) / alpha_end
    on_x = sigma_data**2 * alpha / (distance.square() + (sigma_data * alpha).square())
    on_raw = distance * sigma_data / _spread(alpha, sigma, sigma_data)
    return expand_t(on_x, x_t) * x_t + expand_t(on_raw, x_t) * raw


def _spread(alpha: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    return (sigma.square() + (sigma_data * alpha).square()).sqrt()
