r"""One set of coordinates for members that were trained in different ones.

A member knows its path (alpha_i, sigma_i) and units; a composition runs on one path (alpha, sigma).
With ``physical = o + c x`` in either's units, one ratio ``r = c_i/c`` for all entries, and offsets
``d = (o - o_i)/c_i``, clean actions are related by ``x_i = x/r + d``, and so are noisy ones where
the noise of both is the same::

    (1)  sigma_i/alpha_i = sigma/(alpha r)                     fixes the member's time
    (2)  x_i = (sigma_i/sigma) x + alpha_i d                   what the member sees
    (3)  D = r (D_i - d)                                       what it answers

The noise that a member implies is the same number on every path (arXiv 2510.01068 appendix G), so
that linear combinations of members are linear combinations of their scores.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genpolicy.composition.members import Member
from genpolicy.denoisers import Kind, Step, Target, TrackingDenoiser, as_tracking, target_of
from genpolicy.errors import UsageError
from genpolicy.paths import Path, expand_t
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["LARGEST_SIGMA", "OnPath", "Part", "Restricted", "common_path", "on_path"]

LARGEST_SIGMA = 80.0
"""Where a composition starts whose weights do not sum to 1: it needs some signal to divide by."""

_TOLERANCE = 1e-4
_MOVES = "{name} moves the state between steps and cannot be a member; make it the outermost one"


@dataclass(frozen=True, kw_only=True)
class Restricted:
    """A path of which only a part is used.

    Args:
        inner: the path.
        t_min: smallest time of a network evaluation, at least ``inner.t_min``.
        t_max: largest one, at most ``inner.t_max``.

    Raises:
        UsageError: for times outside the path's.
    """

    inner: Path
    t_min: float
    t_max: float

    def __post_init__(self) -> None:
        if not self.inner.t_min <= self.t_min < self.t_max <= self.inner.t_max:
            raise UsageError(
                f"Restricted: got t_min {self.t_min} and t_max {self.t_max}, expected "
                f"{self.inner.t_min} <= t_min < t_max <= {self.inner.t_max}"
            )

    def alpha_sigma(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return alpha(t) and sigma(t)."""
        return self.inner.alpha_sigma(t)

    def derivatives(
        self, t: Float[Tensor, "*shape"]
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Return d alpha/dt and d sigma/dt."""
        return self.inner.derivatives(t)

    def t_of_log_snr(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time of a log-SNR."""
        return self.inner.t_of_log_snr(log_snr)


def common_path(
    reference: Path, members: Sequence[tuple[Path, float]], *, largest_sigma: float | None = None
) -> Path:
    """Return the part of a path on which every member can be asked.

    Args:
        reference: the path to run on.
        members: path and ratio ``r`` of (1) of each member.
        largest_sigma: upper limit of sigma/alpha; None sets none.

    Returns:
        ``reference`` itself where all of it can be used.

    Raises:
        UsageError: when the members' levels do not overlap.
    """
    noisy, clean = _levels(reference)
    for path, ratio in members:
        start, end = _levels(path)
        noisy = max(noisy, start - 2.0 * math.log(ratio))
        clean = min(clean, end - 2.0 * math.log(ratio))
    if largest_sigma is not None:
        noisy = max(noisy, -2.0 * math.log(largest_sigma))
    if not noisy < clean:
        raise UsageError(
            "the members' noise levels do not overlap: nothing between log-SNR "
            f"{noisy:.2f} and {clean:.2f} is known to all of them"
        )
    own_noisy, own_clean = _levels(reference)
    t_max = reference.t_max if noisy <= own_noisy else _time_of(reference, noisy)
    t_min = reference.t_min if clean >= own_clean else _time_of(reference, clean)
    if (t_min, t_max) == (reference.t_min, reference.t_max):
        return reference
    inner = reference.inner if isinstance(reference, Restricted) else reference
    return Restricted(inner=inner, t_min=t_min, t_max=t_max)


def on_path(
    member: Member,
    path: Path,
    *,
    ratio: float = 1.0,
    offset: Float[Tensor, " action"] | None = None,
) -> Member:
    """Return a member as a denoiser on another path, and in other units where they are given.

    Args:
        member: the denoiser.
        path: the path to run on; its levels have to be known to the member, see ``common_path``.
        ratio: ``r`` of (1).
        offset: ``d`` of (2); None is 0.

    Returns:
        The member itself when nothing changes.

    Raises:
        UsageError: when a level of ``path`` is outside the member's.
    """
    if ratio == 1.0 and offset is None and member.path == path:
        return member
    return OnPath(inner=member, path=path, ratio=ratio, offset=offset)


@dataclass(frozen=True, kw_only=True, eq=False)
class OnPath:
    """A denoiser on another path and in other units, by (1) to (3); see ``on_path``."""

    inner: Member
    path: Path
    ratio: float = 1.0
    offset: Float[Tensor, " action"] | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < math.inf:
            raise UsageError(f"on_path: ratio is {self.ratio}, expected a positive number")
        noisy, clean = _levels(self.path)
        start, end = _levels(self.inner.path)
        shift = 2.0 * math.log(self.ratio)
        if noisy + shift < start - _TOLERANCE or clean + shift > end + _TOLERANCE:
            raise UsageError(
                f"on_path: the path has log-SNR {noisy:.2f} to {clean:.2f}, the member knows "
                f"{start - shift:.2f} to {end - shift:.2f}; run on common_path(path, members)"
            )

    @property
    def kind(self) -> Kind:
        """What the output means."""
        return self.inner.kind

    @property
    def target(self) -> Target | None:
        """What the member is meant to sample; None for a trained one."""
        return target_of(self.inner)

    @property
    def coverage(self) -> Bool[Tensor, "horizon action"] | None:
        """Entries that the member says something about."""
        return getattr(self.inner, "coverage", None)

    def start(self, x_init: Chunk, cond: Cond) -> Any:
        """Return the member's carry, for the state as the member sees it at ``path.t_max``."""
        t = x_init.new_full((len(x_init),), self.path.t_max)
        return as_tracking(self.inner).start(self._seen(x_init, t)[0], cond)

    def denoise(self, x_t: Chunk, t: Time, cond: Cond, carry: Any) -> tuple[Chunk, Any]:
        """Return the denoised actions in the units of the composition, and the member's carry."""
        seen, time = self._seen(x_t, t)
        denoised, after = as_tracking(self.inner).denoise(seen, time, cond, carry)
        return self._answer(denoised), after

    def __call__(self, x_t: Chunk, t: Time, cond: Cond = None) -> Chunk:
        """Return the denoised actions in the units of the composition."""
        seen, time = self._seen(x_t, t)
        tracked = as_tracking(self.inner)
        return self._answer(tracked.denoise(seen, time, cond, tracked.start(seen, cond))[0])

    def shape_noise(self, noise: Chunk, carry: Any) -> Chunk:
        """Return the noise as it is: only the outermost denoiser shapes it."""
        return noise

    def advance(self, carry: Any, step: Step) -> tuple[Chunk, Any]:
        """Return the state, and the member's carry after the step as the member sees it."""
        if not isinstance(self.inner, TrackingDenoiser):
            return step.x_s, carry
        n_rows = len(step.x_t)
        before, t = self._seen(step.x_t, step.x_t.new_full((n_rows,), step.t))
        after, s = self._seen(step.x_s, step.x_s.new_full((n_rows,), step.s))
        denoised = step.denoised / self.ratio + (0.0 if self.offset is None else self.offset)
        seen = replace(step, t=float(t[0]), s=float(s[0]), x_t=before, x_s=after, denoised=denoised)
        moved, carried = self.inner.advance(carry, seen)
        if moved is not after:
            raise UsageError(_MOVES.format(name=type(self.inner).__name__))
        return step.x_s, carried

    def matched(self, t: float) -> tuple[float, float, float]:
        """Return the member's time (1) at ``t``, the factor of x in (2), and the member's alpha."""
        return _matched_scalar(self.path, self.inner.path, self.ratio, t)

    def _seen(self, x: Chunk, t: Time) -> tuple[Chunk, Time]:
        """Return (2) and the member's time (1)."""
        if t.device.type == "cpu" and len(t) and bool((t == t[0]).all()):
            time, scale, alpha = self.matched(t[0].item())
            seen = x if scale == 1.0 else x * scale
            if self.offset is not None:
                seen = seen + alpha * self.offset.to(x.dtype)
            return seen, t.new_full(t.shape, time)
        time, scale, alpha = _matched(self.path, self.inner.path, self.ratio, t.double())
        seen = x * expand_t(scale, x)
        if self.offset is not None:
            seen = seen + expand_t(alpha, x) * self.offset.to(x.device, x.dtype)
        return seen, time.to(t.dtype)

    def _answer(self, denoised: Chunk) -> Chunk:
        """Return (3)."""
        if self.offset is not None:
            denoised = denoised - self.offset.to(denoised.device, denoised.dtype)
        return denoised if self.ratio == 1.0 else denoised * self.ratio


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A denoiser of a part of the chunk: a shorter horizon, or some of the action's entries.

    Args:
        inner: the denoiser of the part.
        horizon: actions of the whole chunk.
        action_dim: entries of a whole action.
        first: action of the whole chunk that is the part's first.
        steps: actions of the part.
        dims: entries of the whole action that are the part's, in its order.

    Raises:
        UsageError: when the part does not lie in the whole.
    """

    inner: Member
    horizon: int
    action_dim: int
    first: int
    steps: int
    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        fits = self.first >= 0 and self.steps >= 1 and self.first + self.steps <= self.horizon
        proper = len(set(self.dims)) == len(self.dims) and all(
            0 <= d < self.action_dim for d in self.dims
        )
        if not fits or not proper:
            raise UsageError(
                f"Part: steps {self.first} to {self.first + self.steps - 1} and entries "
                f"{self.dims} of a chunk of {self.horizon} x {self.action_dim}, expected a part of "
                "it with distinct entries"
            )

    @property
    def path(self) -> Path:
        """Path of the inputs."""
        return self.inner.path

    @property
    def kind(self) -> Kind:
        """What the output means."""
        return self.inner.kind

    @property
    def target(self) -> Target | None:
        """What the member is meant to sample; None for a trained one."""
        return target_of(self.inner)

    @functools.cached_property
    def coverage(self) -> Bool[Tensor, "horizon action"]:
        """True for the entries of the part."""
        mask = torch.zeros(self.horizon, self.action_dim, dtype=torch.bool)
        mask[self.first : self.first + self.steps, list(self.dims)] = True
        return mask

    def start(self, x_init: Chunk, cond: Cond) -> Any:
        """Return the member's carry for its part of the state."""
        return as_tracking(self.inner).start(self._seen(x_init), cond)

    def denoise(self, x_t: Chunk, t: Time, cond: Cond, carry: Any) -> tuple[Chunk, Any]:
        """Return the denoised actions of the part, zeros elsewhere, and the member's carry."""
        denoised, after = as_tracking(self.inner).denoise(self._seen(x_t), t, cond, carry)
        return self._whole(denoised, x_t), after

    def __call__(self, x_t: Chunk, t: Time, cond: Cond = None) -> Chunk:
        """Return the denoised actions of the part, and zeros elsewhere."""
        return self.denoise(x_t, t, cond, self.start(x_t, cond))[0]

    def shape_noise(self, noise: Chunk, carry: Any) -> Chunk:
        """Return the noise as it is: only the outermost denoiser shapes it."""
        return noise

    def advance(self, carry: Any, step: Step) -> tuple[Chunk, Any]:
        """Return the state, and the member's carry after its part of the step."""
        noise = None if step.noise is None else self._seen(step.noise)
        after = self._seen(step.x_s)
        seen = replace(
            step,
            x_t=self._seen(step.x_t),
            x_s=after,
            denoised=self._seen(step.denoised),
            noise=noise,
        )
        moved, carried = as_tracking(self.inner).advance(carry, seen)
        if moved is not after:
            raise UsageError(_MOVES.format(name=type(self.inner).__name__))
        return step.x_s, carried

    def _seen(self, x: Chunk) -> Chunk:
        part = x[:, self.first : self.first + self.steps]
        return part[..., list(self.dims)].contiguous()

    def _whole(self, part: Chunk, like: Chunk) -> Chunk:
        whole = torch.zeros_like(like)
        whole[:, self.first : self.first + self.steps, list(self.dims)] = part.to(like.dtype)
        return whole


def _levels(path: Path) -> tuple[float, float]:
    """Return the log-SNR at ``t_max`` and at ``t_min``."""
    alpha, sigma = path.alpha_sigma(torch.tensor([path.t_max, path.t_min], dtype=torch.float64))
    noisy, clean = 2.0 * (alpha.log() - sigma.log())
    return noisy.item(), clean.item()


def _time_of(path: Path, log_snr: float) -> float:
    value = torch.tensor(log_snr, dtype=torch.float64)
    return min(max(path.t_of_log_snr(value).item(), path.t_min), path.t_max)


def _matched(path: Path, inner: Path, ratio: float, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the member's time (1), the factor sigma_i/sigma of (2), and alpha_i."""
    alpha, sigma = path.alpha_sigma(t)
    level = 2.0 * (alpha.log() - sigma.log()) + 2.0 * math.log(ratio)
    # At the ends of the path t_of_log_snr needs finite levels; the member's limits are exact there.
    noisy, clean = _levels(inner)
    inside = inner.t_of_log_snr(level.clamp(-1e3, 1e3)).clamp(inner.t_min, inner.t_max)
    time = torch.where(level <= noisy, torch.full_like(inside, inner.t_max), inside)
    time = torch.where(level >= max(clean, 1e3), torch.full_like(inside, inner.t_min), time)
    alpha_i, sigma_i = inner.alpha_sigma(time)
    # At the clean end sigma is 0 on both paths, and (2) is x/r + d.
    by_noise = sigma_i / sigma
    scale = torch.where(sigma > 0, by_noise, alpha_i / (alpha * ratio))
    return time, scale, alpha_i


@functools.lru_cache(maxsize=4096)
def _matched_scalar(path: Path, inner: Path, ratio: float, t: float) -> tuple[float, float, float]:
    time, scale, alpha = _matched(path, inner, ratio, torch.tensor(t, dtype=torch.float64))
    return time.item(), scale.item(), alpha.item()
