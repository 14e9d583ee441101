"""The append-only file of an evaluation: what was promised, and every episode as it finishes.

One JSON object per line::

    {"ledger": 1, "task": ..., "policy": ..., ...}       what the records are of; written once
    {"session": {"seeds": [...], "versions": ...}}       one per start; the newest seeds count
    {"record": {"seed": 100, ...}}                       one per finished episode
    {"restart": {"seeds": [...], "reason": ...}}         a simulator failed; these were repeated

Lines are synced to disk in batches. A kill can tear the last line only; it is dropped on reading
and cut off before the next append. A ledger without a record for every seed has no score.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from genpolicy.errors import DataError, IncompleteEvaluationError, SimulatorError, UsageError
from genpolicy.evaluation.identity import CheckpointInfo, PolicyIdentity
from genpolicy.evaluation.records import EpisodeRecord, EvalResult, format_seeds

__all__ = ["Ledger", "LedgerContent", "LedgerHeader", "read_ledger"]

_SCHEMA = 1
_BEGINNING = b'{"ledger": '


@dataclass(frozen=True)
class LedgerHeader:
    """What all records of a ledger have in common.

    Args:
        task: name of the task.
        primary: the metric that results are ranked by.
        rates: metrics that are 0 or 1 in every episode.
        policy: what is evaluated.
        n_action_steps: actions executed per chunk.
        simulators: versions of the simulator's packages.
        checkpoint: where the policy came from.
        note: how the task compares with published numbers.
        settings: how the environment differs from the task's standard, in plain containers.
    """

    task: str
    primary: str
    rates: tuple[str, ...]
    policy: PolicyIdentity
    n_action_steps: int
    simulators: Mapping[str, str]
    checkpoint: CheckpointInfo | None = None
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain containers for the first line."""
        return {
            "ledger": _SCHEMA,
            **vars(self),
            "rates": list(self.rates),
            "policy": self.policy.to_json(),
            "simulators": dict(self.simulators),
            "checkpoint": None if self.checkpoint is None else self.checkpoint.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LedgerHeader:
        """Rebuild a header from ``to_json``."""
        fields = {key: value for key, value in data.items() if key != "ledger"}
        fields["rates"] = tuple(fields["rates"])
        fields["policy"] = PolicyIdentity.from_json(fields["policy"])
        if fields["checkpoint"] is not None:
            fields["checkpoint"] = CheckpointInfo.from_json(fields["checkpoint"])
        return cls(**fields)

    def check_same(self, other: LedgerHeader, path: Path) -> None:
        """Check that records described by ``other`` may join those of this header.

        Raises:
            UsageError: naming what differs, when policy, task or protocol do.
            SimulatorError: when the versions of the simulator do.
        """
        mine, theirs = (
            {
                "task": h.task,
                "n_action_steps": h.n_action_steps,
                "environment": h.settings,
                **h.policy.to_json(),
            }
            for h in (self, other)
        )
        for name, value in mine.items():
            if value != theirs[name]:
                raise UsageError(
                    f"{path} is of another evaluation: its {name} is {value!r}, this one's is "
                    f"{theirs[name]!r}; choose another ledger"
                )
        if dict(self.simulators) != dict(other.simulators):
            raise SimulatorError(
                f"{path} was begun with {dict(self.simulators)}, installed are "
                f"{dict(other.simulators)}; install the former, or choose another ledger"
            )


@dataclass
class LedgerContent:
    """A ledger as read.

    Args:
        path: the file.
        header: what the records are of.
        seeds: the seeds of the newest session, in order.
        versions: library versions of the newest session.
        records: by seed.
        n_restarts: repetitions after failures of the simulator.
        n_bytes: length of the intact part.
    """

    path: Path
    header: LedgerHeader
    seeds: tuple[int, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    records: dict[int, EpisodeRecord] = field(default_factory=dict)
    n_restarts: int = 0
    n_bytes: int = 0

    def result(self) -> EvalResult:
        """Return the score.

        Raises:
            IncompleteEvaluationError: when a seed has no record.
        """
        missing = [seed for seed in self.seeds if seed not in self.records]
        if missing or not self.seeds:
            raise IncompleteEvaluationError(
                f"{self.path} has {len(self.seeds) - len(missing)} of {len(self.seeds)} records, "
                f"seeds {format_seeds(missing)} are missing; finish it with resume=True (--resume)"
            )
        return EvalResult(
            **vars(self.header),
            records=tuple(self.records[seed] for seed in self.seeds),
            versions=self.versions,
            n_restarts=self.n_restarts,
        )


def read_ledger(path: str | Path) -> LedgerContent:
    """Read a ledger, complete or not.

    Raises:
        DataError: when the file is missing, has no header, is damaged before its last line, holds
            two different records for one seed, or has a newer schema.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"ledger {file} cannot be read: {error}") from error
    lines = _intact_lines(data, file)
    if not lines:
        raise DataError(f"ledger {file} is empty: it was stopped before its header was written")
    head = lines[0]
    try:
        if head["ledger"] > _SCHEMA:
            raise DataError(
                f"ledger {file} has schema {head['ledger']}, this genpolicy reads {_SCHEMA}; "
                "upgrade genpolicy"
            )
        content = LedgerContent(file, LedgerHeader.from_json(head))
        for number, line in enumerate(lines[1:], start=2):
            _take(content, line, number)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is no evaluation ledger ({error!r})") from error
    content.n_bytes = data.rfind(b"\n") + 1 if data else 0
    return content


def _intact_lines(data: bytes, file: Path) -> list[dict[str, Any]]:
    """Return the parsed lines, without what follows the last line break."""
    lines = []
    for number, raw in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            lines.append(json.loads(raw))
        except ValueError as error:
            raise DataError(
                f"ledger {file} is damaged in line {number} ({error}); restore it or start another"
            ) from error
    return lines


def _take(content: LedgerContent, line: Mapping[str, Any], number: int) -> None:
    """Add one line to what was read before it."""
    if "session" in line:
        content.seeds = tuple(line["session"]["seeds"])
        content.versions = line["session"]["versions"]
    elif "restart" in line:
        content.n_restarts += 1
    elif "record" in line:
        record = EpisodeRecord.from_json(line["record"])
        if content.records.setdefault(record.seed, record) != record:
            raise DataError(
                f"ledger {content.path} line {number}: seed {record.seed} has two different "
                "records; start another ledger"
            )
    else:
        raise DataError(f"ledger {content.path} line {number}: unknown entry {sorted(line)}")


class Ledger:
    """An open ledger; a context manager. A second process is refused while it is open.

    Args:
        path: the file; created with its folders.
        header: what the records are of.
        seeds: the seeds of this session, in order.
        versions: library versions, for the record.
        resume: whether to continue an existing file. It may have been begun for fewer, more or
            other seeds; finished ones are not repeated.

    Raises:
        UsageError: when the file holds records and ``resume`` is False, is of another policy, task
            or protocol, is in use, or cannot be written.
        SimulatorError: when it was begun with other versions of the simulator.
        DataError: when it is damaged.
    """

    def __init__(
        self,
        path: str | Path,
        header: LedgerHeader,
        *,
        seeds: Sequence[int],
        versions: Mapping[str, str],
        resume: bool,
    ) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle: BinaryIO = open(self.path, "ab")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be written ({error.strerror}); choose another folder"
            ) from error
        try:
            self._lock()
            self.content = self._begin(header, resume)
            self.content.seeds, self.content.versions = tuple(seeds), dict(versions)
            self._write([{"session": {"seeds": list(seeds), "versions": dict(versions)}}])
        except BaseException:
            self._handle.close()
            raise

    def _lock(self) -> None:
        import fcntl

        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{self.path} is being written by another process; wait for it or choose another"
            ) from error

    def _begin(self, header: LedgerHeader, resume: bool) -> LedgerContent:
        """Return what the file holds, without a torn end; one without records begins anew."""
        data = self.path.read_bytes()
        if b"\n" not in data:
            if not data.startswith(_BEGINNING[: len(data)]):
                raise DataError(f"{self.path} exists and is no evaluation ledger; choose another")
            return self._anew(header)
        content = read_ledger(self.path)
        if not content.records:
            return self._anew(header)
        if not resume:
            raise UsageError(
                f"{self.path} already holds {len(content.records)} records; continue it with "
                "resume=True (--resume), or choose another ledger"
            )
        content.header.check_same(header, self.path)
        self._handle.truncate(content.n_bytes)
        return content

    def _anew(self, header: LedgerHeader) -> LedgerContent:
        self._handle.truncate(0)
        self._write([header.to_json()])
        return LedgerContent(self.path, header)

    def append(self, records: Sequence[EpisodeRecord]) -> None:
        """Add finished episodes; they are on disk when this returns."""
        self._write([{"record": record.to_json()} for record in records])
        self.content.records.update({record.seed: record for record in records})

    def note_restart(self, seeds: Sequence[int], reason: str) -> None:
        """Add that a simulator failed while these episodes ran."""
        self._write([{"restart": {"seeds": list(seeds), "reason": reason}}])
        self.content.n_restarts += 1

    def _write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self._handle.write(text.encode())
        self._handle.flush()
        os.fsync(self._handle.fileno())

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.close()
