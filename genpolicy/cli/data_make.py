"""`genpolicy data make`: generate a data set with its controller, or policies of others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genpolicy.cli.arguments import read_options, setting_of, task_of
from genpolicy.errors import DataError

__all__ = ["make"]


def make(argv: Sequence[str]) -> int:
    """Generate a data set, unless one with these settings is there already."""
    from genpolicy.data.registry import find_dataset, generated_path

    task = task_of(argv, "make")
    default_path = generated_path(task)
    generate, count = _generator_of(task)
    settings: dict[str, Any] = {
        name: parameter.default
        for name, parameter in inspect.signature(generate).parameters.items()
        if name not in ("task", "seed", "path", "progress")
    } | {"seed": 0}
    short = {"n": count, "workers": "n_workers"}
    options, flags = read_options(
        argv[1:], known={*short, *settings, "path", "force"}, flags=("--path",)
    )
    path = Path(options.pop("path", default_path)).expanduser()
    force = bool(options.pop("force", False))
    for name, value in options.items():
        name = short.get(name, name)
        settings[name] = setting_of(name, value, like=settings[name])
    made = force or not path.exists()
    if made:
        generate(task, path=path, **settings)
    else:
        _check_same(task, path, settings)
    if flags:
        print(path)
        return 0
    print(f"{task} {'written' if made else 'is there already, with these settings'}: {path}")
    first = find_dataset(task)
    if path == default_path and first != path:
        print(f"note: {first} comes first; use data.path={path} to train on the generated one")
    return 0


def _generator_of(task: str) -> tuple[Callable[..., Path], str]:
    """Return what generates a task's data, and its setting that counts what is made."""
    if task.startswith("robomimic/"):
        from genpolicy.generators.robomimic import make_robomimic

        return make_robomimic, "n_demos"
    if task.startswith("d4rl/"):
        from genpolicy.generators.d4rl import make_d4rl_data

        return make_d4rl_data, "n_steps"
    from genpolicy.generators.maze2d import make_maze2d

    return make_maze2d, "n_steps"


def _check_same(task: str, path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to replace or pass off a file that was made with other settings.

    Raises:
        DataError: naming the settings that differ.
    """
    from genpolicy.data.registry import load_dataset

    there = load_dataset(task, path).source.details
    if "policies" in settings:
        from genpolicy.generators.d4rl import policy_digests

        settings = {**settings, "policies": policy_digests(task, settings["policies"])}
    differ = [
        f"{name} {there.get(name)} there, {value} asked"
        for name, value in settings.items()
        if name != "n_workers" and there.get(name) != value
    ]
    if differ:
        raise DataError(
            f"{path} exists with other settings ({'; '.join(differ)}); add force=true to replace "
            "it, or path=FILE to write another"
        )
