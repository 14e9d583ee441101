"""A tiny maze2d data set and training configurations that take a second."""

import numpy as np
import pytest

from genpolicy.cli.compose_config import compose_config
from genpolicy.data.d4rl import write_d4rl
from genpolicy.data.episodes import DataSource


@pytest.fixture(scope="session")
def tiny_maze(tmp_path_factory):
    """A D4RL file of ten straight walks to random goals."""
    rng = np.random.default_rng(0)
    n_episodes, length = 10, 24
    goals = np.repeat(rng.uniform(-1, 1, (n_episodes, 2)), length, axis=0)
    position = goals * np.tile(np.linspace(0, 1, length), n_episodes)[:, None]
    ends = np.zeros(n_episodes * length, bool)
    ends[length - 1 :: length] = True
    path = tmp_path_factory.mktemp("data") / "maze2d-tiny.hdf5"
    write_d4rl(
        path,
        observations=np.concatenate([position, goals], axis=1).astype(np.float32),
        actions=np.clip(goals - position, -1, 1).astype(np.float32),
        rewards=np.zeros(len(ends), np.float32),
        terminals=np.zeros(len(ends), bool),
        timeouts=ends,
        infos={"goal": goals.astype(np.float32)},
        source=DataSource(name="maze2d-umaze", kind="generated"),
    )
    return path


@pytest.fixture
def tiny_config(tiny_maze, tmp_path):
    """Return a function: overrides to a resolved configuration of a very small run."""

    def config(*overrides, run="run"):
        return compose_config(
            "train",
            [
                "experiment=maze2d_umaze_flow",
                f"data.path={tiny_maze}",
                f"run_dir='{tmp_path / run}'",
                "data.batch_size=8",
                "data.val_ratio=0.2",
                "policy.network.width=16",
                "policy.network.n_blocks=1",
                "policy.network.dropout=0.2",
                "trainer.max_steps=6",
                "trainer.precision=32-true",
                "save.every=2",
                "log_every=1",
                "logger=none",
                *overrides,
            ],
        )

    return config
