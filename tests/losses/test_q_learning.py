"""Objectives of offline RL against their closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F

from genpolicy.errors import UsageError
from genpolicy.losses import (
    alignment_loss,
    bellman_target,
    critic_loss,
    expectile_loss,
    improvement_loss,
)


def expectile_of(samples, tau):
    """Minimise the loss over a constant by bisection of its derivative."""
    low, high = samples.min(), samples.max()
    for _ in range(60):
        value = ((low + high) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(expectile_loss(samples - value, tau), value)
        low, high = (low, value.detach()) if slope > 0 else (value.detach(), high)
    return float(low)


def test_expectiles_of_known_distributions():
    points = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert expectile_of(points, 0.7) == pytest.approx(0.7, abs=1e-9)
    quantiles = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for tau, uniform in ((0.7, 0.604356), (0.9, 0.75)):
        assert expectile_of(quantiles, tau) == pytest.approx(uniform, abs=1e-5)
    normal = torch.special.ndtri(quantiles)
    for tau, expected in ((0.5, 0.0), (0.7, 0.337120), (0.9, 0.861592), (0.95, 1.140171)):
        assert expectile_of(normal, tau) == pytest.approx(expected, abs=2e-4)


def test_above_one_half_errors_of_underestimates_weigh_more():
    above = expectile_loss(torch.tensor([1.0]), 0.9)
    below = expectile_loss(torch.tensor([-1.0]), 0.9)
    assert float(above) == pytest.approx(0.9)
    assert float(below) == pytest.approx(0.1)
    with pytest.raises(UsageError, match="expectile"):
        expectile_loss(torch.zeros(1), 1.0)


def test_what_comes_after_the_end_of_a_task_has_no_influence():
    next_value = torch.tensor([2.0, float("nan"), 3.0], requires_grad=True)
    target = bellman_target(
        torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.9, 0.0, 0.5]), next_value
    )
    assert target.tolist() == pytest.approx([2.8, 1.0, 1.5])
    assert not target.requires_grad


def test_every_critic_regresses_on_the_same_target():
    values = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    assert float(critic_loss(values, torch.tensor([1.0, 1.0]))) == pytest.approx(0.5 + 10.0)


def test_the_scale_of_the_critics_does_not_matter():
    values = torch.randn(2, 50, dtype=torch.float64)
    grads = []
    for scale in (1.0, 7.0):
        leaf = values.clone().requires_grad_()
        loss = improvement_loss(scale * leaf[0], scale * leaf[1])
        grads.append(torch.autograd.grad(loss, leaf)[0])
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("n", [2, 16])
def test_alignment_starts_at_the_logarithm_of_the_number_of_actions(n):
    values = torch.randn(5, n, dtype=torch.float64)
    tilt = torch.zeros(5, n, dtype=torch.float64, requires_grad=True)
    loss = alignment_loss(tilt, values)
    assert float(loss) == pytest.approx(math.log(n))
    (gradient,) = torch.autograd.grad(loss, tilt)
    torch.testing.assert_close(5 * gradient, 1.0 / n - values.softmax(1))


def test_constants_of_a_row_change_nothing_in_alignment():
    values, tilt = torch.randn(2, 4, 6, dtype=torch.float64)
    shift = torch.randn(4, 1, dtype=torch.float64)
    expected = alignment_loss(tilt, values)
    torch.testing.assert_close(alignment_loss(tilt + shift, values), expected)
    torch.testing.assert_close(alignment_loss(tilt, values + shift), expected)


def test_two_actions_with_the_better_as_label_are_direct_preferences():
    tilt = torch.randn(7, 2, dtype=torch.float64)
    values = torch.stack([torch.ones(7), torch.zeros(7)], dim=1).double()
    expected = -F.logsigmoid(tilt[:, 0] - tilt[:, 1]).mean()
    torch.testing.assert_close(alignment_loss(tilt, values, labels="best"), expected)


@pytest.mark.parametrize("expectile", [0.5, 0.999])
def test_implicit_values_of_a_chain_are_those_of_the_data_or_of_its_best_actions(expectile):
    # Three states in a row, the third ends the task. Two recorded actions in each, as often: one
    # goes on and pays 1, the other goes back to the first state and pays nothing.
    reward = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)
    following = torch.tensor([[1, 0], [2, 0], [0, 0]])
    factor = 0.9 * torch.tensor([[1, 1], [1, 1], [0, 1]], dtype=torch.float64)
    value, best = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _ in range(400):
        low, high = (reward + factor * value[following]).sort(1)[0].T
        value = expectile * high + (1 - expectile) * low  # the expectile of two equal points
        best = (reward + factor * best[following]).amax(1)
    value.requires_grad_()
    after = value.detach()[following]
    q = bellman_target(reward.flatten(), factor.flatten(), after.flatten())
    gap = q - value.repeat_interleave(2)
    (slope,) = torch.autograd.grad(expectile_loss(gap, expectile), value)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)
    if expectile == 0.5:  # the value of the data's behaviour, V = r + 0.9 P V
        step = torch.tensor([[0.5, 0.5, 0], [0.5, 0, 0.5], [0.5, 0, 0]], dtype=torch.float64)
        paid = torch.full((3,), 0.5, dtype=torch.float64)
        exact = torch.linalg.solve(torch.eye(3, dtype=torch.float64) - 0.9 * step, paid)
        torch.testing.assert_close(value.detach(), exact)
    else:
        torch.testing.assert_close(value.detach(), best, atol=0.05, rtol=0)
