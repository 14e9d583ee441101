"""Every policy under checkpoints/ is complete, small, has a card, and acts within its bounds."""

from pathlib import Path

import pytest
import torch

from genpolicy import compose
from genpolicy.policies import load_policy, read_card

ROOT = Path(__file__).resolve().parents[2] / "checkpoints"
NAMES = sorted(p.parent.name for p in ROOT.glob("*/policy.json"))


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_policy_loads_by_name_and_acts(name):
    policy, card = load_policy(name), read_card(name)
    means = card.normalizer["obs"]
    obs = {
        key: torch.tensor(means[key]["mean"]).expand(2, card.spec.n_obs_steps, *shape)
        for key, shape in card.spec.obs_shapes.items()
    }
    chunk = policy.sample(obs, seeds=[0, 1])
    assert chunk.shape == (2, card.spec.horizon, card.spec.action_dim)
    assert chunk.isfinite().all()
    if policy.bounds is not None:  # actions without a range are clipped by the simulator
        low, high = (torch.tensor(card.normalizer["action"][k]) for k in ("min", "max"))
        assert ((chunk >= low - 1e-2) & (chunk <= high + 1e-2)).all()
    files = list((ROOT / name).iterdir())
    assert (ROOT / name / "README.md") in files
    assert sum(f.stat().st_size for f in files) < 20e6


def test_there_are_policies_of_three_kinds():
    assert {"pusht-flow", "pusht-diffusion", "pusht-consistency"} <= set(NAMES)


def test_the_base_and_the_tuned_policy_are_a_pair_for_guidance():
    base, tuned = load_policy("maze2d-umaze-base"), load_policy("maze2d-umaze-tuned")
    # The goal is part of the data, but neither policy sees it.
    state = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(4, 1, 4)
    obs = {"state": state, "goal": torch.full((4, 1, 2), torch.nan)}
    for scale, end in ((0.0, base), (1.0, tuned)):
        guided = compose.rl_guidance(base=base, tuned=tuned, scale=scale)
        assert torch.equal(guided.sample(obs, seeds=range(4)), end.sample(obs, seeds=range(4)))
