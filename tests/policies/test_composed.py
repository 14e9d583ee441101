"""Policies composed: identities, unlike members, refusals, checkpoints."""

import dataclasses

import numpy as np
import pytest
import torch

import genpolicy as gp
from genpolicy.composition import LevelWeights
from genpolicy.data.normalizer import FieldStats, Normalizer
from genpolicy.errors import CheckpointError, NumericsError, UsageError
from genpolicy.evaluation.identity import describe_checkpoint, identify_policy
from genpolicy.policies import ComposedPolicy, build_policy, load_policy
from genpolicy.policies.checkpoint import save
from genpolicy.sampling import Sampler
from genpolicy.seeding import derive_seed
from tests.policies.conftest import SPEC, config

DDPM = Sampler(rule="ddpm", n_steps=12)


def build(kind, normalizer, *, seed=0, spec=SPEC):
    torch.manual_seed(seed)
    policy = build_policy(config(kind), spec=spec, normalizer=normalizer)
    for parameter in policy.denoiser.parameters():  # zero-initialised outputs would hide mistakes
        torch.nn.init.normal_(parameter, std=0.1)
    return policy.eval().requires_grad_(False)


def observations(spec=SPEC, n=5):
    generator = torch.Generator().manual_seed(3)
    return {
        key: 512 * torch.rand(n, spec.n_obs_steps, *shape, generator=generator)
        for key, shape in spec.obs_shapes.items()
    }


@pytest.fixture
def flow(normalizer):
    return build("flow", normalizer, seed=1)


@pytest.fixture
def diffusion(normalizer):
    return build("diffusion", normalizer, seed=2)


def with_action_stats(normalizer, minimum, maximum):
    low, high = np.asarray(minimum, np.float32), np.asarray(maximum, np.float32)
    action = FieldStats("min_max", low, high, (low + high) / 2, (high - low) / 4)
    stats = normalizer.stats
    return Normalizer(action=action, obs={k: v for k, v in stats.items() if k != "action"})


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


def test_members_may_see_other_observations_and_windows(flow, normalizer):
    short = dataclasses.replace(
        SPEC, obs_shapes={"agent_pos": (2,)}, n_obs_steps=1, horizon=8, n_action_steps=4
    )
    only = Normalizer(
        action=normalizer.stats["action"], obs={"agent_pos": normalizer.stats["agent_pos"]}
    )
    other = build("diffusion", only, seed=5, spec=short)
    both = gp.compose.mean([flow, other], [0.5, 0.5])
    assert both.spec == SPEC
    obs = observations()
    chunk = both.sample(obs, seeds=range(5))
    assert chunk.shape == (5, 16, 2)
    # The member's chunk starts at the current step, index 1, and is 8 long: outside is the other's.
    first = gp.compose.mean([flow, other], [1.0, 0.0]).sample(obs, seeds=range(5))
    assert chunk.isfinite().all()
    assert not torch.equal(chunk[:, 1:9], first[:, 1:9])
    bound = both.bind({k: v[:1] for k, v in obs.items()})
    x, t = torch.randn(1, 16, 2), torch.full((1,), 0.5)
    alone = flow.bind({k: v[:1] for k, v in obs.items()})(x, t)
    torch.testing.assert_close(bound(x, t)[:, 9:], alone[:, 9:])
    torch.testing.assert_close(bound(x, t)[:, :1], alone[:, :1])
    assert (bound(x, t)[:, 1:9] - alone[:, 1:9]).abs().max() > 1e-4


def test_offsets_and_one_common_scale_of_the_action_are_matched(normalizer):
    wide = with_action_stats(normalizer, [0.0, 0.0], [400.0, 400.0])
    narrow = with_action_stats(normalizer, [100.0, 50.0], [300.0, 250.0])
    first, second = build("flow", wide, seed=1), build("diffusion", narrow, seed=2)
    obs = observations()
    settings = Sampler(rule="ddim", n_steps=300, clip=False)
    there = gp.compose.mean([first, second], [0.0, 1.0], sampler=settings)
    alone = second.with_sampler(**dataclasses.asdict(settings))
    ours, theirs = (p.sample(obs, seeds=range(5)) for p in (there, alone))
    # Its own noise has half the size here, so the two start alike only in normalized units.
    assert ours.shape == theirs.shape
    bound, own = there.bind(obs), alone.bind(obs)
    level = second.path.alpha_sigma(torch.tensor(0.5, dtype=torch.float64))
    sigma_here = 0.5 * (level[1] / level[0])  # ratio r = 100/200
    t = there.path.t_of_log_snr(-2 * sigma_here.log()).float().expand(5)
    alpha = there.path.alpha_sigma(t[0])[0]
    actions = torch.linspace(120, 240, 160).reshape(5, 16, 2)
    noise = torch.randn(5, 16, 2, generator=torch.Generator().manual_seed(0))
    x_here = alpha * (first.normalizer.normalize_action(actions) + sigma_here.float() * noise)
    clean = second.normalizer.normalize_action(actions)
    x_own = level[0].float() * clean + level[1].float() * noise
    here = first.normalizer.denormalize_action(bound(x_here, t))
    there_ = second.normalizer.denormalize_action(own(x_own, torch.full((5,), 0.5)))
    torch.testing.assert_close(here, there_, rtol=1e-4, atol=1e-2)
    assert there.bounds == pytest.approx((-0.75, 0.5))


def test_scales_that_differ_by_entry_are_refused(normalizer):
    first = build("flow", with_action_stats(normalizer, [0, 0], [400, 400]))
    second = build("flow", with_action_stats(normalizer, [0, 0], [400, 200]))
    with pytest.raises(UsageError, match="only one common factor"):
        gp.compose.mean([first, second], [0.5, 0.5])
    fixed = build("flow", with_action_stats(normalizer, [0, 7], [400, 7]))
    with pytest.raises(UsageError, match="constant action entries"):
        gp.compose.mean([first, fixed], [0.5, 0.5])


def test_a_member_may_own_some_entries_of_the_action(normalizer):
    both_dims = build("flow", with_action_stats(normalizer, [0, 0], [400, 400]), seed=1)
    spec = dataclasses.replace(SPEC, action_dim=1)
    one = build("diffusion", with_action_stats(normalizer, [0], [400]), seed=2, spec=spec)
    with pytest.raises(UsageError, match=r"compose\.part"):
        gp.compose.mean([both_dims, one], [0.5, 0.5])
    joint = gp.compose.mean([both_dims, gp.compose.part(one, dims=[1])], [0.5, 0.5])
    obs = observations()
    assert joint.sample(obs, seeds=range(5)).shape == (5, 16, 2)
    x, t = torch.randn(5, 16, 2), torch.full((5,), 0.5)
    alone = both_dims.bind(obs)(x, t)
    mixed = joint.bind(obs)(x, t)
    torch.testing.assert_close(mixed[..., 0], alone[..., 0])
    assert (mixed[..., 1] - alone[..., 1]).abs().max() > 1e-4


def test_one_key_with_two_shapes_is_refused(flow, normalizer):
    spec = dataclasses.replace(SPEC, obs_shapes={"agent_pos": (3,)})
    stats = normalizer.stats["agent_pos"]
    longer = FieldStats(
        "identity",
        *(
            np.append(getattr(stats, n), 1.0).astype(np.float32)
            for n in ("minimum", "maximum", "mean", "std")
        ),
    )
    other = build(
        "flow", Normalizer(action=normalizer.stats["action"], obs={"agent_pos": longer}), spec=spec
    )
    with pytest.raises(UsageError, match="agent_pos"):
        gp.compose.mean([flow, other], [0.5, 0.5])


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
    with pytest.raises(NumericsError, match="member 1"):
        gp.compose.mean([flow, diffusion], [0.5, 0.5]).sample(observations(), seeds=range(5))


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


def test_a_composition_is_saved_with_its_members(checkpoint_of, tmp_path):
    flow, diffusion = (load_policy(checkpoint_of(kind)) for kind in ("flow", "diffusion"))
    schedule = LevelWeights(log_snr=[-2.0, 2.0], weights=[[0.2, 0.8], [0.6, 0.4]])
    inner = gp.compose.mean([flow, diffusion], schedule)
    options = {"interval": (-4.0, float("inf"))}
    outer = gp.compose.with_cost(
        inner, cost=gp.compose.costs.Smoothness(), scale=1e-5, options=options, sampler=DDPM
    )
    folder = save(outer, tmp_path / "composed")
    again = load_policy(folder)
    assert isinstance(again, ComposedPolicy)
    obs = observations()
    assert torch.equal(again.sample(obs, seeds=range(5)), outer.sample(obs, seeds=range(5)))
    assert again.explain().members == outer.explain().members
    assert "composed weights" in describe_checkpoint(folder, identify_policy(again)).describe()
    (folder / "members" / "0" / "members" / "1" / "policy.json").unlink()
    with pytest.raises(CheckpointError, match="members"):
        load_policy(folder)


def test_what_cannot_be_saved_says_so(checkpoint_of, flow, tmp_path):
    loaded = load_policy(checkpoint_of("flow"))
    gated = gp.compose.mean([loaded, loaded], lambda obs: torch.full((8, 2), 0.5))
    with pytest.raises(UsageError, match="cannot be written"):
        save(gated, tmp_path / "a")
    with pytest.raises(UsageError, match="no checkpoint"):
        save(gp.compose.mean([flow, flow], [0.5, 0.5]), tmp_path / "b")
    assert not list(tmp_path.glob("[ab]"))


def test_a_policy_is_saved_with_the_sampler_it_has(checkpoint_of, tmp_path):
    policy = load_policy(checkpoint_of("flow")).with_sampler(n_steps=3)
    again = load_policy(save(policy, tmp_path / "copy"))
    obs = observations()
    assert again.sampler.n_steps == 3
    assert torch.equal(again.sample(obs, seeds=range(5)), policy.sample(obs, seeds=range(5)))


def test_a_policy_of_images_and_one_of_keypoints_are_composed(flow, normalizer):
    rng = np.random.default_rng(0)
    pixels = FieldStats.of(rng.integers(0, 256, (3, 40, 40, 3)).astype(np.uint8), "image")
    stats = normalizer.stats
    seen = Normalizer(
        action=stats["action"], obs={"image": pixels, "agent_pos": stats["agent_pos"]}
    )
    spec = dataclasses.replace(SPEC, obs_shapes={"image": (40, 40, 3), "agent_pos": (2,)})
    encoder = {"_target_": "genpolicy.networks.ImageEncoder", "crop": 36}
    torch.manual_seed(6)
    images = build_policy({**config("flow"), "encoder": encoder}, spec=spec, normalizer=seen).eval()
    both = gp.compose.mean([flow, images], [0.5, 0.5])
    assert set(both.spec.obs_shapes) == {"agent_pos", "keypoints", "image"}
    obs = {
        **observations(n=2),
        "image": torch.as_tensor(rng.integers(0, 256, (2, 2, 40, 40, 3)).astype(np.uint8)),
    }
    chunk = both.sample(obs, seeds=[0, 1])
    assert chunk.isfinite().all()
    assert not torch.equal(chunk, flow.sample(observations(n=2), seeds=[0, 1]))
