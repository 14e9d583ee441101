"""Policies composed: identities, refusals, proposals, conditions."""

import dataclasses

import pytest
import torch

import genpolicy as gp
from genpolicy.composition import LevelWeights
from genpolicy.errors import NumericsError, UsageError
from genpolicy.policies import build_policy
from genpolicy.sampling import Sampler
from genpolicy.seeding import derive_seed
from tests.policies.conftest import SPEC, build, config, observations

DDPM = Sampler(rule="ddpm", n_steps=12)


@pytest.mark.parametrize("order", [0, 1])
def test_weights_of_one_and_zero_are_the_first_parent_bit_for_bit(flow, diffusion, order):
    members = [flow, diffusion] if order == 0 else [diffusion, flow]
    obs = observations()
    parent = members[0].sample(obs, seeds=range(5))
    assert torch.equal(gp.compose.mean(members, [1.0, 0.0]).sample(obs, seeds=range(5)), parent)


def test_the_second_parent_alone_is_that_parent_on_the_first_ones_path(flow, diffusion):
    obs = observations()
    settings = Sampler(rule="ddim", n_steps=300)
    second = gp.compose.mean([flow, diffusion], [0.0, 1.0], sampler=settings)
    alone = diffusion.with_sampler(**dataclasses.asdict(settings))
    # The same ODE from the same noise: equal up to the steps.
    torch.testing.assert_close(
        second.sample(obs, seeds=range(5)), alone.sample(obs, seeds=range(5)), atol=4.0, rtol=0
    )


def test_guidance_scales_zero_and_one_are_base_and_tuned_bit_for_bit(normalizer):
    base, tuned = build("flow", normalizer, seed=1), build("flow", normalizer, seed=2)
    obs = observations()
    for scale, policy in ((0.0, base), (1.0, tuned)):
        guided = gp.compose.rl_guidance(base=base, tuned=tuned, scale=scale)
        assert torch.equal(guided.sample(obs, seeds=range(5)), policy.sample(obs, seeds=range(5)))
    far = gp.compose.rl_guidance(base=base, tuned=tuned, scale=1.8).sample(obs, seeds=range(5))
    assert not torch.equal(far, tuned.sample(obs, seeds=range(5)))


def test_strength_and_cost_scale_zero_are_the_policy_bit_for_bit(flow, diffusion):
    obs = observations()
    alone = flow.sample(obs, seeds=range(5))
    assert torch.equal(
        gp.compose.negation(flow, diffusion, strength=0.0).sample(obs, seeds=range(5)), alone
    )
    free = gp.compose.with_cost(flow, cost=gp.compose.costs.Smoothness(), scale=0.0)
    assert torch.equal(free.sample(obs, seeds=range(5)), alone)


def test_equal_members_are_the_member(flow):
    obs = observations()
    both = gp.compose.mean([flow, flow], [0.3, 0.7]).sample(obs, seeds=range(5))
    torch.testing.assert_close(both, flow.sample(obs, seeds=range(5)), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda f, d: gp.compose.mean([f, d], [0.4, 0.6]),
        lambda f, d: gp.compose.mixture([f, d], sampler=DDPM),
        lambda f, d: gp.compose.superpose_and([f, d], sampler=DDPM),
        lambda f, d: gp.compose.product([f, d], sampler=DDPM, n_particles=4),
        lambda f, d: gp.compose.with_cost(f, cost=gp.compose.costs.Smoothness(), scale=1e-4),
        lambda f, d: gp.compose.mean([gp.compose.mean([f, d], [0.5, 0.5]), d], [0.5, 0.5]),
        lambda f, d: gp.compose.with_cost(
            gp.compose.mean([f, d], [0.5, 0.5]), cost=gp.compose.costs.Smoothness(), scale=1e-4
        ),
    ],
)
def test_rows_do_not_depend_on_their_neighbours(flow, diffusion, make):
    policy, obs = make(flow, diffusion), observations()
    whole = policy.sample(obs, seeds=range(5))
    some = policy.sample({k: v[3:5] for k, v in obs.items()}, seeds=[3, 4])
    assert torch.equal(whole[3:5], some)
    assert whole.isfinite().all()


def test_every_composition_explains_itself(flow, diffusion):
    text = str(gp.compose.mean([flow, diffusion], [0.4, 0.6]).explain())
    parts = ("weights=[0.4, 0.6]", "LinearPath", "CosinePath", "unbiased", "member 1", "20 net")
    for part in parts:
        assert part in text
    nested = gp.compose.mean([gp.compose.mean([flow, diffusion], [0.5, 0.5]), flow], [0.5, 0.5])
    assert nested.explain().nfe == 30
    options = {"n_steps": 2, "n_leapfrogs": 3}
    corrected = gp.compose.product(
        [flow, diffusion], sampler=DDPM, corrector="uhmc", corrector_options=options
    )
    assert corrected.explain().nfe == 2 * (12 + 11 * 6)
    assert corrected.explain().verdict == "unbiased"
    crowd = gp.compose.product([flow, diffusion], sampler=DDPM, n_particles=4).explain()
    assert (crowd.sampler_class, crowd.verdict, crowd.n_particles) == ("particles", "unbiased", 4)
    assert gp.compose.product([flow, diffusion], sampler=DDPM).explain().verdict == "biased"


def test_a_product_with_an_ode_is_refused_when_it_is_made(flow, diffusion):
    with pytest.raises(UsageError, match=r"deterministic.*corrector"):
        gp.compose.product([flow, diffusion])
    with pytest.raises(UsageError, match="ddpm"):
        gp.compose.mixture([flow, diffusion])


def test_the_product_starts_as_narrow_as_its_target(flow, diffusion):
    both = gp.compose.product([flow, diffusion], sampler=DDPM)
    assert both.sampler.init_scale == pytest.approx(2**-0.5)


def test_consistency_policies_have_their_own_mean(flow, normalizer):
    first, second = (build("consistency", normalizer, seed=s) for s in (3, 4))
    with pytest.raises(UsageError, match="consistency policy"):
        gp.compose.mean([first, flow], [0.5, 0.5])
    obs = observations()
    both = gp.compose.endpoint_mean([first, second], [0.5, 0.5])
    assert both.kind == "flow_map"
    assert both.explain().verdict == "heuristic"
    assert both.sample(obs, seeds=range(5)).isfinite().all()
    one = gp.compose.endpoint_mean([first, second], [1.0, 0.0])
    assert torch.equal(one.sample(obs, seeds=range(5)), first.sample(obs, seeds=range(5)))
    with pytest.raises(UsageError, match="use mean"):
        gp.compose.endpoint_mean([flow, first], [0.5, 0.5])
    corrected = gp.compose.endpoint_mean([first, second], [0.5, 0.5], corrector="ula")
    with pytest.raises(UsageError, match="no score"):
        corrected.sample(obs, seeds=range(5))


def test_a_consistency_policy_proposes_and_a_score_model_corrects(flow, diffusion, normalizer):
    jump = build("consistency", normalizer, seed=3)
    obs = observations()
    clean = flow.with_sampler(n_steps=20)
    near = gp.compose.proposal(jump, clean, level=0.02)
    # With next to no noise left to remove it is the proposal.
    seeds = [derive_seed(s, "proposal") for s in range(5)]
    proposed = jump.sample(obs, seeds=seeds)
    assert (near.sample(obs, seeds=range(5)) - proposed).abs().max() < 40
    assert near.nfe == 2 + 1
    corrected = gp.compose.mean([clean], [1.0], corrector="ula", corrector_options={"n_steps": 2})
    far = gp.compose.proposal(jump, corrected, level=20.0)
    assert (far.sample(obs, seeds=range(5)) - proposed).abs().max() > 100
    whole = far.sample(obs, seeds=range(5))
    assert torch.equal(far.sample({k: v[3:] for k, v in obs.items()}, seeds=[3, 4]), whole[3:])
    with pytest.raises(UsageError, match="positive"):
        gp.compose.proposal(jump, flow, level=-1.0)
    with pytest.raises(UsageError, match="outside"):
        gp.compose.proposal(jump, diffusion, level=1e9)
    with pytest.raises(UsageError, match="corrects is a consistency"):
        gp.compose.proposal(flow, jump)
    crowd = gp.compose.mean([clean], [1.0], sampler=DDPM, n_particles=4)
    with pytest.raises(UsageError, match="4 particles"):
        gp.compose.proposal(jump, crowd)
    with pytest.raises(UsageError, match="cannot be a member"):
        gp.compose.mean([near, flow], [0.5, 0.5]).sample(obs, seeds=range(5))


def test_weights_may_depend_on_the_observation_and_on_the_level(flow, diffusion):
    obs = observations()

    def left_or_right(seen):
        left = (seen["agent_pos"][:, -1, 0] < 256).float()
        return torch.stack([left, 1.0 - left], dim=1)

    gated = gp.compose.mean([flow, diffusion], left_or_right).sample(obs, seeds=range(5))
    # Both members are in use, so the path is the common one.
    ends = [
        gp.compose.mean([flow, diffusion], lambda o, w=w: torch.tensor([w]).expand(8, 2)).sample(
            obs, seeds=range(5)
        )
        for w in ((1.0, 0.0), (0.0, 1.0))
    ]
    chosen = obs["agent_pos"][:, -1, 0] < 256
    assert 0 < chosen.sum() < 5
    for row in range(5):
        torch.testing.assert_close(gated[row], ends[0 if chosen[row] else 1][row])
    schedule = LevelWeights(log_snr=[-2.0, 2.0], weights=[[1.0, 0.0], [0.0, 1.0]])
    assert gp.compose.mean([flow, diffusion], schedule).sample(obs, seeds=range(5)).isfinite().all()


@pytest.mark.parametrize(
    "weights", [[0.5, 0.6], [-0.5, 1.5], [float("nan"), 1.0], [1.0], [0.0, 0.0]]
)
def test_weights_that_are_none_are_refused(flow, diffusion, weights):
    with pytest.raises(UsageError):
        gp.compose.mean([flow, diffusion], weights)


def test_a_member_that_diverges_is_named(flow, diffusion):
    with torch.no_grad():
        next(diffusion.denoiser.parameters()).fill_(torch.nan)
    both = gp.compose.mean([flow, diffusion], [0.5, 0.5])
    norms = r"member 1 gave .*members \[0, 1\]: step 0 \(t = 0.992\): 0\.\d+, nan"
    with pytest.raises(NumericsError, match=norms):
        both.sample(observations(), seeds=range(5))


def test_a_composition_that_overflows_is_not_blamed_on_its_members(flow, diffusion):
    wild = gp.compose.rl_guidance(base=flow, tuned=diffusion, scale=1e38).with_sampler(clip=False)
    with pytest.raises(
        NumericsError, match=r"the composition gave .* lower the weights.*: step \d"
    ):
        wild.sample(observations(), seeds=range(5))


def test_a_conjunction_guides_a_policy_by_conditions(normalizer):
    settings = config("flow")
    settings["encoder"] = {**settings["encoder"], "optional_keys": ["agent_pos"]}
    torch.manual_seed(4)
    policy = build_policy(settings, spec=SPEC, normalizer=normalizer).eval()
    obs = observations()
    here, there = torch.tensor([100.0, 200.0]), torch.tensor([400.0, 50.0])
    one = gp.compose.conjunction(policy, conditions=[{"agent_pos": here}], scale=1.0)
    given = {**obs, "agent_pos": here.expand(5, 2, 2)}
    torch.testing.assert_close(
        one.sample(obs, seeds=range(5)), policy.sample(given, seeds=range(5)), atol=2e-2, rtol=0
    )
    assert set(one.spec.obs_shapes) == {"keypoints"}
    none = gp.compose.conjunction(policy, conditions=[{"agent_pos": here}], scale=0.0)
    absent = {**obs, "agent_pos": torch.full((5, 2, 2), torch.nan)}
    torch.testing.assert_close(
        none.sample(obs, seeds=range(5)), policy.sample(absent, seeds=range(5)), atol=2e-2, rtol=0
    )
    both = gp.compose.conjunction(
        policy, conditions=[{"agent_pos": here}, {"agent_pos": there}], scale=[0.5, 1.2]
    )
    x, t = torch.randn(5, 16, 2), torch.full((5,), 0.5)
    seen = [
        policy.bind(o)(x, t) for o in (absent, given, {**obs, "agent_pos": there.expand(5, 2, 2)})
    ]
    torch.testing.assert_close(
        both.bind(obs)(x, t), -0.7 * seen[0] + 0.5 * seen[1] + 1.2 * seen[2], atol=1e-5, rtol=1e-4
    )


def test_conditions_need_a_policy_that_knows_their_absence(flow):
    with pytest.raises(UsageError, match="optional_keys"):
        gp.compose.conjunction(flow, conditions=[{"agent_pos": torch.zeros(2)}])
    with pytest.raises(UsageError, match="no observations"):
        gp.compose.conjunction(flow, conditions=[{"goal": torch.zeros(2)}])
    with pytest.raises(UsageError, match="no conditions"):
        gp.compose.conjunction(flow, conditions=[])


@pytest.mark.parametrize("n_steps", [0, -1])
def test_no_steps_are_refused(flow, diffusion, n_steps):
    with pytest.raises(UsageError, match="n_steps"):
        gp.compose.mean([flow, diffusion], [0.5, 0.5]).with_sampler(n_steps=n_steps)


def test_with_sampler_changes_steps_and_corrections(flow, diffusion):
    both = gp.compose.mean([flow, diffusion], [0.5, 0.5])
    more = both.with_sampler(n_steps=20, rule="ddpm")
    assert (more.sampler.n_steps, both.sampler.n_steps) == (20, 10)
    assert more.with_sampler(n_particles=3).n_particles == 3
