"""Policies with the conditional U-Net: programs against the torch loop."""

import pytest
import torch

import genpolicy as gp
from genpolicy.ops import is_compiled
from genpolicy.policies import compiled
from genpolicy.policies.compiled import why_not_compiled
from tests.native.cases import in_torch, needs_kernels, observations, policy
from tests.native.test_policies import INSIDE, KINDS, RULES, _scale_units, check

SMALL = {"dims": [16, 24], "n_groups": 4, "time_dim": 8}


def unet(*, options=None, **changes):
    return policy(
        network="ConditionalUnet1D", network_options={**SMALL, **(options or {})}, **changes
    )


@pytest.mark.parametrize("kind", ["velocity", "noise", "edm", "consistency"])
def test_every_kind_of_denoiser(kind, monkeypatch):
    check(unet(**KINDS[kind]), monkeypatch)


@pytest.mark.parametrize("rule", ["ddpm", "heun", "dpmpp_2m"])
def test_rules_with_noise_stages_and_memory(rule, monkeypatch):
    check(unet(sampler=RULES[rule], **INSIDE), monkeypatch)


def composed():
    one, two = unet(seed=1, **INSIDE), unet(seed=2, options={"dims": [8, 16, 16]}, **KINDS["v"])
    mlp = policy(network="MLP", network_options={"width": 24}, seed=3, **INSIDE)
    shifted = unet(seed=4, action_mode="mean_std", **INSIDE)
    _scale_units(shifted)
    goals = unet(encoder_options={"optional_keys": ["goal"]}, seed=5, **INSIDE)
    compose = gp.compose
    return {
        "two": compose.mean([one, two], [0.3, 0.7]),
        "with an MLP": compose.mean([one, mlp], [0.6, 0.4]),
        "guidance": compose.rl_guidance(base=mlp, tuned=one, scale=1.5),
        "other units": compose.mean([one, shifted], [0.5, 0.5]),
        "conjunction": compose.conjunction(
            goals, conditions=[{"goal": [1.0, 0.5]}, {"goal": [0.0, 2.0]}], scale=0.8
        ),
    }


@pytest.mark.parametrize("name", composed())
def test_sums_of_policies(name, monkeypatch):
    made = composed()[name]
    check(made, monkeypatch, n_rows=3)
    assert why_not_compiled(made) == "" or not is_compiled()


@needs_kernels
def test_rows_of_every_batch_are_the_same():
    made = unet(sampler=RULES["ddpm"], **INSIDE)
    assert why_not_compiled(made) == ""
    obs, seeds = observations(made, 60), list(range(60))
    whole = made.sample(obs, seeds=seeds)
    for rows in ([7], [1, 2], list(range(59, 9, -1))):
        part = {key: value[rows] for key, value in obs.items()}
        assert torch.equal(made.sample(part, seeds=rows), whole[rows])


def test_products_in_bfloat16_move_actions_by_less_than_a_hundredth(monkeypatch):
    """Torch's autocast also rounds what layers return, and is a little worse."""
    full = unet(options={"dims": [32, 64], "n_groups": 8}, sampler=RULES["ddim"], **INSIDE)
    low = full.with_sampler(precision="bf16")
    obs, seeds = observations(full, 20), list(range(20))
    expected = in_torch(full, obs, seeds, monkeypatch)
    stats = full.normalizer.stats["action"]
    span = torch.as_tensor(stats.maximum - stats.minimum)
    found = low.sample(obs, seeds=seeds)
    limit = 0.01 if why_not_compiled(low) == "" else 0.02
    for actions, most in ((found, limit), (in_torch(low, obs, seeds, monkeypatch), 0.02)):
        error = (actions - expected).abs() / span
        assert 0.0 < float(error.max()) < most
        assert float(error.mean()) < 2e-3


@needs_kernels
def test_two_times_are_sampled_in_torch():
    made = unet(**INSIDE)
    made.denoiser.network.time.n_times = 2
    assert "two times" in why_not_compiled(made)


@needs_kernels
def test_on_a_cuda_device_it_has_a_program_too(monkeypatch):
    made = unet()
    monkeypatch.setattr(compiled, "_check_devices", lambda devices: None)
    monkeypatch.setattr(compiled, "_on_host", lambda policy: policy)
    monkeypatch.setattr(type(made), "device", property(lambda policy: torch.device("cuda", 0)))
    code, *_ = compiled.write_policy(made, fields=compiled.fields_of(made))
    assert code.device.type == "cpu"
