"""Everything one has to decide to sample, as a frozen value that a checkpoint can hold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import torch

from genpolicy.denoisers import Denoiser, Step, TrackingDenoiser
from genpolicy.errors import UsageError, nearest
from genpolicy.paths import Path, check_grid, grid
from genpolicy.paths.base import scalar_alpha_sigma
from genpolicy.sampling.constraints import Constraint, Pinned, chain, clip_to
from genpolicy.sampling.loop import Corrector, plan, sample
from genpolicy.sampling.noise import NoiseSource, RowNoise
from genpolicy.sampling.rules import Rule, make_rule
from genpolicy.shapes import Chunk, Cond

__all__ = ["Precision", "Sampler"]

Precision: TypeAlias = Literal["fp32", "bf16", "bf16x3"]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Rule, grid and limits of a sampler.

    Args:
        rule: name of a rule in ``genpolicy.sampling.RULES``.
        rule_options: its settings, for example ``{"eta": 0.5}`` of ``ddim``.
        n_steps: number of steps, at least 1.
        grid: where the steps lie, a name in ``genpolicy.paths.GRIDS``.
        grid_options: settings of the grid.
        times: the times themselves, strictly decreasing, ``n_steps + 1`` of them; ``grid`` is then
            not used. Sampling starts from noise of size sigma(times[0]), on a named grid of size
            sigma(t_max).
        clip: keep samples within the bounds of the normalized actions, where they have some.
        clip_denoised: with ``clip``, also limit the denoised action at every step.
        init_scale: factor of the initial noise, at least 0; Consistency Policy starts from
            ``1/sigma_max``.
        precision: of the networks' products: ``"bf16"`` rounds weights and inputs to bfloat16 and
            sums in float32, which is faster where a processor has such products. ``"bf16x3"`` is as
            exact as ``"fp32"``: where compiled operators find a matrix unit (Intel's AMX) every
            number is the sum of three of bfloat16 there, which is faster for batches of some rows
            and slower for single ones; elsewhere it is ``"fp32"``.

    Raises:
        UsageError: for unknown names or settings, and values outside these ranges.
    """

    rule: str = "ddim"
    rule_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    n_steps: int = 10
    grid: str = "uniform"
    grid_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    times: Sequence[float] | None = None
    clip: bool = True
    clip_denoised: bool = True
    init_scale: float = 1.0
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise UsageError(f"Sampler: n_steps is {self.n_steps}, expected at least 1")
        if not self.init_scale >= 0.0:
            raise UsageError(f"Sampler: init_scale is {self.init_scale}, expected at least 0")
        if self.precision not in get_args(Precision):
            raise UsageError(
                f"Sampler: precision is {self.precision!r}; "
                f"{nearest(self.precision, get_args(Precision))}"
            )
        object.__setattr__(self, "rule_options", dict(self.rule_options))
        object.__setattr__(self, "grid_options", dict(self.grid_options))
        make_rule(self.rule, self.rule_options)
        check_grid(self.grid, self.grid_options)
        if self.times is not None:
            object.__setattr__(self, "times", tuple(float(t) for t in self.times))
            if len(self.times) != self.n_steps + 1:
                raise UsageError(
                    f"Sampler: n_steps is {self.n_steps}, but times has {len(self.times)} entries, "
                    f"expected {self.n_steps + 1}; set n_steps={len(self.times) - 1}, or times=None"
                )

    @functools.cached_property
    def bound_rule(self) -> Rule:
        """The rule with its settings."""
        return make_rule(self.rule, self.rule_options)

    def times_on(self, path: Path) -> tuple[float, ...]:
        """Return the times of this sampler on a path.

        Raises:
            UsageError: when the grid does not fit the path.
        """
        if self.times is not None:
            return tuple(self.times)
        return _grid(path, self.n_steps, self.grid, tuple(sorted(self.grid_options.items())))

    def nfe(self, path: Path) -> int:
        """Return the number of network evaluations of one run on ``path``."""
        steps = plan(self.bound_rule, path, self.times_on(path))
        return sum(1 if step.stage is None else 2 for step in steps)

    def run(
        self,
        denoiser: Denoiser | TrackingDenoiser,
        cond: Cond,
        *,
        seeds: Sequence[int],
        horizon: int,
        action_dim: int,
        bounds: tuple[float, float] | None = None,
        pinned: Pinned | None = None,
        correct: Corrector | None = None,
        on_step: Callable[[Step], None] | None = None,
        proposal: Chunk | None = None,
        like: torch.Tensor | None = None,
        noise: NoiseSource | None = None,
    ) -> Chunk:
        """Sample one chunk per seed, in normalized units.

        Args:
            denoiser: what is sampled from.
            cond: conditions, one row per seed; its dtype and device are those of the sample.
            seeds: one integer per row.
            horizon: actions per chunk.
            action_dim: entries per action.
            bounds: smallest and largest normalized action; None when there are none.
            pinned: known entries; its noise is the initial noise where it is None.
            correct: corrector, see ``sample``.
            on_step: callback, see ``sample``.
            proposal: clean chunks to start from, noised to the first of ``times``; None starts
                from noise alone.
            like: gives dtype and device where ``cond`` is None; None is float32 on the host.
            noise: where the noise comes from; None makes it of ``seeds``, which are otherwise not
                used.

        Returns:
            ``(batch, horizon, action_dim)``, one row per seed or per row of ``noise``.

        Raises:
            UsageError: when seeds and conditions differ in number, or the settings do not fit the
                denoiser.

        Cost: ``nfe(denoiser.path)`` network evaluations.
        """
        if cond is not None and noise is None and len(cond) != len(seeds):
            raise UsageError(
                f"Sampler.run: got {len(seeds)} seeds for {len(cond)} conditions, expected as many"
            )
        reference = torch.empty(0) if like is None else like
        if cond is not None:
            reference = cond
        path = denoiser.path
        times = self.times_on(path)
        if noise is None:
            noise = RowNoise(
                seeds, (horizon, action_dim), device=reference.device, dtype=reference.dtype
            )
        first = noise.draw(0)
        start = path.t_max if self.times is None else times[0]
        alpha, sigma = scalar_alpha_sigma(path, start)
        x_init = self.init_scale * sigma * first
        if proposal is not None:
            x_init = alpha * proposal + x_init
        limits: list[Constraint] = []
        if self.clip and bounds is not None:
            limits.append(clip_to(bounds, every_step=self.clip_denoised))
        if pinned is not None:
            known = pinned if pinned.noise is not None else replace(pinned, noise=first)
            limits.append(Constraint(pinned=known))
        is_low = self.precision == "bf16"
        with torch.autocast(reference.device.type, torch.bfloat16, enabled=is_low):
            return sample(
                denoiser,
                x_init,
                times,
                cond,
                rule=self.bound_rule,
                noise=noise,
                constrain=chain(*limits),
                correct=correct,
                on_step=on_step,
            )


@functools.lru_cache(maxsize=256)
def _grid(
    path: Path, n_steps: int, kind: str, options: tuple[tuple[str, Any], ...]
) -> tuple[float, ...]:
    times = grid(path, n_steps, kind, options=dict(options))
    return tuple(t.item() for t in times)
