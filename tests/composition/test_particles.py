"""Particles against what infinitely many of them would do, and that against the stated targets.

For Gaussian members everything is a Gaussian: ``limit`` follows mean and variance of the weighted
rows exactly. It shows that the weights lead to the target for any churn, and gives runs of few
steps, which are far from the target, a number to meet.
"""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genpolicy.composition.guided import CostGuided
from genpolicy.composition.on_path import OnPath
from genpolicy.composition.particles import Particles
from genpolicy.composition.sums import mean, product
from genpolicy.errors import NumericsError, UsageError
from genpolicy.paths import KarrasPath, LinearPath, VPPath, grid
from genpolicy.sampling import (
    Constraint,
    Pinned,
    RowNoise,
    Sampler,
    ddpm,
    dpmpp_2m,
    heun,
    midpoint,
    sample,
    sde,
)
from tests.composition.particle_cases import (
    CASES,
    VE,
    Bowl,
    Draws,
    annealed,
    gaussian,
    limit,
    run,
    uniforms,
)
from tests.oracles import sample_moments


@pytest.mark.parametrize(
    ("name", "churn"), sorted({*itertools.product(CASES, (0.0, 1.0, 10.0))} - {("T3", 0.0)})
)
def test_the_weights_lead_to_the_target_for_any_churn(name, churn):
    inner, total, (mu, variance) = CASES[name]
    found = limit(inner, churn=churn, n_steps=4000, start=annealed(inner))
    coarse = limit(inner, churn=churn, n_steps=2000, start=annealed(inner))
    # The error is of first order in the step, so that this is of second order. Variances lose 0.3%
    # in the jump from sigma_min to the clean end.
    assert 2.0 * found[0] - coarse[0] == pytest.approx(mu, abs=1e-3)
    assert 2.0 * found[1] - coarse[1] == pytest.approx(variance, rel=4.5e-3)
    if churn > 0.0:  # with noise, the start does not matter
        practical = limit(inner, churn=churn, n_steps=4000, total=total)
        assert practical == pytest.approx(found, abs=3e-3)


def test_without_noise_a_product_collapses_whatever_the_weights():
    inner, total, (_, variance) = CASES["T3"]
    # N(0, sigma_max^2/2) for N(0, (sigma_max^2 + 1/4)/2) is enough.
    assert limit(inner, churn=0.0, n_steps=4000, total=total)[1] < 0.5 * variance


@pytest.mark.parametrize("churn", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("name", ["T2b", "T7", "T4"])
def test_particles_do_what_infinitely_many_would(name, churn):
    inner, total, _ = CASES[name]
    rows, _ = run(inner, churn=churn, n_steps=30, total=total)
    mu, variance = limit(inner, churn=churn, n_steps=30, total=total)
    assert rows.mean().item() == pytest.approx(mu, abs=0.03)
    assert rows.var().item() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize(("name", "plain"), [("T3", (0.0, 0.0833)), ("T7", (1.25, 0.1094))])
def test_particles_reach_targets_that_stochastic_steps_miss(name, plain):
    inner, total, (mu, variance) = CASES[name]
    rows, sizes = run(inner, churn=1.0, n_steps=150, n=10_000, total=total)
    expected = limit(inner, churn=1.0, n_steps=150, total=total)
    assert rows.mean().item() == pytest.approx(expected[0], abs=0.03)
    assert rows.var().item() == pytest.approx(expected[1], rel=0.07)
    assert rows.mean().item() == pytest.approx(mu, abs=0.04)
    assert rows.var().item() == pytest.approx(variance, rel=0.15)
    assert sizes.min() < 5000  # rows were drawn anew on the way
    times = grid(VE, 300, "log_snr")
    without = sample_moments(inner, times, functools.partial(sde, churn=1.0))
    assert without[0] == pytest.approx(plain[0], abs=0.02)
    assert without[1] ** 2 == pytest.approx(plain[1], rel=0.06)


@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_t6_equal_widths_need_no_weights(churn):
    inner, _, _ = CASES["T6"]
    rows, sizes = run(inner, churn=churn, n_steps=20, n=1000)
    assert sizes == pytest.approx(1000.0, rel=1e-6)
    assert sizes.shape == (21, 1)
    assert len(rows.unique()) == 1000


def test_equal_members_have_equal_weights_on_every_path():
    for path in (VE, VPPath(), LinearPath(t_min=0.01, t_max=0.99)):
        inner = mean([gaussian(0.3, 0.5, path), gaussian(0.3, 0.5, path)], [0.3, 0.7])
        _, sizes = run(inner, rule=ddpm, n_steps=10, n=64, n_groups=8)
        assert sizes == pytest.approx(64.0, rel=1e-6)


def test_a_start_at_pure_noise_has_finite_weights():
    path = LinearPath()
    inner = mean([gaussian(-1, 1.0, path), gaussian(1, 0.25, path)], [0.5, 0.5])
    times = torch.cat([torch.ones(1), path.t_of_log_snr(torch.linspace(-8.0, 8.0, 120))])
    noise = Draws(20_000)
    crowd = Particles(inner=inner, n_particles=20_000, uniform=uniforms(1))
    out = sample(crowd, noise.draw(0), [*times.tolist(), 0.0], None, rule=ddpm, noise=noise)
    assert out.mean().item() == pytest.approx(0.8824, abs=0.03)
    assert out.var().item() == pytest.approx(0.1176, rel=0.1)


@pytest.mark.parametrize("n_steps", [12, 40])
@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_t8_a_tilt_is_exact_for_any_number_of_steps(churn, n_steps):
    # Relative to what the unguided steps sample: their own error is not the tilt's.
    bowl = Bowl(gaussian(-0.5, 0.7))
    rule = functools.partial(sde, churn=churn)
    mu, std = sample_moments(bowl.inner, grid(VE, n_steps, "log_snr"), rule)
    rows, sizes = run(bowl, rule=rule, n_steps=n_steps)
    wanted = bowl.of(mu, std**2)
    assert rows.mean().item() == pytest.approx(wanted[0], abs=0.025)
    assert rows.var().item() == pytest.approx(wanted[1], rel=0.05)
    assert sizes.min() > 0.1 * 50_000


def test_t8_the_cost_of_the_library_is_weighed_alike():
    target = Bowl(gaussian(-0.5, 0.7))

    def cost(actions):
        return 0.5 * (actions - target.centre).square().flatten(1).sum(1)

    for gradient in ("through", "denoised"):
        guide = CostGuided(inner=target.inner, cost=cost, scale=target.scale, gradient=gradient)
        mu, std = sample_moments(target.inner, grid(VE, 40, "log_snr"), ddpm)
        rows, _ = run(guide, rule=ddpm, n_steps=40)
        wanted = target.of(mu, std**2)
        assert rows.mean().item() == pytest.approx(wanted[0], abs=0.025)
        assert rows.var().item() == pytest.approx(wanted[1], rel=0.05)


def test_a_tilt_of_a_sum_has_both_weights():
    inner, _, _ = CASES["T2b"]
    bowl = Bowl(inner, centre=0.2, scale=4.0)
    rows, _ = run(bowl, churn=1.0, n_steps=30)
    mu, variance = bowl.of(*limit(inner, churn=1.0, n_steps=30))
    assert rows.mean().item() == pytest.approx(mu, abs=0.02)
    assert rows.var().item() == pytest.approx(variance, rel=0.05)


def test_the_first_row_of_every_group_is_a_fair_draw():
    bowl = Bowl(gaussian(-0.5, 0.7))
    mu, std = sample_moments(bowl.inner, grid(VE, 12, "log_snr"), ddpm)
    rows, _ = run(bowl, rule=ddpm, n_steps=12, n=64, n_groups=4000)
    wanted = bowl.of(mu, std**2)
    for column in (0, 31, 63):
        assert rows[:, column].mean().item() == pytest.approx(wanted[0], abs=0.035)
        assert rows[:, column].var().item() == pytest.approx(wanted[1], rel=0.12)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    widths=st.tuples(st.floats(0.3, 1.2), st.floats(0.3, 1.2)),
    share=st.floats(0.0, 1.0),
    total=st.floats(0.7, 1.5),
)
def test_any_widths_and_weights(widths, share, total):
    inner = product(
        [gaussian(-0.4, widths[0]), gaussian(0.6, widths[1])],
        [share * total, (1.0 - share) * total],
    )
    rows, _ = run(inner, churn=1.0, n_steps=20, n=10_000, total=total)
    mu, variance = limit(inner, churn=1.0, n_steps=20, total=total)
    assert rows.mean().item() == pytest.approx(mu, abs=0.15 * variance**0.5)
    assert rows.var().item() == pytest.approx(variance, rel=0.15)


def test_a_total_weight_other_than_one_asks_for_a_scaled_start():
    path = KarrasPath(sigma_min=0.02, sigma_max=1.0)
    inner = product([gaussian(0, 0.5, path), gaussian(0, 0.8, path)], [1.0, 1.0])
    # At sigma 1 the product is N(0, 0.709) and not yet N(0, 1/2), which costs a few per cent.
    right = limit(inner, churn=0.2, n_steps=4000, total=2.0)[1]
    wrong = limit(inner, churn=0.2, n_steps=4000, total=1.0)[1]
    target = 1.0 / (4.0 + 1.0 / 0.64)
    assert abs(right / target - 1.0) < 0.6 * abs(wrong / target - 1.0)
    sampler = Sampler(
        rule="sde",
        rule_options={"churn": 0.2},
        n_steps=25,
        grid="log_snr",
        init_scale=2.0**-0.5,
    )
    crowd = Particles(inner=inner, n_particles=20_000, uniform=uniforms(1))
    like = torch.empty(0, dtype=torch.float64)
    out = sampler.run(crowd, None, seeds=range(20_000), horizon=1, action_dim=1, like=like)
    expected = limit(inner, churn=0.2, n_steps=25, total=2.0)[1]
    assert out.var().item() == pytest.approx(expected, rel=0.08)


def test_groups_do_not_depend_on_each_other():
    bowl = Bowl(product([gaussian(-1, 0.5), gaussian(1, 0.4)]))
    times = grid(VE, 15, "log_snr").tolist()

    def result(groups):
        seeds = [64 * g + k for g in groups for k in range(64)]
        noise = RowNoise(seeds, (4, 2))
        crowd = Particles(
            inner=bowl, n_particles=64, uniform=lambda i: uniforms(3)(i)[list(groups)]
        )
        return sample(crowd, 14.0 * noise.draw(0), times, None, rule=ddpm, noise=noise)

    together = result((0, 1, 2)).reshape(3, 64, 4, 2)
    for group in range(3):
        assert torch.equal(together[group], result((group,)))
    assert torch.equal(together[[2, 0]].flatten(0, 1), result((2, 0)))


@dataclass(frozen=True)
class Remembering:
    """Carries its own state, and fails when it is handed another row's."""

    inner: Any
    kind: ClassVar[Any] = "posterior_mean"

    @property
    def path(self):
        return self.inner.path

    def start(self, x_init, cond):
        return (x_init, (None, 3, "name"))

    def denoise(self, x_t, t, cond, carry):
        assert torch.equal(carry[0], x_t)
        return self.inner(x_t, t, cond), carry

    def weigh(self, x_t, t, cond, carry):
        denoised, carry = self.denoise(x_t, t, cond, carry)
        return denoised, -((x_t.flatten().double()) ** 2), carry

    def shape_noise(self, noise, carry):
        return noise

    def advance(self, carry, step):
        return step.x_s, (step.x_s, carry[1])


def test_what_members_remember_is_drawn_anew_with_the_rows():
    _, sizes = run(Remembering(gaussian(0, 0.5)), rule=ddpm, n_steps=10, n=100, n_groups=3)
    assert sizes.min() < 50


def test_known_entries_do_not_count_in_the_ratio_of_a_tilt():
    bowl = Bowl(gaussian(-0.5, 0.7))
    mask = torch.tensor([[True], [False]]).expand(50_000, 2, 1)
    pinned = Pinned(
        values=torch.full((50_000, 2, 1), 0.25, dtype=torch.float64),
        mask=mask,
        noise=Draws(1, seed=5, shape=(2, 1)).draw(0).expand(50_000, 2, 1),
    )
    noise = Draws(50_000, shape=(2, 1))
    crowd = Particles(inner=bowl, n_particles=50_000, uniform=uniforms(1))
    times = grid(VE, 20, "log_snr")
    out = sample(
        crowd,
        20.0 * noise.draw(0),
        times,
        None,
        rule=ddpm,
        noise=noise,
        constrain=Constraint(pinned=pinned),
    )
    mu, std = sample_moments(bowl.inner, times, ddpm)
    wanted = bowl.of(mu, std**2)
    assert torch.equal(out[:, 0], torch.full_like(out[:, 0], 0.25))
    assert out[:, 1].mean().item() == pytest.approx(wanted[0], abs=0.03)
    assert out[:, 1].var().item() == pytest.approx(wanted[1], rel=0.06)


@dataclass(frozen=True)
class Wall(Bowl):
    """Forbids negative actions; the ``closed`` rows of the batch have no allowed ones."""

    closed: tuple[int, int] = (0, 0)

    def potential(self, denoised):
        value = torch.where(denoised.flatten(1).amin(1) >= 0.0, 0.0, -math.inf)
        value[slice(*self.closed)] = -math.inf
        return value


def test_rows_of_weight_zero_are_never_drawn():
    rows, _ = run(Wall(gaussian(0.3, 0.5), scale=0.0), rule=ddpm, n_steps=15, n=64, n_groups=50)
    assert rows.min() >= 0.0


def test_a_group_without_weight_is_an_error_with_a_remedy():
    wall = Wall(gaussian(0.3, 0.5), scale=0.0, closed=(64, 128))
    with pytest.raises(NumericsError, match=r"groups \[1\] are 0.*lower the scale of the cost"):
        run(wall, rule=ddpm, n_steps=5, n=64, n_groups=3)
    with pytest.raises(NumericsError, match=r"groups \[0, 1\] .*not a number \(2 of 2 groups\)"):
        run(Bowl(gaussian(0.3, 0.5), scale=math.nan), rule=ddpm, n_steps=5, n=64, n_groups=2)


@pytest.mark.parametrize("rule", [heun, midpoint, dpmpp_2m])
def test_rules_with_a_second_evaluation_or_a_memory_are_refused(rule):
    inner, _, _ = CASES["T2b"]
    with pytest.raises(UsageError, match="use rule='sde', 'ddpm' or 'ddim'"):
        run(inner, rule=rule, n_steps=5, n=8)


def test_a_tilt_has_to_end_at_the_clean_end():
    crowd = Particles(inner=Bowl(gaussian(0, 1)), n_particles=8, uniform=uniforms(1))
    noise = Draws(8)
    with pytest.raises(UsageError, match="end it at 0"):
        sample(crowd, noise.draw(0), [1.0, 0.8, 0.6], None, rule=ddpm, noise=noise)


def test_a_guided_step_without_noise_is_refused():
    def alternating(path, t, s, t_prev):
        return sde(path, t, s, t_prev, churn=1.0 if t > 0.9 else 0.0)

    with pytest.raises(UsageError, match="adds noise to every step but the last"):
        run(Bowl(gaussian(0, 1)), rule=alternating, n_steps=10, n=8)


def test_the_target_is_the_inner_one_with_particles():
    of_mean = Particles(inner=CASES["T2b"][0], n_particles=4, uniform=uniforms(1)).target
    assert of_mean == CASES["T2b"][0].target
    of_product = Particles(inner=CASES["T3"][0], n_particles=4, uniform=uniforms(1)).target
    assert "particles" in of_product.unbiased
    assert of_product.refused == ("ode",)
    of_tilt = Particles(inner=Bowl(gaussian(0, 1)), n_particles=4, uniform=uniforms(1)).target
    assert of_tilt.unbiased == ("particles",)
    assert of_tilt.refused == ("corrected",)
    assert Particles(inner=gaussian(0, 1), n_particles=4, uniform=uniforms(1)).target is None
    with pytest.raises(UsageError, match="collapse with the rule"):
        run(CASES["T3"][0], churn=0.0, n_steps=5, n=8, total=2.0)


def test_wrong_uses_are_errors():
    inner = CASES["T2b"][0]
    one = uniforms(1)
    with pytest.raises(UsageError, match="n_particles is 0"):
        Particles(inner=inner, n_particles=0, uniform=one)
    with pytest.raises(UsageError, match=r"resample_below is 1\.5"):
        Particles(inner=inner, n_particles=2, uniform=one, resample_below=1.5)
    for hidden in (
        Bowl(Bowl(gaussian(0, 1))),
        mean([Bowl(gaussian(0, 1)), gaussian(0, 1)], [0.5, 0.5]),
        OnPath(inner=inner, path=VE),
    ):
        with pytest.raises(UsageError, match="does not pass its weights on"):
            Particles(inner=hidden, n_particles=2, uniform=one)
    crowd = Particles(inner=inner, n_particles=4, uniform=one)
    with pytest.raises(UsageError, match="got 6 rows for groups of 4"):
        crowd.start(torch.zeros(6, 1, 1), None)
    cond = torch.arange(8.0).reshape(8, 1, 1)
    with pytest.raises(UsageError, match="different conditions"):
        crowd.start(torch.zeros(8, 1, 1), cond)
    assert crowd.start(torch.zeros(8, 1, 1), cond // 4).log_weight.shape == (8,)
