"""Evaluating a policy on named seeds, and running single episodes again to look at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from genpolicy.errors import IncompleteEvaluationError, UsageError
from genpolicy.evaluation.engine import Engine
from genpolicy.evaluation.identity import (
    CheckpointInfo,
    describe_checkpoint,
    identify_policy,
    plain_settings,
)
from genpolicy.evaluation.ledger import Ledger, LedgerContent, LedgerHeader
from genpolicy.evaluation.records import EpisodeRecord, EvalResult
from genpolicy.evaluation.task import EvaluationTask, Slots, check_spaces

if TYPE_CHECKING:
    from genpolicy.policies import Policy

__all__ = ["Rollout", "evaluate", "replay"]


_LIBRARIES = ("genpolicy", "numpy", "python", "torch")
"""What besides the simulator computes an episode."""


def _checked_seeds(seeds: Sequence[int]) -> list[int]:
    checked = [int(seed) for seed in seeds]
    if not checked or len(set(checked)) != len(checked) or min(checked) < 0:
        raise UsageError(
            f"got {len(checked)} seeds, {len(set(checked))} of them distinct, the smallest "
            f"{min(checked, default=None)}; expected at least one, distinct, none below 0"
        )
    return checked


def evaluate(
    policy: Policy,
    task: str | EvaluationTask,
    *,
    seeds: Sequence[int],
    n_envs: int = 8,
    n_action_steps: int | None = None,
    ledger: str | Path | None = None,
    resume: bool = False,
    workers: bool = False,
    progress: bool = True,
    checkpoint: str | Path | CheckpointInfo | None = None,
    max_restarts: int = 3,
) -> EvalResult:
    """Run one episode per seed and return their records with the figures computed from them.

    A record depends on the policy, the task and its seed only: not on ``n_envs``, ``workers``, the
    other seeds, or whether the evaluation was stopped and resumed in between.

    Args:
        policy: what to evaluate. Its noise in an episode is seeded by the episode's seed.
        task: name of a task of ``genpolicy.envs``, or a task of your own.
        seeds: distinct episode seeds of at least 0.
        n_envs: environments stepped together; their requests reach the policy as one batch.
        n_action_steps: actions executed per chunk; None for the policy's own.
        ledger: file that takes every record as soon as its episode ends; None keeps none.
        resume: continue ``ledger``: episodes it has are not repeated.
        workers: run every environment in a process of its own.
        progress: draw a progress bar where there is a terminal.
        checkpoint: where the policy was loaded from, for the result; its files are compared with
            the policy's weights.
        max_restarts: failures of the simulator tolerated per episode; it starts again from its
            seed each time.

    Returns:
        One record per seed, in the order of ``seeds``. An episode with a non-finite observation
        ends there, tagged, as a failure.

    Raises:
        UsageError: for seeds, counts or a ledger that do not fit.
        CheckpointError: when a policy with a ``checkpoint`` does not fit the environment.
        NumericsError: when an action is not finite.
        SimulatorError: when the simulator is not installed, or not the ledger's.
        IncompleteEvaluationError: when the simulator kept failing; the ledger keeps what there is.
    """
    wanted = _checked_seeds(seeds)
    if n_envs < 1 or max_restarts < 0:
        raise UsageError(
            f"n_envs is {n_envs} and max_restarts {max_restarts}, expected at least 1 and 0"
        )
    if resume and ledger is None:
        raise UsageError("resume=True continues a ledger; give its path with ledger=")
    setting = EvaluationTask.named(task) if isinstance(task, str) else task
    identity = identify_policy(policy)
    if isinstance(checkpoint, (str, Path)):
        checkpoint = describe_checkpoint(checkpoint, identity)
    executed = policy.spec.n_action_steps if n_action_steps is None else n_action_steps
    header = LedgerHeader(
        task=setting.name,
        primary=setting.primary,
        rates=setting.rates,
        policy=identity,
        n_action_steps=executed,
        simulators=setting.simulators,
        checkpoint=checkpoint,
        note=setting.note,
        settings=plain_settings(setting.settings),
    )

    def check(slots: Slots) -> None:
        check_spaces(
            policy.spec,
            slots,
            task=setting.name,
            n_action_steps=executed,
            is_loaded=checkpoint is not None,
        )

    from genpolicy.ops import is_compiled
    from genpolicy.policies.checkpoint import installed_versions

    used = (*_LIBRARIES, "genpolicy-ext") if is_compiled() else _LIBRARIES
    versions = {k: v for k, v in installed_versions().items() if k in used}
    with ExitStack() as stack:
        book: Ledger | None = None
        content = LedgerContent(Path("(no ledger)"), header, tuple(wanted), versions)
        if ledger is not None:
            book = stack.enter_context(
                Ledger(ledger, header, seeds=wanted, versions=versions, resume=resume)
            )
            content = book.content
        engine = Engine(
            policy,
            setting,
            [seed for seed in wanted if seed not in content.records],
            n_envs=n_envs,
            n_action_steps=executed,
            workers=workers,
            max_restarts=max_restarts,
            check=check,
            on_restart=_restart_counter(content, book),
        )
        try:
            _collect(engine, content, book, progress=progress)
        except IncompleteEvaluationError as error:
            kept = "no ledger was kept" if book is None else f"they are in {book.path}"
            raise IncompleteEvaluationError(
                f"{error}. {len(content.records)} of {len(wanted)} episodes have records, {kept}; "
                "fix the simulator and continue with resume=True (--resume)"
            ) from error
    return content.result()


def _restart_counter(
    content: LedgerContent, book: Ledger | None
) -> Callable[[Sequence[int], str], None]:
    def count(seeds: Sequence[int], reason: str) -> None:
        if book is not None:
            book.note_restart(seeds, reason)
        else:
            content.n_restarts += 1

    return count


def _collect(
    engine: Engine, content: LedgerContent, book: Ledger | None, *, progress: bool
) -> None:
    """Run the missing episodes and store their records."""
    with tqdm(
        total=len(content.seeds),
        initial=sum(seed in content.records for seed in content.seeds),
        desc=content.header.task,
        unit="episode",
        dynamic_ncols=True,
        disable=None if progress else True,
    ) as bar:
        for records in engine.run():
            if book is not None:
                book.append(records)
            else:
                content.records.update({record.seed: record for record in records})
            bar.update(len(records))


@dataclass
class Rollout:
    """One episode with all it saw and did.

    Args:
        record: the same as in an evaluation of this seed.
        obs: for each key ``(n_steps + 1, *shape)``.
        actions: ``(n_steps, action)`` as executed.
        rewards: ``(n_steps,)`` of the environment.
        frames: pictures ``(height, width, 3)`` uint8 by step; empty unless asked for.
    """

    record: EpisodeRecord
    obs: Mapping[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    frames: Mapping[int, np.ndarray] = field(default_factory=dict)


class _Collector:
    """Keeps what episodes saw and did."""

    def __init__(self, frame_every: int | None) -> None:
        self.frame_every = frame_every
        self.obs: dict[int, list[Mapping[str, np.ndarray]]] = {}
        self.actions: dict[int, list[np.ndarray]] = {}
        self.rewards: dict[int, list[float]] = {}
        self.frames: dict[int, dict[int, np.ndarray]] = {}

    def started(self, seed: int, obs: Mapping[str, np.ndarray], slots: Slots, slot: int) -> None:
        self.obs[seed], self.actions[seed], self.frames[seed] = [obs], [], {}
        self.rewards[seed] = []
        self._picture(seed, slots, slot)

    def stepped(
        self,
        seed: int,
        action: np.ndarray,
        obs: Mapping[str, np.ndarray],
        reward: float,
        slots: Slots,
        slot: int,
    ) -> None:
        self.obs[seed].append(obs)
        self.actions[seed].append(np.array(action))
        self.rewards[seed].append(reward)
        self._picture(seed, slots, slot)

    def _picture(self, seed: int, slots: Slots, slot: int) -> None:
        step = len(self.actions[seed])
        if self.frame_every is not None and step % self.frame_every == 0:
            self.frames[seed][step] = np.array(slots.render()[slot])

    def rollout(self, record: EpisodeRecord) -> Rollout:
        """Return the episode of a record."""
        obs, actions = self.obs[record.seed], self.actions[record.seed]
        return Rollout(
            record=record,
            obs={key: np.stack([o[key] for o in obs]) for key in obs[0]},
            actions=np.stack(actions) if actions else np.zeros((0, 0), dtype=np.float32),
            rewards=np.array(self.rewards[record.seed], dtype=np.float32),
            frames=self.frames[record.seed],
        )


def replay(
    policy: Policy,
    task: str | EvaluationTask,
    *,
    seeds: Sequence[int],
    n_action_steps: int | None = None,
    n_envs: int = 1,
    frame_every: int | None = None,
) -> list[Rollout]:
    """Run episodes again and keep what they saw and did, for pictures and videos.

    Records, and hence observations and actions, are those of ``evaluate`` with the same policy,
    task, seeds and ``n_action_steps``.

    Args:
        policy: what to run.
        task: name of a task of ``genpolicy.envs``, or a task of your own.
        seeds: distinct episode seeds.
        n_action_steps: actions executed per chunk; None for the policy's own.
        n_envs: environments stepped together; with pictures 1 is the fastest.
        frame_every: steps between pictures; None for no pictures.

    Returns:
        One rollout per seed, in the order of ``seeds``. Episodes broken at the start are left out.

    Raises:
        GenpolicyError: as ``evaluate``.
    """
    wanted = _checked_seeds(seeds)
    if n_envs < 1 or (frame_every is not None and frame_every < 1):
        raise UsageError(
            f"n_envs is {n_envs} and frame_every {frame_every}, expected at least 1 each"
        )
    setting = EvaluationTask.named(task) if isinstance(task, str) else task
    executed = policy.spec.n_action_steps if n_action_steps is None else n_action_steps

    def check(slots: Slots) -> None:
        check_spaces(
            policy.spec, slots, task=setting.name, n_action_steps=executed, is_loaded=False
        )

    collector = _Collector(frame_every)
    engine = Engine(
        policy,
        setting,
        wanted,
        n_envs=n_envs,
        n_action_steps=executed,
        check=check,
        listener=collector,
    )
    records = {record.seed: record for batch in engine.run() for record in batch}
    return [collector.rollout(records[seed]) for seed in wanted if seed in collector.obs]
