"""Embeddings of scalar inputs.

::

    sinusoidal   [sin(f_i v), cos(f_i v)],  f_i = max_period ** (-i / (dim/2 - 1))      (1)
    Fourier      [sin(f_i v), cos(f_i v)],  f_i ~ N(0, std^2), fixed or learned         (2)
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genpolicy.errors import UsageError, nearest
from genpolicy.networks.checks import check_n_times, check_sizes

__all__ = [
    "Activation",
    "FourierEmbedding",
    "SecondTime",
    "SinusoidalEmbedding",
    "TimeEmbedding",
    "TimeFeatures",
    "Times",
    "activation_layer",
    "first_dtype",
    "time_features",
]

Times: TypeAlias = Float[Tensor, " batch"] | Float[Tensor, "batch n_times"]
Activation: TypeAlias = Literal["mish", "silu", "relu", "gelu"]
TimeFeatures: TypeAlias = Literal["sinusoidal", "fourier", "learned"]


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a scalar at geometrically spaced frequencies, equation (1).

    Args:
        dim: number of features, even and at least 4.
        max_period: period of the slowest feature over 2 pi; the fastest has 1.

    Source: arXiv 1706.03762, section 3.5, with sines first and cosines second.
    """

    frequencies: Tensor

    def __init__(self, *, dim: int, max_period: float = 10000.0) -> None:
        super().__init__()
        if dim < 4 or dim % 2:
            raise UsageError(f"SinusoidalEmbedding: dim is {dim}, expected an even number >= 4")
        exponents = torch.arange(dim // 2, dtype=torch.float64) / (dim // 2 - 1)
        frequencies = torch.exp(-math.log(max_period) * exponents).float()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, value: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """Return the features of ``value``, in float32, or float64 for such a value."""
        return _waves(value, self.frequencies)


class FourierEmbedding(nn.Module):
    """Sines and cosines of a scalar at random frequencies, equation (2).

    The frequencies are drawn from torch's default generator when the module is built and belong to
    its state.

    Args:
        dim: number of features, even and at least 4.
        std: standard deviation of the frequencies in radians per unit of the input, positive; 0.1
            is 16 turns over 1000 units.
        learned: train the frequencies.

    Source: arXiv 2006.10739, equation 5.
    """

    frequencies: Tensor

    def __init__(self, *, dim: int, std: float = 0.1, learned: bool = False) -> None:
        super().__init__()
        if dim < 4 or dim % 2 or std <= 0.0:
            raise UsageError(
                f"FourierEmbedding: got dim {dim} and std {std}, expected an even number >= 4 and "
                "a positive number"
            )
        frequencies = torch.randn(dim // 2) * std
        if learned:
            self.frequencies = nn.Parameter(frequencies)
        else:
            self.register_buffer("frequencies", frequencies)

    def forward(self, value: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """Return the features of ``value``, in float32, or float64 for such a value."""
        return _waves(value, self.frequencies)


class SecondTime(nn.Sequential):
    """A branch for a second time whose last layer starts at zero, so that it adds nothing at first.

    Args:
        dim: features of the time.
        hidden: width in between.
        out: outputs.
        activation: name of the activation.
    """

    def __init__(self, *, dim: int, hidden: int, out: int, activation: Activation) -> None:
        last = nn.Linear(hidden, out)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(nn.Linear(dim, hidden), activation_layer(activation), last)


class TimeEmbedding(nn.Module):
    """A small network on the features of one or two times.

    The second time, where there is one, enters through a ``SecondTime``: a network with
    ``n_times=2`` that is given the weights of one with ``n_times=1`` (``load_teacher_weights``)
    computes the same function of the first time.

    Args:
        dim: features of a time.
        hidden: width in between.
        out: features returned.
        n_times: 1 or 2.
        features: ``"sinusoidal"``, ``"fourier"`` (random frequencies) or ``"learned"`` (random
            frequencies that are trained).
        activation: ``"mish"``, ``"silu"``, ``"relu"`` or ``"gelu"``.

    Raises:
        UsageError: for sizes or names that do not exist.
    """

    def __init__(
        self,
        *,
        dim: int,
        hidden: int,
        out: int,
        n_times: int = 1,
        features: TimeFeatures = "sinusoidal",
        activation: Activation = "mish",
    ) -> None:
        super().__init__()
        check_sizes("TimeEmbedding", hidden=hidden, out=out)
        check_n_times("TimeEmbedding", n_times)
        self.n_times = n_times
        self.features = time_features(features, dim=dim)
        self.first = nn.Sequential(
            nn.Linear(dim, hidden), activation_layer(activation), nn.Linear(hidden, out)
        )
        if n_times == 2:
            self.second = SecondTime(dim=dim, hidden=hidden, out=out, activation=activation)

    def forward(self, time: Times) -> Float[Tensor, "batch out"]:
        """Return the embedding of ``(batch,)`` or ``(batch, n_times)`` times.

        Raises:
            UsageError: when the number of times is not ``n_times``.
        """
        times = split_times(time, self.n_times)  # n_times x (batch,)
        embedded = self.first(self.features(times[0]).to(self.dtype))  # (batch, out)
        if self.n_times == 1:
            return embedded
        return embedded + self.second(self.features(times[1]).to(self.dtype))  # (batch, out)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return first_dtype(self.first)


def first_dtype(layers: nn.Sequential) -> torch.dtype:
    """Return the type of the weights of the first layer, a linear one.

    Read from the attribute, which also holds what ``torch.func.functional_call`` puts there.
    """
    first = layers[0]
    assert isinstance(first, nn.Linear)
    return first.weight.dtype


def split_times(time: Times, n_times: int) -> tuple[Float[Tensor, " batch"], ...]:
    """Return the ``n_times`` columns of ``time``, or raise a ``UsageError`` if it has others."""
    times = time.unsqueeze(-1) if time.ndim == 1 else time  # (batch, n_times)
    if times.ndim != 2 or times.shape[1] != n_times:
        raise UsageError(
            f"time: got shape {tuple(time.shape)}, expected (batch, {n_times}): the network was "
            f"built with n_times={n_times}"
        )
    return times.unbind(dim=1)


def time_features(name: TimeFeatures, *, dim: int) -> SinusoidalEmbedding | FourierEmbedding:
    """Return the embedding of a scalar time that ``name`` stands for, with ``dim`` features."""
    if name == "sinusoidal":
        return SinusoidalEmbedding(dim=dim)
    if name not in get_args(TimeFeatures):
        raise UsageError(
            f"time features {name!r} are unknown; {nearest(name, get_args(TimeFeatures))}"
        )
    return FourierEmbedding(dim=dim, learned=name == "learned")


def activation_layer(name: Activation) -> nn.Module:
    """Return the activation that ``name`` stands for.

    On a CPU, Mish costs several times as much as SiLU.
    """
    layers = {"mish": nn.Mish, "silu": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU}
    if name not in layers:
        raise UsageError(f"activation {name!r} is unknown; {nearest(name, layers)}")
    return layers[name]()


def _waves(value: Tensor, frequencies: Tensor) -> Tensor:
    precise = value.to(torch.promote_types(value.dtype, torch.float32))
    angles = precise.unsqueeze(-1) * frequencies  # (*batch, dim / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)  # (*batch, dim)
