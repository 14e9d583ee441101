"""What a sample has to satisfy: stay within bounds, agree with known entries.

A constraint is data, not code, so that a kernel can apply it inside the step. A projection of the
denoised action that these two cannot express is a denoiser wrapped around another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from genpolicy.errors import UsageError, nearest
from genpolicy.paths import Path
from genpolicy.paths.base import scalar_alpha_sigma
from genpolicy.shapes import Chunk

__all__ = ["Constraint", "PinMode", "Pinned", "chain", "clip_to", "pin"]

PinMode: TypeAlias = Literal["noised", "clean"]


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """Entries of the sample that are known.

    Args:
        values: their clean, normalized values; other entries are not read.
        mask: True where they are known.
        mode: ``"noised"``: the state holds ``alpha values + sigma noise`` there, as a sample of
            them would at that time. ``"clean"``: it holds the values themselves at every time, for
            models trained with clean conditions in the chunk (arXiv 2205.09991).
        noise: for ``"noised"``: one standard normal draw, used at every time.

    Raises:
        UsageError: for an unknown mode, shapes that differ, or missing noise.
    """

    values: Chunk
    mask: Bool[Tensor, "batch horizon action"]
    mode: PinMode = "noised"
    noise: Chunk | None = None

    def __post_init__(self) -> None:
        known = get_args(PinMode)
        if self.mode not in known:
            raise UsageError(f"pin: mode is {self.mode!r}; {nearest(self.mode, known)}")
        if self.values.shape != self.mask.shape:
            raise UsageError(
                f"pin: values have shape {tuple(self.values.shape)} and the mask "
                f"{tuple(self.mask.shape)}, expected the same"
            )

    def at(self, path: Path, t: float) -> Chunk:
        """Return what the known entries of the state are at time ``t``."""
        if self.mode == "clean":
            return self.values
        if self.noise is None:
            raise UsageError("pin: mode 'noised' needs noise=..., got None")
        alpha, sigma = scalar_alpha_sigma(path, t)
        return alpha * self.values + sigma * self.noise


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """Bounds and known entries, both optional.

    Args:
        bounds: smallest and largest value of a clean entry; None does not limit.
        clip_denoised: limit the denoised action at every step as well as the sample.
        pinned: known entries.
    """

    bounds: tuple[float, float] | None = None
    clip_denoised: bool = True
    pinned: Pinned | None = None

    @property
    def step_bounds(self) -> tuple[float, float] | tuple[None, None]:
        """Limits of the denoised action inside a step."""
        return self.bounds if self.bounds is not None and self.clip_denoised else (None, None)

    def state_at(self, path: Path, t: float) -> tuple[Chunk | None, Tensor | None]:
        """Return the values of the known entries at time ``t`` and their mask."""
        if self.pinned is None:
            return None, None
        return self.pinned.at(path, t), self.pinned.mask

    def pin_state(self, x: Chunk, path: Path, t: float) -> Chunk:
        """Return ``x`` with the known entries set."""
        values, mask = self.state_at(path, t)
        return x if values is None or mask is None else torch.where(mask, values, x)

    def clip_denoised_action(self, denoised: Chunk) -> Chunk:
        """Return what a step makes of the denoised action."""
        lo, hi = self.step_bounds
        return denoised if lo is None else denoised.clamp(lo, hi)

    def finish(self, x: Chunk, path: Path, t: float) -> Chunk:
        """Return the sample: within bounds, with the known entries set."""
        clipped = x if self.bounds is None else x.clamp(*self.bounds)
        return self.pin_state(clipped, path, t)


def clip_to(bounds: tuple[float, float], *, every_step: bool = True) -> Constraint:
    """Return the constraint that samples lie within ``bounds``.

    Args:
        bounds: smallest and largest value, in normalized units.
        every_step: also limit the denoised action at every step. That helps few-step samplers at
            high noise and narrows data close to the bounds; False limits the sample alone.

    Raises:
        UsageError: unless the first bound is below the second.
    """
    low, high = bounds
    if not low < high:
        raise UsageError(f"clip_to: bounds are {bounds}, expected the first below the second")
    return Constraint(bounds=(float(low), float(high)), clip_denoised=every_step)


def pin(
    values: Chunk,
    mask: Bool[Tensor, "batch horizon action"],
    *,
    mode: PinMode = "noised",
    noise: Chunk | None = None,
) -> Constraint:
    """Return the constraint that some entries are known, see ``Pinned``."""
    pinned = Pinned(values=values, mask=mask, mode=mode, noise=noise)
    if mode == "noised" and noise is None:
        raise UsageError("pin: mode 'noised' needs noise=..., for example the initial noise")
    return Constraint(pinned=pinned)


def chain(*constraints: Constraint) -> Constraint:
    """Return the constraint that all of ``constraints`` hold.

    Raises:
        UsageError: when more than one of them sets bounds, or more than one pins.
    """
    bounded = [c for c in constraints if c.bounds is not None]
    pinning = [c for c in constraints if c.pinned is not None]
    if len(bounded) > 1:
        raise UsageError(f"chain: got bounds {[c.bounds for c in bounded]}, expected at most one")
    if len(pinning) > 1:
        raise UsageError(
            f"chain: got {len(pinning)} constraints that pin, expected at most one; merge their "
            "values and masks"
        )
    return Constraint(
        bounds=bounded[0].bounds if bounded else None,
        clip_denoised=bounded[0].clip_denoised if bounded else True,
        pinned=pinning[0].pinned if pinning else None,
    )
