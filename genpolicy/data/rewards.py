"""Reward transforms of offline RL, as published for each family of D4RL.

Every transform is affine, ``r' = gain * (r + offset)``::

    none             r
    normalize        (r - mean) / std                        Diffusion-QL, Consistency-AC on adroit
    iql_antmaze      r - 1                                   IQL, FQL on antmaze
    cql_antmaze      4 (r - 0.5)                             CQL, Diffusion-QL on antmaze
    antmaze          2 (r - 0.25)                            an option of Diffusion-QL's code
    iql_locomotion   1000 r / (largest - smallest return)    IQL on hopper, halfcheetah, walker2d

and by name of the method, what it does on the family of the task (``genpolicy.d4rl_tasks``)::

    iql              iql_locomotion, iql_antmaze; none on adroit and kitchen
    diffusion_ql     normalize on adroit, cql_antmaze; none on locomotion and kitchen

A transform is part of an algorithm: values of a critic are in its units, and tasks where episodes
end early can have another optimum under an offset. Scores are always of the rewards themselves.

Source: arXiv 2110.06169 (iql_*), arXiv 2006.04779 (cql_antmaze), arXiv 2208.06193 and its code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from genpolicy.d4rl_tasks import D4RL_TASKS
from genpolicy.data.episodes import Episodes
from genpolicy.errors import DataError, UsageError, nearest

__all__ = ["REWARD_TRANSFORMS", "RewardTransform", "check_reward_transform"]


@dataclass(frozen=True, kw_only=True)
class RewardTransform:
    """An affine map of rewards; ``fit`` makes the published ones.

    Args:
        name: one of ``REWARD_TRANSFORMS``.
        gain: factor, positive.
        offset: added before the factor, in units of reward.
    """

    name: str = "none"
    gain: float = 1.0
    offset: float = 0.0

    @classmethod
    def fit(cls, name: str, episodes: Episodes) -> RewardTransform:
        """Return the transform ``name`` with the numbers that it takes from data.

        Args:
            name: one of ``REWARD_TRANSFORMS``.
            episodes: training episodes with rewards.

        Raises:
            UsageError: for an unknown name.
            DataError: when there are no rewards, or none that differ where they have to.
        """
        check_reward_transform(name)
        gain, offset = REWARD_TRANSFORMS[name](episodes)
        return cls(name=name, gain=gain, offset=offset)

    def apply(self, episodes: Episodes) -> Episodes:
        """Return the same episodes with transformed rewards; all other arrays are shared."""
        if episodes.rewards is None or self.name == "none":
            return episodes
        changed = self.gain * (episodes.rewards.astype(np.float64) + self.offset)
        return dataclasses.replace(episodes, rewards=changed.astype(np.float32))


def check_reward_transform(name: str) -> None:
    """Raise ``UsageError`` for a name that is no transform."""
    if name not in REWARD_TRANSFORMS:
        raise UsageError(
            f"reward transform {name!r} is unknown; {nearest(name, REWARD_TRANSFORMS)}"
        )


def _constant(gain: float, offset: float) -> Callable[[Episodes], tuple[float, float]]:
    def numbers(episodes: Episodes) -> tuple[float, float]:
        return gain, offset

    return numbers


def _normalize(episodes: Episodes) -> tuple[float, float]:
    if episodes.rewards is None:
        raise DataError(f"{episodes.source.name}: there are no rewards to normalize")
    wide = episodes.rewards.astype(np.float64)
    spread = float(wide.std())
    if spread == 0.0:
        raise DataError(
            f"{episodes.source.name}: every reward is {wide[0]:g}, so they cannot be divided by "
            "their standard deviation; use data.reward=none"
        )
    return 1.0 / spread, -float(wide.mean())


def _return_range(episodes: Episodes) -> tuple[float, float]:
    returns = episodes.returns
    if returns is None:
        raise DataError(f"{episodes.source.name}: there are no rewards, so there are no returns")
    spread = float(returns.max() - returns.min())
    if spread == 0.0:
        raise DataError(
            f"{episodes.source.name}: every episode has the return {returns[0]:g}, so rewards "
            "cannot be divided by the range of returns; use data.reward=none"
        )
    return 1000.0 / spread, 0.0


_BY_FAMILY: Mapping[str, Mapping[str, str]] = {
    "iql": {"locomotion": "iql_locomotion", "antmaze": "iql_antmaze"},
    "diffusion_ql": {"adroit": "normalize", "antmaze": "cql_antmaze"},
}


def _by_family(method: str) -> Callable[[Episodes], tuple[float, float]]:
    def numbers(episodes: Episodes) -> tuple[float, float]:
        task = D4RL_TASKS.get(episodes.source.name)
        name = "none" if task is None else _BY_FAMILY[method].get(task.family, "none")
        return REWARD_TRANSFORMS[name](episodes)

    return numbers


REWARD_TRANSFORMS: Mapping[str, Callable[[Episodes], tuple[float, float]]] = {
    "none": _constant(1.0, 0.0),
    "normalize": _normalize,
    "iql_antmaze": _constant(1.0, -1.0),
    "cql_antmaze": _constant(4.0, -0.5),
    "antmaze": _constant(2.0, -0.25),
    "iql_locomotion": _return_range,
    **{method: _by_family(method) for method in _BY_FAMILY},
}
"""Functions of the training episodes that return gain and offset, by name."""
