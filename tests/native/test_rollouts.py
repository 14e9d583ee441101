"""Rollouts of shipped policies: the same records whether kernels or torch sample the actions."""

from dataclasses import replace

import pytest

import genpolicy as gp
from genpolicy.evaluation import evaluate
from genpolicy.policies.compiled import why_not_compiled
from tests.native.cases import needs_kernels

pytestmark = [pytest.mark.sim, needs_kernels]

# Actions differ by rounding. The maze forgets it: a step more or less at the goal at most. Contacts
# of Push-T multiply it, so that the return and the last pose wander; the best pose of an episode,
# which is the score, does not.
TOLERANCES = {
    "maze2d-umaze": {"steps_at_goal": 1.0, "time_to_goal": 1.0, "d4rl_score": 1.0, "success": 0.0},
    "pusht": {"max_reward": 0.03, "max_coverage": 0.03},
}


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("maze2d-umaze-flow", "maze2d-umaze"),
        ("maze2d-umaze-diffusion", "maze2d-umaze"),
        ("maze2d-umaze-consistency", "maze2d-umaze"),
        ("pusht-flow", "pusht"),
    ],
)
def test_records_are_the_same_with_either_backend(name, task, monkeypatch):
    policy = gp.load_policy(name)
    assert why_not_compiled(policy) == ""
    records = {}
    for mode in ("off", "require"):
        monkeypatch.setenv("GENPOLICY_EXT", mode)
        records[mode] = evaluate(policy, task, seeds=range(4), progress=False).records
    for off, required in zip(records["off"], records["require"], strict=True):
        assert replace(off, metrics={}, n_clipped=0) == replace(required, metrics={}, n_clipped=0)
        for metric, tolerance in TOLERANCES[task].items():
            assert required.metrics[metric] == pytest.approx(off.metrics[metric], abs=tolerance)
