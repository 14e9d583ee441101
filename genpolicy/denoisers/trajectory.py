"""Consistency trajectory functions: jumps between any two times of a trajectory.

    (1)  G(x_t, t, s) = (sigma_s/sigma_t) x_t + (alpha_s - alpha_t sigma_s/sigma_t) g(x_t, t, s)

is a DDIM step whose denoised action g knows where the step goes. G(x, t, t) = x whatever g is, and
g(x_t, t, t) is the posterior mean, which is what its denoising loss trains.
"""

from __future__ import annotations

import torch
from torch import nn

from genpolicy.denoisers.base import Kind
from genpolicy.denoisers.flow_map import check_end
from genpolicy.denoisers.preconditioning import (
    check_sigma_data,
    edm_input,
    edm_output,
    edm_time,
)
from genpolicy.paths import Path, expand_t
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["TrajectoryDenoiser"]


class TrajectoryDenoiser(nn.Module):
    """A network that jumps from any time to any earlier one; as a denoiser, to the clean end.

    Args:
        network: ``forward(x, time, obs)`` with time ``(batch, 2)``: the times of start and end,
            each as ``250 ln(sigma/alpha)``. Build it with ``n_times=2``.
        path: noising path.
        sigma_data: standard deviation of normalized actions, positive.
        t_end: time of the clean end, in ``[path.t_min, path.t_max)``; None is ``path.t_min``.

    Raises:
        UsageError: for values outside these ranges.

    Source: arXiv 2310.02279 equations 6 and 7, arXiv 2405.07503 (as a policy). There alpha = 1.
    """

    kind: Kind = "flow_map"

    def __init__(
        self,
        *,
        network: nn.Module,
        path: Path,
        sigma_data: float = 0.5,
        t_end: float | None = None,
    ) -> None:
        super().__init__()
        check_sigma_data("TrajectoryDenoiser", sigma_data)
        self.network = network
        self.path = path
        self.sigma_data = sigma_data
        self.t_end = check_end("TrajectoryDenoiser", path, t_end)

    def denoised(self, x_t: Chunk, t: Time, s: Time, cond: Cond) -> Chunk:
        """Return g of (1); with ``s == t`` the posterior mean at ``t``.

        Args:
            x_t: noisy actions.
            t: time of each row.
            s: time each row would jump to.
            cond: conditions, or None.

        Cost: 1 network evaluation.
        """
        times = torch.stack([edm_time(self.path, t), edm_time(self.path, s)], dim=-1)
        scaled = edm_input(x_t, t, path=self.path, sigma_data=self.sigma_data)
        raw = self.network(scaled, times, cond)
        return edm_output(raw, x_t, t, path=self.path, sigma_data=self.sigma_data)

    def jump(self, x_t: Chunk, t: Time, s: Time, cond: Cond) -> Chunk:
        """Return the state at ``s`` of the trajectory through ``x_t``, equation (1).

        Args:
            x_t: noisy actions.
            t: time of each row, where sigma is positive unless ``s`` equals it.
            s: time each row jumps to, at most ``t``. Rows with ``s == t`` return x_t exactly.
            cond: conditions, or None.

        Cost: 1 network evaluation.
        """
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.path.alpha_sigma(t), self.path.alpha_sigma(s)
        keep = torch.where(s == t, torch.ones_like(sigma_t), sigma_s / sigma_t)
        inner = self.denoised(x_t, t, s, cond)
        return expand_t(keep, x_t) * x_t + expand_t(alpha_s - alpha_t * keep, x_t) * inner

    def forward(self, x_t: Chunk, t: Time, cond: Cond) -> Chunk:
        """Return the action at the end of the trajectory through ``x_t``.

        Args:
            x_t: noisy actions.
            t: time of each row, in ``[t_end, path.t_max]``.
            cond: conditions, or None.

        Cost: 1 network evaluation.
        """
        end = torch.full_like(t, self.t_end)
        alpha_end, _ = self.path.alpha_sigma(end)
        return self.jump(x_t, t, end, cond) / expand_t(alpha_end, x_t)
