"""Members with other observations, windows, units and action entries."""

import dataclasses

import numpy as np
import pytest
import torch

import genpolicy as gp
from genpolicy.data.normalizer import FieldStats, Normalizer
from genpolicy.errors import UsageError
from genpolicy.policies import build_policy
from genpolicy.sampling import Sampler
from tests.policies.conftest import SPEC, build, config, observations

DDPM = Sampler(rule="ddpm", n_steps=12)


def with_action_stats(normalizer, minimum, maximum):
    low, high = np.asarray(minimum, np.float32), np.asarray(maximum, np.float32)
    action = FieldStats("min_max", low, high, (low + high) / 2, (high - low) / 4)
    stats = normalizer.stats
    return Normalizer(action=action, obs={k: v for k, v in stats.items() if k != "action"})


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
