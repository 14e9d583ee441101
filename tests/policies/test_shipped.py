"""Every policy under checkpoints/ is complete, small, has a card, and acts within its bounds."""

from pathlib import Path

import pytest
import torch

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
    low, high = (torch.tensor(card.normalizer["action"][k]) for k in ("min", "max"))
    assert ((chunk >= low - 1e-2) & (chunk <= high + 1e-2)).all()
    files = list((ROOT / name).iterdir())
    assert (ROOT / name / "README.md") in files
    assert sum(f.stat().st_size for f in files) < 20e6


def test_there_are_policies_of_three_kinds():
    assert {"pusht-flow", "pusht-diffusion", "pusht-consistency"} <= set(NAMES)
