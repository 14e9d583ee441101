"""`genpolicy data check`: look through a robomimic file, and replay it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genpolicy.cli.arguments import file_of, read_options, setting_of
from genpolicy.errors import DataError

__all__ = ["check"]


def check(argv: Sequence[str]) -> int:
    """Print what a file has, lacks and gets wrong.

    Raises:
        DataError: when something is wrong with it.
    """
    from genpolicy.data.robomimic_check import check_robomimic

    path = file_of(argv, "check")
    options, _ = read_options(argv[1:], known={"replay", "filter_key", "workers"}, flags=())
    filter_key = None if options.get("filter_key") is None else str(options["filter_key"])
    report = check_robomimic(path, filter_key=filter_key)
    print(f"{report.path}")
    for topic, text in report.facts.items():
        print(f"  {topic}: {text}")
    for key, entries in report.constant.items():
        print(f"  never vary: {key}[{', '.join(map(str, entries))}]")
    for note in report.notes:
        print(f"  note: {note}")
    for problem in report.problems:
        print(f"  WRONG: {problem}")
    if report.problems:
        raise DataError(f"{path}: {len(report.problems)} problems; the first: {report.problems[0]}")
    if "replay" in options:
        _replay(path, options["replay"], filter_key, options.get("workers", 1))
    return 0


def _replay(path: Path, wanted: object, filter_key: str | None, workers: object) -> None:
    from genpolicy.generators.replay import replay_demos

    n_demos = None if wanted in ("all", True) else int(setting_of("replay", wanted, like=1))
    results = replay_demos(
        path,
        n_demos=n_demos,
        filter_key=filter_key,
        n_workers=int(setting_of("workers", workers, like=1)),
        progress=True,
    )
    for result in results:
        error = "" if result.state_error is None else f", state error {result.state_error:.2g}"
        outcome = "solves the task" if result.is_success else "does not solve the task"
        print(f"  {result.name}: {outcome} after {result.n_steps} steps{error}")
    n_solved = sum(result.is_success for result in results)
    print(f"open-loop replay: {n_solved} of {len(results)} solve the task")
