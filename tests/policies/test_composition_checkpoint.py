"""Compositions and proposals on disk."""

import pytest
import torch

import genpolicy as gp
from genpolicy.composition import LevelWeights
from genpolicy.errors import CheckpointError, UsageError
from genpolicy.evaluation.identity import describe_checkpoint, identify_policy
from genpolicy.policies import ComposedPolicy, load_policy
from genpolicy.policies.checkpoint import save
from genpolicy.sampling import Sampler
from tests.policies.conftest import observations

DDPM = Sampler(rule="ddpm", n_steps=12)


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


def test_a_proposal_is_saved_with_both_policies(checkpoint_of, tmp_path):
    jump, clean = load_policy(checkpoint_of("consistency")), load_policy(checkpoint_of("flow"))
    corrected = gp.compose.mean([clean], [1.0], corrector="ula", corrector_options={"n_steps": 2})
    policy = gp.compose.proposal(jump, corrected, level=1.5)
    again = load_policy(save(policy, tmp_path / "both"))
    obs = observations()
    assert torch.equal(again.sample(obs, seeds=range(5)), policy.sample(obs, seeds=range(5)))
    assert (again.level, again.nfe) == (1.5, policy.nfe)
    assert (
        "composed weights"
        in describe_checkpoint(tmp_path / "both", identify_policy(again)).describe()
    )
