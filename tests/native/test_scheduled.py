"""Networks without a program: evaluated in torch, with compiled steps between."""

import pytest
import torch

import genpolicy as gp
from genpolicy.policies.compiled import compiled_sampler
from tests.native.cases import in_torch, needs_kernels, observations, policy
from tests.native.test_policies import KINDS, RULES

pytestmark = needs_kernels

DIT = {"network": "DiT", "network_options": {"width": 16, "n_layers": 1, "n_heads": 2}}


def check(made, monkeypatch, n_rows=11):
    """Compare a policy's run in compiled steps with the torch loop."""
    found = compiled_sampler(made)
    assert found.reason
    assert found.scheduled is not None
    obs, seeds = observations(made, n_rows), list(range(20, 20 + n_rows))
    reference = in_torch(made, obs, seeds, monkeypatch)
    actual = made.sample(obs, seeds=seeds)
    torch.testing.assert_close(actual, reference, atol=1e-5 * float(reference.abs().max()), rtol=0)
    alone = made.sample({key: value[4:5] for key, value in obs.items()}, seeds=seeds[4:5])
    assert torch.equal(alone[0], actual[4])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_denoiser(kind, monkeypatch):
    check(policy(**DIT, **KINDS[kind]), monkeypatch)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule, monkeypatch):
    made = policy(
        **DIT, path="VPPath", path_options={"t_max": 0.9}, denoiser_options={"predicts": "noise"}
    )
    check(made.with_sampler(**RULES[rule]), monkeypatch)


def test_members_of_other_kinds(monkeypatch):
    first = policy(**DIT, seed=1)
    second = policy(path="CosinePath", denoiser_options={"predicts": "v"}, seed=2)
    both = gp.compose.mean([first, second], weights=[0.3, 0.7])
    check(both, monkeypatch)
    assert "networks in torch, steps in compiled operators" in str(gp.compose.explain(both))


def test_it_follows_changed_weights_and_samplers(monkeypatch):
    made = policy(**DIT)
    check(made, monkeypatch)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.1)
    check(made, monkeypatch)
    check(made.with_sampler(n_steps=2, rule="heun"), monkeypatch)


def test_what_is_no_sum_of_networks_is_sampled_in_torch():
    sampler = gp.compose.Sampler(rule="ddpm", n_steps=4)
    either = gp.compose.mixture([policy(**DIT, seed=1), policy(**DIT, seed=2)], sampler=sampler)
    found = compiled_sampler(either)
    assert found.reason
    assert found.scheduled is None
    assert either.sample(observations(either, 3), seeds=range(3)).isfinite().all()
