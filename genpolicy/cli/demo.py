"""`genpolicy demo`: the whole way from no data to a report, on the real simulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from genpolicy.errors import GenpolicyError, UsageError

__all__ = ["HELP", "run"]

HELP = """\
usage: genpolicy demo [out=demo] [n_data_steps=200000] [max_steps=8000] [n_episodes=100]

Make maze2d data in MuJoCo, train a diffusion, a flow and a consistency policy on it, evaluate them
on the same seeds as the data-collecting controller and a random policy, compose the first two (a
mean with a searched weight, and the same kept out of a disc), and write a report. What exists
already in `out` is used, so a demo that was stopped continues.
"""


def run(argv: Sequence[str]) -> int:
    """Run the command; returns 0 or raises an error with its own exit code."""
    from genpolicy.cli.compose_config import compose_config

    if any(a.startswith("-") for a in argv):
        raise UsageError(f"unknown option in {list(argv)}; see `genpolicy demo --help`")
    config = compose_config("demo", argv)
    out = Path(config["out"])
    out.mkdir(parents=True, exist_ok=True)
    data = _make_data(config, out)
    _train_all(config, out, data)
    from genpolicy.cli.demo_report import evaluate_all, write_demo_report

    results, policies = evaluate_all(config, out)
    from genpolicy.cli.demo_compose import compose_demo
    from genpolicy.evaluation.records import results_text

    composed = compose_demo(config, out, policies)
    results |= composed.results
    print()
    print(results_text(results))
    report = write_demo_report(
        config, out, data=data, results=results, policies=policies, composed=composed
    )
    print(f"\nreport: {report.resolve()}")
    return 0


def _make_data(config: Mapping[str, Any], out: Path) -> Path:
    """Return the demo's data set, collecting it unless it is there."""
    from genpolicy.generators.maze2d import make_maze2d

    path = out / "data" / f"{config['task']}.hdf5"
    if not path.exists():
        make_maze2d(
            config["task"],
            n_steps=int(config["n_data_steps"]),
            seed=int(config["seed"]),
            path=path,
            n_workers=int(config["n_parallel"]),
        )
    return path


def _train_all(config: Mapping[str, Any], out: Path, data: Path) -> None:
    """Train what is not trained yet: diffusion beside flow, then the consistency policy."""
    shared = [f"data.path={data.resolve()}", f"seed={config['seed']}", "trainer.n_threads=1"]
    runs = {
        name: [
            f"experiment=maze2d_umaze_{name}",
            f"trainer.max_steps={config['max_steps']}",
            *shared,
        ]
        for name in ("diffusion", "flow")
    }
    _train_together(runs, out, n_parallel=int(config["n_parallel"]))
    teacher = (out / "runs" / "flow" / "last").resolve()
    distill = [
        "experiment=maze2d_umaze_consistency",
        f"algorithm.teacher={teacher}",
        f"trainer.max_steps={config['max_distill_steps']}",
        *shared,
    ]
    _train_together({"consistency": distill}, out, n_parallel=1)


def _train_together(runs: Mapping[str, Sequence[str]], out: Path, *, n_parallel: int) -> None:
    """Train in child processes, at most ``n_parallel`` at a time, with one progress bar each.

    Raises:
        GenpolicyError: with the child's message when one fails.
    """
    waiting = [name for name in runs if not _is_finished(out / "runs" / name)]
    children: dict[str, tuple[subprocess.Popen[bytes], tqdm[Any], Path]] = {}
    bars = {
        name: tqdm(desc=f"train {name}", unit="step", position=i) for i, name in enumerate(waiting)
    }
    try:
        while waiting or children:
            while waiting and len(children) < n_parallel:
                name = waiting.pop(0)
                children[name] = _start(name, runs[name], out, bars[name])
            time.sleep(0.5)
            for name, (process, bar, folder) in list(children.items()):
                _move(bar, folder)
                if process.poll() is None:
                    continue
                del children[name]
                if process.returncode != 0:
                    log = (out / "runs" / f"{name}.log").read_text(errors="replace")
                    raise GenpolicyError(
                        f"training {name} failed with code {process.returncode}:\n{log[-2000:]}"
                    )
    finally:
        for process, _, _ in children.values():
            process.terminate()
        for bar in bars.values():
            bar.close()


def _start(
    name: str, overrides: Sequence[str], out: Path, bar: tqdm[Any]
) -> tuple[subprocess.Popen[bytes], tqdm[Any], Path]:
    folder = out / "runs" / name
    known = (folder / "config.json").exists()
    arguments = [f"resume={folder}"] if known else [*overrides, f"run_dir={folder}"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(out / "runs" / f"{name}.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "genpolicy", "train", *arguments],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    return process, bar, folder


def _is_finished(folder: Path) -> bool:
    """Return whether a run's last checkpoint is that of its last step."""
    try:
        steps = json.loads((folder / "config.json").read_text())["trainer"]["max_steps"]
        card = json.loads((folder / "last" / "policy.json").read_text())
    except (OSError, ValueError):
        return False
    return card["training"]["step"] >= steps


def _move(bar: tqdm[Any], folder: Path) -> None:
    """Set a bar to the last step that a run has logged."""
    try:
        if bar.total is None:
            bar.total = json.loads((folder / "config.json").read_text())["trainer"]["max_steps"]
        line = json.loads((folder / "metrics.jsonl").read_text().rstrip().rsplit("\n", 1)[-1])
    except (OSError, ValueError):
        return
    if "train/loss" in line:
        bar.set_postfix(loss=f"{line['train/loss']:.4f}", refresh=False)
    bar.update(line["step"] - bar.n)
