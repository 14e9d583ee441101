"""Windows of a data set for Lightning: splitting, normalising and batching in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from genpolicy.data.batches import BatchStream, Gatherable, OrderedBatches
from genpolicy.data.episodes import Array, Episodes, OnNan
from genpolicy.data.normalizer import FieldStats, Mode, Normalizer
from genpolicy.data.registry import dataset_entry, dataset_symmetry, load_dataset
from genpolicy.data.replay import ReplayBuffer
from genpolicy.data.rewards import RewardTransform, check_reward_transform
from genpolicy.data.transitions import TransitionDataset
from genpolicy.data.windows import WindowBatch, WindowDataset, check_window_sizes
from genpolicy.errors import UsageError
from genpolicy.seeding import generator_from
from genpolicy.shapes import TaskSpec

__all__ = ["WindowDataModule", "split_episodes"]


class WindowDataModule(LightningDataModule):
    """The training and validation batches of a task.

    Everything is a function of the settings: the split and the order of the batches come from
    ``seed``, and batch ``k`` of a resumed run is batch ``k`` of one that was never stopped. With
    several processes each holds the whole data and gets its own ``batch_size`` windows per step.

    After ``setup``: ``episodes`` (all that were read, and their images), ``train_ids`` and
    ``validation_ids`` (which of them are used for what), ``normalizer`` (fitted to the training
    episodes), ``reward_transform``, ``spec`` and ``fingerprint``. With ``replay`` set, training
    batches come from there.

    Args:
        task: one of ``genpolicy.data.registry.DATASETS``.
        seed: names the split and the order of batches.
        path: file or folder of the data; None searches for it, see ``genpolicy.data.registry``.
        n_obs_steps: observations that condition a chunk, at least 1.
        horizon: actions in a chunk.
        n_action_steps: actions of a chunk that are executed; ``n_obs_steps - 1 + n_action_steps``
            is at most ``horizon``.
        pad_before: steps a window may start before its episode; None means ``n_obs_steps - 1``.
        pad_after: steps a window may end after its episode; None means ``n_action_steps - 1``.
        batch_size: windows per batch and process, at least 1.
        val_ratio: part of the episodes kept for validation, in [0, 1); when it is above 0, at least
            one episode.
        episode_range: first episode of the file to use and the one after the last; None uses all.
        max_episodes: training episodes to use at most, chosen at random; None uses all.
        symmetry: a symmetry of the task, for example ``"mirror"``; the image of every training
            episode is added to the training data (numbered ``n_episodes`` more), that of a
            validation episode is used for nothing. None adds nothing.
        discount: in [0, 1]: of windows, which then also come with their return from the current
            step on; of transitions, where None is 0.99. None gives windows no return.
        transitions: give transitions (``TransitionBatch``: windows, and what they led to) for
            algorithms with a critic, instead of windows; ``pad_before`` and ``pad_after`` then have
            to be None, since every step is the current one of one transition.
        reward: transform of the rewards, a name in ``REWARD_TRANSFORMS``, fitted to the training
            episodes.
        train_fraction: part of the training episodes that batches come from, in (0, 1], chosen at
            random; statistics are still of all training episodes. For algorithms that need labels
            of few of them.
        action_normalizer: ``"min_max"``, ``"mean_std"`` or ``"identity"``, or the statistics of
            another policy, in whose units this one is then trained.
        obs_normalizer: the same for all low-dimensional observations, or by key; images are always
            mapped to [-1, 1].
        on_nan: ``"error"``, or ``"drop_episode"`` to leave out episodes that are not finite.
        reader_options: further options of the task's reader.
        first_step: batch that iteration starts with where no trainer says which one is next.

    Raises:
        UsageError: for settings out of range, before any data is read.
    """

    def __init__(
        self,
        *,
        task: str,
        seed: int,
        path: str | Path | None = None,
        n_obs_steps: int = 2,
        horizon: int = 16,
        n_action_steps: int = 8,
        pad_before: int | None = None,
        pad_after: int | None = None,
        batch_size: int = 256,
        val_ratio: float = 0.02,
        episode_range: Sequence[int] | None = None,
        max_episodes: int | None = None,
        symmetry: str | None = None,
        discount: float | None = None,
        transitions: bool = False,
        reward: str = "none",
        train_fraction: float = 1.0,
        action_normalizer: Mode | FieldStats = "min_max",
        obs_normalizer: Mode | Mapping[str, Mode] = "min_max",
        on_nan: OnNan = "error",
        reader_options: Mapping[str, Any] | None = None,
        first_step: int = 0,
    ) -> None:
        super().__init__()
        self.asked = task
        task = dataset_entry(task).name
        # The same checks as with the data's own shapes, before the data is read.
        TaskSpec(
            task=task,
            obs_shapes={"unread": (1,)},
            action_dim=1,
            n_obs_steps=n_obs_steps,
            horizon=horizon,
            n_action_steps=n_action_steps,
        )
        self.pad_before = n_obs_steps - 1 if pad_before is None else pad_before
        self.pad_after = n_action_steps - 1 if pad_after is None else pad_after
        check_window_sizes(
            n_obs_steps=n_obs_steps,
            horizon=horizon,
            pad_before=self.pad_before,
            pad_after=self.pad_after,
        )
        if batch_size < 1 or first_step < 0:
            raise UsageError(
                f"data: batch_size is {batch_size} and first_step {first_step}, expected at least "
                "1 and 0"
            )
        if not 0.0 <= val_ratio < 1.0:
            raise UsageError(f"data: val_ratio is {val_ratio}, expected 0 <= val_ratio < 1")
        if episode_range is not None and not (
            len(episode_range) == 2 and 0 <= episode_range[0] < episode_range[1]
        ):
            raise UsageError(
                f"data: episode_range is {list(episode_range)}, expected [first, stop] with "
                "0 <= first < stop"
            )
        if discount is not None and not 0.0 <= discount <= 1.0:
            raise UsageError(f"data: discount is {discount}, expected 0 to 1, or null")
        if transitions and (pad_before is not None or pad_after is not None):
            raise UsageError(
                f"data: pad_before is {pad_before} and pad_after {pad_after} with "
                "transitions=true, which needs neither; leave them null"
            )
        if not 0.0 < train_fraction <= 1.0:
            raise UsageError(f"data: train_fraction is {train_fraction}, expected above 0, up to 1")
        check_reward_transform(reward)
        if max_episodes is not None and max_episodes < 1:
            raise UsageError(f"data: max_episodes is {max_episodes}, expected at least 1 or null")
        self._symmetry = None if symmetry is None else dataset_symmetry(task, symmetry)
        if not isinstance(action_normalizer, FieldStats):
            Normalizer.check_mode("action", action_normalizer)
        for key, mode in _by_key(obs_normalizer).items():
            Normalizer.check_mode(key, mode)
        self.task, self.seed, self.path = task, seed, path
        self.n_obs_steps, self.horizon, self.n_action_steps = n_obs_steps, horizon, n_action_steps
        self.batch_size, self.val_ratio, self.max_episodes = batch_size, val_ratio, max_episodes
        self.action_normalizer: Mode | FieldStats = action_normalizer
        self.obs_normalizer: Mode | Mapping[str, Mode] = obs_normalizer
        self.reader_options = {"on_nan": on_nan, **(reader_options or {})}
        self.first_step = first_step
        self.discount = 0.99 if transitions and discount is None else discount
        self.transitions, self.reward, self.train_fraction = transitions, reward, train_fraction
        self.episode_range = None if episode_range is None else tuple(episode_range)
        self._episodes: Episodes | None = None
        self.replay: ReplayBuffer | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read, split and normalise the data; only the first call does anything.

        Raises:
            DataError: when the data set is not here, damaged or wrong.
            UsageError: when the settings do not fit the data.
        """
        if self._episodes is not None:
            return
        episodes = load_dataset(self.asked, self.path, **self.reader_options)
        if self.episode_range is not None:
            first, stop = self.episode_range
            if stop > episodes.n_episodes:
                raise UsageError(
                    f"data: episode_range is [{first}, {stop}], the data has episodes 0 to "
                    f"{episodes.n_episodes - 1}"
                )
            episodes = episodes.select(range(first, stop))
        self.train_ids, self.validation_ids = split_episodes(
            episodes.n_episodes,
            val_ratio=self.val_ratio,
            max_episodes=self.max_episodes,
            seed=self.seed,
        )
        if self._symmetry is not None:
            self.train_ids = np.concatenate([self.train_ids, self.train_ids + episodes.n_episodes])
            episodes = self._symmetry.enlarge(episodes)
        self.normalizer = Normalizer.fit(
            episodes,
            action=self.action_normalizer,
            obs=self.obs_normalizer,
            episode_ids=self.train_ids,
        )
        self.spec = TaskSpec(
            task=self.task,
            obs_shapes=episodes.obs_shapes,
            action_dim=episodes.action_dim,
            n_obs_steps=self.n_obs_steps,
            horizon=self.horizon,
            n_action_steps=self.n_action_steps,
        )
        self.reward_transform = RewardTransform.fit(
            self.reward, episodes if self.reward == "none" else episodes.select(self.train_ids)
        )
        shaped = self.reward_transform.apply(episodes)
        self.train_windows = self._windows(shaped, self._used(self.train_ids))
        self.validation_windows = (
            self._windows(shaped, self.validation_ids) if len(self.validation_ids) else None
        )
        self._episodes = episodes

    @property
    def episodes(self) -> Episodes:
        """All episodes that were read.

        Raises:
            UsageError: before ``setup``.
        """
        if self._episodes is None:
            raise UsageError('data: nothing was read yet; call setup("fit") first')
        return self._episodes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content of ``episodes``, see ``Episodes.fingerprint``."""
        return self.episodes.fingerprint

    def start_replay(self, *, offline_fraction: float | None) -> ReplayBuffer:
        """Take training batches from a buffer from now on, to which episodes can be added.

        Lightning reads one batch ahead, before the step that may add to the buffer; the stream
        therefore yields empty batches, which whoever adds to the buffer fills at their step.

        Args:
            offline_fraction: see ``ReplayBuffer``.

        Raises:
            UsageError: for windows in the place of transitions.
        """
        self.setup()
        if not self.transitions:
            raise UsageError("replay holds transitions; set data.transitions=true")
        self.replay = ReplayBuffer(
            self.train_windows,
            lambda added: self._windows(
                self.reward_transform.apply(added), np.arange(added.n_episodes)
            ),
            batch_size=self.batch_size,
            seed=self.seed,
            offline_fraction=offline_fraction,
        )
        return self.replay

    def train_dataloader(self) -> _Resuming | _Unfilled:
        """Return the endless stream of this process's training batches."""
        self.setup()
        if self.replay is not None:
            return _Unfilled()
        trainer = self.trainer
        stream = BatchStream(
            self.train_windows,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
        )
        return _Resuming(stream, self.next_step)

    def validation_batches(
        self, *, rank: int = 0, world_size: int = 1
    ) -> OrderedBatches[WindowBatch] | list[WindowBatch]:
        """Return every validation window once, in order; empty without a validation split.

        Args:
            rank: this process, where several share the windows.
            world_size: processes that share them.
        """
        self.setup()
        if self.validation_windows is None:
            return []
        return OrderedBatches(
            self.validation_windows,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
        )

    def next_step(self) -> int:
        """Return the batch that comes next: the trainer counts those that were trained on."""
        trainer = self.trainer
        if trainer is None:
            return self.first_step
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        return self.first_step + int(progress.total.processed)

    def _used(self, ids: Array) -> Array:
        """Return the training episodes that batches come from."""
        n = max(1, round(self.train_fraction * len(ids)))
        if n == len(ids):
            return ids
        order = torch.randperm(len(ids), generator=generator_from(self.seed, "fraction")).numpy()
        return np.sort(ids[order[:n]])

    def _windows(self, episodes: Episodes, ids: Array) -> Gatherable[WindowBatch]:
        if self.transitions:
            assert self.discount is not None
            return TransitionDataset(
                episodes,
                n_obs_steps=self.n_obs_steps,
                horizon=self.horizon,
                n_action_steps=self.n_action_steps,
                discount=self.discount,
                episode_ids=ids,
            )
        return WindowDataset(
            episodes,
            n_obs_steps=self.n_obs_steps,
            horizon=self.horizon,
            pad_before=self.pad_before,
            pad_after=self.pad_after,
            episode_ids=ids,
            discount=self.discount,
        )


def split_episodes(
    n_episodes: int, *, val_ratio: float, max_episodes: int | None, seed: int
) -> tuple[Array, Array]:
    """Split episodes at random into training and validation.

    Args:
        n_episodes: number of episodes.
        val_ratio: part for validation, in [0, 1); above 0 at least one episode where there are two.
        max_episodes: training episodes at most; validation episodes do not depend on it.
        seed: names the split.

    Returns:
        Numbers of the training and of the validation episodes, each in increasing order.
    """
    order = torch.randperm(n_episodes, generator=generator_from(seed, "split")).numpy()
    wanted = max(1, round(val_ratio * n_episodes)) if val_ratio > 0 else 0
    n_validation = min(wanted, n_episodes - 1)
    train = order[n_validation:][:max_episodes]
    return np.sort(train), np.sort(order[:n_validation])


class _Resuming:
    """A stream that starts, each time it is iterated, at the batch that comes next."""

    def __init__(self, stream: BatchStream[WindowBatch], next_step: Callable[[], int]) -> None:
        self.stream, self._next_step = stream, next_step

    def __iter__(self) -> Iterator[WindowBatch]:
        return self.stream.iterate(self._next_step())


class _Unfilled:
    """Batches without entries, to be filled at their step."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield {}


def _by_key(modes: Mode | Mapping[str, Mode]) -> dict[str, Mode]:
    return {"obs": modes} if isinstance(modes, str) else dict(modes)
