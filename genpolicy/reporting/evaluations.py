"""The complete evaluations of a run, and what is wrong with the others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from genpolicy.errors import DataError, GenpolicyError
from genpolicy.evaluation import EvalResult, read_ledger

__all__ = ["EvaluationOf", "read_evaluations", "step_of"]


@dataclass(frozen=True)
class EvaluationOf:
    """One complete evaluation of a run.

    Args:
        checkpoint: ``"last"`` or ``"best"``; otherwise the step it is of.
        folder: where it lies.
        result: the records and what they are of.
    """

    checkpoint: str
    folder: Path
    result: EvalResult


def read_evaluations(folder: Path, run: Path) -> tuple[tuple[EvaluationOf, ...], tuple[str, ...]]:
    """Return the complete evaluations below a folder, and what is wrong with the others."""
    found: list[EvaluationOf] = []
    problems: list[str] = []
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    for child in children:
        if not (child / "records.jsonl").exists() and not (child / "result.json").exists():
            continue
        try:
            result = _read_result(child)
            name = _checkpoint_name(child.name, result)
            _check_current(run, name, result)
            found.append(EvaluationOf(name, child, result))
        except GenpolicyError as error:
            problems.append(f"evaluation {child.name}: {error}")
    return tuple(found), tuple(problems)


def _read_result(folder: Path) -> EvalResult:
    """Return the result of an evaluation; the ledger says what is missing where there is none.

    Raises:
        DataError: for damaged files.
        IncompleteEvaluationError: when records are missing.
    """
    file = folder / "result.json"
    if file.is_file():
        try:
            return EvalResult.from_json(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file} is damaged ({error!r}); evaluate the run again") from error
    return read_ledger(folder / "records.jsonl").result()


def _checkpoint_name(folder: str, result: EvalResult) -> str:
    """Return which checkpoint an evaluation is of: ``last``, ``best`` or its step."""
    for name in ("last", "best"):
        if folder == name or folder.startswith(f"{name}-"):
            return name
    info = result.checkpoint
    if info is not None and info.links:
        return info.links[0]
    return "unsaved" if info is None or info.step is None else f"step {info.step}"


def _check_current(run: Path, name: str, result: EvalResult) -> None:
    """Check that an evaluation is of the checkpoint that its name means now.

    Raises:
        DataError: when the run has gone on since.
    """
    now = step_of(run / name) if name in ("last", "best") else None
    step = None if result.checkpoint is None else result.checkpoint.step
    if now is not None and step is not None and now != step:
        raise DataError(
            f"it is of step {step}, and {name} is step {now} by now; evaluate the run again"
        )


def step_of(link: Path) -> int | None:
    """Return the step of the checkpoint that a run's link means; None without one."""
    name = link.resolve().name if link.is_symlink() else ""
    return int(name.removeprefix("step-")) if name.startswith("step-") else None
