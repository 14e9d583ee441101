from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genpolicy.data import BatchStream
from genpolicy.data.d4rl import read_d4rl, write_d4rl
from genpolicy.data.episodes import DataSource
from genpolicy.data.transitions import TransitionDataset
from genpolicy.errors import DataError, UsageError

# Seven rows: an episode that ends in a terminal row, one cut by a time limit, and a rest.
TERMINATED = np.array([0, 0, 1, 0, 0, 0, 0], bool)


@pytest.fixture
def toy(make_episodes):
    return make_episodes([3, 2, 2], terminated=TERMINATED)


def everything(transitions):
    return transitions.gather(torch.arange(len(transitions)))


def test_the_seven_row_toy(toy):
    batch = everything(TransitionDataset(toy))
    # Rows 4 and 6 are truncated and what came after them is unknown.
    assert batch["obs"]["state"][:, 0, 0].tolist() == [0, 1, 2, 3, 5]
    assert batch["next_obs"]["state"][:, 0, 0].tolist() == [1, 2, 2, 4, 6]
    assert batch["action"][:, 0, 0].tolist() == [0, 10, 20, 30, 50]
    assert batch["reward"].tolist() == [0, 1, 2, 3, 5]
    assert batch["bootstrap"].tolist() == [1, 1, 0, 1, 1]
    assert batch["terminated"].tolist() == [False, False, True, False, False]
    assert not batch["truncated"].any()


def test_a_known_final_observation_keeps_truncated_rows_and_they_bootstrap(make_episodes):
    final = {"state": np.array([[-7, 0], [-8, 0], [-9, 0]], np.float32)}
    toy = make_episodes([3, 2, 2], terminated=TERMINATED, final_obs=final)
    batch = everything(TransitionDataset(toy))
    assert batch["obs"]["state"][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert batch["next_obs"]["state"][:, 0, 0].tolist() == [1, 2, -7, 4, -8, 6, -9]
    assert batch["bootstrap"].tolist() == [1, 1, 0, 1, 1, 1, 1]
    assert batch["terminated"].tolist() == TERMINATED.tolist()
    assert batch["truncated"].nonzero().flatten().tolist() == [4, 6]


def test_truncation_can_be_made_an_end(toy):
    batch = everything(TransitionDataset(toy, end_at_truncation=True))
    assert batch["obs"]["state"][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert batch["bootstrap"].tolist() == [1, 1, 0, 1, 0, 1, 0]
    assert batch["terminated"].nonzero().flatten().tolist() == [2, 4, 6]
    assert batch["truncated"].nonzero().flatten().tolist() == [4, 6]


def test_no_transition_leads_into_another_episode(make_episodes):
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 9, 30)
    episodes = make_episodes(lengths.tolist(), terminated=generator.random(lengths.sum()) < 0.1)
    batch = everything(TransitionDataset(episodes))
    step = batch["next_obs"]["state"][:, 0, 0] - batch["obs"]["state"][:, 0, 0]
    of = np.searchsorted(
        episodes.episode_ends, batch["obs"]["state"][:, 0, 0].numpy(), side="right"
    )
    next_of = np.searchsorted(
        episodes.episode_ends, batch["next_obs"]["state"][:, 0, 0].numpy(), side="right"
    )
    assert (of == next_of).all()
    assert set(step[~batch["terminated"]].tolist()) == {1}


def test_transitions_come_in_streams(toy):
    batch = BatchStream(TransitionDataset(toy), batch_size=3, seed=0).batch(4)
    assert batch["next_obs"]["state"].shape == (3, 1, 2)
    assert batch["bootstrap"].dtype == torch.float32


def test_rewards_are_needed(make_episodes):
    with pytest.raises(DataError, match="there are no rewards"):
        TransitionDataset(make_episodes([3], rewards=None))
    with pytest.raises(DataError, match="no transition has a known next observation"):
        TransitionDataset(make_episodes([1, 1]))


def d4rl_file(path, *, has_timeouts=True, has_terminals=True):
    generator = np.random.default_rng(1)
    n = 1000
    arrays = {
        "observations": generator.normal(size=(n, 3)).astype(np.float32),
        "actions": generator.uniform(-1, 1, (n, 2)).astype(np.float32),
        "rewards": generator.normal(size=n).astype(np.float32),
        "terminals": generator.random(n) < (0.01 if has_terminals else 0.0),
        "timeouts": generator.random(n) < 0.02,
    }
    write_d4rl(path, **arrays, source=DataSource("toy", "generated"))
    if not has_timeouts:
        import h5py

        with h5py.File(path, "a") as handle:
            del handle["timeouts"]
    return arrays


def q_learning_rows(terminals, timeouts, limit):
    """Rows that D4RL's ``qlearning_dataset`` keeps, by its definition, one by one."""
    rows, step = [], 0
    for i in range(len(terminals) - 1):
        is_limit = timeouts[i] if timeouts is not None else step == limit - 1
        if is_limit:
            step = 0
            continue
        rows.append(i)
        step = 0 if terminals[i] else step + 1
    return np.array(rows)


@pytest.mark.filterwarnings("ignore:.*no array 'timeouts'")
@pytest.mark.parametrize("has_timeouts", [True, False])
def test_transitions_are_those_of_d4rl_but_for_rows_both_terminal_and_at_the_limit(
    tmp_path, has_timeouts
):
    path = tmp_path / "toy.hdf5"
    arrays = d4rl_file(path, has_timeouts=has_timeouts)
    transitions = TransitionDataset(read_d4rl(path, max_episode_steps=20))
    rows = q_learning_rows(arrays["terminals"], arrays["timeouts"] if has_timeouts else None, 20)
    ours = transitions.rows.numpy()
    # D4RL drops a terminal row that is also at the limit; it ends the task, so it is kept here.
    extra = np.setdiff1d(ours, rows)
    assert np.setdiff1d(rows, ours).size == 0
    assert arrays["terminals"][extra].all()
    batch = transitions.gather(torch.as_tensor(np.searchsorted(ours, rows)))
    inside = ~arrays["terminals"][rows]
    np.testing.assert_array_equal(batch["obs"]["state"][:, 0], arrays["observations"][rows])
    np.testing.assert_array_equal(
        batch["next_obs"]["state"][inside, 0], arrays["observations"][rows + 1][inside]
    )
    np.testing.assert_array_equal(batch["terminated"], ~inside)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("has_timeouts", [True, False])
def test_transitions_are_those_of_the_d4rl_package(tmp_path, monkeypatch, has_timeouts):
    if importlib.util.find_spec("d4rl") is None:
        pytest.skip("the d4rl package is not installed; install genpolicy[d4rl] to compare with it")
    monkeypatch.setitem(sys.modules, "mujoco_py", None)  # importing the real one raises
    monkeypatch.setenv("D4RL_SUPPRESS_IMPORT_ERROR", "1")
    import d4rl
    import h5py

    path = tmp_path / "toy.hdf5"
    # Without timeouts D4RL miscounts the steps after a terminal row, so there are none then.
    d4rl_file(path, has_timeouts=has_timeouts, has_terminals=has_timeouts)
    with h5py.File(path) as handle:
        dataset = {key: handle[key][:] for key in handle}
    env = SimpleNamespace(_max_episode_steps=20)
    theirs = d4rl.qlearning_dataset(env, dataset=dataset)
    transitions = TransitionDataset(read_d4rl(path, max_episode_steps=20))
    batch = everything(transitions)
    assert len(theirs["rewards"]) <= len(transitions) <= len(theirs["rewards"]) + 3
    position = {tuple(row): i for i, row in enumerate(batch["obs"]["state"][:, 0].tolist())}
    index = torch.tensor([position[tuple(row)] for row in theirs["observations"].tolist()])
    batch = transitions.gather(index)
    np.testing.assert_array_equal(batch["action"][:, 0], theirs["actions"])
    np.testing.assert_array_equal(batch["reward"], theirs["rewards"])
    np.testing.assert_array_equal(batch["terminated"], theirs["terminals"])
    inside = ~theirs["terminals"].astype(bool)
    np.testing.assert_array_equal(
        batch["next_obs"]["state"][inside, 0], theirs["next_observations"][inside]
    )


def brute_force(episodes, *, n_obs_steps, horizon, n_action_steps, discount):
    """Every chunked transition, row by row."""
    found = {}
    starts, ends = episodes.episode_starts, episodes.episode_ends
    for e, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for row in range(start, end):
            reward, k, over = 0.0, 0, False
            while k < n_action_steps and row + k < end and not over:
                reward += discount**k * episodes.rewards[row + k]
                over = bool(episodes.terminated[row + k])
                k += 1
            arrived = row + k
            if not over and (k < n_action_steps or (arrived == end and episodes.final_obs is None)):
                continue
            following = []
            for back in range(n_obs_steps - 1, -1, -1):
                at = arrived - back
                if at == end and episodes.final_obs is not None:
                    following.append(episodes.final_obs["state"][e, 0])
                else:
                    following.append(episodes.obs["state"][min(max(at, start), end - 1), 0])
            found[row] = (reward, 0.0 if over else discount**n_action_steps, following)
    return found


@pytest.mark.parametrize("has_final", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 3, 3), (2, 5, 3), (3, 4, 2)])
def test_chunks_are_those_of_the_definition(make_episodes, sizes, has_final):
    n_obs_steps, horizon, n_action_steps = sizes
    rng = np.random.default_rng(3)
    lengths = [4, 1, 7, 3, 9]
    terminated = np.zeros(24, bool)
    terminated[np.cumsum(lengths)[[0, 3]] - 1] = True
    final = {"state": -100.0 - np.arange(10, dtype=np.float32).reshape(5, 2)}
    episodes = make_episodes(
        lengths,
        terminated=terminated,
        rewards=rng.normal(size=24),
        final_obs=final if has_final else None,
    )
    settings = {
        "n_obs_steps": n_obs_steps,
        "horizon": horizon,
        "n_action_steps": n_action_steps,
        "discount": 0.9,
    }
    transitions = TransitionDataset(episodes, **settings)
    expected = brute_force(episodes, **settings)
    assert transitions.rows.tolist() == sorted(expected)
    batch = everything(transitions)
    for i, row in enumerate(transitions.rows.tolist()):
        reward, bootstrap, following = expected[row]
        assert batch["reward"][i] == pytest.approx(reward, abs=1e-5)
        assert batch["bootstrap"][i] == pytest.approx(bootstrap, abs=1e-6)
        if bootstrap > 0:
            assert batch["next_obs"]["state"][i, :, 0].tolist() == following
        assert batch["action"][i, n_obs_steps - 1, 0] == 10 * row
    inside = batch["next_mask"].any(1)
    step = batch["next_action"][:, n_obs_steps - 1, 0] - batch["action"][:, n_obs_steps - 1, 0]
    assert set(step[inside].tolist()) == {10.0 * n_action_steps}


def test_chosen_episodes_keep_their_own_final_observations(make_episodes):
    final = {"state": -100.0 - np.arange(6, dtype=np.float32).reshape(3, 2)}
    episodes = make_episodes([2, 3, 2], final_obs=final)
    batch = everything(TransitionDataset(episodes, episode_ids=[2, 1]))
    assert batch["obs"]["state"][:, 0, 0].tolist() == [5, 6, 2, 3, 4]
    assert batch["next_obs"]["state"][:, 0, 0].tolist() == [6, -104, 3, 4, -102]


def test_impossible_settings_of_transitions_are_refused(toy):
    with pytest.raises(UsageError, match="n_action_steps 3"):
        TransitionDataset(toy, horizon=2, n_action_steps=3)
    with pytest.raises(UsageError, match=r"discount is 1\.5"):
        TransitionDataset(toy, discount=1.5)
