"""Shape names used in every signature, and the contract between data, policy and simulator.

Axes come in one order: ``batch horizon action``. ``n_obs_steps`` observations up to and including
the current one condition a policy; it returns ``horizon`` actions whose index 0 belongs to the
oldest of those observations, so the current step is index ``n_obs_steps - 1`` and the receding
horizon executes ``n_action_steps`` entries from there::

    step      t-1   t   t+1  ...  t+7  t+8 ... t+14
    obs        x    x                                   n_obs_steps = 2
    chunk      0    1    2   ...   8    9  ...  15      horizon = 16
    executed        ^----------- ^                      n_action_steps = 8
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from genpolicy.errors import UsageError

__all__ = ["Chunk", "Cond", "Obs", "TaskSpec", "Time"]

Chunk: TypeAlias = Float[Tensor, "batch horizon action"]
Time: TypeAlias = Float[Tensor, " batch"]
Cond: TypeAlias = Float[Tensor, "batch n_obs_steps feature"] | None
Obs: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class TaskSpec:
    """What a policy sees and what it returns: facts from the data, never typed in a config.

    Args:
        task: name of the task, for example ``"pusht"``.
        obs_shapes: shape of one observation of one time step, by observation key.
        action_dim: number of action entries, at least 1.
        n_obs_steps: observations that condition one chunk, at least 1.
        horizon: actions in one chunk, at least ``n_obs_steps - 1 + n_action_steps``.
        n_action_steps: actions executed before the policy is asked again, at least 1.

    Raises:
        UsageError: when the counts contradict each other.
    """

    task: str
    obs_shapes: Mapping[str, tuple[int, ...]]
    action_dim: int
    n_obs_steps: int
    horizon: int
    n_action_steps: int

    def __post_init__(self) -> None:
        if not self.obs_shapes:
            raise UsageError("TaskSpec: got no observation keys, expected at least one")
        for name in ("action_dim", "n_obs_steps", "horizon", "n_action_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"TaskSpec: {name} is {getattr(self, name)}, expected at least 1")
        needed = self.n_obs_steps - 1 + self.n_action_steps
        if self.horizon < needed:
            raise UsageError(
                f"TaskSpec: horizon {self.horizon} is shorter than n_obs_steps - 1 + "
                f"n_action_steps = {needed}; raise horizon or lower n_action_steps"
            )
        shapes = {key: tuple(int(n) for n in shape) for key, shape in self.obs_shapes.items()}
        object.__setattr__(self, "obs_shapes", shapes)

    @property
    def executed(self) -> slice:
        """Entries of a chunk that the receding horizon executes."""
        return slice(self.n_obs_steps - 1, self.n_obs_steps - 1 + self.n_action_steps)

    def blank_obs(
        self, n_rows: int, *, device: torch.device | str | None = None
    ) -> dict[str, Tensor]:
        """Return observations of zeros: float32, and uint8 for images, which have three axes."""
        return {
            key: torch.zeros(
                n_rows,
                self.n_obs_steps,
                *shape,
                dtype=torch.uint8 if len(shape) == 3 else torch.float32,
                device=device,
            )
            for key, shape in self.obs_shapes.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain containers that ``from_json`` reads back."""
        return {
            "task": self.task,
            "obs_shapes": {key: list(shape) for key, shape in self.obs_shapes.items()},
            "action_dim": self.action_dim,
            "n_obs_steps": self.n_obs_steps,
            "horizon": self.horizon,
            "n_action_steps": self.n_action_steps,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TaskSpec:
        """Rebuild a spec from ``to_json``."""
        return cls(**data)
