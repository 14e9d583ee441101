"""Policies sampled by programs: the same actions as in torch, whatever the policy is made of."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import genpolicy as gp
from genpolicy.composition import LevelWeights
from genpolicy.errors import NumericsError, UsageError
from genpolicy.ops import backend
from genpolicy.policies.compiled import compiled_sampler, why_not_compiled
from tests.native.cases import (
    assert_as_close,
    exact,
    in_torch,
    needs_kernels,
    observations,
    policy,
)

EDM = {"predicts": "clean", "precondition": "edm"}
INSIDE = {"path": "LinearPath", "path_options": {"t_min": 0.001, "t_max": 0.999}}
KINDS = {
    "velocity": {},
    "v": {"path": "CosinePath", "denoiser_options": {"predicts": "v"}},
    "noise": {
        "path": "VPPath",
        "path_options": {"t_max": 0.9},
        "denoiser_options": {"predicts": "noise"},
    },
    "clean": {"denoiser_options": {"predicts": "clean"}},
    "score": {
        "path": "VPPath",
        "path_options": {"t_max": 0.9},
        "denoiser_options": {"predicts": "score"},
    },
    "edm": {"path": "KarrasPath", "denoiser_options": EDM},
    "consistency": {
        "denoiser": "FlowMapDenoiser",
        "denoiser_options": {"boundary": "linear"},
        "sampler": {"rule": "renoise", "n_steps": 3},
    },
    "one step": {
        "denoiser": "FlowMapDenoiser",
        "denoiser_options": {"boundary": "none"},
        "sampler": {"rule": "renoise", "n_steps": 1},
    },
    "deterministic": {
        "denoiser": "FlowMapDenoiser",
        "denoiser_options": {"boundary": "none"},
        "sampler": {"rule": "renoise", "n_steps": 1, "init_scale": 0.0},
    },
    "consistency-edm": {
        "path": "KarrasPath",
        "denoiser": "FlowMapDenoiser",
        "denoiser_options": {},
        "sampler": {"rule": "renoise", "n_steps": 2},
    },
}
RULES = {
    "ddim": {"rule": "ddim", "rule_options": {"eta": 0.5}, "n_steps": 5},
    "ddpm": {"rule": "ddpm", "n_steps": 5},
    "euler": {"rule": "euler", "n_steps": 5},
    "heun": {"rule": "heun", "n_steps": 4, "grid": "log_snr"},
    "midpoint": {"rule": "midpoint", "n_steps": 4},
    "dpmpp_2m": {"rule": "dpmpp_2m", "n_steps": 5, "grid": "log_snr"},
    "sde": {"rule": "sde", "rule_options": {"churn": 2.0}, "n_steps": 5},
    "times": {"rule": "ddim", "n_steps": 2, "times": (0.9, 0.4, 0.0), "init_scale": 0.7},
    "no clipping": {"rule": "ddpm", "n_steps": 4, "clip": False},
    "clipped at the end": {"rule": "ddpm", "n_steps": 4, "clip_denoised": False},
}


LAYOUTS = {
    "double": lambda value: value.double(),
    "half": lambda value: value.half(),
    "strided": lambda value: value.repeat(2, 1, 1)[::2],
    "columns": lambda value: value.transpose(0, 2).contiguous().transpose(0, 2),
    "expanded": lambda value: value[:1].expand(len(value), -1, -1),
}
"""Types and layouts of observations other than contiguous float32."""


def check(made, monkeypatch, n_rows=5, layout="plain", largest=2.0):
    """Compare a policy's program with the torch loop, which has to agree with its float64 run.

    Errors are those of at least 128 rows: of a few they can be small by luck. As few as asked for
    give the same actions as many.
    """
    n_wide = max(n_rows, 128)
    obs, seeds = observations(made, n_wide), list(range(10, 10 + n_wide))
    if layout in LAYOUTS:
        obs = {key: LAYOUTS[layout](value) for key, value in obs.items()}
    reference = in_torch(made, obs, seeds, monkeypatch)
    truth = exact(made, obs, seeds)
    scale = float(truth.abs().max())
    torch.testing.assert_close(reference.double(), truth, atol=3e-4 * scale, rtol=0)
    if why_not_compiled(made) == "":
        found = made.sample(obs, seeds=seeds)
        assert_as_close(found, reference, truth, largest=10.0)
        few = {key: value[:n_rows] for key, value in obs.items()}
        assert torch.equal(made.sample(few, seeds=seeds[:n_rows]), found[:n_rows])
        few_and_rest = torch.cat([found[:n_rows], reference[n_rows:]])
        assert_as_close(few_and_rest, reference, truth, largest=largest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", ["MLP", "ResidualMLP"])
def test_every_kind_of_denoiser(kind, network, monkeypatch):
    options = {"width": 24} if network == "MLP" else {"width": 24, "n_blocks": 2, "time_dim": 8}
    check(policy(network=network, network_options=options, **KINDS[kind]), monkeypatch)


@pytest.mark.parametrize("activation", ["mish", "silu", "relu", "gelu"])
def test_every_activation_of_the_mlp(activation, monkeypatch):
    made = policy(network="MLP", network_options={"width": 24, "activation": activation})
    check(made, monkeypatch)
    assert not why_not_compiled(made) or why_not_compiled(made) == backend().reason


@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule, monkeypatch):
    options = {"width": 24, "n_blocks": 1}
    check(policy(network_options=options, sampler=RULES[rule], **INSIDE), monkeypatch)


@pytest.mark.parametrize(
    "options",
    [
        {"conditioning": "film", "width": 20, "n_blocks": 3},
        {"conditioning": "film", "width": 32, "n_blocks": 1, "layer_norm": False},
        {"layer_norm": False, "width": 17, "expansion": 3},
        {"time_features": "fourier", "width": 16},
    ],
)
def test_every_form_of_the_residual_network(options, monkeypatch):
    check(policy(network_options=options), monkeypatch)


@pytest.mark.parametrize(
    "options",
    [
        {"n_frequencies": 2},
        {"out_dim": 5},
        {"out_dim": 5, "hidden_dim": 9, "n_frequencies": 1},
        {"keys": ["goal"]},
        {"optional_keys": ["goal"], "n_frequencies": 1},
    ],
)
def test_every_form_of_the_encoder(options, monkeypatch):
    check(policy(network_options={"width": 16}, encoder_options=options), monkeypatch)


def test_absent_observations_are_seen_by_row(monkeypatch):
    made = policy(network_options={"width": 16}, encoder_options={"optional_keys": ["goal"]})
    obs = observations(made, 4)
    obs["goal"][1] = torch.nan
    obs["goal"][3, 0, 1] = torch.nan
    reference = in_torch(made, obs, [1, 2, 3, 4], monkeypatch)
    assert_as_close(made.sample(obs, seeds=[1, 2, 3, 4]), reference, exact(made, obs, [1, 2, 3, 4]))


def test_other_normalizers_and_seeds(monkeypatch):
    made = policy(network_options={"width": 16}, action_mode="mean_std", sampler=RULES["ddpm"])
    obs, seeds = observations(made, 3), [2**64 - 1, 2**63, 0]
    reference = in_torch(made, obs, seeds, monkeypatch)
    signed = [seed - 2**64 if seed >= 2**63 else seed for seed in seeds]
    assert_as_close(made.sample(obs, seeds=seeds), reference, exact(made, obs, signed))


def composed():
    flow = policy(network_options={"width": 16}, seed=1, **INSIDE)
    other = policy(network="MLP", network_options={"width": 24}, seed=2, **KINDS["v"])
    third = policy(network_options={"width": 8}, seed=3, **KINDS["noise"])
    goals = policy(
        network_options={"width": 16}, encoder_options={"optional_keys": ["goal"]}, **INSIDE
    )
    levels = LevelWeights(log_snr=[-4.0, 4.0], weights=[[0.9, 0.1], [0.2, 0.8]])
    shifted = policy(network_options={"width": 16}, action_mode="mean_std", seed=5, **INSIDE)
    _scale_units(shifted)
    compose = gp.compose
    return {
        "mean": compose.mean([flow, other], [0.3, 0.7]),
        "three": compose.mean([flow, other, third], [0.2, 0.3, 0.5]),
        "by level": compose.mean([flow, other], levels),
        "guidance": compose.rl_guidance(base=flow, tuned=other, scale=1.7),
        "negation": compose.negation(flow, other, strength=0.4),
        "nested": compose.mean([compose.mean([flow, other], [0.5, 0.5]), third], [0.6, 0.4]),
        "conjunction": compose.conjunction(
            goals, conditions=[{"goal": [1.0, 0.5]}, {"goal": [0.0, 2.0]}], scale=0.8
        ),
        "other units": compose.mean([flow, shifted], [0.5, 0.5]),
    }


def _scale_units(made):
    """Give a policy the units of the others, moved and scaled."""
    base = policy(network_options={"width": 16}).normalizer
    affine, own = base._action, made.normalizer._action
    own.stats = affine.stats.from_json(
        {
            **affine.stats.to_json(),
            "min": (affine.stats.minimum * 1.5 + 0.3).tolist(),
            "max": (affine.stats.maximum * 1.5 + 0.3).tolist(),
        }
    )
    for name, value in zip(("center", "gain", "span"), own.stats.affine(), strict=True):
        own.register_buffer(name, torch.as_tensor(value), persistent=False)


@pytest.mark.parametrize("name", composed())
def test_every_sum_of_policies(name, monkeypatch):
    check(composed()[name], monkeypatch)


TRAINED = [kind for kind in KINDS if KINDS[kind].get("denoiser") is None]
GRID_RULES = [rule for rule in RULES if rule != "times"]
STEPS = st.integers(1, 4)


@st.composite
def descriptions(draw):
    """Return members of drawn sizes and kinds, their weights, and a rule."""
    horizon, n_obs_steps = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    shared = {
        "action_dim": draw(st.integers(1, 7)),
        "horizon": max(horizon, n_obs_steps),
        "n_obs_steps": n_obs_steps,
        "obs_shapes": {"state": (draw(st.integers(1, 20)),)},
    }
    members = [
        {**shared, **_member(draw), "seed": seed}
        for seed in range(draw(st.sampled_from([1, 1, 2, 3])))
    ]
    weights = [draw(st.floats(0.1, 1.0)) for _ in members]
    rule = RULES[draw(st.sampled_from(GRID_RULES))]
    return members, weights, {**rule, "n_steps": draw(STEPS), "grid": "uniform"}


def _member(draw):
    network = draw(st.sampled_from(["MLP", "ResidualMLP"]))
    # A norm of two or three features is nearly a step function, in any precision.
    options = {"width": draw(st.integers(1 if network == "MLP" else 8, 70)), "time_dim": 4}
    if network == "MLP":
        options["activation"] = draw(st.sampled_from(["mish", "silu", "relu", "gelu"]))
        options["n_layers"] = draw(st.integers(1, 3))
    else:
        options["conditioning"] = draw(st.sampled_from(["input", "film"]))
        options["layer_norm"] = draw(st.booleans())
        options["n_blocks"] = draw(st.integers(1, 3))
    kind = KINDS[draw(st.sampled_from(TRAINED))]
    return {"network": network, "network_options": options, **kind}


@settings(deadline=None, max_examples=40)
@given(
    described=descriptions(),
    n_rows=st.integers(1, 40),
    layout=st.sampled_from(["plain", *LAYOUTS]),
    precision=st.sampled_from(["fp32", "bf16x3"]),
)
def test_any_policy_in_any_sizes(described, n_rows, layout, precision):
    members, weights, sampler = described
    made = [policy(**member) for member in members]
    shares = [weight / sum(weights) for weight in weights]
    whole = made[0] if len(made) == 1 else gp.compose.mean(made, shares)
    with pytest.MonkeyPatch.context() as patch:
        made = whole.with_sampler(**sampler, precision=precision)
        check(made, patch, n_rows=n_rows, layout=layout, largest=10.0)


@needs_kernels
def test_a_row_does_not_depend_on_the_batch():
    made = composed()["three"].with_sampler(rule="ddpm")
    obs, seeds = observations(made, 131), list(range(131))
    assert why_not_compiled(made) == ""
    whole = made.sample(obs, seeds=seeds)
    for rows in ([0], [5, 6, 7], list(range(40, 57)), list(range(130, -1, -1))):
        part = {key: value[rows] for key, value in obs.items()}
        assert torch.equal(made.sample(part, seeds=rows), whole[rows])


@needs_kernels
def test_threads_change_nothing():
    made = policy(network_options={"width": 256}, sampler=RULES["ddpm"])
    obs, seeds = observations(made, 200), list(range(200))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = made.sample(obs, seeds=seeds)
        torch.set_num_threads(2)
        assert torch.equal(made.sample(obs, seeds=seeds), alone)
    finally:
        torch.set_num_threads(before)


@needs_kernels
def test_changed_weights_samplers_and_statistics_are_seen(monkeypatch):
    made = policy(network_options={"width": 16})
    obs, seeds = observations(made, 3), [0, 1, 2]
    first = made.sample(obs, seeds=seeds)
    assert compiled_sampler(made) is compiled_sampler(made)

    def changed():
        after = made.sample(obs, seeds=seeds)
        reference = in_torch(made, obs, seeds, monkeypatch)
        torch.testing.assert_close(after, reference, atol=1e-4, rtol=1e-4)
        assert not torch.equal(after, first)

    with torch.no_grad():
        made.denoiser.network.out.bias.add_(0.3)
    changed()
    made.denoiser.network.out.weight = torch.nn.Parameter(
        made.denoiser.network.out.weight.detach() * 2.0
    )
    changed()
    made.load_state_dict(policy(network_options={"width": 16}, seed=9).state_dict())
    changed()
    made.sampler = RULES_SAMPLER
    changed()


RULES_SAMPLER = policy(sampler={"rule": "ddpm", "n_steps": 3}).sampler


@needs_kernels
def test_what_has_no_program_says_why_and_is_sampled_in_torch(monkeypatch):
    flow = policy(network_options={"width": 16}, seed=1, **INSIDE)
    other = policy(network_options={"width": 16}, seed=2, **INSIDE)
    cases = {
        "differentiates": gp.compose.with_cost(flow, cost=gp.compose.costs.Smoothness(), scale=1.0),
        "corrector": gp.compose.product([flow, other], corrector="ula"),
        "particles": gp.compose.rl_guidance(base=flow, tuned=other, scale=2.0).with_sampler(
            n_particles=4, rule="ddpm"
        ),
        "depend on the observation": gp.compose.mean(
            [flow, other], lambda obs: torch.full((len(obs["state"]), 2), 0.5)
        ),
        "no weighted sum": gp.compose.mixture([flow, other], sampler=RULES_SAMPLER),
        "Part is no": gp.compose.mean([flow, policy(n_obs_steps=1, **INSIDE)], [0.5, 0.5]),
        "no network with a program": policy(
            network="DiT", network_options={"width": 16, "n_heads": 2, "n_layers": 1}
        ),
        "float32": policy(network_options={"width": 16}).double(),
    }
    for reason, made in cases.items():
        assert reason in why_not_compiled(made), reason
    obs = observations(flow, 2)
    found = cases["corrector"].sample(obs, seeds=[0, 1])
    expected = in_torch(cases["corrector"], obs, [0, 1], monkeypatch)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)  # its steps are compiled


@needs_kernels
def test_actions_that_are_not_finite_are_reported_as_in_torch():
    made = policy(network_options={"width": 16})
    obs = observations(made, 3)
    obs["state"][1] = torch.nan
    with pytest.raises(NumericsError, match=r"rows \[1\] of 3"):
        made.sample(obs, seeds=[0, 1, 2])


def test_a_wrong_mode_is_refused(monkeypatch):
    monkeypatch.setenv("GENPOLICY_EXT", "of")
    made = policy(network_options={"width": 8})
    with pytest.raises(UsageError, match=r"GENPOLICY_EXT is 'of'.*off"):
        made.sample(observations(made, 1), seeds=[0])


@needs_kernels
def test_weights_of_inference_mode_are_sampled_in_torch(monkeypatch):
    with torch.inference_mode():
        made = policy(network_options={"width": 16})
    assert "inference mode" in why_not_compiled(made)
    obs = observations(made, 2)
    expected = in_torch(made, obs, [0, 1], monkeypatch)
    torch.testing.assert_close(made.sample(obs, seeds=[0, 1]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_observations_of_any_type_and_layout(layout, monkeypatch):
    check(policy(network_options={"width": 16}), monkeypatch, n_rows=6, layout=layout)
