from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from genpolicy.data.d4rl import write_d4rl
from genpolicy.data.datamodule import WindowDataModule, split_episodes
from genpolicy.data.episodes import DataSource
from genpolicy.errors import DataError, UsageError

TASK = "maze2d-umaze"
N_EPISODES, LENGTH = 10, 20


@pytest.fixture
def path(tmp_path):
    n = N_EPISODES * LENGTH
    generator = np.random.default_rng(0)
    write_d4rl(
        tmp_path / "maze.hdf5",
        observations=generator.normal(size=(n, 4)).astype(np.float32),
        actions=np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        rewards=np.zeros(n, np.float32),
        terminals=np.zeros(n, bool),
        timeouts=np.arange(n) % LENGTH == LENGTH - 1,
        infos={"goal": np.ones((n, 2), np.float32)},
        source=DataSource(TASK, "generated"),
    )
    return tmp_path / "maze.hdf5"


def module(path, **changes):
    settings = {"task": TASK, "seed": 1, "path": path, "batch_size": 8, "val_ratio": 0.2}
    return WindowDataModule(**(settings | changes))


def test_what_is_known_after_setup(path):
    data = module(path)
    data.setup("fit")
    assert data.spec.obs_shapes == {"state": (4,), "goal": (2,)}
    assert (data.spec.action_dim, data.spec.n_obs_steps, data.spec.horizon) == (2, 2, 16)
    assert data.spec.n_action_steps == 8
    assert (data.pad_before, data.pad_after) == (1, 7)
    assert data.episodes.n_episodes == N_EPISODES
    assert data.fingerprint == data.episodes.fingerprint
    assert len(data.train_windows) == 8 * 13
    assert data.normalizer.constant == {"goal": [0, 1]}
    before = data.episodes
    data.setup("fit")
    assert data.episodes is before


def test_training_and_validation_share_no_row(path):
    data = module(path)
    data.setup()
    train = data.train_windows.index.rows(torch.arange(len(data.train_windows)))[0]
    held = torch.cat([batch["action"] for batch in data.validation_batches()]).flatten()
    assert not set((2 * train).flatten().tolist()) & set(held.tolist())
    assert sum(len(batch["index"]) for batch in data.validation_batches()) == 2 * 13
    # The statistics are those of the training episodes alone.
    stats = data.normalizer.stats["action"]
    used = data.episodes.actions[np.unique(train.numpy())]
    np.testing.assert_allclose(stats.mean, used.mean(axis=0), rtol=1e-6)
    assert not np.allclose(stats.mean, data.episodes.actions.mean(axis=0), rtol=1e-3)


def test_batches_are_those_of_the_seed_from_any_step(path):
    def actions(n, **changes):
        return [b["action"] for b in islice(module(path, **changes).train_dataloader(), n)]

    run = actions(9)
    again = actions(4, first_step=5)
    assert all(torch.equal(a, b) for a, b in zip(run[5:], again, strict=True))
    assert not torch.equal(actions(1, seed=2)[0], run[0])


class Recorder(LightningModule):
    """Trains nothing and remembers the windows it was given."""

    def __init__(self, save_to, save_at) -> None:
        super().__init__()
        self.save_to, self.save_at = save_to, save_at
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["index"].tolist())
        return (self.weight * batch["action"].mean()).sum()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.global_step == self.save_at:
            self.trainer.save_checkpoint(self.save_to)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(path, folder, *, max_steps, save_at=None, checkpoint=None, **settings):
    """Return the windows of each batch and a checkpoint, of the end or after step ``save_at``."""
    saved = folder / "state.ckpt"
    data, recorder = module(path), Recorder(saved, save_at)
    trainer = Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
        **settings,
    )
    trainer.fit(recorder, datamodule=data, ckpt_path=checkpoint)
    if save_at is None:
        trainer.save_checkpoint(saved)
    return recorder.seen, saved


@pytest.mark.parametrize(("max_steps", "save_at"), [(3, None), (5, 3)])
def test_a_resumed_run_continues_with_the_next_batch(path, tmp_path, max_steps, save_at):
    whole, _ = fit(path, tmp_path, max_steps=7)
    stream = module(path).train_dataloader()
    assert whole == [b["index"].tolist() for b in islice(stream, 7)]
    first, saved = fit(path, tmp_path, max_steps=max_steps, save_at=save_at)
    rest, _ = fit(path, tmp_path, max_steps=7, checkpoint=saved)
    assert first[:3] + rest == whole


def test_accumulated_gradients_and_short_epochs_read_every_batch_once(path, tmp_path):
    seen, _ = fit(path, tmp_path, max_steps=4, accumulate_grad_batches=2, limit_train_batches=3)
    stream = module(path).train_dataloader()
    assert seen == [b["index"].tolist() for b in islice(stream, len(seen))]
    assert len(seen) == 6  # two epochs of three batches, two steps each


def test_splits(path):
    train, held = split_episodes(100, val_ratio=0.02, max_episodes=None, seed=0)
    assert (len(train), len(held)) == (98, 2)
    assert sorted([*train, *held]) == list(range(100))
    fewer, same = split_episodes(100, val_ratio=0.02, max_episodes=90, seed=0)
    assert same.tolist() == held.tolist()
    assert len(fewer) == 90
    assert set(fewer) < set(train)
    assert len(split_episodes(5, val_ratio=0.01, max_episodes=None, seed=0)[1]) == 1
    assert len(split_episodes(5, val_ratio=0.0, max_episodes=None, seed=0)[1]) == 0
    only, none = split_episodes(1, val_ratio=0.5, max_episodes=None, seed=0)
    assert (only.tolist(), none.tolist()) == ([0], [])


def test_without_a_split_there_are_no_validation_batches(path):
    assert list(module(path, val_ratio=0.0).validation_batches()) == []


def test_reader_options_and_modes_are_passed_on(path):
    options = {"obs_keys": {"place": "observations"}, "split_on": None}
    data = module(path, reader_options=options, action_normalizer="mean_std")
    data.setup()
    assert data.spec.obs_shapes == {"place": (4,)}
    assert data.normalizer.bounds is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "maze"}, "no data set for 'maze'"),
        ({"horizon": 8}, "horizon 8 is shorter than n_obs_steps - 1 . n_action_steps = 9"),
        ({"n_obs_steps": 0}, "n_obs_steps is 0"),
        ({"n_action_steps": 0}, "n_action_steps is 0"),
        ({"pad_after": 16}, "pad_after is 16, expected 0 to horizon - 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"first_step": -1}, "first_step -1"),
        ({"val_ratio": 1.0}, "val_ratio is 1.0"),
        ({"max_episodes": 0}, "max_episodes is 0"),
        ({"action_normalizer": "minmax"}, "did you mean 'min_max'"),
        ({"obs_normalizer": {"state": "std"}}, "mode of state is 'std'"),
    ],
)
def test_wrong_settings_are_refused_before_data_is_read(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        module(tmp_path / "not read.hdf5", **changes)


def test_what_needs_the_data_is_refused_in_setup(path, tmp_path):
    with pytest.raises(UsageError, match=r'call setup\("fit"\) first'):
        _ = module(path).episodes
    with pytest.raises(DataError, match="does not exist"):
        module(tmp_path / "nowhere.hdf5").setup()
    with pytest.raises(UsageError, match="no option 'colour'"):
        module(path, reader_options={"colour": 1}).setup()
    with pytest.raises(UsageError, match="'sate', which is no observation"):
        module(path, obs_normalizer={"sate": "mean_std"}).setup()


def test_importing_the_package_does_not_import_lightning():
    import subprocess
    import sys

    code = (
        "import sys, genpolicy.data, genpolicy.data.registry as r;"
        "print(sorted({'lightning', 'zarr', 'h5py', 'minari', 'pooch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_transitions_come_from_the_training_split_with_transformed_rewards(path):
    steps = {"transitions": True, "n_obs_steps": 1, "horizon": 1, "n_action_steps": 1}
    data = module(path, **steps, reward="iql_antmaze", discount=0.9)
    batch = next(iter(data.train_dataloader()))
    assert batch["next_obs"]["state"].shape == (8, 1, 4)
    assert set(batch["reward"].tolist()) == {-1.0}
    assert batch["bootstrap"].unique().tolist() == pytest.approx([0.9])
    # The last row of every episode is truncated, and what came after it is unknown.
    assert len(data.train_windows) == 8 * (LENGTH - 1)
    assert data.reward_transform.offset == -1.0
    assert (data.episodes.rewards == 0).all()
    assert module(path, **steps).discount == 0.99
    with pytest.raises(UsageError, match="transitions=true"):
        module(path, **steps, pad_before=0)
    with pytest.raises(UsageError, match="is unknown"):
        module(path, reward="cql")


def test_a_fraction_of_the_episodes_keeps_the_statistics_of_all(path):
    whole, part = module(path), module(path, train_fraction=0.25)
    for data in (whole, part):
        data.setup("fit")
    assert len(part.train_windows) * 4 == len(whole.train_windows)
    assert part.normalizer.to_json() == whole.normalizer.to_json()
    assert np.array_equal(part.train_ids, whole.train_ids)
    again = module(path, train_fraction=0.25)
    again.setup("fit")
    index = torch.arange(len(part.train_windows))
    first, second = (d.train_windows.gather(index)["action"] for d in (part, again))
    assert torch.equal(first, second)
    with pytest.raises(UsageError, match="train_fraction is 0"):
        module(path, train_fraction=0.0)
