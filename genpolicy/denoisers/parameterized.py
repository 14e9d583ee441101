"""A network with a path and a prediction type: the trainable posterior mean E[clean | x_t]."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from torch import nn

from genpolicy.denoisers.base import Kind
from genpolicy.denoisers.preconditioning import (
    check_sigma_data,
    edm_input,
    edm_output,
    edm_time,
)
from genpolicy.errors import UsageError, nearest
from genpolicy.paths import Path, Prediction, check_prediction, to_denoised
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["ParameterizedDenoiser", "Precondition"]

Precondition: TypeAlias = Literal["none", "edm"]


class ParameterizedDenoiser(nn.Module):
    """A network, the path it is trained on, and what its output means.

    Args:
        network: ``forward(x, time, obs)`` with x of shape ``(batch, horizon, action)`` and time
            ``(batch,)``, returning the shape of x.
        path: noising path of the training data.
        predicts: what the network predicts. ``"clean"`` under ``"edm"``, where the preconditioning
            decides it.
        precondition: ``"none"``: the network sees x_t and ``t * time_scale + time_shift``.
            ``"edm"``: it sees x_t scaled to unit size and ``250 ln(sigma/alpha)``.
        sigma_data: standard deviation of normalized actions, positive; for ``"edm"``.
        time_scale: for ``"none"``. The default suits embeddings made for 1000 diffusion steps; the
            number of levels together with ``time_shift=-1`` gives the level of a ``TabulatedPath``.
        time_shift: for ``"none"``.

    Raises:
        UsageError: when the prediction is not finite on the path, see ``check_prediction``.
    """

    kind: Kind = "posterior_mean"

    def __init__(
        self,
        *,
        network: nn.Module,
        path: Path,
        predicts: Prediction,
        precondition: Precondition = "none",
        sigma_data: float = 0.5,
        time_scale: float = 1000.0,
        time_shift: float = 0.0,
    ) -> None:
        super().__init__()
        known = get_args(Precondition)
        if precondition not in known:
            raise UsageError(
                f"ParameterizedDenoiser: precondition is {precondition!r}; "
                f"{nearest(precondition, known)}"
            )
        if precondition == "edm" and predicts != "clean":
            raise UsageError(
                f"ParameterizedDenoiser: got predicts={predicts!r} with precondition='edm', which "
                "decides itself what the network predicts; use predicts='clean'"
            )
        check_prediction(path, predicts)
        check_sigma_data("ParameterizedDenoiser", sigma_data)
        self.network = network
        self.path = path
        self.predicts: Prediction = predicts
        self.precondition: Precondition = precondition
        self.sigma_data = sigma_data
        self.time_scale = time_scale
        self.time_shift = time_shift

    def raw(self, x_t: Chunk, t: Time, cond: Cond) -> Chunk:
        """Return the network's output, which a loss compares with its target.

        Args:
            x_t: noisy actions.
            t: time of each row.
            cond: conditions, or None.

        Cost: 1 network evaluation.
        """
        seen, time = self.network_input(x_t, t)
        return self.network(seen, time, cond)

    def network_input(self, x_t: Chunk, t: Time) -> tuple[Chunk, Time]:
        """Return what the network sees of ``(x_t, t)``; the first is proportional to ``x_t``."""
        if self.precondition == "edm":
            seen = edm_input(x_t, t, path=self.path, sigma_data=self.sigma_data)
            return seen, edm_time(self.path, t)
        return x_t, t * self.time_scale + self.time_shift

    def denoised_of_raw(self, raw: Chunk, x_t: Chunk, t: Time) -> Chunk:
        """Return the denoised actions that a network output at ``(x_t, t)`` stands for.

        They are a weighted sum of both, with factors that depend on ``t`` alone.
        """
        if self.precondition == "edm":
            return edm_output(raw, x_t, t, path=self.path, sigma_data=self.sigma_data)
        return to_denoised(raw, x_t, t, path=self.path, predicts=self.predicts)

    def forward(self, x_t: Chunk, t: Time, cond: Cond) -> Chunk:
        """Return the denoised actions.

        Args:
            x_t: noisy actions.
            t: time of each row, in ``[path.t_min, path.t_max]``.
            cond: conditions, or None.

        Cost: 1 network evaluation.
        """
        return self.denoised_of_raw(self.raw(x_t, t, cond), x_t, t)
