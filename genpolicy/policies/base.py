"""What every policy is: a stateless map from observations to a chunk of actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from genpolicy.errors import UsageError
from genpolicy.shapes import Chunk, Obs, TaskSpec

__all__ = ["Policy", "check_obs"]


@runtime_checkable
class Policy(Protocol):
    """Observations in, actions out, both in physical units; nothing is kept between calls.

    Queues of actions, histories of observations and resets belong to whoever runs the policy.
    """

    spec: TaskSpec

    def sample(self, obs: Obs, *, seeds: Sequence[int] | None = None) -> Chunk:
        """Return a chunk of actions for each row.

        Args:
            obs: for each key of ``spec.obs_shapes`` a tensor ``(batch, n_obs_steps, *shape)``,
                oldest observation first.
            seeds: one integer per row. Row ``i`` is a function of observation row ``i`` and
                ``seeds[i]`` alone. None draws fresh seeds from the operating system.

        Returns:
            ``(batch, horizon, action)``; ``spec.executed`` is the part to run.
        """
        ...


def check_obs(obs: Obs, spec: TaskSpec, seeds: Sequence[int] | None, *, who: str) -> int:
    """Check observations and seeds against a spec and return the number of rows.

    Raises:
        UsageError: naming ``who`` and the key, the shape that was got and the shape expected.
    """
    if not spec.obs_shapes.keys() <= obs.keys():
        missing = sorted(set(spec.obs_shapes) - set(obs))
        raise UsageError(
            f"{who}: observation keys {missing} are missing; got {sorted(obs)}, "
            f"task {spec.task!r} has {sorted(spec.obs_shapes)}"
        )
    rows: int | None = None
    for key, shape in spec.obs_shapes.items():
        got = tuple(obs[key].shape)
        if got[1:] != (spec.n_obs_steps, *shape):
            wanted = ", ".join(["batch", str(spec.n_obs_steps), *map(str, shape)])
            raise UsageError(f"{who}: observation {key!r} has shape {got}, expected ({wanted})")
        if rows is not None and got[0] != rows:
            raise UsageError(
                f"{who}: observation {key!r} has {got[0]} rows, another key has {rows}"
            )
        rows = got[0]
    assert rows is not None
    if seeds is not None and len(seeds) != rows:
        raise UsageError(f"{who}: got {len(seeds)} seeds for {rows} rows; give one seed per row")
    return rows
