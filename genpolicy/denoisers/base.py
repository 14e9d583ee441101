"""The two contracts of everything that denoises: networks, compositions and guides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from genpolicy.paths import Path
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["Denoiser", "Kind", "Step", "TrackingDenoiser", "Untracked", "as_tracking"]

Kind: TypeAlias = Literal["posterior_mean", "flow_map"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One finished step of the sampling loop, as seen by trackers and callbacks.

    Args:
        index: number of the step, from 0.
        n_steps: number of steps of the run.
        t: time the step started from.
        s: time it went to.
        x_t: state at ``t``.
        x_s: state at ``s``, pinned and corrected.
        denoised: the denoised action at ``t``, clipped.
        noise: standard normal noise that the step added; None for a deterministic step.
    """

    index: int
    n_steps: int
    t: float
    s: float
    x_t: Chunk
    x_s: Chunk
    denoised: Chunk
    noise: Chunk | None


@runtime_checkable
class Denoiser(Protocol):
    """Maps noisy actions to clean ones.

    Attributes:
        path: the path its inputs lie on.
        kind: ``"posterior_mean"``: E[clean | x_t], which has a score and can be composed.
            ``"flow_map"``: the end of the ODE trajectory through x_t (a consistency function),
            which has none.
    """

    @property
    def path(self) -> Path:
        """Path of the inputs."""
        ...

    @property
    def kind(self) -> Kind:
        """What the output means."""
        ...

    def __call__(self, x_t: Chunk, t: Time, cond: Cond) -> Chunk:
        """Return the denoised actions.

        Args:
            x_t: noisy actions.
            t: time of each row, in ``[path.t_min, path.t_max]``.
            cond: conditions, or None.

        Returns:
            ``(batch, horizon, action)``. Row ``i`` depends on row ``i`` of the arguments only.
        """
        ...


@runtime_checkable
class TrackingDenoiser(Protocol):
    """A denoiser whose answer depends on the trajectory so far, for example on its log-density.

    What it remembers is an argument and a result (the carry), never an attribute, so one object
    serves any number of runs at once.

    Attributes:
        path: the path its inputs lie on.
        kind: as of ``Denoiser``.
    """

    @property
    def path(self) -> Path:
        """Path of the inputs."""
        ...

    @property
    def kind(self) -> Kind:
        """What the output means."""
        ...

    def start(self, x_init: Chunk, cond: Cond) -> Any:
        """Return the carry of a trajectory that starts at ``x_init``."""
        ...

    def denoise(self, x_t: Chunk, t: Time, cond: Cond, carry: Any) -> tuple[Chunk, Any]:
        """Return the denoised actions and the carry that ``advance`` needs."""
        ...

    def advance(self, carry: Any, step: Step) -> Any:
        """Return the carry after a step was taken."""
        ...


@dataclass(frozen=True)
class Untracked:
    """A plain denoiser as a tracking one: the carry stays None.

    Args:
        inner: the denoiser.
    """

    inner: Denoiser

    @property
    def path(self) -> Path:
        """Path of the inputs."""
        return self.inner.path

    @property
    def kind(self) -> Kind:
        """What the output means."""
        return self.inner.kind

    def start(self, x_init: Chunk, cond: Cond) -> None:
        """Return None: there is nothing to remember."""
        return None

    def denoise(self, x_t: Chunk, t: Time, cond: Cond, carry: None) -> tuple[Chunk, None]:
        """Return the denoised actions and None."""
        return self.inner(x_t, t, cond), None

    def advance(self, carry: None, step: Step) -> None:
        """Return None."""
        return None


def as_tracking(denoiser: Denoiser | TrackingDenoiser) -> TrackingDenoiser:
    """Return ``denoiser`` itself when it tracks its trajectory, and otherwise lift it."""
    return denoiser if isinstance(denoiser, TrackingDenoiser) else Untracked(denoiser)
