"""Small random policies that have programs, and how a program is run by both implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genpolicy.data.normalizer import FieldStats, Normalizer
from genpolicy.ops import backend
from genpolicy.ops.mlp_reference import mlp_sample
from genpolicy.policies import build_policy
from genpolicy.policies.compiled import compiled_sampler
from genpolicy.shapes import TaskSpec

needs_kernels = pytest.mark.skipif(
    backend().name != "compiled", reason=f"no compiled operators: {backend().reason}"
)


RUNNABLE = ("fp32", "bf16", "bf16x3")
"""Precisions of programs that the operators in use run; the reference runs all."""
if backend().name == "compiled" and not backend().has_matrix_unit:
    RUNNABLE = RUNNABLE[:2]


def policy(
    *,
    network="ResidualMLP",
    network_options=None,
    encoder_options=None,
    denoiser="ParameterizedDenoiser",
    denoiser_options=None,
    path="LinearPath",
    path_options=None,
    sampler=None,
    action_dim=2,
    horizon=4,
    n_obs_steps=2,
    obs_shapes=None,
    action_mode="min_max",
    seed=0,
):
    """Return an untrained policy; its output layers are made large enough to matter."""
    shapes = {"state": (3,), "goal": (2,)} if obs_shapes is None else obs_shapes
    spec = TaskSpec(
        task="native",
        obs_shapes=shapes,
        action_dim=action_dim,
        horizon=horizon,
        n_obs_steps=n_obs_steps,
        n_action_steps=1,
    )
    rng = np.random.default_rng(3)

    def stats(shape, mode="min_max"):
        values = rng.uniform(-2.0, 5.0, (40, *shape)).astype(np.float32)
        return FieldStats.of(values, mode)

    normalizer = Normalizer(
        action=stats((action_dim,), action_mode),
        obs={key: stats(shape) for key, shape in shapes.items()},
    )
    default = {"predicts": "velocity"} if denoiser == "ParameterizedDenoiser" else {}
    config = {
        "encoder": {"_target_": "genpolicy.networks.LowDimEncoder", **(encoder_options or {})},
        "network": {"_target_": f"genpolicy.networks.{network}", **(network_options or {})},
        "path": {"_target_": f"genpolicy.paths.{path}", **(path_options or {})},
        "denoiser": {
            "_target_": f"genpolicy.denoisers.{denoiser}",
            **(default if denoiser_options is None else denoiser_options),
        },
        "sampler": {"_target_": "genpolicy.sampling.Sampler", **(sampler or {"n_steps": 4})},
    }
    torch.manual_seed(seed)
    made = build_policy(config, spec=spec, normalizer=normalizer).eval()
    with torch.no_grad():
        for parameter in made.denoiser.parameters():
            parameter.mul_(1.5)
    return made


def observations(policy, n_rows, *, seed=0):
    """Return observations around the range of the statistics."""
    generator = torch.Generator().manual_seed(seed)
    spec = policy.spec
    return {
        key: torch.rand(n_rows, spec.n_obs_steps, *shape, generator=generator) * 8.0 - 2.5
        for key, shape in spec.obs_shapes.items()
    }


def program_of(policy):
    """Return the arguments of ``mlp_sample`` behind inputs and seeds."""
    found = compiled_sampler(policy)
    assert found.reason == ""
    return found


def inputs_of(policy, obs):
    """Return a policy's observations as rows."""
    return torch.cat([obs[key].flatten(1) for key in program_of(policy).keys], dim=1)


def exact(policy, obs, seeds):
    """Return the actions of the policy's program in float64."""
    code, plan, vectors, weights, chunk = program_of(policy).arguments
    inputs, keys = inputs_of(policy, obs), torch.tensor(seeds)
    out = mlp_sample(inputs.double(), keys, code, plan, vectors.double(), weights, chunk)
    return out.reshape(len(seeds), policy.spec.horizon, -1)


def in_torch(policy, obs, seeds, monkeypatch):
    """Return the actions that the torch loop samples."""
    with monkeypatch.context() as patch:
        patch.setenv("GENPOLICY_EXT", "off")
        return policy.sample(obs, seeds=seeds)


def assert_as_close(found, reference, truth, *, floor=4e-7, largest=2.0):
    """Check that ``found`` is off the truth by at most twice what the reference is.

    Args:
        found: what is checked.
        reference: what it is compared with.
        truth: both without rounding.
        floor: of the errors, over the range of the truth.
        largest: times that the largest error may be the reference's. Where a step multiplies
            errors it is a matter of luck, and the mean says more; that has to stay within twice.
    """
    errors, own = (found.double() - truth).abs(), (reference.double() - truth).abs()
    least = floor * max(float(truth.abs().max()), 1.0)  # actions have a range of about 7
    for part, factor in ((torch.mean, 2.0), (torch.max, largest)):
        error, most = float(part(errors)), float(factor * part(own) + least)
        assert error <= most, f"{part.__name__} error {error:.2e}, expected at most {most:.2e}"
