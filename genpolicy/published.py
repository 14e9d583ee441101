"""Published scores of offline RL methods on D4RL, each with where it was read.

None of them is ours. They are of D4RL's own files and of its MuJoCo of 2020 (``gym`` v2 robots,
mujoco-py), unless their family says otherwise, so no score of another simulator or of other data
belongs into one column with them. Numbers that could not be traced to a page are left out.

``evidence`` says how a number was read: ``"paper"`` in the paper itself, ``"repository"`` in the
README or the files of the authors' (or the named) repository, ``"second hand"`` in another paper's
table or a repository that quotes it, ``"aggregator"`` on a third party's list of scores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["PUBLISHED", "PublishedScore", "published_method", "published_scores", "published_task"]

Evidence = Literal["paper", "repository", "second hand", "aggregator"]


@dataclass(frozen=True)
class PublishedScore:
    """One published score.

    Args:
        method: as this library calls the algorithm, or the paper's name in lower case.
        task: D4RL's name without its version.
        score: D4RL score in points, 100 being the reference maximum.
        spread: half width that the source gives behind its "+-"; None without one. Sources mean
            different things by it (standard deviation or error), so it is no interval.
        selection: which checkpoint: ``"last"``, ``"best over training"``, or empty where the source
            does not say.
        source: where it was read.
        evidence: how it was read.
        data: version of the data set.
        simulator: what it was evaluated on.
    """

    method: str
    task: str
    score: float
    spread: float | None
    selection: str
    source: str
    evidence: Evidence
    data: str
    simulator: str


_GYM = tuple(
    f"{robot}-{kind}"
    for kind in ("medium-expert", "medium", "medium-replay")
    for robot in ("halfcheetah", "hopper", "walker2d")
)
_MAZE = ("maze2d-umaze", "maze2d-medium", "maze2d-large")
_KITCHEN = ("kitchen-complete", "kitchen-partial", "kitchen-mixed")
_ANTMAZE = tuple(
    f"antmaze-{name}"
    for name in (
        "umaze",
        "umaze-diverse",
        "medium-play",
        "medium-diverse",
        "large-play",
        "large-diverse",
    )
)
_ADROIT = tuple(
    f"{hand}-{kind}"
    for hand in ("pen", "door", "hammer", "relocate")
    for kind in ("human", "cloned", "expert")
)
_FAMILIES = {
    "gym": (_GYM, "official, v2", "gym MuJoCo v2 (mujoco-py)"),
    "maze2d": (_MAZE, "official, v1", "D4RL maze2d v1 (mujoco-py)"),
    "kitchen": (_KITCHEN, "official, v0", "D4RL kitchen v0 (mujoco-py)"),
    "antmaze v0": (_ANTMAZE, "official, v0", "D4RL antmaze v0 (mujoco-py)"),
    "antmaze": (_ANTMAZE, "official, version not stated", "D4RL antmaze (mujoco-py)"),
    "antmaze v2": (_ANTMAZE, "official, v2", "D4RL antmaze v2 (mujoco-py)"),
    "adroit": (_ADROIT, "official, v1", "D4RL adroit v1 (mujoco-py)"),
}

_LAST, _BEST = "last", "best over training"
_CORL = "corl-team/CORL, README; 4 seeds"
_GTP = "table of 'Offline RL with Generative Trajectory Policies'"
_EDA = "arXiv 2407.09024, table 1"
_FQL = "arXiv 2502.02538, table 3; 8 seeds"
_COCOA = "runamu/compositional-conservatism, README; 4 seeds"
_DIFFUSER = "jannerm/diffuser, plotting scripts; 150 seeds"
_DD = "arXiv 2211.15657, table 1"
_HD = "arXiv 2401.02644"

# Scores in the order of the family's tasks; "93.2+-1.2" carries a spread, "-" is no score.
_ROWS: tuple[tuple[str, str, str, str, Evidence, str], ...] = (
    ("iql", "gym", _LAST, _CORL, "repository",
     "94.74 107.42 111.72 48.31 67.53 80.91 44.46 97.43 82.15"),
    ("iql", "gym", "", "arXiv 2110.06169, quoted by jannerm/diffuser", "second hand",
     "86.7 91.5 109.6 47.4 66.3 78.3 44.2 94.7 73.9"),
    ("diffusion_ql", "gym", _BEST, f"arXiv 2208.06193, quoted by {_GTP}", "second hand",
     "96.8 111.1 110.1 51.1 90.5 87.0 47.8 101.3 95.5"),
    # The source states a mean of 76.3 for this row; its entries have 76.2.
    ("diffusion_bc", "gym", "", f"arXiv 2309.16984 (re-run there), quoted by {_GTP}", "second hand",
     "90.8 107.6 108.9 45.4 65.3 81.2 41.7 67.3 77.5"),
    ("consistency_bc", "gym", _BEST, f"arXiv 2309.16984, quoted by {_GTP}", "second hand",
     "32.7 90.6 110.4 31.0 71.7 83.1 34.4 99.7 73.3"),
    ("consistency_ac", "gym", _BEST, f"arXiv 2309.16984, quoted by {_GTP}", "second hand",
     "84.3 100.4 110.4 69.1 80.7 83.1 58.7 99.7 79.5"),
    ("eda", "gym", "", f"{_EDA}; 5 seeds", "paper",
     "93.2+-1.2 104.9+-7.4 111.1+-0.7 57.0+-0.5 98.4+-3.9 87.4+-1.1 "
     "51.6+-0.9 92.7+-10.0 89.2+-5.5"),
    ("qgpo", "gym", "", f"quoted by {_EDA}", "second hand",
     "93.5 108.0 110.7 54.1 98.0 86.0 47.6 96.9 84.4"),
    ("diffuser", "gym", "", _DIFFUSER, "repository",
     "88.9+-0.3 103.3+-1.3 106.9+-0.2 42.8+-0.3 74.3+-1.4 79.6+-0.55 "
     "37.7+-0.5 93.6+-0.4 70.6+-1.6"),
    ("decision_diffuser", "gym", "", _DD, "paper",
     "90.6+-1.3 111.8+-1.8 108.8+-1.7 49.1+-1.0 79.3+-3.6 82.5+-1.4 39.3+-4.1 100+-0.7 75+-4.3"),
    ("hierarchical_diffuser", "gym", "", f"{_HD}, HD-DA", "paper",
     "92.5+-0.3 115.3+-1.1 107.1+-0.1 46.7+-0.2 99.3+-0.3 84.0+-0.6 38.1+-0.7 94.7+-0.7 84.1+-2.2"),
    ("cql", "gym", "", _COCOA, "repository", "95.0 96.9 109.1 46.9 61.9 79.5 45.3 86.3 76.8"),
    ("cql+cocoa", "gym", "", _COCOA, "repository",
     "92.4+-3.1 103.3+-1.4 109.4+-0.4 49.0+-0.2 66.0+-1.4 83.1+-0.3 46.4+-0.4 96.5+-1.9 83.9+-2.9"),
    ("iql+cocoa", "gym", "", _COCOA, "repository",
     "91.4+-1.4 105.3+-2.0 109.1+-0.9 47.1+-0.1 65.5+-1.5 81.9+-0.2 "
     "40.3+-1.4 88.2+-5.9 66.9+-10.0"),
    ("mopo", "gym", "", _COCOA, "repository", "83.6 74.9 105.3 72.4 62.8 84.1 72.1 92.8 85.2"),
    ("mopo+cocoa", "gym", "", _COCOA, "repository",
     "109.1+-1.4 101.4+-13.9 109.1+-0.4 70.8+-3.7 39.5+-2.3 89.4+-1.4 "
     "67.0+-0.5 71.4+-30.1 93.1+-5.1"),
    ("mobile", "gym", "", _COCOA, "repository", "86.75 102.3 107.0 73.5 92.9 80.8 66.8 87.9 81.1"),
    ("mobile+cocoa", "gym", "", _COCOA, "repository",
     "104.1+-2.0 109.1+-4.7 107.5+-0.9 69.2+-1.0 103.7+-6.1 84.4+-1.3 "
     "68.6+-0.9 105.3+-1.7 83.5+-1.7"),
    ("idql", "gym", "", "arXiv 2304.10573, IDQL-A, as listed by wizwand", "aggregator",
     "94.4 105.3 111.6 49.7 - - - 82.4 -"),
    ("ldcq", "gym", "", "arXiv 2309.06599, as listed by wizwand", "aggregator",
     "90.2 - 109.3 42.8 66.2 69.4 41.8 - -"),
    ("iql", "maze2d", _LAST, _CORL, "repository", "42.11 34.85 61.72"),
    ("diffuser", "maze2d", "", _DIFFUSER, "repository", "113.9+-3.1 121.5+-2.7 123.0+-6.4"),
    ("hierarchical_diffuser", "maze2d", "", _HD, "paper", "128.4+-3.6 135.6+-3.0 155.8+-2.5"),
    ("iql", "kitchen", "", "arXiv 2110.06169, second-hand table", "second hand", "62.5 46.3 51.0"),
    ("diffusion_ql", "kitchen", _BEST, f"arXiv 2208.06193, quoted by {_GTP}", "second hand",
     "84.0 60.5 62.6"),
    ("eda", "kitchen", "", f"{_EDA}; 5 seeds", "paper", "81.5+-7.3 69.3+-4.6 65.3+-2.2"),
    ("qgpo", "kitchen", "", f"quoted by {_EDA}", "second hand", "62.8 66.0 45.5"),
    ("diffuser", "kitchen", "", f"quoted by {_HD}", "second hand", "- 56.2+-5.4 50.0+-8.8"),
    ("decision_diffuser", "kitchen", "", _DD, "paper", "- 57+-2.5 65+-2.8"),
    ("hierarchical_diffuser", "kitchen", "", f"{_HD}, HD-DA", "paper", "- 73.3+-1.4 71.7+-2.7"),
    ("iql", "antmaze v0", "", "arXiv 2110.06169, second-hand table", "second hand",
     "87.5 62.2 71.2 70.0 39.6 47.5"),
    ("diffusion_ql", "antmaze v0", _BEST, f"arXiv 2208.06193, quoted by {_GTP}", "second hand",
     "93.4 66.2 76.6 78.6 46.4 56.6"),
    ("diffusion_bc", "antmaze v0", "", f"arXiv 2309.16984 (re-run there), quoted by {_GTP}",
     "second hand", "71.8 61.2 43.4 29.8 14.6 26.6"),
    ("consistency_bc", "antmaze v0", _BEST, f"arXiv 2309.16984, quoted by {_GTP}", "second hand",
     "75.8 77.6 56.8 31.6 10.2 12.8"),
    ("eda", "antmaze", "", f"{_EDA}; 5 seeds", "paper",
     "93.0+-4.5 81.0+-7.4 79.0+-4.2 84.0+-8.2 - -"),
    ("iql", "antmaze v2", _LAST, _CORL, "repository", "77.00 54.25 65.75 73.75 42.00 30.25"),
    ("iql", "adroit", _LAST, _CORL, "repository",
     "78.49 83.42 128.05 3.26 3.07 106.65 1.79 1.50 128.68 0.12 0.04 106.11"),
    ("bc", "antmaze v2", _LAST, f"quoted by {_FQL}", "second hand", "55 47 0 1 0 0"),
    ("rebrac", "antmaze v2", _LAST, f"quoted by {_FQL}", "second hand", "98 84 90 84 52 64"),
    ("idql", "antmaze v2", _LAST, f"quoted by {_FQL}", "second hand", "94 80 84 85 64 68"),
    ("consistency_ac", "antmaze v2", _LAST, _FQL, "paper", "66+-5 66+-11 49+-24 0+-1 0 0"),
    ("fql", "antmaze v2", _LAST, _FQL, "paper", "96+-2 89+-5 78+-7 71+-13 84+-7 83+-4"),
    ("bc", "adroit", _LAST, f"quoted by {_FQL}", "second hand", "71 52 110 2 - - - - - - - -"),
    ("rebrac", "adroit", _LAST, f"quoted by {_FQL}", "second hand",
     "103 103 152 0 - - - - - - - -"),
    ("idql", "adroit", _LAST, _FQL, "paper", "76+-10 64+-7 140+-6 6 - - - - - - - -"),
    ("consistency_ac", "adroit", _LAST, _FQL, "paper", "64+-8 56+-10 103+-9 5 - - - - - - - -"),
    ("fql", "adroit", _LAST, _FQL, "paper",
     "53+-6 74+-11 142+-6 0 2+-1 104+-1 1+-1 11+-9 125+-3 0 0 107+-1"),
)  # fmt: skip


def _expand() -> tuple[PublishedScore, ...]:
    found: list[PublishedScore] = []
    for method, family, selection, source, evidence, text in _ROWS:
        tasks, data, simulator = _FAMILIES[family]
        for task, entry in zip(tasks, text.split(), strict=True):
            if entry == "-":
                continue
            score, _, spread = entry.partition("+-")
            half = float(spread) if spread else None
            kept = (selection, source, evidence, data, simulator)
            found.append(PublishedScore(method, task, float(score), half, *kept))
    return tuple(found)


PUBLISHED: tuple[PublishedScore, ...] = _expand()
"""Every score, by method and family."""

_ALIASES = {
    "dql": "diffusion_ql",
    "cac": "consistency_ac",
    "bc_diffusion": "diffusion_bc",
    "bc_consistency": "consistency_bc",
}


def published_method(label: str) -> str:
    """Return the name under which a method of a sweep is listed here, if it is."""
    name = re.split(r"[ ,;(]", label.strip().lower())[0].replace("-", "_")
    return _ALIASES.get(name, name)


def published_task(task: str) -> str:
    """Return D4RL's name of a task without its version: ``"hopper-medium"``."""
    return re.sub(r"-v\d+$", "", task.lower().removeprefix("d4rl/").replace("_", "-"))


def published_scores(task: str, methods: Sequence[str] | None = None) -> tuple[PublishedScore, ...]:
    """Return what was published on a task.

    Args:
        task: of this library or D4RL's, with or without a version.
        methods: labels of a sweep's methods; None for all that are known.
    """
    wanted = None if methods is None else {published_method(label) for label in methods}
    return tuple(
        row
        for row in PUBLISHED
        if row.task == published_task(task) and (wanted is None or row.method in wanted)
    )
