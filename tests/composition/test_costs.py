"""Costs: values by hand, gradients, violations, the past, maze2d's dynamics, JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genpolicy.composition.costs import (
    ActionIsPosition,
    BoundCost,
    Cost,
    CostSum,
    InBox,
    KeepOut,
    PointMass,
    Smoothness,
    SpeedLimit,
    Waypoint,
    bind_cost,
)
from genpolicy.composition.guided import CostGuided
from genpolicy.config import build, config_of
from genpolicy.errors import UsageError
from genpolicy.paths import LinearPath, grid
from genpolicy.sampling import RowNoise, ddim, sample
from tests.oracles import GaussianDenoiser

MASS = 1000.0 * 4.0 / 3.0 * math.pi * 0.1**3

EVERY: dict[str, Any] = {
    "keep_out": KeepOut(center=(0.5, 0.2), radius=1.0, margin=0.3),
    "keep_out_mass": KeepOut(center=(1.0, 1.1), radius=0.2, positions=PointMass()),
    "in_box": InBox(low=(-0.5, -0.2), high=(0.4, 0.5), margin=0.1),
    "speed_limit": SpeedLimit(limit=3.0, dt=0.1, margin=0.5),
    "speed_limit_mass": SpeedLimit(limit=0.2, dt=0.01, positions=PointMass()),
    "smoothness": Smoothness(order=2, limit=0.2),
    "smoothness_1": Smoothness(order=1, dims=(1,)),
    "waypoint": Waypoint(point=(3.0, 1.0), step=3, tolerance=0.25),
    "waypoint_mass": Waypoint(point=(1.5, 1.0), positions=PointMass()),
}


def chunk(*points: tuple[float, float]) -> Tensor:
    return torch.tensor([points], dtype=torch.float64)


def random_actions(n: int = 4, horizon: int = 5) -> Tensor:
    return RowNoise(range(n), (horizon, 2), dtype=torch.float64).draw(0)


def maze_obs(n: int = 4, n_obs_steps: int = 2) -> dict[str, Tensor]:
    state = torch.tensor([1.0, 1.0, 0.3, -0.2], dtype=torch.float64)
    return {"state": state.expand(n, n_obs_steps, 4).clone()}


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost", "actions", "value", "violation"),
    [
        # Distances 0.5 and 1.2 from the disc's centre: hinges 0.8 and 0.1.
        (KeepOut(center=(0, 0), radius=1.0, margin=0.3), ((0.3, 0.4), (0, 1.2)), 0.325, 0.5),
        (KeepOut(center=(0, 0), radius=1.0), ((0, 1.2), (3, 4)), 0.0, 0.0),
        # Excesses 0.5 over x and 0.25 below y; the margin adds 0.1 to both.
        (InBox(low=(0, 0), high=(1, 1)), ((1.5, 0.5), (0.5, -0.25)), 0.15625, 0.5),
        (InBox(low=(0, 0), high=(1, 1), margin=0.1), ((1.5, 0.5), (0.5, -0.25)), 0.24125, 0.5),
        (InBox(low=(0, 0), high=(1, 1), margin=0.1), ((0.95, 0.5),), 0.00125, 0.0),
        # Speeds 5/0.1 = 50 and 0.
        (SpeedLimit(limit=40, dt=0.1), ((0, 0), (3, 4), (3, 4)), 50.0, 10.0),
        (SpeedLimit(limit=40, dt=0.1, margin=5), ((0, 0), (3, 4), (3, 4)), 112.5, 10.0),
        (SpeedLimit(limit=40, dt=0.1), ((7, 7),), 0.0, 0.0),
        # Second differences (-2, 3); with limit 2.5 only the 3 counts, by 0.5.
        (Smoothness(), ((0, 0), (1, 0), (0, 3)), 6.5, 3.0),
        (Smoothness(limit=2.5), ((0, 0), (1, 0), (0, 3)), 0.125, 0.5),
        (Smoothness(order=1, dims=(1,)), ((0, 0), (1, 0), (0, 3)), 4.5, 3.0),
        (Waypoint(point=(3, 4), step=0), ((0, 0), (9, 9)), 12.5, 5.0),
        (Waypoint(point=(3, 4), tolerance=2.0), ((9, 9), (0, 0)), 4.5, 3.0),
        (Waypoint(point=(3, 4), tolerance=5.5), ((9, 9), (0, 0)), 0.0, 0.0),
    ],
)
def test_values_and_violations_by_hand(cost: Cost, actions: Any, value: float, violation: float):
    x = chunk(*actions)
    assert cost(x, {}).item() == pytest.approx(value, abs=1e-12)
    assert cost.violation(x, {}).item() == pytest.approx(violation, abs=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_agree_with_finite_differences(name: str):
    cost, obs = EVERY[name], maze_obs()
    x = (0.5 * random_actions()).requires_grad_()
    assert (cost(x, obs) > 0).all(), "the hinge is closed: the check would be empty"
    assert torch.autograd.gradcheck(lambda y: cost(y, obs), (x,), atol=1e-7)


@pytest.mark.parametrize("name", EVERY)
def test_rows_are_independent_and_shapes_kept(name: str):
    cost, obs = EVERY[name], maze_obs(6)
    x = random_actions(6)
    for function in (cost, cost.violation):
        together = function(x, obs)
        assert together.shape == (6,)
        alone = [function(x[i : i + 1], {"state": obs["state"][i : i + 1]}) for i in range(6)]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-13, atol=1e-13)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=3, max_size=6),
    st.floats(0.1, 2.0),
)
def test_a_cost_without_margin_is_zero_exactly_where_nothing_is_violated(points: Any, size: float):
    x = chunk(*points)
    for cost in (
        KeepOut(center=(0.1, -0.2), radius=size),
        InBox(low=(-size, -size), high=(size, 1.0)),
        SpeedLimit(limit=size, dt=0.5),
        Smoothness(limit=size),
        Waypoint(point=(0.0, 1.0), step=1, tolerance=size),
    ):
        value, depth = cost(x, {}).item(), cost.violation(x, {}).item()
        assert (value > 0) == (0.5 * depth**2 > 0)
        assert value >= 0.5 * depth**2 - 1e-12


def test_gradients_are_finite_where_lengths_are_zero():
    x = torch.zeros(1, 3, 2, dtype=torch.float64, requires_grad=True)
    terms = [
        (KeepOut(center=(0, 0), radius=1.0), 1.0),
        (SpeedLimit(limit=0.0, dt=0.1, margin=0.1), 1.0),
        (Waypoint(point=(0, 0)), 1.0),
    ]
    (found,) = torch.autograd.grad(CostSum(terms=terms)(x, {}).sum(), x)
    assert torch.equal(found, torch.zeros_like(x))


# --- what is past ---------------------------------------------------------------------------------


def test_past_entries_of_the_chunk_do_not_count():
    obs = {"agent": torch.zeros(1, 3, 2, dtype=torch.float64)}  # two past entries
    x = chunk((0, 0), (0, 0), (2, 0), (3, 0), (4, 0))
    keep_out = KeepOut(center=(0, 0), radius=1.0)
    assert keep_out(x, {}).item() == pytest.approx(1.0)
    assert keep_out(x, obs).item() == 0.0
    assert InBox(low=(1, -1), high=(5, 1))(x, obs).item() == 0.0
    # The step from the last past position (0, 0) to (2, 0) is the first that counts.
    assert SpeedLimit(limit=1.0, dt=1.0).violation(x, obs).item() == pytest.approx(1.0)
    jump = chunk((9, 9), (0, 0), (1, 0), (2, 0), (3, 0))
    assert SpeedLimit(limit=1.0, dt=1.0)(jump, obs).item() == 0.0
    assert Smoothness(order=1, limit=1.0)(jump, obs).item() == 0.0
    assert Smoothness(order=2, limit=1.0)(jump, obs).item() > 0.0
    with pytest.raises(UsageError, match="from 2 "):
        Waypoint(point=(0, 0), step=1)(x, obs)


# --- dynamics -------------------------------------------------------------------------------------


def test_point_mass_has_the_closed_form_of_a_constant_force():
    # v_k = (v - v_inf) r^k + v_inf with r = 1/(1 + dt damping), v_inf = gain a / damping.
    mass = PointMass(dt=0.05, gain=2.0, damping=0.5)
    obs = maze_obs(1, 1)
    x = torch.full((1, 12, 2), 0.3, dtype=torch.float64)
    ratio, limit = 1 / (1 + 0.05 * 0.5), 2.0 * 0.3 / 0.5
    start = obs["state"][0, 0]
    speeds = [(start[2:] - limit) * ratio**k + limit for k in range(1, 13)]
    expected = start[:2] + 0.05 * torch.stack(speeds).cumsum(0)
    torch.testing.assert_close(mass(x, obs)[0], expected)


def test_point_mass_starts_at_the_last_observation_and_repeats_the_past():
    obs = maze_obs(1, 3)
    obs["state"][0, :, 0] = torch.tensor([0.8, 0.9, 1.0], dtype=torch.float64)
    x = random_actions(1, 6).requires_grad_()
    found = PointMass()(x, obs)
    assert found.shape == (1, 6, 2)
    assert found[0, :2, 0].tolist() == [0.9, 1.0]
    last = {"state": obs["state"][:, -1:]}
    torch.testing.assert_close(found[:, 2:], PointMass()(x[:, 2:], last))
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert (gradient[:, :2] == 0).all()
    assert PointMass()(x[:, :1], obs).shape == (1, 1, 2)


def test_point_mass_limits_force_and_speed():
    obs = maze_obs(1, 1)
    x = torch.full((1, 4, 2), 7.0, dtype=torch.float64)
    torch.testing.assert_close(PointMass()(x, obs), PointMass()(x.clamp(max=1.0), obs))
    obs["state"][..., 2:] = 30.0
    first = PointMass()(0 * x, obs)[0, 0, 0].item()
    assert first == pytest.approx(1.0 + 0.01 * 5.0 / (1 + 0.01 / MASS), rel=1e-12)


@pytest.mark.sim
def test_point_mass_follows_the_simulator_away_from_walls():
    from genpolicy.envs.maze2d import Maze2DEnv
    from genpolicy.envs.mazes import maze_of

    # Two observations and 16 actions, 15 of them to come. From the starts the ball is free to move
    # 0.2 m up the axes, and 0.6 m down: episode 0 goes down at full force.
    n_episodes, horizon = 12, 16
    env = Maze2DEnv(task="maze2d-umaze")
    cells = maze_of("maze2d-umaze").start_cells
    rng = np.random.default_rng(0)
    observed, actions, reached = [], [], []
    for episode in range(n_episodes):
        start = np.array([*cells[episode % len(cells)], *rng.uniform(-0.3, 0.3, 2)])
        first, _ = env.reset(seed=episode, options={"state": start})
        taken = rng.uniform(-1, 1, (horizon, 2)) if episode else -np.ones((horizon, 2))
        states = [env.step(action)[0]["state"] for action in taken]
        observed.append([first["state"], states[0]])
        actions.append(taken)
        reached.append(states)
    obs = {"state": torch.tensor(np.array(observed), dtype=torch.float64)}
    found = PointMass()(torch.tensor(np.array(actions)), obs).numpy()
    truth = np.array(reached)[..., :2]
    assert np.abs(truth[:, -1] - truth[:, 0]).max() > 0.2
    # The environment's float32 observations round at 1e-7.
    np.testing.assert_allclose(found, truth, atol=1e-6)


# --- sums, binding, JSON --------------------------------------------------------------------------


def test_a_sum_adds_weighted_costs_and_takes_the_worst_violation():
    first, second = KeepOut(center=(0, 0), radius=2.0), Waypoint(point=(3.0, 0.0))
    both = CostSum(terms=[(first, 2.0), (second, 0.5)])
    x = chunk((1, 0), (0, 9))
    assert both(x, {}).item() == pytest.approx(2 * 0.5 + 0.5 * 45.0)
    assert both.violation(x, {}).item() == pytest.approx(math.sqrt(90))
    assert isinstance(both, Cost)


@pytest.mark.parametrize("name", [*EVERY, "sum"])
def test_costs_survive_json(name: str):
    cost = CostSum(terms=[(EVERY["keep_out_mass"], 2.0), (EVERY["smoothness_1"], 0.1)])
    cost = EVERY.get(name, cost)
    text = json.dumps(config_of(cost), allow_nan=False)
    again = build(json.loads(text))
    assert again == cost
    assert type(again) is type(cost)
    x, obs = random_actions(), maze_obs()
    assert torch.equal(again(x, obs), cost(x, obs))


def test_a_bound_cost_guides_in_inference_mode_and_lowers_the_violation_rate():
    # A policy whose final positions lie around (1, 1.3), where the disc begins.
    path = LinearPath()
    cost = KeepOut(center=(1.1, 1.2), radius=0.1, margin=0.05, positions=PointMass())
    noise = RowNoise(range(200), (16, 2))
    with torch.inference_mode():
        obs = {"state": torch.tensor([1.0, 1.0, 0.5, 1.0]).expand(100, 1, 4).clone()}
        bound = bind_cost(cost, obs, repeats=2)
        assert isinstance(bound, BoundCost)
        policy = GaussianDenoiser(path, 0.0, 0.4)
        times = grid(path, 10, "uniform")
        plain = sample(policy, noise.draw(0), times, None, rule=ddim)
        tilted = CostGuided(inner=policy, cost=bound, scale=2000.0)
        kept = sample(tilted, noise.draw(0), times, None, rule=ddim)
    assert (bound.violation(plain) > 0).float().mean() > 0.9
    assert (bound.violation(kept) > 0).float().mean() < 0.5
    assert bound(kept).mean() < 0.1 * bound(plain).mean()


def test_binding_repeats_rows_and_copies():
    obs = maze_obs(2, 1)
    obs["state"][1, 0, 0] = 5.0
    bound = bind_cost(Waypoint(point=(1.0, 1.0), step=0, positions=PointMass()), obs, repeats=3)
    obs["state"].zero_()
    far = bound(torch.zeros(6, 1, 2, dtype=torch.float64)) > 1.0
    assert far.tolist() == [False] * 3 + [True] * 3
    with pytest.raises(UsageError, match="repeats is 0"):
        bind_cost(bound.cost, obs, repeats=0)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KeepOut(center=(0, 0), radius=0.0), "radius is 0.0"),
        (lambda: KeepOut(center=(0, 0), radius=1.0, margin=-1.0), "margin is -1.0"),
        (lambda: InBox(low=(0, 0), high=(1, 0)), "each low below its high"),
        (lambda: InBox(low=(0, 0), high=(1,)), "as many coordinates"),
        (lambda: SpeedLimit(limit=1.0, dt=0.0), "dt is 0.0"),
        (lambda: SpeedLimit(limit=math.nan, dt=1.0), "limit is nan"),
        (lambda: Smoothness(order=0), "order is 0"),
        (lambda: Waypoint(point=(0, 0), tolerance=-0.1), "tolerance is -0.1"),
        (lambda: CostSum(terms=[]), "no terms"),
        (lambda: CostSum(terms=[(Smoothness(), 0.0)]), "weight of term 0"),
        (lambda: PointMass(action_dims=(0,)), "differ in number"),
        (lambda: PointMass(dt=-1.0), "dt is -1.0"),
        (lambda: PointMass(damping=-1.0), "damping is -1.0"),
    ],
)
def test_wrong_settings_are_refused(make: Any, message: str):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (KeepOut(center=(0, 0, 0), radius=1.0), "center has 3 coordinates, positions have 2"),
        (Waypoint(point=(0, 0), step=5), "step is 5"),
        (Waypoint(point=(0, 0), step=-6), "step is -6"),
        (Smoothness(order=5), "more than 5 actions, got a chunk of 5"),
        (KeepOut(center=(0, 0), radius=1.0, positions=PointMass()), "'state' is missing"),
        (InBox(low=(0,), high=(1,), positions=ActionIsPosition(dims=(2,))), "has 2 entries"),
    ],
)
def test_costs_that_do_not_fit_the_chunk_are_refused(cost: Cost, message: str):
    with pytest.raises(UsageError, match=message):
        cost(random_actions(), {"other": torch.zeros(4, 1, 1)})


def test_observations_of_another_batch_are_refused():
    with pytest.raises(UsageError, match="as many rows"):
        PointMass()(random_actions(4), maze_obs(3))
