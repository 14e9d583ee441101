"""How long a policy takes: per chunk, and per executed action."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from genpolicy.errors import UsageError
from genpolicy.evaluation.identity import identify_policy
from genpolicy.evaluation.records import align_columns, count
from genpolicy.seeding import derive_seed
from genpolicy.shapes import Obs

if TYPE_CHECKING:
    from genpolicy.policies import Policy

__all__ = ["Latency", "LatencyRow", "measure_latency", "processor_name"]


@dataclass(frozen=True)
class LatencyRow:
    """Timings of one batch size, in seconds.

    Args:
        batch: rows of one call.
        chunk_median_s: median time of a call.
        chunk_p90_s: time that 90% of the calls stay under.
        action_median_s: median time of a call divided by the actions it yields for execution,
            ``n_action_steps`` for each row.
        action_p90_s: the same of the 90% figure.
        n: timed calls.
    """

    batch: int
    chunk_median_s: float
    chunk_p90_s: float
    action_median_s: float
    action_p90_s: float
    n: int


@dataclass(frozen=True)
class Latency:
    """Timings of a policy on one machine.

    Args:
        rows: by batch size.
        policy: one line that names policy and sampler.
        device: where its weights are.
        processor: name of the device.
        n_threads: threads that torch may use on the CPU.
        n_action_steps: actions executed per chunk.
        n_warmup: calls before the timed ones.
        runs: what samples: torch, or compiled operators.
    """

    rows: tuple[LatencyRow, ...]
    policy: str
    device: str
    processor: str
    n_threads: int
    n_action_steps: int
    n_warmup: int
    runs: str = "in torch"

    def to_json(self) -> dict[str, Any]:
        """Return plain containers."""
        return {**vars(self), "rows": [vars(row) for row in self.rows]}

    def facts(self) -> dict[str, str]:
        """Return what the timings have to be quoted with."""
        threads = count(self.n_threads, "CPU thread")
        return {
            "policy": self.policy,
            "device": f"{self.device} ({self.processor}), {threads}, {self.runs}",
            "protocol": f"{count(self.n_action_steps, 'action')} executed per chunk, "
            f"{count(self.n_warmup, 'call')} of warm-up, {self.rows[0].n} timed calls",
        }

    def __str__(self) -> str:
        table = [["batch", "chunk ms", "p90", "action ms", "p90"]]
        for row in self.rows:
            times = (row.chunk_median_s, row.chunk_p90_s, row.action_median_s, row.action_p90_s)
            table.append([str(row.batch), *(f"{1000 * t:.3f}" for t in times)])
        facts = [[name, text] for name, text in self.facts().items()]
        return align_columns(table, right=range(5)) + "\n\n" + align_columns(facts)


def measure_latency(
    policy: Policy,
    obs: Obs,
    *,
    batch_sizes: Sequence[int] = (1, 8, 64),
    n_action_steps: int | None = None,
    n_warmup: int = 3,
    n_repeats: int = 20,
    seed: int = 0,
) -> Latency:
    """Time ``policy.sample``, from observations on the caller's device to actions on the CPU.

    Args:
        policy: what to time.
        obs: for each key ``(batch, n_obs_steps, *shape)`` in physical units; rows are repeated to
            fill a batch.
        batch_sizes: rows per call, each at least 1.
        n_action_steps: actions executed per chunk; None for the policy's own.
        n_warmup: calls before the timed ones, at least 1.
        n_repeats: timed calls per batch size, at least 2.
        seed: of the policy's noise.

    Raises:
        UsageError: for counts that do not fit.
    """
    if not batch_sizes or min(batch_sizes) < 1 or n_warmup < 1 or n_repeats < 2:
        raise UsageError(
            f"measure_latency: got batch_sizes {list(batch_sizes)}, n_warmup {n_warmup}, n_repeats "
            f"{n_repeats}; expected sizes and warm-up of at least 1 and repeats of at least 2"
        )
    executed = policy.spec.n_action_steps if n_action_steps is None else n_action_steps
    device = torch.device("cpu")
    rows = []
    for batch in batch_sizes:
        index = {key: torch.arange(batch, device=t.device) % len(t) for key, t in obs.items()}
        filled = {key: t[index[key]] for key, t in obs.items()}
        times = []
        for call in range(n_warmup + n_repeats):
            seeds = [derive_seed(seed, "latency", call, row) for row in range(batch)]
            begin = time.perf_counter()
            chunk = policy.sample(filled, seeds=seeds)
            device = chunk.device
            chunk.cpu()  # waits for the device
            times.append(time.perf_counter() - begin)
        timed = torch.tensor(times[n_warmup:], dtype=torch.float64)
        median, p90 = float(timed.quantile(0.5)), float(timed.quantile(0.9))
        n_actions = batch * executed
        rows.append(LatencyRow(batch, median, p90, median / n_actions, p90 / n_actions, n_repeats))
    return Latency(
        rows=tuple(rows),
        policy=identify_policy(policy).describe(),
        device=str(device),
        processor=processor_name(device),
        n_threads=torch.get_num_threads(),
        n_action_steps=executed,
        n_warmup=n_warmup,
        runs=_runs(policy),
    )


def _runs(policy: Policy) -> str:
    from genpolicy.policies.compiled import why_not_compiled
    from genpolicy.policies.denoising import DenoisingPolicy

    is_native = isinstance(policy, DenoisingPolicy) and not why_not_compiled(policy)
    return "compiled operators" if is_native else "in torch"


def processor_name(device: torch.device) -> str:
    """Return the name of a device, for reports."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    import platform
    from pathlib import Path

    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
