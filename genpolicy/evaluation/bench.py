"""Benchmarks of a policy: the same calls answered by torch and by compiled operators.

Backends take turns of some milliseconds in one process, so that what else the machine does hits all
of them alike; ratios of medians are what to quote, never times of different runs.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from genpolicy.denoisers import FlowMapDenoiser, ParameterizedDenoiser
from genpolicy.errors import UsageError, nearest
from genpolicy.evaluation.latency import processor_name
from genpolicy.evaluation.plot_style import (
    LIGHT,
    WIDTH,
    add_legend,
    add_title,
    new_figure,
    style_axis,
)
from genpolicy.evaluation.records import align_columns
from genpolicy.ops import backend as operators
from genpolicy.ops import peak_gflops
from genpolicy.policies.compiled import compiled_sampler, why_not_compiled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genpolicy.policies.denoising import DenoisingPolicy

__all__ = ["BACKENDS", "Bench", "BenchRow", "bench", "plot_bench"]

BACKENDS = ("reference", "compile", "native")
"""torch as it is; its networks through ``torch.compile``; compiled operators."""

_TURN_S = 0.02


@dataclass(frozen=True)
class BenchRow:
    """Timings of one backend at one batch size.

    Args:
        backend: one of ``BACKENDS``.
        batch: rows of one call.
        p50_s: median time of a call, in seconds.
        p99_s: time that 99% of the calls stay under.
        actions_per_s: executed actions per second at the median.
        over_native: median over that of ``native``; None where that was not measured.
        share_of_peak: operations of the backend's own matrix products per second, over what the
            threads do at most; None where that was not measured. Compiled operators make fewer:
            what depends on time or observations alone is computed once.
        n: timed calls.
    """

    backend: str
    batch: int
    p50_s: float
    p99_s: float
    actions_per_s: float
    over_native: float | None
    share_of_peak: float | None
    n: int


@dataclass(frozen=True)
class Bench:
    """Timings of a policy on one machine.

    Args:
        rows: by batch size and backend.
        left_out: why backends were not measured, by backend.
        processor: name of the device.
        n_threads: threads that torch may use.
        flops_per_row: floating-point operations of the matrix products of one row, by backend.
        peak_gflops: what one core does at most, measured; None without compiled operators.
        operators: which implementation of the operators there is.
        nfe: network evaluations per chunk.
    """

    rows: tuple[BenchRow, ...]
    left_out: dict[str, str]
    processor: str
    n_threads: int
    flops_per_row: dict[str, int]
    peak_gflops: float | None
    operators: str
    nfe: int

    def to_json(self) -> dict[str, Any]:
        """Return plain containers."""
        return {**vars(self), "rows": [vars(row) for row in self.rows]}

    def __str__(self) -> str:
        """Return a table, and what it has to be quoted with."""
        table = [["batch", "backend", "p50 ms", "p99 ms", "actions/s", "x native", "of peak"]]
        for row in self.rows:
            over = "" if row.over_native is None else f"{row.over_native:.2f}"
            share = "" if row.share_of_peak is None else f"{100 * row.share_of_peak:.1f}%"
            times = [f"{1e3 * row.p50_s:.3f}", f"{1e3 * row.p99_s:.3f}"]
            rate = f"{row.actions_per_s:,.0f}"
            table.append([str(row.batch), row.backend, *times, rate, over, share])
        costs = ", ".join(f"{1e-6 * n:.2f} MFLOP {name}" for name, n in self.flops_per_row.items())
        peak = "not measured" if self.peak_gflops is None else f"{self.peak_gflops:.0f} GFLOP/s"
        facts = [
            ["device", f"{self.processor}, {self.n_threads} threads; peak of one core {peak}"],
            ["operators", self.operators],
            ["cost", f"{self.nfe} evaluations; per row {costs}"],
        ]
        facts += [[f"no {name}", reason] for name, reason in self.left_out.items()]
        return align_columns(table, right=(0, 2, 3, 4, 5, 6)) + "\n\n" + align_columns(facts)


def bench(
    policy: DenoisingPolicy,
    *,
    batch_sizes: Sequence[int] = (1, 16, 256),
    backends: Sequence[str] = ("reference", "native"),
    seconds: float = 2.0,
) -> Bench:
    """Time ``policy.sample`` on random observations.

    Args:
        policy: what to time. Its torch backends work on all rows of a call at once, which is their
            fastest way; ``policy.sample`` itself works in blocks of ``rows_per_block``.
        batch_sizes: rows per call, each at least 1.
        backends: of ``BACKENDS``.
        seconds: spent on each batch size, shared by the backends.

    Raises:
        UsageError: for unknown backends, or sizes that are not positive.
    """
    unknown = [name for name in backends if name not in BACKENDS]
    if unknown:
        raise UsageError(f"bench: backend is {unknown[0]!r}; {nearest(unknown[0], BACKENDS)}")
    if not backends or not batch_sizes or min(batch_sizes) < 1 or seconds <= 0.0:
        raise UsageError(
            f"bench: got batch sizes {list(batch_sizes)}, backends {list(backends)} and {seconds} "
            "seconds; expected at least one of each, sizes of at least 1 and a positive time"
        )
    left_out: dict[str, str] = {}
    if "native" in backends and why_not_compiled(policy):
        left_out["native"] = why_not_compiled(policy)
    used = [name for name in backends if name not in left_out]
    if not used:
        raise UsageError(f"bench: nothing is left to time: {left_out['native']}")
    flops = {name: _flops(policy, name) for name in used}
    peak = _peak(policy)
    rows: list[BenchRow] = []
    for batch in batch_sizes:
        rows += _rows(policy, batch, used, seconds, flops=flops, peak=peak)
    return Bench(
        rows=tuple(rows),
        left_out=left_out,
        processor=processor_name(policy.device),
        n_threads=torch.get_num_threads(),
        flops_per_row=flops,
        peak_gflops=peak,
        operators=operators().reason,
        nfe=policy.nfe,
    )


def plot_bench(result: Bench) -> Figure:
    """Draw executed actions per second against the batch size."""
    figure = new_figure(WIDTH, 0.65 * WIDTH, LIGHT)
    axis = figure.subplots()
    for name, color in zip(BACKENDS, LIGHT.colors, strict=False):
        own = [row for row in result.rows if row.backend == name]
        if own:
            rates = [row.actions_per_s for row in own]
            axis.plot([row.batch for row in own], rates, "o-", color=color, label=name)
    axis.set(xscale="log", yscale="log", xlabel="rows per call", ylabel="actions per second")
    style_axis(axis, LIGHT)
    add_legend(axis, LIGHT)
    add_title(axis, result.processor, LIGHT)
    return figure


def _rows(
    policy: DenoisingPolicy,
    batch: int,
    backends: Sequence[str],
    seconds: float,
    *,
    flops: dict[str, int],
    peak: float | None,
) -> list[BenchRow]:
    generator = torch.Generator().manual_seed(batch)
    obs = {
        key: torch.rand(value.shape, generator=generator).to(value)
        for key, value in policy.spec.blank_obs(batch, device=policy.device).items()
    }
    made = {name: _prepared(policy, name, batch) for name in backends}
    times: dict[str, list[float]] = {name: [] for name in backends}

    def call(name: str) -> float:
        seeds = range(len(times[name]), len(times[name]) + batch)
        start = time.perf_counter()
        made[name].sample(obs, seeds=seeds).cpu()  # waits for the device
        return time.perf_counter() - start

    for name in backends:
        with _mode(name):
            call(name)
    end = time.perf_counter() + seconds
    n_turns = 0
    while time.perf_counter() < end or n_turns < 3:
        n_turns += 1
        for name in backends:
            with _mode(name):
                call(name)  # finds the caches as another backend left them
                stop = time.perf_counter() + _TURN_S
                while True:
                    times[name].append(call(name))
                    if time.perf_counter() > stop:
                        break
    rows: list[BenchRow] = []
    middle = {name: _quantile(found, 0.5) for name, found in times.items()}
    for name, found in times.items():
        rate = flops[name] * batch / middle[name] / 1e9
        limit = None if peak is None else peak * torch.get_num_threads()
        rows.append(
            BenchRow(
                backend=name,
                batch=batch,
                p50_s=middle[name],
                p99_s=_quantile(found, 0.99),
                actions_per_s=batch * policy.spec.n_action_steps / middle[name],
                over_native=middle[name] / middle["native"] if "native" in middle else None,
                share_of_peak=None if limit is None else rate / limit,
                n=len(found),
            )
        )
    return rows


def _prepared(policy: DenoisingPolicy, backend: str, batch: int) -> DenoisingPolicy:
    """Return a copy of the policy for a backend."""
    if backend == "native":
        return policy
    made = copy.deepcopy(policy)
    made.rows_per_block = batch
    if backend == "compile":
        for module in made.modules():
            if isinstance(module, ParameterizedDenoiser | FlowMapDenoiser):
                module.network.compile(dynamic=False)
    return made


@contextmanager
def _mode(backend: str) -> Iterator[None]:
    """Let one backend answer for a while."""
    before = os.environ.get("GENPOLICY_EXT")
    os.environ["GENPOLICY_EXT"] = "auto" if backend == "native" else "off"
    try:
        yield
    finally:
        if before is None:
            del os.environ["GENPOLICY_EXT"]
        else:
            os.environ["GENPOLICY_EXT"] = before


def _flops(policy: DenoisingPolicy, backend: str) -> int:
    """Return the operations of the matrix products of one row."""
    if backend == "native":
        return compiled_sampler(policy).flops
    made = copy.deepcopy(policy)
    made.rows_per_block = 1
    with _mode("reference"), FlopCounterMode(display=False) as counter:
        made.sample(made.spec.blank_obs(1, device=made.device), seeds=[0])
    return counter.get_total_flops()


def _peak(policy: DenoisingPolicy) -> float | None:
    """Return what one core of this machine does at most; None where that is not known."""
    return peak_gflops() if policy.device.type == "cpu" else None


def _quantile(times: Sequence[float], share: float) -> float:
    return float(torch.tensor(times, dtype=torch.float64).quantile(share))
