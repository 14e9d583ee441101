"""Sampling a policy with the compiled operators: programs, and when they have to be written again.

A program holds copies of weights and statistics. It is current as long as the policy has the same
sampler and every parameter and buffer is the same tensor at the same version; changes that torch
does not count (through ``.data``) are the one thing that is not seen. Programs are written on the
host; for a policy on a CUDA device its numbers are copied there, and the instructions stay.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genpolicy.errors import UsageError
from genpolicy.native import Field, Unsupported, write_program
from genpolicy.native.pages import on_large_pages
from genpolicy.ops import backend
from genpolicy.ops.program import PIECES, Header, Precision, Program
from genpolicy.policies.scheduled import ScheduledRun, check_one_run
from genpolicy.sampling import Sampler
from genpolicy.seeding import bits_of
from genpolicy.shapes import Chunk, Obs

if TYPE_CHECKING:
    from genpolicy.policies.denoising import DenoisingPolicy

__all__ = [
    "CompiledSampler",
    "compiled_sampler",
    "use_compiled",
    "why_not_compiled",
    "write_policy",
]

_run = torch.ops.genpolicy.mlp_sample.default
_OLDEST_GPU = (8, 0)  # compute capability: asynchronous copies and products in bfloat16


@dataclass(frozen=True, eq=False)
class CompiledSampler:
    """A policy's program with what it was written from, or the reason why there is none.

    Args:
        reason: why the policy is sampled in torch; empty where it has a program.
        arguments: the program's tensors and the size of a chunk.
        keys: observations in the order of the program's inputs.
        chunk: ``(horizon, action)``.
        sampler: the sampler it was written for.
        tracked: where each parameter and buffer was, itself, its version and where its numbers are.
        scheduled: its run in compiled steps, where it has no program but is a sum of networks.
    """

    reason: str
    arguments: tuple[Any, ...]
    keys: tuple[str, ...]
    chunk: tuple[int, int]
    sampler: Sampler
    tracked: tuple[tuple[dict[str, Any], str, Tensor, int, int], ...]
    scheduled: ScheduledRun | None = None

    @property
    def flops(self) -> int:
        """Floating-point operations of the matrix products of one row."""
        return Program(*self.arguments[:4]).flops

    @property
    def products(self) -> str:
        """What the numbers of the program's products are."""
        head = Program(*self.arguments[:4]).head(Header.PRECISION)
        return {
            Precision.FP32: "float32",
            Precision.BF16: "bfloat16",
            Precision.BF16X3: f"float32 as sums of {PIECES} numbers in bfloat16",
        }[Precision(head)]

    def is_current(self, policy: DenoisingPolicy) -> bool:
        """Return whether the policy still is what the program was written from."""
        if policy.sampler is not self.sampler:
            return False
        for place, name, tensor, version, address in self.tracked:
            if place.get(name) is not tensor or tensor._version != version:
                return False
            if tensor.data_ptr() != address:  # moved to another device, which is no new version
                return False
        return True

    def sample(self, obs: Obs, seeds: Sequence[int]) -> Chunk:
        """Return one chunk per row in physical units, without checks of the observations."""
        n_rows = len(seeds)
        device = self.arguments[2].device
        parts = [_flat(obs[key], n_rows, device) for key in self.keys]
        inputs = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        numbers = bits_of(seeds)
        if device.type != "cpu":
            numbers = numbers.to(device)
        out = _run(inputs, numbers, *self.arguments)
        return out.view(n_rows, *self.chunk)


def compiled_sampler(policy: DenoisingPolicy) -> CompiledSampler:
    """Return the policy's program, written again where it is not current.

    Raises:
        UsageError: when ``GENPOLICY_EXT=require`` and there are no compiled operators.
    """
    found = policy.compiled
    if found is not None and found.is_current(policy):
        return found
    try:
        fresh = _compile(policy)
    except Unsupported as why:
        fresh = _refused(policy, str(why))
    policy.compiled = fresh
    return fresh


def why_not_compiled(policy: DenoisingPolicy) -> str:
    """Return why a policy is sampled in torch; empty where the compiled operators sample it."""
    now = backend()
    if now.name != "compiled":
        return now.reason
    return compiled_sampler(policy).reason


def use_compiled() -> bool:
    """Return whether compiled operators are there and wanted.

    Raises:
        UsageError: when ``GENPOLICY_EXT=require`` and there are none.
    """
    return backend().name == "compiled"


def write_policy(policy: DenoisingPolicy, *, fields: Mapping[str, Field]) -> tuple[Tensor, ...]:
    """Return the tensors of a policy's program, on the host.

    Args:
        policy: the policy.
        fields: where its observations lie in a row of the inputs, by key.

    Raises:
        Unsupported: for what has no program.
    """
    check_one_run(policy)
    tensors = [*policy.parameters(), *policy.buffers()]
    _check_devices({tensor.device for tensor in tensors})
    if any(tensor.is_inference() for tensor in tensors):
        raise Unsupported("its weights were made in inference mode and have no versions")
    if any(tensor.dtype not in (torch.float32, torch.int64) for tensor in tensors):
        raise Unsupported("its weights are not float32")
    on_host = policy if policy.device.type == "cpu" else _on_host(policy)
    center, _, span = on_host.normalizer.stats["action"].affine()
    sampler = on_host.sampler
    in_pieces = policy.device.type == "cpu" and backend().has_matrix_unit
    if sampler.precision == "bf16x3" and not in_pieces:
        sampler = replace(sampler, precision="fp32")
    program = write_program(
        on_host.structure({}),
        sampler,
        fields=fields,
        horizon=on_host.spec.horizon,
        bounds=on_host.bounds,
        center=torch.as_tensor(center).double(),
        span=torch.as_tensor(span).double(),
    )
    return program.tensors


def fields_of(policy: DenoisingPolicy) -> dict[str, Field]:
    """Return where the observations of a policy lie in a row: one key after the other.

    Raises:
        Unsupported: for images.
    """
    fields: dict[str, Field] = {}
    first = 0
    for key, shape in policy.spec.obs_shapes.items():
        if len(shape) == 3:
            raise Unsupported("it sees images")
        size = torch.Size(shape).numel()
        fields[key] = Field(first, policy.spec.n_obs_steps, size)
        first += size * policy.spec.n_obs_steps
    return fields


def _compile(policy: DenoisingPolicy) -> CompiledSampler:
    fields = fields_of(policy)
    tracked = _tracked(policy)
    chunk = (policy.spec.horizon, policy.spec.action_dim)
    code, plan, *numbers = write_policy(policy, fields=fields)
    vectors, weights = (tensor.to(policy.device) for tensor in numbers)
    return CompiledSampler(
        reason="",
        arguments=(code, plan, vectors, on_large_pages(weights), chunk[0] * chunk[1]),
        keys=tuple(fields),
        chunk=chunk,
        sampler=policy.sampler,
        tracked=tracked,
    )


def _refused(policy: DenoisingPolicy, reason: str) -> CompiledSampler:
    try:
        scheduled = ScheduledRun(policy)
    except (Unsupported, UsageError):  # what is wrong is said when it is sampled
        scheduled = None
    return CompiledSampler(
        reason=reason,
        arguments=(),
        keys=(),
        chunk=(0, 0),
        sampler=policy.sampler,
        tracked=_tracked(policy),
        scheduled=scheduled,
    )


def _tracked(module: nn.Module) -> tuple[tuple[dict[str, Any], str, Tensor, int, int], ...]:
    found: list[tuple[dict[str, Any], str, Tensor, int, int]] = []
    for inner in module.modules():
        for place in (inner._parameters, inner._buffers):
            for name, tensor in place.items():
                if tensor is not None and not tensor.is_inference():
                    found.append((place, name, tensor, tensor._version, tensor.data_ptr()))
    return tuple(found)


def _check_devices(devices: Set[torch.device]) -> None:
    """Raise ``Unsupported`` unless there are kernels for where a policy's tensors are."""
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise Unsupported(f"its weights are on several devices ({names})")
    (device,) = devices
    if device.type not in ("cpu", "cuda"):
        raise Unsupported(f"it is on a {device.type} device")
    if device.type == "cpu":
        return
    if not backend().cuda:
        raise Unsupported("it is on a CUDA device, and genpolicy_ext was built without nvcc")
    if torch.cuda.get_device_capability(device) < _OLDEST_GPU:
        raise Unsupported(f"{torch.cuda.get_device_name(device)} is older than the kernels (sm_80)")


def _on_host(policy: DenoisingPolicy) -> DenoisingPolicy:
    """Return a copy of a policy on the CPU, without its program."""
    return copy.deepcopy(policy, {id(policy.compiled): None}).to("cpu")


def _flat(value: Tensor, n_rows: int, device: torch.device) -> Tensor:
    """Return an observation as contiguous rows of float32 on the program's device."""
    if value.dtype != torch.float32 or value.device != device:
        value = value.to(device=device, dtype=torch.float32)
    return value.reshape(n_rows, -1).contiguous()
