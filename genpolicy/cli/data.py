"""`genpolicy data`: list, describe, download and generate data sets."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from genpolicy.errors import DataError, UsageError, nearest

__all__ = ["HELP", "run"]

HELP = """\
usage: genpolicy data list
       genpolicy data info TASK [path=FILE] [OPTION=VALUE ...]
       genpolicy data get TASK [force=true] [--path]
       genpolicy data make TASK [n=1000000] [seed=0] [workers=1] [path=FILE] [force=true] [--path]

list   the data sets genpolicy knows, and which of them are on this machine
info   read one: source, fingerprint, episodes, shapes, ranges, returns; options go to its reader
get    download the published file into the cache, unless it is here; its SHA-256 is checked
make   generate one with its scripted controller, the same for any number of workers

--path prints nothing but the path, for scripts. Data sets are looked for below GENPOLICY_DATA and
in GENPOLICY_CACHE (default ~/.cache/genpolicy); GENPOLICY_OFFLINE=1 forbids downloads.

examples:
  genpolicy data make maze2d-umaze n=100000 seed=1 workers=2
  genpolicy data info maze2d-umaze
  genpolicy data info pusht path=downloads/pusht.zip
  genpolicy train experiment=pusht_flow data.path=$(genpolicy data get pusht --path)
"""

_SHOWN_ENTRIES = 6  # a vector with more entries is shown by its overall range
_PLAIN_WIDTH = 160


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0 or raises an error with its own exit code."""
    actions = {"list": _list, "info": _info, "get": _get, "make": _make}
    if not argv:
        raise UsageError("data needs one of list, info, get, make; see `genpolicy data --help`")
    if argv[0] not in actions:
        raise UsageError(f"data has no {argv[0]!r}; {nearest(argv[0], actions)}")
    return actions[argv[0]](argv[1:])


def _list(argv: Sequence[str]) -> int:
    from genpolicy.data.registry import DATASETS, find_dataset

    if argv:
        raise UsageError(f"data list takes no arguments, got {list(argv)}")
    table = _table("data set", "what it is", "on this machine")
    for name, entry in DATASETS.items():
        path = find_dataset(name)
        here = _home(path) if path is not None else f"no: {entry.hint}"
        table.add_row(name, entry.description, here)
    _console().print(table)
    return 0


def _info(argv: Sequence[str]) -> int:
    from genpolicy.data.registry import dataset_entry, describe_dataset

    task = _task_of(argv, "info")
    reader = set(inspect.signature(dataset_entry(task).read).parameters)
    options, _ = _read(argv[1:], known={*reader - {"name", "kind"}, "path"}, flags=())
    _print_description(describe_dataset(task, options.pop("path", None), **options))
    return 0


def _get(argv: Sequence[str]) -> int:
    from genpolicy.data.registry import get_dataset

    task = _task_of(argv, "get")
    options, flags = _read(argv[1:], known={"force"}, flags=("--path",))
    path = get_dataset(task, force=bool(options.get("force", False)), progress=True)
    print(path if flags else f"{task} is here: {path}")
    return 0


def _make(argv: Sequence[str]) -> int:
    from genpolicy.data.registry import find_dataset, generated_path
    from genpolicy.generators.maze2d import make_maze2d

    task = _task_of(argv, "make")
    default_path = generated_path(task)
    settings: dict[str, Any] = {
        name: parameter.default
        for name, parameter in inspect.signature(make_maze2d).parameters.items()
        if name not in ("task", "seed", "path", "progress")
    } | {"seed": 0}
    short = {"n": "n_steps", "workers": "n_workers"}
    options, flags = _read(argv[1:], known={*short, *settings, "path", "force"}, flags=("--path",))
    path = Path(options.pop("path", default_path)).expanduser()
    force = bool(options.pop("force", False))
    for name, value in options.items():
        name = short.get(name, name)
        settings[name] = _number(name, value, like=settings[name])
    made = force or not path.exists()
    if made:
        make_maze2d(task, path=path, **settings)
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


def _check_same(task: str, path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to replace or pass off a file that was made with other settings.

    Raises:
        DataError: naming the settings that differ.
    """
    from genpolicy.data.registry import load_dataset

    there = load_dataset(task, path).source.details
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


def _task_of(argv: Sequence[str], action: str) -> str:
    """Return the task that stands first, checked against the known ones."""
    from genpolicy.data.registry import dataset_entry

    if not argv or "=" in argv[0] or argv[0].startswith("-"):
        raise UsageError(
            f"data {action} needs a data set; `genpolicy data list` shows them, for example: "
            f"genpolicy data {action} maze2d-umaze"
        )
    return dataset_entry(argv[0]).name


def _read(
    argv: Sequence[str], *, known: Collection[str], flags: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Split arguments into ``key=value`` options (values as YAML reads them) and flags.

    Raises:
        UsageError: for a key or flag that is not known.
    """
    options: dict[str, Any] = {}
    found: list[str] = []
    for argument in argv:
        key, equals, text = argument.partition("=")
        if argument in flags:
            found.append(argument)
        elif not equals:
            valid = [*flags, *(f"{name}=" for name in known)]
            raise UsageError(f"cannot read {argument!r}; {nearest(argument, valid)}")
        elif key not in known:
            raise UsageError(f"unknown option {key!r}; {nearest(key, known)}")
        else:
            try:
                options[key] = text if key == "path" else yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise UsageError(f"cannot read the value of {argument!r}") from error
    return options, found


def _number(name: str, value: Any, *, like: int | float) -> int | float:
    """Return ``value`` as the type of ``like``; 1e5 and 100_000 are integers.

    Raises:
        UsageError: for what is no such number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(like, float):
        if math.isfinite(number):
            return number
        raise UsageError(f"{name} is {value!r}, expected a number")
    if number.is_integer():
        return int(number)
    raise UsageError(f"{name} is {value!r}, expected an integer")


def _print_description(data: Mapping[str, Any]) -> None:
    source = data["source"]
    head = _table("", "")
    head.add_row("data set", f"{data['task']}: {data['description']}")
    head.add_row("source", f"{source['kind']}, {_home(source['path'])}")
    for key, value in source["details"].items():
        head.add_row(f"  {key}", str(value))
    head.add_row("fingerprint", data["fingerprint"])
    lengths = data["lengths"]
    head.add_row("episodes", f"{data['n_episodes']}, {_spread(lengths)} steps long")
    head.add_row("steps", f"{data['n_steps']}")
    ends = f"{data['n_terminated']} terminated, {data['n_truncated']} truncated"
    head.add_row("episodes end", ends)
    returns = data["returns"]
    head.add_row("returns", "not recorded" if returns is None else _spread(returns))

    arrays = _table("array", "shape", "type", "smallest", "largest", "never varies")
    rows = {f"obs/{key}": value for key, value in data["obs"].items()}
    rows["action"] = data["action"]
    for name, value in rows.items():
        constant = data["constant"].get(name.removeprefix("obs/"), [])
        arrays.add_row(
            name,
            str(tuple(value["shape"])),
            value["dtype"],
            _short(value["min"], min),
            _short(value["max"], max),
            ", ".join(map(str, constant)),
        )
    console = _console()
    console.print(head)
    console.print()
    console.print(arrays)


def _spread(values: Mapping[str, float]) -> str:
    return f"{values['min']:g} to {values['max']:g} (mean {values['mean']:.4g})"


def _short(value: Any, pick: Callable[[list[float]], float]) -> str:
    """Write a number or a short vector in full, a longer one by its smallest or largest entry."""
    if not isinstance(value, list):
        return f"{value:.4g}"
    if len(value) > _SHOWN_ENTRIES:
        return f"{pick(value):.4g} over all"
    return ", ".join(f"{entry:.4g}" for entry in value)


def _home(path: str | Path | None) -> str:
    if path is None:
        return "in memory"
    text = str(path)
    home = os.path.expanduser("~")
    return "~" + text[len(home) :] if text.startswith(home + os.sep) else text


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(titles))
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, markup=False, width=_PLAIN_WIDTH)
