"""Policies as programs of torch.export or ONNX: the whole sampler, from observations to actions.

An exported program is a pure function of observations in physical units and of standard normal
noise; ``draws_of`` makes the noise of given seeds, with which it returns what
``policy.sample(obs, seeds=seeds)`` returns, up to rounding.
"""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.errors import NumericsError, UsageError, nearest
from genpolicy.native import GivenNoise, Unsupported
from genpolicy.networks.modes import modes_kept
from genpolicy.policies.checkpoint import installed_versions
from genpolicy.policies.denoising import DenoisingPolicy
from genpolicy.policies.scheduled import ScheduledRun
from genpolicy.sampling import RowNoise
from genpolicy.shapes import Chunk, Obs

__all__ = ["ExportFormat", "Exported", "draws_of", "export_policy", "load_exported"]

ExportFormat: TypeAlias = Literal["torch", "onnx"]

_SUFFIX = {"torch": ".pt2", "onnx": ".onnx"}
_KEYS = "observations.json"
_TOLERANCE = 1e-4
"""Largest difference that a written program may have, over the range of its actions."""


class _Run(nn.Module):
    """One run of a policy's sampler as a function of observations and noise."""

    def __init__(self, policy: DenoisingPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.scheduled = ScheduledRun(policy)
        self.places = {index: place for place, index in enumerate(self.scheduled.draws)}

    def forward(self, obs: dict[str, Tensor], noise: Tensor) -> Tensor:
        given = GivenNoise(noise, self.places)
        chunk = self.scheduled.sample(self.policy, obs, noise=given)
        return self.policy.normalizer.denormalize_action(chunk)


def draws_of(policy: DenoisingPolicy, seeds: Sequence[int]) -> Float[Tensor, "draws batch h a"]:
    """Return the noise of seeds, in the form that an exported program takes.

    Args:
        policy: the policy that was exported.
        seeds: one integer per row.

    Returns:
        ``(n_draws, batch, horizon, action)``, float32.
    """
    noise = RowNoise(seeds, (policy.spec.horizon, policy.spec.action_dim))
    return torch.stack([noise.draw(index) for index in _run_of(policy).places])


def export_policy(
    policy: DenoisingPolicy, path: str | Path, *, format: ExportFormat = "torch", name: str = ""
) -> dict[str, Any]:
    """Write a policy's whole sampler as one program, checked against the policy.

    Args:
        policy: trained, or a weighted sum of trained policies; on the CPU.
        path: the file; ``.pt2`` or ``.onnx`` is added where it has no such ending. A description
            (inputs, shapes, number of draws, sampler, versions, largest difference) is written
            beside it with ``.json`` added.
        format: ``"torch"`` for ``torch.export``, ``"onnx"`` for ONNX.
        name: how the description calls the policy.

    Returns:
        The description.

    Raises:
        UsageError: for policies that are no weighted sum sampled by one run of the loop, and where
            the packages of ONNX are missing.
        NumericsError: when the written program does not do what the policy does; nothing is then
            written.
    """
    if format not in get_args(ExportFormat):
        raise UsageError(f"export: format is {format!r}; {nearest(format, get_args(ExportFormat))}")
    target = Path(path)
    if target.suffix != _SUFFIX[format]:
        target = target.with_name(target.name + _SUFFIX[format])
    run = _run_of(policy)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    try:
        written = folder / target.name
        with modes_kept(run), torch.no_grad(), _quiet_exporters():
            run.eval()
            _write(run, written, format)
        error = _largest_difference(policy, load_exported(written))
        if not error <= _TOLERANCE:
            raise NumericsError(
                f"export: the written program differs from the policy by {error:.1e} of the range "
                f"of the actions, expected at most {_TOLERANCE:g}; nothing was written to {target}"
            )
        description = _description(policy, run, format=format, name=name, error=error)
        description["file"] = str(target)
        notes = folder / (target.name + ".json")
        notes.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        written.replace(target)
        notes.replace(target.with_name(notes.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return description


class Exported:
    """A written program; call it with observations and noise.

    Args:
        function: takes observations by key and noise, returns actions.
        keys: the observations' keys.
    """

    def __init__(self, function: Any, keys: Sequence[str]) -> None:
        self._function = function
        self.keys = tuple(keys)

    def __call__(self, obs: Obs, noise: Tensor) -> Chunk:
        """Return chunks ``(batch, horizon, action)`` in physical units.

        Args:
            obs: for each key ``(batch, n_obs_steps, *shape)`` in physical units.
            noise: ``(n_draws, batch, horizon, action)``, see ``draws_of``.
        """
        missing = sorted(set(self.keys) - set(obs))
        if missing:
            raise UsageError(f"exported program: observations {missing} are missing")
        with torch.no_grad():
            return self._function({key: obs[key] for key in self.keys}, noise)


def load_exported(path: str | Path) -> Exported:
    """Load a program that ``export_policy`` wrote.

    Raises:
        UsageError: for a file that is not there, or of another kind.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"load_exported: {file} is not there")
    if file.suffix == ".pt2":
        notes: dict[str, Any] = {_KEYS: ""}
        program = torch.export.load(str(file), extra_files=notes)
        return Exported(program.module(), json.loads(notes[_KEYS]))
    if file.suffix != ".onnx":
        raise UsageError(f"load_exported: {file.name} ends in neither .pt2 nor .onnx")
    runtime = _onnx_package("onnxruntime")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(obs: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        fed = {f"obs_{key}": np.asarray(value) for key, value in obs.items()}
        (out,) = session.run(None, {**fed, "noise": np.asarray(noise)})
        return torch.from_numpy(out)

    return Exported(run, [n.removeprefix("obs_") for n in names if n.startswith("obs_")])


def _run_of(policy: DenoisingPolicy) -> _Run:
    try:
        return _Run(policy)
    except Unsupported as why:
        raise UsageError(
            f"export: this policy cannot be exported because {why}; trained policies and their "
            "weighted sums (mean, guidance, negation, conjunction) can"
        ) from why


def _write(run: _Run, file: Path, format: ExportFormat) -> None:
    spec = run.policy.spec
    # Two rows: an example of one row would fix the batch.
    obs = spec.blank_obs(2)
    noise = torch.zeros(len(run.places), 2, spec.horizon, spec.action_dim)
    batch = torch.export.Dim("batch", min=1, max=1 << 24)
    shapes = ({key: {0: batch} for key in obs}, {1: batch})
    if format == "torch":
        program = torch.export.export(run, (obs, noise), dynamic_shapes=shapes)
        torch.export.save(program, str(file), extra_files={_KEYS: json.dumps(list(obs))})
        return
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _onnx_package(package)
    torch.onnx.export(
        run,
        (obs, noise),
        str(file),
        input_names=[*(f"obs_{key}" for key in obs), "noise"],
        output_names=["action"],
        dynamic_shapes=shapes,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Leave out what the exporters say of their own insides, such as that torchvision is absent."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _onnx_package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"ONNX needs the package {name}, which is not installed; pip install 'genpolicy[onnx]'"
        ) from error


def _largest_difference(policy: DenoisingPolicy, program: Exported) -> float:
    """Return how far a program is off the policy on random observations, over its range."""
    worst = 0.0
    for n_rows in (1, 3):
        generator = torch.Generator().manual_seed(n_rows)
        obs: dict[str, Tensor] = {}
        for key, value in policy.spec.blank_obs(n_rows).items():
            stats = policy.normalizer.stats.get(key)
            if value.dtype == torch.uint8:
                obs[key] = torch.randint(0, 256, value.shape, generator=generator).to(torch.uint8)
            else:
                low, high = (0.0, 1.0) if stats is None else (stats.minimum, stats.maximum)
                low, high = torch.as_tensor(low), torch.as_tensor(high)
                obs[key] = low + (high - low) * torch.rand(value.shape, generator=generator)
        seeds = list(range(n_rows))
        expected = policy.sample(obs, seeds=seeds)
        found = program(obs, draws_of(policy, seeds))
        span = max(float(expected.max() - expected.min()), 1e-6)
        difference = float((found - expected).abs().max()) / span
        worst = difference if not difference <= worst else worst
    return worst


def _description(
    policy: DenoisingPolicy, run: _Run, *, format: ExportFormat, name: str, error: float
) -> dict[str, Any]:
    spec, sampler = policy.spec, policy.sampler
    inputs = {
        f"obs_{key}": {"shape": ["batch", *value.shape[1:]], "dtype": str(value.dtype)[6:]}
        for key, value in spec.blank_obs(1).items()
    }
    draws = [len(run.places), "batch", spec.horizon, spec.action_dim]
    return {
        "policy": name,
        "format": format,
        "inputs": {**inputs, "noise": {"shape": draws, "dtype": "float32"}},
        "output": {"shape": ["batch", spec.horizon, spec.action_dim], "dtype": "float32"},
        "noise": "standard normal; genpolicy.policies.draws_of(policy, seeds) for given seeds",
        "draws": list(run.places),
        "executed": [spec.n_obs_steps - 1, spec.n_obs_steps - 1 + spec.n_action_steps],
        "sampler": {"rule": sampler.rule, "n_steps": sampler.n_steps, "grid": sampler.grid},
        "largest_difference": error,
        "versions": installed_versions(),
    }
