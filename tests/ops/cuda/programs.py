"""Programs of odd sizes for tests: every operation, activation and factor of the plan."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genpolicy.native.builder import Builder, Evaluation, Limits, Precision, Slot
from genpolicy.native.networks import lower_network
from genpolicy.networks import MLP, ConditionalUnet1D, ResidualMLP
from genpolicy.ops import mlp_reference
from genpolicy.ops.program import Program, Register, padded

N_STEPS, OBS_DIM = 2, 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """A program's shape.

    Args:
        kind: ``"mlp"``, ``"residual"`` or ``"film"``.
        width: units of a hidden layer.
        depth: hidden layers or blocks.
        chunk: horizon and entries of an action.
        members: networks.
        activation: of an MLP.
        norm: layer norms in residual networks.
        precision: of products.
        is_noisy: fresh noise at every step.
        has_stages: two evaluations a step.
        bounds: limits of the denoised action and of the result.
        has_shifts: shifts of inputs and of the denoised action.
        octaves: sines and cosines of the observations.
    """

    kind: str = "mlp"
    width: int = 48
    depth: int = 2
    chunk: tuple[int, int] = (4, 3)
    members: int = 1
    activation: type[nn.Module] = nn.Mish
    norm: bool = True
    precision: Precision = "fp32"
    is_noisy: bool = False
    has_stages: bool = False
    bounds: tuple[float, float] | None = None
    has_shifts: bool = False
    octaves: int = 0

    @property
    def times(self) -> tuple[float, ...]:
        """Times of the evaluations: two steps."""
        return (0.9, 0.6, 0.5, 0.2) if self.has_stages else (0.9, 0.4)

    def program(self) -> Program:
        """Return the program, the same at every call."""
        torch.manual_seed(self.width + 7 * self.depth)
        horizon, action_dim = self.chunk
        chunk = horizon * action_dim
        n_inputs = N_STEPS * OBS_DIM
        builder = Builder(n_inputs=n_inputs, chunk=chunk, precision=self.precision)
        cond = observations(builder, n_inputs, self.octaves)
        shift = 0.1 * torch.randn(len(self.times), chunk) if self.has_shifts else None
        for number in range(self.members):
            x = builder.register(chunk)
            builder.member_input(x, number)
            out = lower_network(
                builder,
                self.network(len(cond) // N_STEPS),
                x=x,
                cond=cond,
                times=torch.tensor(self.times),
                shift=shift,
            )
            builder.combine(out, number)
        evaluations = [self.evaluation(e, chunk) for e in range(len(self.times))]
        limits = Limits(
            init=0.8,
            every_step=self.bounds,
            end=self.bounds,
            center=torch.randn(chunk),
            span=torch.rand(chunk) + 0.5,
        )
        return builder.build(evaluations, limits)

    def network(self, obs_dim: int) -> nn.Module:
        """Return a network with weights of the usual size, and biases and gains that matter."""
        horizon, action_dim = self.chunk
        sizes = {"horizon": horizon, "action_dim": action_dim, "n_obs_steps": N_STEPS}
        if self.kind == "mlp":
            network = MLP(**sizes, obs_dim=obs_dim, width=self.width, n_layers=self.depth)
            for place, layer in enumerate(network.layers):
                if isinstance(layer, nn.Mish):
                    network.layers[place] = self.activation()
        else:
            network = ResidualMLP(
                **sizes,
                obs_dim=obs_dim,
                width=self.width,
                n_blocks=self.depth,
                layer_norm=self.norm,
                conditioning="film" if self.kind == "film" else "input",
            )
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
        return network.eval()

    def evaluation(self, e: int, chunk: int) -> Evaluation:
        """Return the factors of an evaluation; with stages, every second one ends a step."""
        is_inside = self.has_stages and e % 2 == 0
        return Evaluation(
            from_stage=self.has_stages and e % 2 == 1,
            to_stage=is_inside,
            c_x=0.7 - 0.1 * e,
            c_denoised=0.3 + 0.1 * e,
            c_previous=0.2 if e > 0 and not is_inside else 0.0,
            c_noise=0.3 if self.is_noisy and e < len(self.times) - 1 and not is_inside else 0.0,
            noise_index=e + 1,
            on_x=0.4,
            members=[(0.9 - 0.1 * m, 0.6 / (m + 1)) for m in range(self.members)],
            shift=torch.linspace(-0.3, 0.3, chunk) * e if self.has_shifts else None,
        )


@dataclass(frozen=True, kw_only=True)
class UnetCase:
    """A program of a U-Net, and of what it is composed with.

    Args:
        dims: channels of the levels.
        n_groups: of the norms.
        horizon: actions of a chunk.
        action_dim: numbers of an action.
        kernel_size: of the convolutions.
        film_scale: factors as well as shifts by the condition.
        beside: an MLP that is composed with it.
        precision: of products.
        n_evaluations: of the networks.
    """

    dims: tuple[int, ...] = (16,)
    n_groups: int = 4
    horizon: int = 4
    action_dim: int = 3
    kernel_size: int = 3
    film_scale: bool = True
    beside: bool = False
    precision: Precision = "fp32"
    n_evaluations: int = 1

    def program(self) -> Program:
        """Return the program, the same at every call; with noise and shifts."""
        torch.manual_seed(sum(self.dims) + self.horizon)
        chunk, n_inputs = self.horizon * self.action_dim, N_STEPS * OBS_DIM
        builder = Builder(n_inputs=n_inputs, chunk=chunk, precision=self.precision)
        cond = observations(builder, n_inputs, octaves=1)
        times = torch.linspace(90.0, 20.0, self.n_evaluations)
        networks = self.networks(len(cond) // N_STEPS)
        for number, network in enumerate(networks):
            x = builder.register(chunk)
            builder.member_input(x, number)
            shift = 0.1 * torch.randn(self.n_evaluations, chunk)
            out = lower_network(builder, network, x=x, cond=cond, times=times, shift=shift)
            builder.combine(out, number)
        members = [(1.0, 0.5 / (number + 1)) for number in range(len(networks))]
        evaluations = [
            Evaluation(
                c_x=0.3, c_denoised=0.7, c_noise=0.2 * (e == 0), noise_index=e + 1, on_x=0.2,
                members=members,
            )
            for e in range(self.n_evaluations)
        ]  # fmt: skip
        span, center = torch.full((chunk,), 1.5), torch.linspace(-0.1, 0.1, chunk)
        limits = Limits(init=1.0, every_step=(-3.0, 3.0), end=None, center=center, span=span)
        return builder.build(evaluations, limits)

    def networks(self, obs_dim: int) -> list[nn.Module]:
        """Return the networks, with biases, gains and offsets that matter."""
        sizes = {"horizon": self.horizon, "action_dim": self.action_dim, "n_obs_steps": N_STEPS}
        unet = ConditionalUnet1D(
            **sizes,
            obs_dim=obs_dim,
            time_dim=8,
            dims=self.dims,
            n_groups=self.n_groups,
            kernel_size=self.kernel_size,
            film_scale=self.film_scale,
        )
        found: list[nn.Module] = [unet]
        if self.beside:
            found.append(MLP(**sizes, obs_dim=obs_dim, width=24, n_layers=2))
        for network in found:
            for parameter in network.requires_grad_(False).parameters():
                if parameter.ndim == 1:
                    parameter += 0.2 * torch.randn_like(parameter)
        return found


def observations(builder: Builder, n_inputs: int, octaves: int) -> list[Slot]:
    """Write a prologue as encoders have it: units, a key that may be absent, waves, two layers."""
    features = builder.register(n_inputs + 1)
    center, gain = torch.randn(n_inputs), torch.rand(n_inputs) + 0.5
    gain[0] = 0.0
    builder.normalize(features, Register.INPUTS, center, gain)
    builder.present(features, OBS_DIM, 2, flag=n_inputs)
    slots: list[Slot] = [(features, k) for k in range(n_inputs + 1)]
    for octave in range(octaves):
        waves = builder.register(padded(n_inputs) + n_inputs)
        builder.waves(waves, features, n_inputs, octave=octave)
        slots += [(waves, k) for k in range(n_inputs)]
        slots += [(waves, padded(n_inputs) + k) for k in range(n_inputs)]
    slots.append(0.5)
    width = 10
    out = builder.register(width)
    weight = torch.randn(width, len(slots)) / len(slots) ** 0.5
    builder.linear(out, slots, weight, torch.randn(width), in_loop=False)
    return [(out, k) for k in range(width)]


def batch(n_rows: int) -> tuple[Tensor, Tensor]:
    """Return observations, some of them absent, and seeds of 64 bits."""
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(n_rows, N_STEPS * OBS_DIM, generator=draw)
    inputs[1::3, OBS_DIM + 1] = torch.nan
    seeds = torch.randint(-(2**62), 2**62, (n_rows,), generator=draw) * 2 + 1
    return inputs, seeds


def errors(actual: Tensor, inputs: Tensor, seeds: Tensor, program: Program) -> tuple[float, float]:
    """Return the largest error of some result, and that of the reference in float32."""
    code, plan, vectors, weights = program.tensors
    chunk = int(code[2])
    right = mlp_reference.mlp_sample(
        inputs.double(), seeds, code, plan, vectors.double(), weights, chunk
    )
    reference = mlp_reference.mlp_sample(inputs, seeds, code, plan, vectors, weights, chunk)
    if not len(inputs):
        return 0.0, 0.0
    return float((actual - right).abs().max()), float((reference - right).abs().max())
