"""`genpolicy data`: list, describe, download and generate data sets."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from genpolicy.cli.arguments import read_options, task_of
from genpolicy.cli.data_check import check
from genpolicy.cli.data_make import make
from genpolicy.cli.data_render import render
from genpolicy.errors import UsageError, nearest

__all__ = ["HELP", "run"]

HELP = """\
usage: genpolicy data list
       genpolicy data info TASK [path=FILE] [OPTION=VALUE ...]
       genpolicy data get TASK [force=true] [--path]
       genpolicy data make TASK [n=1000000] [seed=0] [workers=1] [path=FILE] [force=true] [--path]
       genpolicy data check FILE [replay=all] [filter_key=NAME] [workers=1]
       genpolicy data render FILE [path=NEW] [image_size=84] [cameras=A,B] [n_demos=N] [workers=1]

list   the data sets genpolicy knows, and which of them are on this machine
info   read one: source, fingerprint, episodes, shapes, ranges, returns; options go to its reader
get    download the published file into the cache, unless it is here; its SHA-256 is checked
make   generate one with its scripted controller, the same for any number of workers; data of
       d4rl/ tasks is made again with policies of others, policies=DIR, and labelled "regenerated"
check  look through a robomimic file: what it has and lacks, values that are not finite or out of
       bounds, entries that never vary; replay=20 also replays so many demonstrations in robosuite
render copy a robomimic file with camera images of its recorded states, and with their other
       observations where it has none; next_obs=true also renders those after each action

--path prints nothing but the path, for scripts. Data sets are looked for below GENPOLICY_DATA and
in GENPOLICY_CACHE (default ~/.cache/genpolicy); GENPOLICY_OFFLINE=1 forbids downloads.

examples:
  genpolicy data make maze2d-umaze n=100000 seed=1 workers=2
  genpolicy data make d4rl/hopper-medium-expert policies=DIR n=200000 workers=2
  genpolicy data make robomimic/square n_demos=200 workers=2
  genpolicy data check my_demos.hdf5 replay=all
  genpolicy data render my_demos.hdf5 image_size=84 workers=2
  genpolicy data info maze2d-umaze
  genpolicy data info pusht path=downloads/pusht.zip
  genpolicy train experiment=pusht_flow data.path=$(genpolicy data get pusht --path)
"""

_SHOWN_ENTRIES = 6  # a vector with more entries is shown by its overall range
_PLAIN_WIDTH = 160


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0 or raises an error with its own exit code."""
    actions: dict[str, Callable[[Sequence[str]], int]] = {
        "list": _list,
        "info": _info,
        "get": _get,
        "make": make,
        "check": check,
        "render": render,
    }
    if not argv:
        raise UsageError(f"data needs one of {', '.join(actions)}; see `genpolicy data --help`")
    if argv[0] not in actions:
        raise UsageError(f"data has no {argv[0]!r}; {nearest(argv[0], actions)}")
    return actions[argv[0]](argv[1:])


def _list(argv: Sequence[str]) -> int:
    from genpolicy.data.registry import DATASETS, find_datasets

    if argv:
        raise UsageError(f"data list takes no arguments, got {list(argv)}")
    table = _table("data set", "what it is", "on this machine")
    for name, path in find_datasets().items():
        entry = DATASETS[name]
        here = _home(path) if path is not None else f"no: {entry.hint}"
        table.add_row(name, entry.description, here)
    _console().print(table)
    return 0


def _info(argv: Sequence[str]) -> int:
    from genpolicy.data.registry import dataset_entry, describe_dataset

    task = task_of(argv, "info")
    reader = set(inspect.signature(dataset_entry(task).read).parameters)
    options, _ = read_options(argv[1:], known={*reader - {"name", "kind"}, "path"}, flags=())
    _print_description(describe_dataset(task, options.pop("path", None), **options))
    return 0


def _get(argv: Sequence[str]) -> int:
    from genpolicy.data.registry import get_dataset

    task = task_of(argv, "get")
    options, flags = read_options(argv[1:], known={"force"}, flags=("--path",))
    path = get_dataset(task, force=bool(options.get("force", False)), progress=True)
    print(path if flags else f"{task} is here: {path}")
    return 0


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
