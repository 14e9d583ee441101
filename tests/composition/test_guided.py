"""Guidance by a cost: gradients, limits, modes, followed trajectories and what it refuses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genpolicy.composition.guided import CostGuided
from genpolicy.denoisers import (
    Bound,
    ParameterizedDenoiser,
    Step,
    Target,
    TrackingDenoiser,
    as_tracking,
    target_of,
)
from genpolicy.errors import NumericsError, UsageError
from genpolicy.paths import CosinePath, LinearPath, grid
from genpolicy.sampling import RowNoise, ddim, ddpm, sample
from tests.composition.guided_cases import EVERYWHERE, FREE, M, Quadratic, S, at, guided, states
from tests.oracles import GaussianDenoiser, GaussianFlowMap


def quartic(actions: Tensor) -> Tensor:
    """A cost whose Hessian depends on the state and couples entries."""
    flat = actions.flatten(1)
    return 0.25 * (flat[:, 0] * flat[:, 1] + flat.square().sum(1)).square()


# --- gradients ------------------------------------------------------------------------------------


class Network(nn.Module):
    """A small smooth network that mixes entries and reads the condition."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.first, self.second = nn.Linear(2, 2), nn.Linear(9, 16), nn.Linear(16, 6)

    def forward(self, x: Tensor, time: Tensor, obs: Tensor | None) -> Tensor:
        seen = x.new_zeros(len(x), 2) if obs is None else self.look(obs.flatten(1))
        features = torch.cat([x.flatten(1), seen, time[:, None] * 1e-3], dim=1)
        return self.second(torch.tanh(self.first(features))).reshape(x.shape)


def network_denoiser(dtype: torch.dtype = torch.float64) -> ParameterizedDenoiser:
    return ParameterizedDenoiser(network=Network().to(dtype), path=LinearPath(), predicts="clean")


def central_differences(function: Any, x: Tensor, step: float = 1e-5) -> Tensor:
    found = torch.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            moved = torch.zeros_like(x)
            moved[:, i, j] = step
            found[:, i, j] = (function(x + moved) - function(x - moved)) / (2 * step)
    return found


@pytest.mark.parametrize("gradient", ["through", "denoised"])
def test_gradients_agree_with_finite_differences_in_physical_units(gradient: Any):
    inner = network_denoiser()
    span = torch.tensor([3.0, 0.2], dtype=torch.float64)

    def to_physical(actions: Tensor) -> Tensor:
        return torch.tensor([5.0, -1.0], dtype=torch.float64) + actions * span

    tilt = CostGuided(
        inner=inner, cost=quartic, scale=0.7, to_physical=to_physical, gradient=gradient, **FREE
    )
    x, t = states(4, horizon=3, action=2), at(0.4, 4)
    with torch.no_grad():
        plain = inner(x, t, None)
        got = (plain - tilt(x, t, None)) / 0.7
        if gradient == "through":
            wanted = central_differences(lambda y: quartic(to_physical(inner(y, t, None))), x)
            wanted = wanted * 0.4**2 / 0.6
        else:
            wanted = central_differences(lambda d: quartic(to_physical(d)), plain)
            wanted = wanted * (0.4 / 0.6) ** 2
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)


def test_a_physical_cost_of_a_normalized_policy_reaches_the_physical_target():
    # x physical = c + span z, z ~ N(m, s^2): a weak cost moves the mean by scale var (q - mean).
    path, center, span, scale = LinearPath(), 200.0, 50.0, 1e-5
    tilt = guided(
        path, scale=scale, cost=Quadratic(150.0), to_physical=lambda z: center + span * z, **FREE
    )
    x, t = states(5), at(1e-3, 5)
    moved = span * (tilt(x, t, None) - tilt.inner(x, t, None))
    variance = (span * 1e-3 / (1 - 1e-3)) ** 2
    physical = center + span * tilt.inner(x, t, None)
    torch.testing.assert_close(moved, scale * variance * (150.0 - physical), rtol=1e-4, atol=0)


# --- inference mode -------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["through", "denoised"])
def test_inference_mode_gives_the_same_and_no_parameter_collects_gradients(gradient: Any):
    inner = network_denoiser(torch.float32)
    tilt = CostGuided(inner=inner, cost=quartic, scale=0.5, gradient=gradient)
    noise = RowNoise(range(4), (3, 2))
    times = grid(tilt.path, 5, "uniform")
    with torch.no_grad():
        plain = sample(tilt, noise.draw(0), times, torch.ones(4, 1, 2), rule=ddpm, noise=noise)
    with torch.inference_mode():
        cond = torch.ones(4, 1, 2)
        found = sample(tilt, noise.draw(0), times, cond, rule=ddpm, noise=noise)
        assert not torch.is_grad_enabled()
    assert torch.equal(found, plain)
    assert not plain.requires_grad
    assert all(parameter.grad is None for parameter in inner.parameters())


def test_conditions_bound_in_inference_mode_name_the_remedy():
    with torch.inference_mode():
        own = torch.ones(2, 1, 2)
    tilt = CostGuided(inner=Bound(network_denoiser(torch.float32), own), cost=quartic, scale=0.5)
    with torch.inference_mode(), pytest.raises(UsageError, match="no_grad"):
        tilt(torch.zeros(2, 3, 2), torch.full((2,), 0.3), None)
    cheap = replace(tilt, gradient="denoised")
    with torch.inference_mode():
        assert cheap(torch.zeros(2, 3, 2), torch.full((2,), 0.3), None).shape == (2, 3, 2)


# --- where and how much ---------------------------------------------------------------------------


def test_the_default_interval_is_the_last_half_of_ten_uniform_steps():
    # The offset of the cosine path puts its middle just below log-SNR 0.
    for path, n_active in ((LinearPath(), 5), (CosinePath(), 4)):
        times = grid(path, 10, "uniform")[:-1].float()
        expected = [False] * (10 - n_active) + [True] * n_active
        assert guided(path).is_active(times).tolist() == expected


def test_rows_outside_the_interval_are_those_of_the_policy():
    path = LinearPath()
    tilt = guided(path, interval=(0.0, 2.0 * math.log(4.0)))
    t = torch.tensor([0.9, 0.5, 0.3, 0.2, 0.1], dtype=torch.float64)
    x = states(5)
    is_same = (tilt(x, t, None) == tilt.inner(x, t)).flatten(1).all(1)
    assert is_same.tolist() == [True, False, False, False, True]
    assert tilt.is_active(t).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize("gradient", ["through", "denoised"])
def test_nothing_is_guided_where_there_is_no_signal(gradient: Any):
    tilt = guided(LinearPath(), interval=EVERYWHERE, gradient=gradient)
    x, t = states(2), torch.tensor([1.0, 0.5], dtype=torch.float64)
    found = tilt(x, t, None)
    assert torch.equal(found[0], tilt.inner(x, t)[0])
    assert torch.isfinite(found).all()


def test_max_ratio_limits_the_change_of_the_implied_noise_row_by_row():
    path = LinearPath()
    x, t = states(40), at(0.4, 40)

    def implied(denoised: Tensor) -> Tensor:
        return ((x - 0.6 * denoised) / 0.4).flatten(1)

    free = guided(path, max_ratio=None)
    change = implied(free(x, t, None)) - implied(free.inner(x, t))
    limit = 1.2 * math.sqrt(2)
    is_bound = change.norm(dim=1) > limit
    assert 5 < is_bound.sum() < 35
    limited = implied(replace(free, max_ratio=1.2)(x, t, None)) - implied(free.inner(x, t))
    torch.testing.assert_close(limited[~is_bound], change[~is_bound])
    sizes = limited[is_bound].norm(dim=1)
    torch.testing.assert_close(sizes, torch.full_like(sizes, limit))
    cosine = torch.cosine_similarity(limited, change, dim=1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_rows_do_not_depend_on_each_other():
    tilt = guided(LinearPath(), cost=quartic)
    x, t = states(7), torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    together = tilt(x, t, None)
    alone = [tilt(x[i : i + 1], t[i : i + 1], None) for i in range(7)]
    assert torch.equal(together, torch.cat(alone))


def test_scale_zero_is_the_policy():
    def never(actions: Tensor) -> Tensor:
        raise AssertionError

    x, t = states(3), at(0.3, 3)
    tilt = guided(LinearPath(), scale=0.0, cost=never)
    assert torch.equal(tilt(x, t, None), tilt.inner(x, t))


def test_parts_are_what_a_particle_filter_needs():
    for t in (0.3, 0.8):
        tilt = guided(LinearPath())
        x, time = states(3), at(t, 3)
        plain, pulled, potential, _ = tilt.parts(x, time, None, tilt.start(x, None))
        torch.testing.assert_close(plain, tilt.inner(x, time))
        assert torch.equal(pulled, tilt(x, time, None))
        torch.testing.assert_close(potential, -4.0 * Quadratic()(plain))
        torch.testing.assert_close(tilt.potential(plain), potential)
        assert (pulled is plain) == (t == 0.8)


# --- members that follow their trajectory ---------------------------------------------------------


@dataclass(frozen=True)
class Follower:
    """A Gaussian that counts, in a nested carry, what it was asked and where it went."""

    inner: GaussianDenoiser = field(default_factory=lambda: GaussianDenoiser(LinearPath(), M, S))
    kind: Any = "posterior_mean"
    moves: bool = False

    @property
    def path(self) -> Any:
        return self.inner.path

    def start(self, x_init: Tensor, cond: Any) -> Any:
        return (x_init.new_zeros(len(x_init)), {"steps": 0}, [None])

    def denoise(self, x_t: Tensor, t: Tensor, cond: Any, carry: Any) -> tuple[Tensor, Any]:
        total, counts, rest = carry
        return self.inner(x_t, t), (total + x_t.flatten(1).sum(1), counts, rest)

    def shape_noise(self, noise: Tensor, carry: Any) -> Tensor:
        return 0.5 * noise

    def advance(self, carry: Any, step: Step) -> tuple[Tensor, Any]:
        total, counts, rest = carry
        assert not total.requires_grad
        x_s = step.x_s.clone() if self.moves else step.x_s
        return x_s, (total, {"steps": counts["steps"] + 1}, rest)


@pytest.mark.parametrize("gradient", ["through", "denoised"])
def test_the_carry_of_a_following_member_passes_through(gradient: Any):
    tilt = CostGuided(inner=Follower(), cost=Quadratic(), scale=2.0, gradient=gradient)
    assert isinstance(tilt, TrackingDenoiser)
    assert as_tracking(tilt) is tilt
    x, t = states(3), at(0.4, 3)
    with torch.inference_mode():
        carry = tilt.start(x, None)
        found, carry = tilt.denoise(x, t, None, carry)
        x_s = x.clone()
        step = Step(index=0, n_steps=1, t=0.4, s=0.2, x_t=x, x_s=x_s, denoised=found, noise=None)
        state, carry = tilt.advance(carry, step)
    assert state is x_s
    torch.testing.assert_close(carry[0], x.flatten(1).sum(1))
    assert carry[1:] == ({"steps": 1}, [None])
    assert torch.equal(tilt.shape_noise(x, carry), 0.5 * x)
    plain = guided(LinearPath(), scale=2.0, gradient=gradient)
    assert torch.equal(found, plain(x, t, None))


def test_a_member_that_moves_the_state_has_to_be_outermost():
    tilt = CostGuided(inner=Follower(moves=True), cost=Quadratic(), scale=1.0)
    with pytest.raises(UsageError, match="outermost"):
        sample(tilt, states(2), grid(tilt.path, 4, "uniform"), None, rule=ddim)


# --- target and errors ----------------------------------------------------------------------------


def test_target_names_the_density_and_what_reaches_it():
    path = LinearPath()
    target = target_of(guided(path))
    assert target is not None
    assert target.density == "p(x) exp(-scale C(x))"
    assert target.unbiased == ("corrected", "particles")
    assert target.refused == ()
    assert "narrow" in target.note
    assert guided(path, interval=(0.0, 4.0)).target.unbiased == ("particles",)


def test_what_a_composition_refuses_is_refused_under_guidance():
    product = Target(
        operator="product",
        density="a b",
        total_weight=2.0,
        unbiased=("corrected",),
        refused=("ode",),
        remedy="use a corrector",
        note="it collapses",
    )

    class Product(GaussianDenoiser):
        target = product

    tilt = guided(LinearPath(), inner=Product(LinearPath()))
    assert tilt.target.density == "(a b) exp(-scale C(x))"
    assert tilt.target.total_weight == 2.0
    assert tilt.target.unbiased == ("corrected",)
    with pytest.raises(UsageError, match="use a corrector"):
        sample(tilt, states(2), grid(tilt.path, 4, "uniform"), None, rule=ddim)


def test_costs_that_are_not_finite_name_their_rows():
    def logarithm(actions: Tensor) -> Tensor:
        return -actions.flatten(1).sum(1).log()

    tilt = guided(LinearPath(), cost=logarithm, inner=GaussianDenoiser(LinearPath(), 0.0, 10.0))
    x = torch.tensor([1.0, -1.0, 2.0, -3.0], dtype=torch.float64).reshape(4, 1, 1)
    with pytest.raises(NumericsError, match=r"cost is not finite in rows \[1, 3\] of 4"):
        tilt(x, at(0.2, 4), None)

    def root(actions: Tensor) -> Tensor:
        return actions.square().flatten(1).sum(1).sqrt()

    tilt = guided(LinearPath(), cost=root, inner=GaussianDenoiser(LinearPath(), 0.0, 1.0))
    x = torch.tensor([1.0, 0.0], dtype=torch.float64).reshape(2, 1, 1)
    with pytest.raises(NumericsError, match=r"gradient of the cost is not finite in rows \[1\]"):
        tilt(x, at(0.2, 2), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": -1.0}, "scale is -1.0"),
        ({"scale": math.inf}, "scale is inf"),
        ({"gradient": "thru"}, "did you mean 'through'"),
        ({"interval": (1.0, 1.0)}, "low < high"),
        ({"max_ratio": 0.0}, "max_ratio is 0.0"),
        ({"inner": GaussianFlowMap(LinearPath())}, "consistency policy"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        guided(LinearPath(), **changes)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (lambda actions: actions.square().sum(1), "one value per row"),
        (lambda actions: actions.detach().square().flatten(1).sum(1), "no differentiable function"),
    ],
)
def test_costs_of_the_wrong_form_are_refused(cost: Any, message: str):
    with pytest.raises(UsageError, match=message):
        guided(LinearPath(), cost=cost)(states(2), at(0.2, 2), None)
