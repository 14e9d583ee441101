"""Observations as instructions: normalizing and encoding, where they are simple."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genpolicy.data.normalizer import Normalizer
from genpolicy.native.builder import Builder, Slot, Unsupported
from genpolicy.native.networks import activation_of
from genpolicy.networks import LowDimEncoder
from genpolicy.ops.program import Register, padded

__all__ = ["Field", "lower_observations"]


@dataclass(frozen=True)
class Field:
    """Where an observation lies in a row of the inputs.

    Args:
        first: place of its first number.
        n_steps: observation steps that the inputs hold.
        size: numbers of one step.
    """

    first: int
    n_steps: int
    size: int

    def last(self, n_steps: int) -> slice:
        """Return the places of the last ``n_steps`` observation steps."""
        end = self.first + self.n_steps * self.size
        return slice(end - n_steps * self.size, end)


def lower_observations(
    builder: Builder,
    fields: Mapping[str, Field],
    *,
    normalizer: Normalizer,
    encoder: nn.Module,
    n_obs_steps: int,
    fixed: Mapping[str, Tensor],
) -> list[Slot]:
    """Write the condition of one policy, and return where its numbers are.

    Args:
        builder: the program.
        fields: observations in the inputs, by key.
        normalizer: of the policy.
        encoder: a ``LowDimEncoder``.
        n_obs_steps: steps that the policy sees: the last ones.
        fixed: observations that it sees instead, by key, in physical units.

    Raises:
        Unsupported: for other encoders.
    """
    if type(encoder) is not LowDimEncoder:
        raise Unsupported(f"{type(encoder).__name__} has no program (LowDimEncoder has)")
    n_inputs = builder.widths[Register.INPUTS]
    seen = [key for key in encoder.keys if key not in fixed]
    flagged = [key for key in seen if key in encoder.optional_keys]
    features = builder.register(n_inputs + len(flagged))
    center, gain = torch.zeros(n_inputs), torch.zeros(n_inputs)
    for key in seen:
        own_center, own_gain, _ = normalizer.stats[key].affine()
        part = fields[key].last(n_obs_steps)
        center[part] = torch.as_tensor(own_center).flatten().repeat(n_obs_steps)
        gain[part] = torch.as_tensor(own_gain).flatten().repeat(n_obs_steps)
    builder.normalize(features, Register.INPUTS, center, gain)
    for number, key in enumerate(flagged):
        part = fields[key].last(n_obs_steps)
        builder.present(features, part.start, part.stop - part.start, flag=n_inputs + number)
    octaves: list[int] = []
    for octave in range(encoder.n_frequencies):
        waves = builder.register(padded(n_inputs) + n_inputs)
        builder.waves(waves, features, n_inputs, octave=octave)
        octaves.append(waves)

    constants = _encoded_constants(encoder, normalizer, fixed)
    cond: list[Slot] = []
    for step in range(n_obs_steps):
        values: list[Slot] = []
        waves_of: list[list[Slot]] = [[] for _ in range(2 * len(octaves))]
        for key in encoder.keys:
            if key in fixed:
                numbers = constants[key]
                values += numbers.tolist()
                for k in range(len(octaves)):
                    angles = 2.0**k * torch.pi * numbers
                    waves_of[2 * k] += angles.sin().tolist()
                    waves_of[2 * k + 1] += angles.cos().tolist()
                continue
            size = fields[key].size
            first = fields[key].last(n_obs_steps).start + step * size
            places = range(first, first + size)
            values += [(features, place) for place in places]
            for k, waves in enumerate(octaves):
                waves_of[2 * k] += [(waves, place) for place in places]
                waves_of[2 * k + 1] += [(waves, padded(n_inputs) + place) for place in places]
        for part in waves_of:
            values += part
        for key in (key for key in encoder.keys if key in encoder.optional_keys):
            if key in fixed:
                values.append(float(not bool(fixed[key].isnan().any())))
            else:
                values.append((features, n_inputs + flagged.index(key)))
        cond += _projected(builder, encoder.projection, values)
    return cond


def _encoded_constants(
    encoder: LowDimEncoder, normalizer: Normalizer, fixed: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return what the encoder makes of fixed observations, normalized, absent ones as zeros."""
    found: dict[str, Tensor] = {}
    for key, value in fixed.items():
        if key in encoder.keys:
            center, gain, _ = (torch.as_tensor(a) for a in normalizer.stats[key].affine())
            numbers = ((value.cpu().float() - center) * gain).flatten().double()
            is_absent = key in encoder.optional_keys and bool(numbers.isnan().any())
            found[key] = torch.zeros_like(numbers) if is_absent else numbers
    return found


def _projected(builder: Builder, projection: nn.Module, values: list[Slot]) -> list[Slot]:
    """Write the projection of one observation step."""
    layers = list(projection) if isinstance(projection, nn.Sequential) else [projection]
    for number, layer in enumerate(layers):
        if not isinstance(layer, nn.Linear):
            continue  # an activation, written with the layer before it, or the identity
        out = builder.register(layer.out_features)
        builder.linear(out, values, layer.weight, layer.bias, in_loop=False)
        if number + 1 < len(layers):
            act = activation_of(layers[number + 1])
            builder.activate(out, out, layer.out_features, act, in_loop=False)
        values = [(out, k) for k in range(layer.out_features)]
    return values
