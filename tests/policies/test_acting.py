"""Acting alone is what an evaluation does, and stops safely where an evaluation would fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genpolicy.errors import NumericsError, UsageError
from genpolicy.evaluation import replay
from genpolicy.policies import Actor
from tests.evaluation.aiming import Aimer, aim


def test_an_actor_does_what_an_evaluation_does():
    rollout = replay(Aimer(1.0), aim(), seeds=[5])[0]
    actor = Actor(Aimer(1.0), low=-8.0, high=8.0)
    actor.reset(seed=5)
    np.testing.assert_array_equal(actor.act({"state": rollout.obs["state"][0]}), rollout.actions[0])


def test_a_chunk_serves_several_steps_and_what_leaves_the_bounds_is_counted():
    asked = []

    class Counting(Aimer):
        def sample(self, obs, *, seeds=None, **settings):
            asked.append(obs["state"].clone())
            return super().sample(obs, seeds=seeds, **settings)

    actor = Actor(Counting(30.0), low=[-1.0, -8.0], high=[1.0, 8.0], n_action_steps=2)
    states = [np.full(3, 0.1 * i) for i in range(5)]
    actions = [actor.act({"state": state}) for state in states]
    assert [a[0] for a in actions] == [1.0] * 5
    assert actor.queue.n_clipped == 5
    assert actor.queue.n_chunks == len(asked) == 3
    np.testing.assert_allclose(asked[0][0], np.stack([states[0], states[0]]), atol=1e-6)
    np.testing.assert_allclose(asked[1][0], np.stack([states[1], states[2]]), atol=1e-6)


def test_what_is_not_finite_stops_the_robot():
    class Broken(Aimer):
        is_broken = True

        def sample(self, obs, *, seeds=None, **settings):
            chunk = super().sample(obs, seeds=seeds, **settings)
            return chunk * torch.nan if self.is_broken else chunk

    reasons = []

    def hold(reason):
        reasons.append(reason)
        return np.array([0.0, 99.0])

    policy, state = Broken(), {"state": np.zeros(3)}
    actor = Actor(policy, low=-8.0, high=8.0, on_unsafe=hold)
    np.testing.assert_array_equal(actor.act(state), [0.0, 8.0])
    np.testing.assert_array_equal(actor.act({"state": np.full(3, np.inf)}), [0.0, 8.0])
    assert reasons == ["the policy's action is not finite", "observation 'state' is not finite"]
    policy.is_broken = False
    assert np.isfinite(actor.act(state)).all()  # planned anew, nothing of the broken plan is left
    assert len(reasons) == 2
    with pytest.raises(NumericsError, match="stop the robot, or give on_unsafe") as caught:
        Actor(Broken(), low=-8.0, high=8.0).act(state)
    assert caught.value.exit_code == 5


def test_misuse_of_an_actor_is_refused():
    with pytest.raises(UsageError, match="expected 1 to 5"):
        Actor(Aimer(), low=-1, high=1, n_action_steps=6)
    with pytest.raises(UsageError, match=r"actions of shape \(2,\)"):
        Actor(Aimer(), low=[-1.0] * 3, high=1.0)
    with pytest.raises(UsageError, match="no observation 'state'"):
        Actor(Aimer(), low=-1, high=1).act({})
