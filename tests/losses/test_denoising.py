"""Denoising and flow losses: floors in closed form, weightings, padding, coupling, determinism."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

from genpolicy.denoisers import ParameterizedDenoiser
from genpolicy.errors import UsageError
from genpolicy.losses import (
    CleanWeighting,
    EdmWeighting,
    LevelTimes,
    MinSnrWeighting,
    OptimalCoupling,
    PredictionWeighting,
    UniformTimes,
    denoised_weight,
    denoising_loss,
    fill_padding,
    flow_matching_loss,
)
from genpolicy.paths import CosinePath, KarrasPath, LinearPath, TabulatedPath, VPPath

MEAN, VARIANCE = 0.5, 0.04


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian_data(batch: int, seed: int = 9, dtype=torch.float32) -> torch.Tensor:
    draw = torch.randn(batch, 4, 2, generator=generator(seed), dtype=dtype)
    return MEAN + math.sqrt(VARIANCE) * draw


class ExactNetwork(nn.Module):
    """The best prediction for actions that are N(MEAN, VARIANCE) in every entry."""

    def __init__(self, *, path, predicts: str, time_scale: float = 1000.0) -> None:
        super().__init__()
        self.path, self.predicts, self.time_scale = path, predicts, time_scale

    def forward(self, x, time, obs):
        t = (time / self.time_scale).double()
        alpha, sigma = (v.view(-1, 1, 1) for v in self.path.alpha_sigma(t))
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        clean = MEAN + gain * (x.double() - alpha * MEAN)
        noise = sigma * (x.double() - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)
        if self.predicts == "velocity":
            dalpha, dsigma = (v.view(-1, 1, 1) for v in self.path.derivatives(t))
            return (dalpha * clean + dsigma * noise).to(x)
        return {"clean": clean, "noise": noise}[self.predicts].to(x)


def exact(path, predicts: str) -> ParameterizedDenoiser:
    network = ExactNetwork(path=path, predicts=predicts)
    return ParameterizedDenoiser(network=network, path=path, predicts=predicts)


class FixedTimes:
    """Times at the midpoints of equal intervals: a quadrature rule instead of a draw."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def sample(self, batch, path, generator, device=None, dtype=torch.float32):
        unit = (torch.arange(batch, dtype=torch.float64) + 0.5) / batch
        return (self.low + (self.high - self.low) * unit).to(dtype)


class TinyNetwork(nn.Module):
    """A network that mixes all entries of a chunk, so that padding could leak."""

    def __init__(self, horizon: int = 4, action_dim: int = 2, obs_dim: int = 3) -> None:
        super().__init__()
        n = horizon * action_dim
        self.hidden = nn.Linear(n + obs_dim + 1, 16)
        self.out = nn.Linear(16, n)
        with torch.no_grad():
            for k, p in enumerate(self.parameters()):
                p.copy_(0.3 * torch.randn(p.shape, generator=generator(k)))

    def forward(self, x, time, obs):
        flat = torch.cat([x.flatten(1), obs.flatten(1), time[:, None] / 1000.0], dim=1)
        return self.out(torch.tanh(self.hidden(flat))).view_as(x)


def tiny(path, predicts: str, precondition: str = "none") -> ParameterizedDenoiser:
    network = TinyNetwork().double()
    return ParameterizedDenoiser(
        network=network, path=path, predicts=predicts, precondition=precondition
    )


# --- floors ---------------------------------------------------------------------------------------


def test_flow_matching_floor_is_half_pi_times_the_standard_deviation():
    clean = gaussian_data(100_000)
    loss, metrics = flow_matching_loss(
        exact(LinearPath(), "velocity"), clean, None, generator=generator(), times=FixedTimes(0, 1)
    )
    assert loss.item() == pytest.approx(0.314159, rel=5e-3)
    assert metrics["loss"].item() == loss.item()
    uniform, _ = flow_matching_loss(
        exact(LinearPath(), "velocity"), clean, None, generator=generator()
    )
    assert uniform.item() == pytest.approx(math.pi / 2 * math.sqrt(VARIANCE), rel=1e-2)


@pytest.mark.parametrize(("level", "floor"), [(0, 0.984454), (49, 0.037561)])
def test_noise_loss_floor_at_one_level(level, floor):
    path = TabulatedPath(schedule="squaredcos_cap_v2", n_levels=100)
    t = (level + 1) / 100
    loss, _ = denoising_loss(
        exact(path, "noise"),
        gaussian_data(60_000),
        None,
        times=FixedTimes(t, t),
        weighting=PredictionWeighting(),
        generator=generator(),
    )
    assert loss.item() == pytest.approx(floor, rel=1e-2)


def test_mean_noise_loss_floor_of_the_cosine_table():
    path = TabulatedPath(schedule="squaredcos_cap_v2", n_levels=100)
    loss, _ = denoising_loss(
        exact(path, "noise"),
        gaussian_data(100_000),
        None,
        times=LevelTimes(),
        weighting=PredictionWeighting(),
        generator=generator(),
    )
    assert loss.item() == pytest.approx(0.155380, rel=1.5e-2)


def test_denoised_error_metric_is_the_posterior_variance():
    path, t = LinearPath(), 0.5
    _, metrics = denoising_loss(
        exact(path, "velocity"),
        gaussian_data(60_000),
        None,
        times=FixedTimes(t, t),
        weighting=CleanWeighting(),
        generator=generator(),
    )
    posterior = VARIANCE * 0.25 / (0.25 * VARIANCE + 0.25)
    assert metrics["denoised_error"].item() == pytest.approx(posterior, rel=1e-2)


# --- weightings: one formula for every prediction type --------------------------------------------

CASES = [
    (LinearPath(), "velocity", "none"),
    (LinearPath(), "clean", "none"),
    (CosinePath(t_min=0.01, t_max=0.98), "noise", "none"),
    (CosinePath(t_min=0.01, t_max=0.98), "velocity", "none"),
    (VPPath(t_min=0.01), "v", "none"),
    (VPPath(t_min=0.01), "score", "none"),
    (KarrasPath(), "clean", "edm"),
    (VPPath(t_min=0.01), "clean", "edm"),
]
WEIGHTINGS = [
    PredictionWeighting(),
    CleanWeighting(),
    MinSnrWeighting(gamma=5.0),
    EdmWeighting(sigma_data=0.5),
]


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=lambda w: type(w).__name__)
@pytest.mark.parametrize(("path", "predicts", "precondition"), CASES)
def test_loss_is_the_weighted_squared_error_of_the_denoised_action(
    path, predicts, precondition, weighting
):
    denoiser = tiny(path, predicts, precondition)
    clean = gaussian_data(64, dtype=torch.float64)
    cond = torch.randn(64, 1, 3, generator=generator(3), dtype=torch.float64)
    times = UniformTimes(low=max(path.t_min, 0.05))
    loss, metrics = denoising_loss(
        denoiser, clean, cond, times=times, weighting=weighting, generator=generator(4)
    )
    repeat = generator(4)
    t = times.sample(64, path, repeat, dtype=torch.float64)
    noise = torch.randn(clean.shape, generator=repeat, dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(t)
    x_t = alpha.view(-1, 1, 1) * clean + sigma.view(-1, 1, 1) * noise
    squared = (denoiser(x_t, t, cond) - clean).square().mean(dim=(1, 2))
    weight = denoised_weight(weighting, path, t, predicts=predicts)
    if precondition == "edm" and isinstance(weighting, PredictionWeighting):
        weight = denoised_weight(EdmWeighting(sigma_data=0.5), path, t, predicts=predicts)
    assert loss.item() == pytest.approx((weight * squared).mean().item(), rel=1e-8)
    assert metrics["denoised_error"].item() == pytest.approx(squared.mean().item(), rel=1e-8)
    assert not metrics["loss"].requires_grad


def test_clean_end_of_the_linear_path_gives_a_finite_loss_and_gradient():
    denoiser = tiny(LinearPath(), "velocity")
    clean = gaussian_data(4, dtype=torch.float64)
    cond = torch.zeros(4, 1, 3, dtype=torch.float64)
    for weighting in WEIGHTINGS:
        for t in (0.0, 1.0):
            loss, _ = denoising_loss(
                denoiser,
                clean,
                cond,
                times=FixedTimes(t, t),
                weighting=weighting,
                generator=generator(),
            )
            gradients = torch.autograd.grad(loss, list(denoiser.parameters()))
            assert torch.isfinite(loss)
            assert all(torch.isfinite(g).all() for g in gradients)


# --- padding --------------------------------------------------------------------------------------

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)


def test_fill_padding_holds_the_nearest_valid_action():
    clean = torch.arange(12.0).view(3, 4, 1)
    filled = fill_padding(clean, MASK).squeeze(-1)
    assert filled.tolist() == [[0, 1, 2, 3], [4, 5, 5, 5], [9, 9, 10, 10]]
    assert fill_padding(clean, None) is clean
    assert fill_padding(clean, torch.zeros(3, 4, dtype=torch.bool)).abs().sum() == 0


def padded_losses():
    def denoising(denoiser, clean, cond, mask, seed):
        return denoising_loss(
            denoiser,
            clean,
            cond,
            times=UniformTimes(),
            weighting=EdmWeighting(),
            generator=generator(seed),
            mask=mask,
        )[0]

    def flow(denoiser, clean, cond, mask, seed):
        return flow_matching_loss(
            denoiser,
            clean,
            cond,
            generator=generator(seed),
            coupling=OptimalCoupling(across_conditions=True),
            mask=mask,
        )[0]

    return [denoising, flow]


@pytest.mark.parametrize("loss_of", padded_losses(), ids=lambda f: f.__name__)
def test_padded_entries_change_neither_loss_nor_gradient(loss_of):
    denoiser = tiny(LinearPath(), "velocity")
    cond = torch.randn(3, 1, 3, generator=generator(1), dtype=torch.float64)
    base = gaussian_data(3, dtype=torch.float64)
    results = []
    for filler in (0.0, 7.0, math.nan):
        clean = torch.where(MASK.unsqueeze(-1), base, torch.full_like(base, filler))
        clean.requires_grad_()
        loss = loss_of(denoiser, clean, cond, MASK, 5)
        gradients = torch.autograd.grad(loss, [clean, *denoiser.parameters()])
        assert (gradients[0][~MASK] == 0).all()
        assert (gradients[0][MASK] != 0).all()
        results.append([loss, *gradients[1:]])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_loss_divides_by_valid_entries():
    denoiser = tiny(LinearPath(), "velocity")
    clean = gaussian_data(3, dtype=torch.float64)
    cond = torch.zeros(3, 1, 3, dtype=torch.float64)
    times = FixedTimes(0.1, 0.9)
    loss, _ = flow_matching_loss(
        denoiser, clean, cond, generator=generator(2), times=times, mask=MASK
    )
    filled = fill_padding(clean, MASK)
    noise = torch.randn(clean.shape, generator=generator(2), dtype=torch.float64)
    t = times.sample(3, LinearPath(), generator(), dtype=torch.float64)
    x_t = (1 - t).view(3, 1, 1) * filled + t.view(3, 1, 1) * noise
    squared = (denoiser.raw(x_t, t, cond) - (noise - filled)).square()
    assert loss.item() == pytest.approx((squared[MASK].sum() / (MASK.sum() * 2)).item(), rel=1e-10)


def test_a_mask_of_another_shape_or_type_is_refused():
    denoiser = tiny(LinearPath(), "velocity")
    clean, cond = gaussian_data(3, dtype=torch.float64), torch.zeros(3, 1, 3, dtype=torch.float64)
    for mask in (MASK[:2], MASK.T):
        with pytest.raises((UsageError, TypeCheckError), match="mask"):
            flow_matching_loss(denoiser, clean, cond, generator=generator(), mask=mask)


# --- flow options and determinism -----------------------------------------------------------------


def test_flow_loss_is_the_denoising_loss_of_a_velocity_network():
    denoiser = tiny(LinearPath(), "velocity")
    clean, cond = gaussian_data(8, dtype=torch.float64), torch.zeros(8, 1, 3, dtype=torch.float64)
    a, _ = flow_matching_loss(denoiser, clean, cond, generator=generator(3))
    b, _ = denoising_loss(
        denoiser,
        clean,
        cond,
        times=UniformTimes(),
        weighting=PredictionWeighting(),
        generator=generator(3),
    )
    c, _ = flow_matching_loss(denoiser, clean, cond, generator=generator(4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_optimal_coupling_changes_pairs_only_among_equal_conditions():
    denoiser = tiny(LinearPath(), "velocity")
    clean = gaussian_data(16, dtype=torch.float64)
    distinct = torch.arange(48.0, dtype=torch.float64).view(16, 1, 3)
    equal = torch.zeros_like(distinct)

    def loss(cond, **kwargs):
        value, _ = flow_matching_loss(denoiser, clean, cond, generator=generator(6), **kwargs)
        return value

    assert torch.equal(loss(distinct, coupling=OptimalCoupling()), loss(distinct))
    assert not torch.equal(loss(equal, coupling=OptimalCoupling()), loss(equal))
    across = loss(distinct, coupling=OptimalCoupling(across_conditions=True))
    assert not torch.equal(across, loss(distinct))


def test_extra_noise_raises_the_floor_as_computed():
    """With x_t = (1-t) clean + t noise + s extra, Var[noise - clean | x_t] in closed form."""
    t, extra = 0.5, 0.3
    clean = gaussian_data(60_000)

    class Best(nn.Module):
        def forward(self, x, time, obs):
            total = 0.25 * VARIANCE + 0.25 + extra**2
            return -MEAN + (0.5 - 0.5 * VARIANCE) / total * (x - 0.5 * MEAN)

    denoiser = ParameterizedDenoiser(network=Best(), path=LinearPath(), predicts="velocity")
    loss, _ = flow_matching_loss(
        denoiser, clean, None, generator=generator(), times=FixedTimes(t, t), sigma_min=extra
    )
    total = 0.25 * VARIANCE + 0.25 + extra**2
    floor = 1 + VARIANCE - (0.5 - 0.5 * VARIANCE) ** 2 / total
    assert loss.item() == pytest.approx(floor, rel=1e-2)


def test_flow_loss_refuses_other_networks_and_settings():
    clean, cond = gaussian_data(2, dtype=torch.float64), torch.zeros(2, 1, 3, dtype=torch.float64)
    with pytest.raises(UsageError, match="denoising_loss"):
        flow_matching_loss(tiny(LinearPath(), "clean"), clean, cond, generator=generator())
    velocity = tiny(LinearPath(), "velocity")
    with pytest.raises(UsageError, match="sigma_min"):
        flow_matching_loss(velocity, clean, cond, generator=generator(), sigma_min=-0.1)
