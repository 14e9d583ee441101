"""Consistency functions: networks that return the end of the ODE trajectory through x_t."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from torch import nn

from genpolicy.denoisers.base import Kind
from genpolicy.denoisers.preconditioning import (
    check_sigma_data,
    edm_input,
    edm_time,
    flow_map_output,
)
from genpolicy.errors import UsageError, nearest
from genpolicy.paths import LinearPath, Path, expand_t
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["Boundary", "FlowMapDenoiser", "check_end"]

Boundary: TypeAlias = Literal["edm", "linear", "none"]


class FlowMapDenoiser(nn.Module):
    """A network made to satisfy ``f(x, t_end) = x/alpha(t_end)``, whatever its weights.

    (Without a boundary it is any map from noise to actions, in one step.)

    Args:
        network: ``forward(x, time, obs)`` as for ``ParameterizedDenoiser``.
        path: noising path.
        sigma_data: standard deviation of normalized actions, positive; for ``"edm"``.
        t_end: time at which trajectories end, in ``[path.t_min, path.t_max)``; None is
            ``path.t_min``.
        boundary: ``"edm"``: the factors of consistency models in the coordinates x/alpha and
            sigma/alpha, on any path. The network sees what it sees in a ``ParameterizedDenoiser``
            with ``precondition="edm"``, so it can start from such a teacher's weights.
            ``"linear"``, on LinearPath: ``f = (x - (t - t_end) F)/(1 - t_end)``, one Euler step of
            a velocity network, whose weights it can start from.
            ``"none"``: the network's output is the action. It is trained and evaluated at
            ``path.t_max`` alone: one-step policies of offline RL, deterministic ones included,
            which start from noise of size 0 (``sampler.init_scale=0``).
        time_scale: for ``"linear"`` and ``"none"``: the network's time is ``t * time_scale``.

    Raises:
        UsageError: for values outside these ranges.

    Source: arXiv 2303.01469 equation 5 (edm).
    """

    kind: Kind = "flow_map"

    def __init__(
        self,
        *,
        network: nn.Module,
        path: Path,
        sigma_data: float = 0.5,
        t_end: float | None = None,
        boundary: Boundary = "edm",
        time_scale: float = 1000.0,
    ) -> None:
        super().__init__()
        known = get_args(Boundary)
        if boundary not in known:
            raise UsageError(
                f"FlowMapDenoiser: boundary is {boundary!r}; {nearest(boundary, known)}"
            )
        if boundary == "linear" and not isinstance(path, LinearPath):
            raise UsageError(
                f"FlowMapDenoiser: boundary 'linear' needs LinearPath, got {type(path).__name__}; "
                "use boundary='edm'"
            )
        check_sigma_data("FlowMapDenoiser", sigma_data)
        self.network = network
        self.path = path
        self.sigma_data = sigma_data
        self.t_end = check_end("FlowMapDenoiser", path, t_end)
        self.boundary: Boundary = boundary
        self.time_scale = time_scale

    def forward(self, x_t: Chunk, t: Time, cond: Cond) -> Chunk:
        """Return the action at the end of the trajectory through ``x_t``.

        Args:
            x_t: noisy actions.
            t: time of each row, in ``[t_end, path.t_max]``.
            cond: conditions, or None.

        Cost: 1 network evaluation.
        """
        seen, time = self.network_input(x_t, t)
        return self.denoised_of_raw(self.network(seen, time, cond), x_t, t)

    def network_input(self, x_t: Chunk, t: Time) -> tuple[Chunk, Time]:
        """Return what the network sees of ``(x_t, t)``; the first is proportional to ``x_t``."""
        if self.boundary != "edm":
            return x_t, t * self.time_scale
        seen = edm_input(x_t, t, path=self.path, sigma_data=self.sigma_data)
        return seen, edm_time(self.path, t)

    def denoised_of_raw(self, raw: Chunk, x_t: Chunk, t: Time) -> Chunk:
        """Return the action that a network output at ``(x_t, t)`` stands for.

        It is a weighted sum of both, with factors that depend on ``t`` alone.
        """
        if self.boundary == "none":
            return raw
        if self.boundary == "linear":
            return (x_t - expand_t(t - self.t_end, x_t) * raw) / (1.0 - self.t_end)
        return flow_map_output(
            raw, x_t, t, path=self.path, sigma_data=self.sigma_data, t_end=self.t_end
        )


def check_end(owner: str, path: Path, t_end: float | None) -> float:
    """Return ``t_end``, or ``path.t_min`` for None.

    Raises:
        UsageError: unless it lies in ``[path.t_min, path.t_max)``.
    """
    end = path.t_min if t_end is None else float(t_end)
    if not path.t_min <= end < path.t_max:
        raise UsageError(
            f"{owner}: t_end is {t_end}, expected a time in [{path.t_min:g}, {path.t_max:g}) on "
            f"{type(path).__name__}"
        )
    return end
