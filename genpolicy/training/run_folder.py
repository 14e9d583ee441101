"""The folder of one training run.

::

    config.json                  the resolved configuration
    metrics.jsonl                one line per logged step
    checkpoints/step-00020000/   a policy checkpoint (see policies/checkpoint.py)
    state/step-00020000/         what training needs to continue exactly
    last, best                   links into checkpoints/
    tensorboard/                 event files
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genpolicy.errors import CheckpointError, UsageError
from genpolicy.files import clean_staging, swap_link, write_bytes, write_json

__all__ = ["RunFolder"]


class RunFolder:
    """Names and upkeep of a run's files; every method leaves a folder that can be resumed.

    Args:
        path: the folder; created by ``start``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics = self.path / "metrics.jsonl"

    def start(self, config: Mapping[str, Any]) -> None:
        """Create the folder for a new run, over one that stopped before it trained a step.

        Raises:
            UsageError: when it already holds a run.
        """
        if self._has_begun():
            raise UsageError(
                f"{self.path} already holds a run; continue it with `genpolicy train "
                f"resume={self.path}`, or choose another run_dir"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "config.json", dict(config))

    def _has_begun(self) -> bool:
        """Return whether there is anything that a new run would overwrite."""
        if not (self.path / "config.json").exists():
            return False
        written = self.metrics.exists() and self.metrics.stat().st_size > 0
        return written or any((self.path / name).exists() for name in ("state", "checkpoints"))

    def config(self) -> dict[str, Any]:
        """Return the run's configuration.

        Raises:
            CheckpointError: when there is none.
        """
        try:
            return json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path} is not a training run ({error})") from error

    def tidy(self) -> None:
        """Remove what a kill may have left half-written."""
        for folder in (self.path, self.path / "checkpoints", self.path / "state"):
            clean_staging(folder)

    def checkpoint(self, step: int) -> Path:
        """Return the policy checkpoint folder of a step."""
        return self.path / "checkpoints" / f"step-{step:08d}"

    def state(self, step: int) -> Path:
        """Return the training state folder of a step."""
        return self.path / "state" / f"step-{step:08d}"

    def latest_state(self) -> Path | None:
        """Return the newest complete training state, or None before the first save."""
        states = sorted((self.path / "state").glob("step-*"))
        return states[-1] if states else None

    def is_finished(self) -> bool:
        """Return whether the run has trained all its steps and saved the last."""
        state = self.latest_state()
        if state is None or not (self.path / "last").exists():
            return False
        return int(state.name.removeprefix("step-")) >= int(self.config()["trainer"]["max_steps"])

    def point(self, name: str, step: int) -> None:
        """Make ``last`` or ``best`` mean the checkpoint of ``step``."""
        swap_link(self.path / name, self.checkpoint(step))

    def prune(self, *, keep_steps: set[int]) -> None:
        """Delete policy checkpoints but ``keep_steps``, and training states but the newest."""
        kept = {self.checkpoint(step).name for step in keep_steps}
        for name in ("last", "best"):
            link = self.path / name
            if link.is_symlink():
                kept.add(link.readlink().name)
        for folder in (self.path / "checkpoints").glob("step-*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in sorted((self.path / "state").glob("step-*"))[:-1]:
            shutil.rmtree(folder, ignore_errors=True)

    def truncate_metrics(self, step: int) -> None:
        """Drop metric lines after ``step``, and a torn last line, before continuing."""
        if self.metrics.exists():
            kept = [json.dumps(line) for line in self.read_metrics() if line["step"] <= step]
            write_bytes(self.metrics, "".join(line + "\n" for line in kept).encode())

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the logged metrics in order; a last line torn by a kill is left out."""
        if not self.metrics.exists():
            return
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                return
