"""What a noising path is, and the two helpers every formula is written with.

    (1)  x_t = alpha(t) clean + sigma(t) noise,   noise ~ N(0, I)
    (2)  log_snr(t) = 2 log(alpha(t) / sigma(t))

Time runs from 0 (clean) to 1 (noise) on every path. At ``t = 0`` alpha is 1 and sigma is 0 exactly,
so the last entry of a sampling grid can be the clean end itself; networks are only asked inside
``[t_min, t_max]``.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.errors import UsageError

__all__ = ["Path", "expand_t", "log_snr"]


@runtime_checkable
class Path(Protocol):
    """A Gaussian noising path (1): a frozen, hashable dataclass of plain numbers.

    Methods take times of any shape and floating dtype and return that shape and dtype.
    """

    @property
    def t_min(self) -> float:
        """Smallest time at which a network is evaluated, in ``[0, t_max)``."""
        ...

    @property
    def t_max(self) -> float:
        """Largest time at which a network is evaluated, in ``(t_min, 1]``; sampling starts here."""
        ...

    def alpha_sigma(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return alpha(t) and sigma(t) of (1)."""
        ...

    def derivatives(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return d alpha/dt and d sigma/dt."""
        ...

    def t_of_log_snr(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time at which (2) takes the given finite value.

        The result is not limited to ``[t_min, t_max]``: a caller that meets a level outside it
        decides what that means.
        """
        ...


def log_snr(path: Path, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return ``2 log(alpha/sigma)``: +inf at the clean end, -inf where alpha is 0."""
    alpha, sigma = path.alpha_sigma(t)
    return 2.0 * (alpha.log() - sigma.log())


def expand_t(value: Tensor, like: Tensor) -> Tensor:
    """Shape per-row values so that they multiply rows of ``like``: the only place that reshapes.

    Args:
        value: ``(batch,)`` or a scalar.
        like: ``(batch, ...)``.

    Returns:
        ``(batch, 1, ..., 1)``, or the scalar, in the dtype of ``like``.

    Raises:
        UsageError: when there is not one value per row.
    """
    if value.ndim == 0:
        return value.to(like.dtype)
    if value.ndim != 1 or value.shape[0] != like.shape[0]:
        raise UsageError(
            f"expand_t: got values of shape {tuple(value.shape)} for data of shape "
            f"{tuple(like.shape)}; expected one value per row, shape ({like.shape[0]},)"
        )
    return value.to(like.dtype).reshape(-1, *(1,) * (like.ndim - 1))


def check_range(owner: str, t_min: float, t_max: float) -> None:
    """Raise ``UsageError`` unless ``0 <= t_min < t_max <= 1``."""
    if not 0.0 <= t_min < t_max <= 1.0:
        raise UsageError(
            f"{owner}: got t_min {t_min} and t_max {t_max}, expected 0 <= t_min < t_max <= 1 "
            "(t = 0 is clean, t = 1 is noise)"
        )


def scalar_alpha_sigma(path: Path, t: float) -> tuple[float, float]:
    """Return alpha and sigma at one time as Python floats, computed in float64 on the host."""
    alpha, sigma = path.alpha_sigma(torch.tensor(t, dtype=torch.float64))
    return alpha.item(), sigma.item()
