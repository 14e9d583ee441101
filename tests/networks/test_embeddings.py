"""Embeddings of times against formulas and an independent implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from genpolicy.errors import UsageError
from genpolicy.networks import FourierEmbedding, SinusoidalEmbedding, TimeEmbedding


@pytest.mark.parametrize("dim", [4, 16, 256])
def test_sinusoidal_features_are_those_of_diffusers(dim):
    time = torch.tensor([0.0, 0.5, 7.0, 99.0, 999.0])
    expected = get_timestep_embedding(
        time, dim, flip_sin_to_cos=False, downscale_freq_shift=1, max_period=10000
    )
    torch.testing.assert_close(SinusoidalEmbedding(dim=dim)(time), expected, atol=2e-4, rtol=0)


def test_sinusoidal_features_in_closed_form():
    (got,) = SinusoidalEmbedding(dim=6, max_period=100.0)(torch.tensor([2.0])).numpy()
    angles = 2.0 * np.array([1.0, 0.1, 0.01])
    np.testing.assert_allclose(got, np.concatenate([np.sin(angles), np.cos(angles)]), atol=1e-6)


def test_fourier_features_use_their_frequencies():
    embed = FourierEmbedding(dim=4000, std=0.3)
    assert abs(float(embed.frequencies.std()) - 0.3) < 0.02
    out = embed(torch.tensor([[2.0], [5.0]]))
    assert out.shape == (2, 1, 4000)
    torch.testing.assert_close(out[1, 0, :2000], torch.sin(5.0 * embed.frequencies))
    # sin^2 + cos^2 = 1 for each frequency.
    torch.testing.assert_close(out.square().sum(-1), torch.full((2, 1), 2000.0))


@pytest.mark.parametrize("learned", [False, True])
def test_frequencies_belong_to_the_state_and_are_trained_only_if_asked(learned):
    one, other = FourierEmbedding(dim=8, learned=learned), FourierEmbedding(dim=8, learned=learned)
    assert not torch.equal(one.frequencies, other.frequencies)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.frequencies, other.frequencies)
    assert len(list(one.parameters())) == int(learned)


def test_a_second_time_starts_without_effect():
    torch.manual_seed(3)
    embed = TimeEmbedding(dim=8, hidden=16, out=5, n_times=2)
    times = torch.tensor([[3.0, 1.0], [3.0, 90.0]])
    first, second = embed(times)
    assert torch.equal(first, second)
    assert first.shape == (5,)


def test_features_stay_float32_for_low_precision_times():
    embed = SinusoidalEmbedding(dim=8)
    assert embed(torch.tensor([0.5], dtype=torch.bfloat16)).dtype == torch.float32
    assert math.isclose(float(embed(torch.tensor([0.5]))[0, 0]), math.sin(0.5), rel_tol=1e-6)


@pytest.mark.parametrize("dim", [3, 2, 0, -4])
def test_odd_sizes_are_refused(dim):
    for kind in (SinusoidalEmbedding, FourierEmbedding):
        with pytest.raises(UsageError, match="even number >= 4"):
            kind(dim=dim)


def test_shapes_of_times_are_checked():
    embed = TimeEmbedding(dim=8, hidden=16, out=5, n_times=2)
    with pytest.raises(UsageError, match=r"\(3,\).*\(batch, 2\)"):
        embed(torch.zeros(3))
    with pytest.raises(UsageError, match="activation 'tanh'"):
        TimeEmbedding(dim=8, hidden=16, out=5, activation="tanh")
