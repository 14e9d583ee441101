"""Errors that a user can act on, each with the exit code the command line returns for it.

Every message says what was got, what was expected and what to do next. The command line prints
the message alone; ``GENPOLICY_DEBUG=1`` brings the traceback back.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "DataError",
    "GenpolicyError",
    "IncompleteEvaluationError",
    "NumericsError",
    "RunStoppedError",
    "SimulatorError",
    "UsageError",
    "nearest",
]


class GenpolicyError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class UsageError(GenpolicyError, ValueError):
    """A wrong argument or configuration (exit code 2)."""

    exit_code = 2


class DataError(GenpolicyError):
    """A data set that is missing, truncated, inconsistent or not finite (exit code 3)."""

    exit_code = 3


class CheckpointError(GenpolicyError):
    """A checkpoint that is missing, damaged, unsafe or of another schema (exit code 4)."""

    exit_code = 4


class NumericsError(GenpolicyError):
    """A loss, weight or action that is not finite (exit code 5)."""

    exit_code = 5


class SimulatorError(GenpolicyError):
    """A simulator that is missing, of another version, or that crashed (exit code 6)."""

    exit_code = 6


class IncompleteEvaluationError(GenpolicyError):
    """An evaluation without a record for every requested seed: it has no score (exit code 7)."""

    exit_code = 7


class RunStoppedError(GenpolicyError):
    """A training that was asked to stop and saved its state (exit code 143, that of SIGTERM)."""

    exit_code = 143


def check_options(owner: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Refuse options that something does not have.

    Args:
        owner: what is asked for them, as a message begins.
        options: names that were given.
        known: names that it has.

    Raises:
        UsageError: for the first unknown one, with the nearest known names.
    """
    names = list(known)
    for option in options:
        if option not in names:
            raise UsageError(f"{owner} has no option {option!r}; {nearest(option, names)}")


def nearest(name: str, known: Iterable[str], *, n: int = 3) -> str:
    """Return a sentence naming the known names closest to ``name``.

    Args:
        name: what the user wrote.
        known: the valid names.
        n: how many names to suggest at most.

    Returns:
        ``"did you mean 'a' or 'b'?"``, or the sorted list of valid names when none is close.
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=n, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "valid names: " + (", ".join(names) if names else "(none)")
