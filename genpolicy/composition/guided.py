"""Guidance by a cost: one denoiser, tilted towards chunks of low cost.

With e the noise that a denoised action D implies, x = alpha D + sigma e, the score is -e/sigma.
The target p(x) exp(-scale C(x)) adds -scale grad C to it at the clean end. At a noisy level the
cost is taken at the denoised action, which is on the data where x is not::

    annealed density      p_t(x) exp(-scale C(D(x)))                                         (1)
    "through"   D' = D - scale sigma^2/alpha   grad_x C(D(x))         the score of (1)       (2)
    "denoised"  D' = D - scale sigma^2/alpha^2 grad_D C(D)            dD/dx := 1/alpha       (3)

(2) equals D - scale Cov(clean | x) grad_D C(D), the covariance being sigma^2/alpha dD/dx; (3) puts
the level's own variance sigma^2/alpha^2 in its place. They agree at the clean end. Before it (3) is
too strong by 1 + (sigma/alpha)^2/s^2 for a policy of standard deviation s, which is often small.

What deterministic guidance does to a Gaussian policy N(m, s^2) under C = (x - q)^2/2, from
infinite noise, without limits, with a^2 = scale s^2/2 and Dawson's function F::

    target                mean m + (q - m) 2a^2/(1 + 2a^2)      std s/sqrt(1 + 2a^2)         (4)
    (2) along the ODE     mean m + (q - m) 2a F(a)              std s exp(-a^2)              (5)

(4) and (5) agree to first order in ``scale``. A large scale makes (5) too narrow: the remedy is a
corrector, or particles.

Source: PoCo, arXiv 2402.02511, behaviour level (the paper prints no such equations: (2) and (3) are
the product of densities written out); (2) is diffusion posterior sampling, arXiv 2209.14687,
without its normalisation; (5) is ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genpolicy.composition.members import Member, advance_members, check_members, coverage_of
from genpolicy.denoisers import Kind, SamplerClass, Step, Target, as_tracking, target_of
from genpolicy.errors import NumericsError, UsageError, nearest
from genpolicy.paths import Path, expand_t, log_snr
from genpolicy.shapes import Chunk, Cond, Time

__all__ = ["CostGuided", "Gradient"]

Gradient: TypeAlias = Literal["denoised", "through"]

_SLACK = 1e-4
"""Log-SNR by which a level may miss the interval: times are float32, and grids hit its ends."""


def _identity(actions: Tensor) -> Tensor:
    return actions


@dataclass(frozen=True, kw_only=True, eq=False)
class CostGuided:
    """A denoiser whose samples lean towards low cost: target p(x) exp(-scale C(x)).

    Args:
        inner: the policy, or a composition. It may follow its trajectory.
        cost: C: actions in physical units ``(batch, horizon, action)`` to ``(batch,)``,
            differentiable, row by row. See ``genpolicy.composition.costs`` and its ``bind_cost``.
        scale: how much a unit of cost counts, at least 0; 0 is ``inner`` itself. Where C is half a
            squared distance it is the precision that the cost adds, in 1/(physical unit)^2.
        to_physical: normalized to physical actions, differentiable, for example
            ``normalizer.denormalize_action``. Its Jacobian is part of the gradient.
        gradient: ``"through"``, equation (2), with a backward pass through the network, or
            ``"denoised"``, equation (3), without.
        interval: lowest and highest log-SNR, ``2 log(alpha/sigma)``, at which the guidance acts.
            The default begins where signal and noise have equal size: of 10 uniform steps the last
            5 (4 on ``CosinePath``); before it D says little. A finite upper end leaves the last
            steps alone, which suits samples that are projected onto constraints afterwards.
        max_ratio: largest change of the implied noise as a fraction of the size of noise, row by
            row: ``|e' - e| <= max_ratio sqrt(horizon action)``. None is no limit. It keeps the
            guided action as near to D as noise of the level reaches, and does not bind near the
            clean end, so the target stays. (A limit relative to |e| itself, which vanishes there,
            would change it.) Measured with 10 steps, actions N(0, s^2) and cost |x - 0.5|^2/2:
            without limit samples explode from scale s^2 = 10 on; with 1 their mean stays within
            0.1 of the target's at any scale for s = 0.3 and 0.6, and short of it for s = 0.1.

    Raises:
        UsageError: for values outside these ranges, or when ``inner`` is a consistency policy.

    Cost: what ``inner`` costs; at active levels ``"through"`` adds its backward pass.
    """

    inner: Member
    cost: Callable[[Chunk], Float[Tensor, " batch"]]
    scale: float
    to_physical: Callable[[Chunk], Chunk] = _identity
    gradient: Gradient = "through"
    interval: tuple[float, float] = (0.0, math.inf)
    max_ratio: float | None = 1.0

    def __post_init__(self) -> None:
        check_members("CostGuided", (self.inner,))
        if not 0.0 <= self.scale < math.inf:
            raise UsageError(
                f"CostGuided: scale is {self.scale}, expected a finite value of at least 0; to "
                "seek high cost, negate the cost"
            )
        if self.gradient not in get_args(Gradient):
            raise UsageError(
                f"CostGuided: gradient is {self.gradient!r}; "
                f"{nearest(self.gradient, get_args(Gradient))}"
            )
        interval = tuple(float(end) for end in self.interval)
        if len(interval) != 2 or not interval[0] < interval[1]:
            raise UsageError(
                f"CostGuided: interval is {self.interval}, expected (low, high) in log-SNR with "
                "low < high; (-math.inf, math.inf) is everywhere"
            )
        object.__setattr__(self, "interval", interval)
        if self.max_ratio is not None and not 0.0 < self.max_ratio < math.inf:
            raise UsageError(
                f"CostGuided: max_ratio is {self.max_ratio}, expected a positive number, or None "
                "for no limit"
            )

    @property
    def kind(self) -> Kind:
        """What the output means."""
        return "posterior_mean"

    @property
    def path(self) -> Path:
        """Path of the inputs."""
        return self.inner.path

    @property
    def coverage(self) -> Tensor | None:
        """Entries that ``inner`` says something about; None for all."""
        return coverage_of(self.inner)

    @property
    def target(self) -> Target:
        """The tilted density.

        MCMC corrections reach it when the guidance lasts to the clean end, where (2) and (3) are
        its score and no limit binds. Before that the levels only lead there: (2) without limit is
        the gradient of (1), whereas (3) is no gradient in general (its Jacobian is symmetric only
        where the Hessian of C commutes with dD/dx). Particles weigh any guidance.
        """
        of_inner = target_of(self.inner)
        own: tuple[SamplerClass, ...] = ("particles",)
        if self.interval[1] == math.inf:
            own = ("corrected", "particles")
        note = (
            "without correction low cost is preferred, but not in the stated proportions: samples "
            "are nearly right for a small scale and too narrow for a large one"
        )
        if of_inner is None:
            return Target(
                operator="cost_guided",
                density="p(x) exp(-scale C(x))",
                total_weight=None,
                unbiased=own,
                note=note,
            )
        return Target(
            operator=f"cost_guided {of_inner.operator}",
            density=f"({of_inner.density}) exp(-scale C(x))",
            total_weight=of_inner.total_weight,
            unbiased=tuple(sampler for sampler in own if sampler in of_inner.unbiased),
            refused=of_inner.refused,
            remedy=of_inner.remedy,
            note=f"{of_inner.note}; {note}" if of_inner.note else note,
        )

    def is_active(self, t: Time) -> Bool[Tensor, " batch"]:
        """Return the rows whose log-SNR lies in the interval; never where alpha is 0."""
        level = log_snr(self.path, t)
        low, high = self.interval
        return (level >= low - _SLACK) & (level <= high + _SLACK) & (level > -math.inf)

    def potential(self, denoised: Chunk) -> Float[Tensor, " batch"]:
        """Return ``-scale C`` of normalized denoised actions, at any level.

        Raises:
            NumericsError: where it is not finite.
        """
        return -self.scale * self._cost_of(denoised)

    def parts(
        self, x_t: Chunk, t: Time, cond: Cond, carry: Any
    ) -> tuple[Chunk, Chunk, Float[Tensor, " batch"], Any]:
        """Return what a particle filter weighs a step with.

        Args:
            x_t: noisy actions.
            t: time of each row.
            cond: conditions, or None.
            carry: of ``start`` or ``advance``.

        Returns:
            The denoised actions without and with guidance (one tensor where it acts on no row),
            the potential of the former whether active or not, and the carry for ``advance``.

        Raises:
            NumericsError: when a cost or its gradient is not finite.

        Cost: what ``denoise`` costs.
        """
        is_active = self.is_active(t)
        if not self._acts_on(is_active):
            plain, after = as_tracking(self.inner).denoise(x_t, t, cond, carry)
            return plain, plain, self.potential(plain), after
        plain, guided, cost, after = self._guide(x_t, t, cond, carry, is_active)
        return plain, guided, -self.scale * cost, after

    def __call__(self, x_t: Chunk, t: Time, cond: Cond) -> Chunk:
        """Return the guided denoised actions, of a trajectory that starts here if one is followed.

        Raises:
            NumericsError: when a cost or its gradient is not finite.
        """
        return self.denoise(x_t, t, cond, self.start(x_t, cond))[0]

    def start(self, x_init: Chunk, cond: Cond) -> Any:
        """Return the carry of ``inner``: guidance remembers nothing itself."""
        return as_tracking(self.inner).start(x_init, cond)

    def denoise(self, x_t: Chunk, t: Time, cond: Cond, carry: Any) -> tuple[Chunk, Any]:
        """Return the guided denoised actions and the carry that ``advance`` needs.

        Gradients are computed whatever mode this is called in, inference mode included; none flow
        back through the guidance.

        Raises:
            NumericsError: when a cost or its gradient is not finite.

        Cost: one evaluation of ``inner``, and its backward pass for ``"through"``.
        """
        is_active = self.is_active(t)
        if not self._acts_on(is_active):
            return as_tracking(self.inner).denoise(x_t, t, cond, carry)
        _, guided, _, after = self._guide(x_t, t, cond, carry, is_active)
        return guided, after

    def shape_noise(self, noise: Chunk, carry: Any) -> Chunk:
        """Return the noise as ``inner`` wants it."""
        return as_tracking(self.inner).shape_noise(noise, carry)

    def advance(self, carry: Any, step: Step) -> tuple[Chunk, Any]:
        """Return the state the step went to, and the carry of ``inner`` after it."""
        return step.x_s, advance_members((self.inner,), (carry,), step)[0]

    def _acts_on(self, is_active: Tensor) -> bool:
        return self.scale > 0.0 and bool(is_active.any())

    def _guide(
        self, x_t: Chunk, t: Time, cond: Cond, carry: Any, is_active: Tensor
    ) -> tuple[Chunk, Chunk, Tensor, Any]:
        """Return D, D', C(D) and the carry."""
        alpha, sigma = (expand_t(value, x_t) for value in self.path.alpha_sigma(t))
        factor = self.scale * sigma.square() / alpha
        if self.gradient == "through":
            plain, cost, gradient, after = self._through(x_t, t, cond, carry)
        else:
            plain, after = as_tracking(self.inner).denoise(x_t, t, cond, carry)
            factor = factor / alpha
            with torch.inference_mode(False), torch.enable_grad():
                leaf = _leaf(plain)
                cost = self._cost_of(leaf)
                gradient = _gradient(cost, leaf)
        _check_finite(gradient.flatten(1), "the gradient of the cost")
        shift = torch.where(expand_t(is_active, x_t) > 0, factor * gradient, 0.0)
        if self.max_ratio is not None:
            # |e' - e| = alpha |shift|/sigma, in the mean over entries.
            change = (alpha * shift).square().mean((1, 2), keepdim=True).sqrt()
            allowed = self.max_ratio * sigma
            shift = torch.where(change > allowed, allowed / change, 1.0) * shift
        return plain, plain - shift, cost.detach(), after

    def _through(
        self, x_t: Chunk, t: Time, cond: Cond, carry: Any
    ) -> tuple[Chunk, Tensor, Tensor, Any]:
        """Return D, C(D), the gradient of C(D(x)) with respect to x, and the carry."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = _leaf(x_t)
            try:
                denoised, after = as_tracking(self.inner).denoise(
                    leaf,
                    t.clone(),
                    None if cond is None else cond.clone(),
                    _map_tensors(carry, torch.clone),
                )
            except RuntimeError as error:
                if "Inference tensors" not in str(error):
                    raise
                raise UsageError(
                    "CostGuided: gradient='through' needs a network whose inputs autograd may "
                    "save, but a member holds tensors made in inference mode; make its conditions "
                    "under torch.no_grad() instead, or use gradient='denoised'"
                ) from error
            cost = self._cost_of(denoised)
            gradient = _gradient(cost, leaf)
        return denoised.detach(), cost, gradient, _map_tensors(after, torch.detach)

    def _cost_of(self, denoised: Chunk) -> Float[Tensor, " batch"]:
        cost = self.cost(self.to_physical(denoised))
        if cost.shape != denoised.shape[:1]:
            raise UsageError(
                f"CostGuided: the cost has shape {tuple(cost.shape)} for actions of shape "
                f"{tuple(denoised.shape)}, expected one value per row, ({len(denoised)},); sum "
                "over the other axes"
            )
        _check_finite(cost[:, None], "the cost")
        return cost.to(denoised.dtype)


def _leaf(x: Tensor) -> Tensor:
    """Return a copy that gradients can be taken with respect to; a copy leaves inference mode."""
    return x.clone().detach().requires_grad_()


def _gradient(cost: Tensor, leaf: Tensor) -> Tensor:
    """Return the gradient of each row's cost: rows do not mix, so that of the sum has them all."""
    if not cost.requires_grad:
        raise UsageError(
            "CostGuided: the cost is no differentiable function of the actions; write it with "
            "differentiable torch operations and without detach or no_grad"
        )
    return torch.autograd.grad(cost.sum(), leaf)[0]


def _check_finite(values: Tensor, what: str) -> None:
    is_bad = ~torch.isfinite(values).all(dim=1)
    if bool(is_bad.any()):
        rows = [int(row) for row in torch.nonzero(is_bad).flatten()]
        raise NumericsError(
            f"CostGuided: {what} is not finite in rows {rows} of {len(values)}; check the cost at "
            "these actions, lower scale or set max_ratio"
        )


def _map_tensors(carry: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a carry with ``function`` of every tensor in its tuples, lists, dicts, dataclasses."""
    if isinstance(carry, Tensor):
        return function(carry)
    if isinstance(carry, tuple):
        entries = [_map_tensors(entry, function) for entry in cast("tuple[Any, ...]", carry)]
        return tuple(entries)
    if isinstance(carry, list):
        return [_map_tensors(entry, function) for entry in cast("list[Any]", carry)]
    if isinstance(carry, dict):
        items = cast("dict[Any, Any]", carry).items()
        return {key: _map_tensors(entry, function) for key, entry in items}
    if dataclasses.is_dataclass(carry) and not isinstance(carry, type):
        changed = {
            field.name: _map_tensors(getattr(carry, field.name), function)
            for field in dataclasses.fields(carry)
            if field.init
        }
        return dataclasses.replace(carry, **changed)
    return carry
