"""D4RL's reference returns, and the scores made from them.

    score = 100 * (return - minimum) / (maximum - minimum)                                       (1)

with the undiscounted return of an episode; the minimum is a random policy's, the maximum an
expert's or a controller's. Scores above 100 are ordinary (in maze2d the reference controller was
weak) and are never clipped. A score is comparable only between results on the same simulator: what
Gymnasium's v4 and v5 robots return is no D4RL score.

Source: Fu et al. 2020, arXiv 2004.07219, section 5; constants of Farama-Foundation/D4RL
(d4rl/infos.py and, for maze2d-v0 and maze2d-eval, d4rl/pointmaze/__init__.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from types import MappingProxyType

from genpolicy.errors import UsageError, nearest

__all__ = ["D4RL_REFERENCES", "normalized_score", "reference_returns", "return_of_score"]

# A name pattern, the minimum and the maximum. `{a,b}` stands for either; `{,a}` also for nothing.
_TABLE: tuple[tuple[str, float, float], ...] = (
    ("halfcheetah-{random,medium,expert,medium-replay,medium-expert}-v0", -280.178953, 12135.0),
    (
        "halfcheetah-{random,medium,expert,medium-replay,full-replay,medium-expert}-{v1,v2}",
        -280.178953,
        12135.0,
    ),
    ("walker2d-{random,medium,expert,medium-replay,medium-expert}-v0", 1.629008, 4592.3),
    (
        "walker2d-{random,medium,expert,medium-replay,full-replay,medium-expert}-{v1,v2}",
        1.629008,
        4592.3,
    ),
    ("hopper-{random,medium,expert,medium-replay,medium-expert}-v0", -20.272305, 3234.3),
    (
        "hopper-{random,medium,expert,medium-replay,full-replay,medium-expert}-{v1,v2}",
        -20.272305,
        3234.3,
    ),
    ("ant-{random,medium,expert,medium-replay,medium-expert}-v0", -325.6, 3879.7),
    (
        "ant-{random,medium,expert,medium-replay,full-replay,medium-expert}-{v1,v2}",
        -325.6,
        3879.7,
    ),
    (
        "antmaze-{umaze,umaze-diverse,medium-play,medium-diverse,large-play,large-diverse}-{v0,v2}",
        0.0,
        1.0,
    ),
    ("maze2d-open-v0", 0.01, 20.66),
    ("maze2d-umaze-v1", 23.85, 161.86),
    ("maze2d-medium-v1", 13.13, 277.39),
    ("maze2d-large-v1", 6.7, 273.99),
    ("maze2d-open-dense-v0", 11.17817, 27.166538620695782),
    ("maze2d-umaze-dense-v1", 68.537689, 193.66285642381482),
    ("maze2d-medium-dense-v1", 44.264742, 297.4552547777125),
    ("maze2d-large-dense-v1", 30.569041, 303.4857382709002),
    ("maze2d-umaze-v0", 0.94, 62.6),
    ("maze2d-medium-v0", 5.77, 85.14),
    ("maze2d-large-v0", 4.83, 191.99),
    ("maze2d-umaze-dense-v0", 23.249793, 81.78995240126592),
    ("maze2d-medium-dense-v0", 19.477620, 96.03474232952358),
    ("maze2d-large-dense-v0", 27.388310, 215.09965671563742),
    ("maze2d-eval-umaze-v1", 36.63, 141.4),
    ("maze2d-eval-medium-v1", 13.07, 204.93),
    ("maze2d-eval-large-v1", 16.4, 302.22),
    ("maze2d-eval-umaze-dense-v1", 56.95455, 178.21373133248397),
    ("maze2d-eval-medium-dense-v1", 42.28578, 235.5658957482388),
    # Upstream gives this row the minimum of eval-umaze-dense, probably by mistake.
    ("maze2d-eval-large-dense-v1", 56.95455, 326.09647655082637),
    ("minigrid-fourrooms{,-random}-v0", 0.01442, 2.89685),
    ("pen-{human,cloned,expert}-{v0,v1}", 96.262799, 3076.8331017826877),
    ("hammer-{human,cloned,expert}-{v0,v1}", -274.856578, 12794.134825156867),
    ("relocate-{human,cloned,expert}-{v0,v1}", -6.425911, 4233.877797728884),
    ("door-{human,cloned,expert}-{v0,v1}", -56.512833, 2880.5693087298737),
    ("kitchen-{complete,partial,mixed}-v0", 0.0, 4.0),
    ("flow-ring-{random,controller}-v0", -165.22, 24.42),
    ("flow-merge-{random,controller}-v0", 118.67993, 330.03179),
    ("carla-lane-v0", -0.8503839912088142, 1023.5784385429523),
    ("carla-town-v0", -114.81579500772153, 2440.1772022247314),
    (
        "bullet-halfcheetah-{random,medium,expert,medium-expert,medium-replay}-v0",
        -1275.766996,
        2381.6725,
    ),
    (
        "bullet-hopper-{random,medium,expert,medium-expert,medium-replay}-v0",
        20.058972,
        1441.8059623430963,
    ),
    (
        "bullet-ant-{random,medium,expert,medium-expert,medium-replay}-v0",
        373.705955,
        2650.495,
    ),
    (
        "bullet-walker2d-{random,medium,expert,medium-expert,medium-replay}-v0",
        16.523877,
        1623.6476303317536,
    ),
    ("bullet-maze2d-open-v0", 8.75, 64.15),
    ("bullet-maze2d-umaze-v0", 32.46, 153.99),
    ("bullet-maze2d-medium-v0", 14.87, 238.05),
    ("bullet-maze2d-large-v0", 1.82, 285.92),
)


def _expand(pattern: str) -> Iterator[str]:
    parts = pattern.replace("}", "{").split("{")
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return ("".join(chosen) for chosen in product(*choices))


D4RL_REFERENCES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {name: (low, high) for pattern, low, high in _TABLE for name in _expand(pattern)}
)
"""(minimum, maximum) reference return of every D4RL environment that has references."""


def reference_returns(name: str) -> tuple[float, float]:
    """Return the (minimum, maximum) reference returns of a D4RL environment.

    Args:
        name: D4RL's own name with its version, for example ``"maze2d-umaze-v1"``.

    Raises:
        UsageError: when D4RL has no references under that name.
    """
    if name not in D4RL_REFERENCES:
        raise UsageError(
            f"there are no D4RL reference returns for {name!r}, so it has no normalised score; "
            f"{nearest(name, D4RL_REFERENCES)}"
        )
    return D4RL_REFERENCES[name]


def normalized_score(name: str, episode_return: float) -> float:
    """Return the D4RL score of an undiscounted episode return, in points (100 = reference maximum).

    D4RL's library returns the fraction, without the factor 100 that papers use.

    Args:
        name: D4RL's own name with its version.
        episode_return: undiscounted return of one episode, or the mean over episodes.

    Raises:
        UsageError: when D4RL has no references under that name.

    Source: (1), d4rl/offline_env.py.
    """
    low, high = reference_returns(name)
    return 100.0 * (episode_return - low) / (high - low)


def return_of_score(name: str, score: float) -> float:
    """Return the undiscounted return that has a given D4RL score: the inverse of (1).

    Raises:
        UsageError: when D4RL has no references under that name.
    """
    low, high = reference_returns(name)
    return low + score / 100.0 * (high - low)
