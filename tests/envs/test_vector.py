"""Slots: the same episodes in any slot, any number of slots, any process."""

from __future__ import annotations

import numpy as np
import pytest

from genpolicy.envs import make_env, make_vector_env
from genpolicy.envs.vector import SeededVectorEnv
from genpolicy.errors import NumericsError, SimulatorError, UsageError

pytestmark = pytest.mark.sim

N_STEPS = 25


def actions_of(seed: int, low: float, high: float) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, (N_STEPS, 2)).astype(np.float32)


def run_seeds(env: SeededVectorEnv, seeds: list[int]) -> dict[int, dict[str, list[np.ndarray]]]:
    """Run every seed for N_STEPS, refilling slots as they become free; return observations."""
    low, high = float(env.action_space.low[0]), float(env.action_space.high[0])
    waiting, running, found = list(seeds), {}, {}
    obs: dict[str, np.ndarray] = {}
    while waiting or running:
        # Fill one free slot per round, so that episodes in different slots are out of step.
        free = [slot for slot in range(env.n_envs) if slot not in running]
        if free and waiting:
            seed = waiting.pop(0)
            obs, infos = env.reset([free[-1]], [seed])
            running[free[-1]] = (seed, 0)
            found[seed] = {key: [value[free[-1]]] for key, value in obs.items()}
            assert infos[0]["metrics"]["return"] == 0.0
        actions = np.full((env.n_envs, 2), np.nan, dtype=np.float32)
        active = np.zeros(env.n_envs, dtype=bool)
        for slot, (seed, k) in running.items():
            actions[slot], active[slot] = actions_of(seed, low, high)[k], True
        before = obs
        obs, rewards, terminated, truncated, infos = env.step(actions, active)
        for slot in range(env.n_envs):
            if slot not in running:
                assert infos[slot] == {}
                assert (rewards[slot], terminated[slot], truncated[slot]) == (0, False, False)
                assert all(np.array_equal(obs[key][slot], before[key][slot]) for key in obs)
                continue
            seed, k = running[slot]
            for key in obs:
                found[seed][key].append(obs[key][slot])
            assert set(infos[slot]) == {"metrics"}
            running[slot] = (seed, k + 1)
            if k + 1 == N_STEPS:
                assert truncated[slot]
                del running[slot]
    return found


def run_alone(task: str, seed: int) -> dict[str, list[np.ndarray]]:
    env = make_env(task, max_steps=N_STEPS)
    low, high = float(env.action_space.low[0]), float(env.action_space.high[0])
    rows = [env.reset(seed=seed)[0]]
    rows += [env.step(action)[0] for action in actions_of(seed, low, high)]
    return {key: [row[key] for row in rows] for key in rows[0]}


@pytest.mark.parametrize("task", ["maze2d-umaze", "pusht"])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_slots_do_not_change_an_episode(task: str, n_envs: int):
    seeds = [5, 17, 100_000, 2**40]
    with make_vector_env(task, n_envs, max_steps=N_STEPS) as env:
        found = run_seeds(env, seeds)
    for seed in seeds:
        for key, rows in run_alone(task, seed).items():
            assert np.array_equal(found[seed][key], rows), (seed, key)


def test_workers_do_not_change_an_episode_and_their_death_is_reported():
    seeds = [5, 17, 100_000]
    env = make_vector_env("maze2d-umaze", 2, workers=True, max_steps=N_STEPS)
    found = run_seeds(env, seeds)
    for seed in seeds:
        for key, rows in run_alone("maze2d-umaze", seed).items():
            assert np.array_equal(found[seed][key], rows), (seed, key)
    assert [picture.ndim for picture in env.render()] == [3, 3]
    env.reset([0, 1], [1, 2])
    env._env.processes[1].kill()
    with pytest.raises(SimulatorError, match="repeat the episodes"):
        for _ in range(3):
            env.step(np.zeros((2, 2)), np.array([True, True]))
    with pytest.raises(UsageError, match="closed"):
        env.reset([0], [1])
    env.close()


def test_metrics_survive_the_batching():
    with make_vector_env("maze2d-umaze", 2) as env:
        _, infos = env.reset([1, 0], [3, 4])
        alone = [make_env("maze2d-umaze").reset(seed=seed)[1] for seed in (3, 4)]
        assert infos == alone
        _, _, _, _, infos = env.step(np.full((2, 2), 3.0), np.array([True, False]))
        assert infos[0]["metrics"]["clipped_actions"] == 1.0
        assert infos[1] == {}


def test_an_episode_that_is_over_is_not_stepped():
    with make_vector_env("maze2d-umaze", 2, max_steps=1) as env:
        env.reset([0, 1], [0, 1])
        both = np.array([True, True])
        _, _, _, truncated, _ = env.step(np.zeros((2, 2)), both)
        assert truncated.all()
        with pytest.raises(UsageError, match=r"slots \[0, 1\] have no running episode"):
            env.step(np.zeros((2, 2)), both)
        env.reset([1], [2])
        env.step(np.zeros((2, 2)), np.array([False, True]))


def test_misuse_is_refused():
    with make_vector_env("maze2d-umaze", 2) as env:
        for indices, seeds in (([0, 0], [1, 2]), ([2], [1]), ([0], [1, 2]), ([], [])):
            with pytest.raises(UsageError, match="expected"):
                env.reset(indices, seeds)
        env.reset([0], [1])
        with pytest.raises(UsageError, match="shape"):
            env.step(np.zeros((1, 2)), np.array([True]))
        with pytest.raises(UsageError, match=r"slots \[1\] have no running episode"):
            env.step(np.zeros((2, 2)), np.array([True, True]))
        with pytest.raises(NumericsError, match="slot 0"):
            env.step(np.full((2, 2), np.inf), np.array([True, False]))
    with pytest.raises(UsageError, match="closed"):
        env.reset([0], [1])
