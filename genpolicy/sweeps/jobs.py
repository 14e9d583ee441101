"""A job: one training and the evaluation of what it made, named by its resolved configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from genpolicy.errors import DataError

__all__ = ["NEED", "Job", "job_key", "set_dotted"]

_SCHEMA = 1
_PLACES = ("name", "run_dir")
NEED = "job:"
"""Begins a setting that stands for a checkpoint of another job: ``job:KEY``."""


def job_key(train: Mapping[str, Any], evaluate: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name a job: the same settings are the same job.

    Args:
        train: resolved ``configs/train.yaml``; its name and folder do not count. Checkpoints of
            other jobs stand in it as ``job:KEY``, so that a key covers all that a job comes from.
        evaluate: resolved settings of the evaluation.
    """
    counted = {name: value for name, value in train.items() if name not in _PLACES}
    text = json.dumps(
        {"train": counted, "evaluate": dict(evaluate)},
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a sweep.

    Args:
        key: ``job_key(train, evaluate)``.
        labels: what the job is in the sweep: ``method``, ``task``, ``seed`` and other swept keys.
        reported: False for runs that only serve others, for example EDA's behaviour policy. They
            are trained and not evaluated.
        overrides: of ``genpolicy train``.
        train: resolved configuration; settings of ``needs`` are ``job:KEY``.
        evaluate: resolved ``configs/evaluate.yaml`` without checkpoint and folder, and
            ``checkpoints``: which of ``last`` and ``best`` are evaluated.
        needs: dotted key of ``train`` to the key of the job whose checkpoint it is.
        command: the command that repeats the training by hand.
    """

    key: str
    labels: Mapping[str, Any]
    reported: bool
    overrides: tuple[str, ...]
    train: Mapping[str, Any]
    evaluate: Mapping[str, Any]
    needs: Mapping[str, str] = field(default_factory=dict)
    command: str = ""

    def title(self) -> str:
        """Return the labels as short text."""
        known = [str(self.labels[k]) for k in ("method", "task") if k in self.labels]
        rest = [f"{k}={v}" for k, v in self.labels.items() if k not in ("method", "task")]
        return " ".join([*known, *rest])

    def to_json(self) -> dict[str, Any]:
        """Return plain containers that ``from_json`` reads back."""
        return {"schema": _SCHEMA, **vars(self), "overrides": list(self.overrides)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Rebuild a job.

        Raises:
            DataError: when it is incomplete or of a newer schema.
        """
        try:
            if data["schema"] > _SCHEMA:
                raise DataError(
                    f"job {data['key']} has schema {data['schema']}, this genpolicy reads "
                    f"{_SCHEMA}; upgrade genpolicy"
                )
            fields = {name: value for name, value in data.items() if name != "schema"}
            return cls(**{**fields, "overrides": tuple(fields["overrides"])})
        except (KeyError, TypeError) as error:
            raise DataError(f"job.json is incomplete ({error!r}); start the sweep again") from error


def set_dotted(config: dict[str, Any], dotted: str, value: Any) -> None:
    """Set an entry of nested dictionaries in place, for example ``algorithm.behavior``."""
    *parents, last = dotted.split(".")
    place = config
    for name in parents:
        place = place[name]
    place[last] = value
