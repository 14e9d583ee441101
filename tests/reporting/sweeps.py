"""A sweep's folder with results of known means, written without a training or a simulator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genpolicy.evaluation import CheckpointInfo, EpisodeRecord, EvalResult, PolicyIdentity
from genpolicy.policies.checkpoint import PolicyCard
from genpolicy.shapes import TaskSpec

SIMULATORS = {"gymnasium": "1.4.0", "mujoco": "3.9.0"}
VERSIONS = {"genpolicy": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"}
DATASET = {"name": "maze", "kind": "official", "fingerprint": "abcdef0123456789"}


def make_result(
    task: str,
    mean: float,
    *,
    training_seed: int,
    n_episodes: int = 10,
    first_seed: int = 1000,
    step: int = 200,
    simulators: Mapping[str, str] = SIMULATORS,
    n_failed: int = 0,
    links: tuple[str, ...] = ("last",),
) -> EvalResult:
    """A result with scores around a mean; half of the spread belongs to the episode's seed."""
    records = []
    for i in range(n_episodes):
        seed = first_seed + i
        hard = np.random.default_rng(seed).normal(0.0, 8.0)
        noise = np.random.default_rng([seed, training_seed]).normal(0.0, 8.0)
        score = mean + hard + noise
        metrics = {"d4rl_score": score, "return": 3 * score, "success": float(score > 50.0)}
        tags = ("non-finite action",) if i < n_failed else ()
        records.append(EpisodeRecord(seed, 100, 13, 0, False, True, metrics, tags))
    spec = TaskSpec(
        task=task,
        obs_shapes={"state": (4,)},
        action_dim=2,
        n_obs_steps=1,
        horizon=8,
        n_action_steps=4,
    )
    sampler = {"type": "Sampler", "rule": "euler", "n_steps": 10}
    digest = hashlib.sha256(f"{task} {mean} {training_seed}".encode()).hexdigest()
    return EvalResult(
        task=task,
        primary="d4rl_score",
        rates=("success",),
        records=tuple(records),
        policy=PolicyIdentity("GenerativePolicy", spec, digest, sampler, 10),
        n_action_steps=4,
        simulators=simulators,
        versions=VERSIONS,
        checkpoint=CheckpointInfo("run/last", step, "ema", links, "maze", "abcdef01", VERSIONS),
        note="D4RL's task on current MuJoCo",
    )


def write_json(file: Path, data: Any) -> None:
    """Write without syncing: the library's own writing would take most of a test's time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data), encoding="utf-8")


class SweepWriter:
    """Writes a sweep's folder job by job.

    Args:
        folder: of the sweep.
        max_steps: of every run.
    """

    def __init__(self, folder: Path, *, max_steps: int = 200) -> None:
        self.folder, self.max_steps = folder, max_steps
        self.keys: list[str] = []
        self.events: list[dict[str, Any]] = []

    def config(self, method: str, task: str, seed: int, **settings: Any) -> dict[str, Any]:
        return {
            "name": f"{method}-{task}",
            "seed": seed,
            "run_dir": f"/nowhere/{method}/{task}/{seed}",
            "algorithm": {"_target_": f"genpolicy.algorithms.{method}", **settings},
            "data": {"task": task, "batch_size": 64},
            "trainer": {"max_steps": self.max_steps},
        }

    def job(
        self,
        method: str,
        task: str,
        seed: int,
        *,
        event: str | None = "finished",
        reason: str = "",
        labels: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        results: Mapping[str, EvalResult] | None = None,
        dataset: Mapping[str, Any] = DATASET,
        reported: bool = True,
        needs: Mapping[str, str] | None = None,
    ) -> Path:
        """Add a job; without an event it has not been started."""
        train = self.config(method, task, seed, **(settings or {}))
        key = hashlib.sha256(json.dumps([train, dict(labels or {})]).encode()).hexdigest()[:16]
        self.keys.append(key)
        folder = self.folder / "jobs" / key
        write_json(
            folder / "job.json",
            {
                "schema": 1,
                "key": key,
                "labels": {"method": method, "task": task, "seed": seed, **(labels or {})},
                "reported": reported,
                "overrides": [f"algorithm={method}", f"seed={seed}"],
                "train": train,
                "evaluate": {"n_episodes": 10, "checkpoints": [*(results or ("last", "best"))]},
                "needs": dict(needs or {}),
                "command": f"genpolicy train algorithm={method} data.task={task} seed={seed}",
            },
        )
        if event is None:
            return folder
        self.log(key, "started", seconds=None)
        if event != "started":
            self.log(key, event, seconds=90.0, reason=reason)
        (folder / "log.txt").write_text(f"training {method}\n{reason}\n", encoding="utf-8")
        self.run(folder / "run", train, dataset, is_done=event == "finished")
        for name, result in (results or {}).items():
            target = folder / "evaluations" / name
            write_json(target / "result.json", result.to_json())
            (target / "records.jsonl").write_text("", encoding="utf-8")
        return folder

    def log(
        self, key: str, event: str, *, seconds: float | None, reason: str = "", attempt: int = 1
    ) -> None:
        line: dict[str, Any] = {"key": key, "event": event, "time": "2026-11-29T00:00:00+00:00"}
        line |= {"attempt": attempt, "host": "here", "pid": 1}
        line |= {} if seconds is None else {"seconds": seconds}
        line |= {"reason": reason} if reason else {}
        self.events.append(line)

    def run(
        self, run: Path, train: Mapping[str, Any], dataset: Mapping[str, Any], *, is_done: bool
    ) -> None:
        """Write a run folder; an unfinished one has half of its steps."""
        write_json(run / "config.json", dict(train))
        last = self.max_steps if is_done else self.max_steps // 2
        steps = range(self.max_steps // 10, last + 1, self.max_steps // 10)
        lines = [
            {
                "step": step,
                "train/loss": 1.0 / step,
                "eval/d4rl_score": 60.0 * step / self.max_steps + train["seed"],
            }
            for step in steps
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run / "metrics.jsonl").write_text(text, encoding="utf-8")
        spec = make_result(train["data"]["task"], 0.0, training_seed=0).policy.spec
        card = PolicyCard(policy={}, spec=spec, normalizer={}, dataset=dict(dataset))
        checkpoint = run / "checkpoints" / f"step-{last:08d}"
        write_json(checkpoint / "policy.json", card.to_json())
        for name in ("last", "best"):
            (run / name).symlink_to(Path("checkpoints") / checkpoint.name)

    def write(self, **head: Any) -> Path:
        """Write what belongs to the whole sweep and return its folder."""
        content = {
            "schema": 1,
            "name": "synthetic",
            "created": "2026-11-29T00:00:00+00:00",
            "command": "genpolicy sweep sweep=synthetic",
            "jobs": self.keys,
            "versions": VERSIONS,
            "launcher": {"name": "local", "n_jobs": 1},
            **head,
        }
        write_json(self.folder / "sweep.json", content)
        text = "".join(json.dumps(event) + "\n" for event in self.events)
        (self.folder / "ledger.jsonl").write_text(text, encoding="utf-8")
        return self.folder


MEANS = {
    "iql": {"maze2d-umaze": 40.0, "maze2d-medium": 35.0},
    "fql": {"maze2d-umaze": 60.0, "maze2d-medium": 55.0},
    "diffuser": {"maze2d-umaze": 80.0, "maze2d-medium": 90.0},
}


def both(task: str, mean: float, seed: int, **settings: Any) -> dict[str, EvalResult]:
    """Results of the last and the best checkpoint, the best three points higher."""
    last = make_result(task, mean + 2.0 * seed, training_seed=seed, **settings)
    best = make_result(task, mean + 2.0 * seed + 3.0, training_seed=seed, **settings)
    return {"last": last, "best": replace(best, checkpoint=last.checkpoint)}


def write_sweep(
    folder: Path,
    *,
    means: Mapping[str, Mapping[str, float]] = MEANS,
    n_seeds: int = 3,
    n_episodes: int = 10,
    unfinished: Sequence[str] = ("failed", "interrupted", "waiting", "started", "incomplete"),
) -> Path:
    """Write a sweep of all methods, tasks and seeds, and some jobs that have no result."""
    writer = SweepWriter(folder)
    for method, tasks in means.items():
        for task, mean in tasks.items():
            for seed in range(n_seeds):
                results = both(task, mean, seed, n_episodes=n_episodes)
                writer.job(method, task, seed, results=results)
    task = next(iter(next(iter(means.values()))))
    for seed, kind in enumerate(unfinished, start=n_seeds):
        event = {"waiting": None, "incomplete": "finished"}.get(kind, kind)
        # What a failed run left behind must not count.
        results = both(task, 500.0, seed) if kind == "failed" else {}
        reason = "NumericsError: the loss is nan at step 120" if kind == "failed" else ""
        writer.job("iql", task, seed, event=event, reason=reason, results=results)
    return writer.write()
