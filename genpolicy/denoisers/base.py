"""The two contracts of everything that denoises: networks, compositions and guides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from genpolicy.ops import Parts
from genpolicy.paths import Path
from genpolicy.shapes import Chunk, Cond, Time

__all__ = [
    "Bound",
    "Denoiser",
    "Kind",
    "SamplerClass",
    "Step",
    "SummedDenoiser",
    "Target",
    "TrackingDenoiser",
    "Untracked",
    "as_tracking",
    "target_of",
]

Kind: TypeAlias = Literal["posterior_mean", "flow_map"]

SamplerClass: TypeAlias = Literal["ode", "sde", "corrected", "particles"]
"""Deterministic rules; rules that add noise; either with MCMC steps; weighted particles."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Which density a composition is meant to sample, and which samplers do.

    Args:
        operator: name of the operator, for example ``"product"``.
        density: the density at the clean end, as a formula.
        total_weight: sum of the weights of the scores; None where they vary with the state.
        unbiased: samplers whose error vanishes with small steps and many corrections or particles.
        refused: samplers that are so far off that using them is a mistake.
        remedy: what to do instead of a refused one.
        note: when the others are nearly right, in one sentence.
    """

    operator: str
    density: str
    total_weight: float | None
    unbiased: tuple[SamplerClass, ...]
    refused: tuple[SamplerClass, ...] = ()
    remedy: str = ""
    note: str = ""


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
        noise: noise that the step added, before ``c_noise``; None for a deterministic step.
        c_denoised: factor of the denoised action in the step.
        c_noise: factor of the noise; 0 for a deterministic step.
    """

    index: int
    n_steps: int
    t: float
    s: float
    x_t: Chunk
    x_s: Chunk
    denoised: Chunk
    noise: Chunk | None
    c_denoised: float = 0.0
    c_noise: float = 0.0


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

    def shape_noise(self, noise: Chunk, carry: Any) -> Chunk:
        """Return the noise that the step adds, for standard normal ``noise``.

        Called after ``denoise`` of the step, and only where the rule adds noise.
        """
        ...

    def advance(self, carry: Any, step: Step) -> tuple[Chunk, Any]:
        """Return the state to go on from, usually ``step.x_s``, and the carry after the step."""
        ...


@runtime_checkable
class SummedDenoiser(Denoiser, Protocol):
    """A denoiser that can return its sum in parts, for steps that add them up themselves."""

    def in_parts(self, x_t: Chunk, t: Time) -> Parts:
        """Return the denoised actions as a sum; its condition is its own."""
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

    def shape_noise(self, noise: Chunk, carry: None) -> Chunk:
        """Return the noise as it is."""
        return noise

    def advance(self, carry: None, step: Step) -> tuple[Chunk, None]:
        """Return the state the step went to, and None."""
        return step.x_s, None


@dataclass(frozen=True, eq=False)
class Bound:
    """A denoiser with its condition: it ignores the condition it is called with.

    Members of a composition see different observations, so each brings its own condition.

    Args:
        inner: the denoiser.
        own: its condition, one row per row of the samples.
    """

    inner: Denoiser
    own: Cond

    @property
    def path(self) -> Path:
        """Path of the inputs."""
        return self.inner.path

    @property
    def kind(self) -> Kind:
        """What the output means."""
        return self.inner.kind

    def __call__(self, x_t: Chunk, t: Time, cond: Cond = None) -> Chunk:
        """Return the denoised actions at the own condition."""
        return self.inner(x_t, t, self.own)


def target_of(denoiser: Denoiser | TrackingDenoiser) -> Target | None:
    """Return the ``target`` of a composition; None for a trained denoiser, which is its own."""
    found = getattr(denoiser, "target", None)
    return found if isinstance(found, Target) else None


def as_tracking(denoiser: Denoiser | TrackingDenoiser) -> TrackingDenoiser:
    """Return ``denoiser`` itself when it tracks its trajectory, and otherwise lift it."""
    return denoiser if isinstance(denoiser, TrackingDenoiser) else Untracked(denoiser)
