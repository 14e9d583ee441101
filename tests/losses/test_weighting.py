"""Weights on the squared denoised error: identities between prediction types."""

import pytest
import torch
from jaxtyping import TypeCheckError

from genpolicy.errors import UsageError
from genpolicy.losses import (
    CleanWeighting,
    EdmWeighting,
    MinSnrWeighting,
    PredictionWeighting,
    denoised_weight,
    edm_gain,
    prediction_gain,
)
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, VPPath, from_clean_and_noise

PATHS = [LinearPath(t_max=0.99), CosinePath(t_max=0.99), VPPath(), KarrasPath()]
PREDICTIONS = ["clean", "noise", "velocity", "v", "score"]


def inner_times(path, n: int = 9) -> torch.Tensor:
    low, high = max(path.t_min, 0.02), path.t_max
    return torch.linspace(low, high, n, dtype=torch.float64)


def snr_of(path, t: torch.Tensor) -> torch.Tensor:
    alpha, sigma = path.alpha_sigma(t)
    return (alpha / sigma) ** 2


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_gain_is_the_ratio_of_prediction_and_denoised_errors(path, predicts):
    """Change the denoised action at a fixed noisy sample and watch the prediction."""
    t = inner_times(path)
    alpha, sigma = (v.view(-1, 1, 1) for v in path.alpha_sigma(t))
    clean = torch.randn(9, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(9, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    other = clean + 0.5
    other_noise = noise - alpha / sigma * 0.5
    difference = from_clean_and_noise(
        other, other_noise, t, path=path, predicts=predicts
    ) - from_clean_and_noise(clean, noise, t, path=path, predicts=predicts)
    expected = 0.5 * (prediction_gain(path, t, predicts) / path.alpha_sigma(t)[1]).view(-1, 1, 1)
    assert torch.allclose(difference.abs(), expected.expand_as(difference), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_min_snr_and_clean_are_rescaled_prediction_weights(path):
    t = inner_times(path)
    snr = snr_of(path, t)

    def weight(weighting, predicts="noise"):
        return denoised_weight(weighting, path, t, predicts=predicts)

    noise_weight = weight(PredictionWeighting(), "noise")
    assert torch.allclose(noise_weight, snr, rtol=1e-9)
    assert torch.allclose(
        weight(MinSnrWeighting(gamma=5.0)), noise_weight.clamp(max=5.0), rtol=1e-9
    )
    assert torch.allclose(weight(MinSnrWeighting(gamma=1e300)), noise_weight, rtol=1e-9)
    assert torch.allclose(weight(CleanWeighting()), weight(PredictionWeighting(), "clean"))
    assert torch.allclose(weight(CleanWeighting()), torch.ones_like(t))
    # A noise network reaches the clean loss by dividing its squared error by snr.
    assert torch.allclose(weight(CleanWeighting()) / noise_weight, 1 / snr, rtol=1e-9)


def test_v_is_edm_weighting_on_a_variance_preserving_path():
    path = VPPath()
    t = inner_times(path)
    v_weight = denoised_weight(PredictionWeighting(), path, t, predicts="v")
    assert torch.allclose(v_weight, snr_of(path, t) + 1, rtol=1e-9)
    edm = denoised_weight(EdmWeighting(sigma_data=1.0), path, t, predicts="v")
    assert torch.allclose(v_weight, edm, rtol=1e-9)


def test_velocity_on_the_linear_path_is_one_over_time_squared():
    path = LinearPath()
    t = torch.linspace(0.05, 1.0, 7, dtype=torch.float64)
    weight = denoised_weight(PredictionWeighting(), path, t, predicts="velocity")
    assert torch.allclose(weight, t**-2, rtol=1e-9)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_edm_weighting_is_the_squared_error_of_a_preconditioned_network(path):
    t = inner_times(path)
    alpha, sigma = path.alpha_sigma(t)
    s = sigma / alpha
    c_out = s * 0.5 / (s**2 + 0.25).sqrt()
    gain = edm_gain(alpha, sigma, 0.5)
    assert torch.allclose(gain, sigma / c_out, rtol=1e-9)
    weight = denoised_weight(EdmWeighting(sigma_data=0.5), path, t, predicts="noise")
    assert torch.allclose(weight, c_out**-2, rtol=1e-9)
    assert torch.allclose(PredictionWeighting().scaled(alpha, sigma, gain) / sigma**2, weight)


def test_scaled_weights_are_finite_at_both_ends():
    path = LinearPath()
    alpha, sigma = path.alpha_sigma(torch.tensor([0.0, 1.0]))
    gain = prediction_gain(path, torch.tensor([0.0, 1.0]), "velocity")
    for weighting in (PredictionWeighting(), CleanWeighting(), MinSnrWeighting(), EdmWeighting()):
        assert torch.isfinite(weighting.scaled(alpha, sigma, gain)).all()


def test_impossible_settings_are_refused():
    for wrong in (lambda: MinSnrWeighting(gamma=0.0), lambda: EdmWeighting(sigma_data=-1.0)):
        with pytest.raises(UsageError, match="positive"):
            wrong()
    with pytest.raises((UsageError, TypeCheckError), match="velocity"):
        prediction_gain(LinearPath(), torch.tensor([0.5]), "epsilon")
