"""Where jobs run: processes on this machine, joblib, Ray, or SLURM. Thin adapters on the libraries.

A launcher gets jobs that do not depend on each other and yields what became of each. All of them
call ``run_job``, so that a job's result does not depend on where it ran.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from genpolicy.errors import UsageError
from genpolicy.sweeps.worker import run_job

__all__ = [
    "JoblibLauncher",
    "Launcher",
    "LocalLauncher",
    "Outcome",
    "RayLauncher",
    "SlurmLauncher",
]

_WORKER = ("-m", "genpolicy.sweeps")
_GRACE_S = 60.0  # for a training to save its state when it is asked to stop


@dataclass(frozen=True)
class Outcome:
    """What became of a job: ``finished``, ``failed``, ``interrupted``, ``postponed`` or ``lost``.

    A job is lost when its process died without a word; ``reason`` says how.
    """

    key: str
    event: str
    reason: str = ""


class Launcher(Protocol):
    """Runs jobs of a sweep."""

    def run(
        self, sweep: Path, keys: Sequence[str], *, deadline: float | None = None
    ) -> Generator[Outcome, None, None]:
        """Run jobs that do not need each other and yield their outcomes as they come.

        Args:
            sweep: folder of the sweep.
            keys: jobs, in the order in which they are begun.
            deadline: ``time.time()`` after which no job is begun and trainings stop.
        """
        ...


def _check_counts(who: str, **counts: float) -> None:
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"{who}: {name} is {value}, expected at least 1")


def _import(package: str, launcher: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"launcher={launcher} needs {package}, which is not installed; "
            f"pip install 'genpolicy[{launcher}]', or use launcher=local"
        ) from error


def _outcome(key: str, get: Callable[[], Mapping[str, str]]) -> Outcome:
    """Return the outcome of a remote call, of which anything may be raised."""
    try:
        return Outcome(key, **get())
    except Exception as error:  # the job's own errors are caught in it: this is its process
        return Outcome(key, "lost", f"its process died: {type(error).__name__}: {error}"[:500])


@dataclass
class _Worker:
    """A process that runs one job after another in its slot."""

    process: subprocess.Popen[bytes]
    key: str | None = None

    def ask(self, request: Mapping[str, Any]) -> None:
        stdin = self.process.stdin
        assert stdin is not None
        self.key = str(request["key"])
        with contextlib.suppress(BrokenPipeError):  # it has died: `answer` will say so
            stdin.write((json.dumps(request) + "\n").encode())
            stdin.flush()

    def answer(self) -> Outcome:
        """Return the outcome of its job; it has answered or died."""
        assert self.key is not None
        assert self.process.stdout is not None
        key, line = self.key, self.process.stdout.readline()
        self.key = None
        if line.endswith(b"\n"):
            return Outcome(key, **json.loads(line))
        code = self.process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Outcome(key, "lost", f"its process died ({how})")


@dataclass(frozen=True, kw_only=True)
class LocalLauncher:
    """Processes on this machine, one for each slot.

    Args:
        n_jobs: slots: jobs that run at a time.
        threads: of each job.
        gpus: devices that the slots take turns on, as ``CUDA_VISIBLE_DEVICES`` names them; empty
            leaves the variable as it is.
    """

    n_jobs: int = 1
    threads: int = 1
    gpus: Sequence[int | str] = ()

    def __post_init__(self) -> None:
        _check_counts("launcher=local", n_jobs=self.n_jobs, threads=self.threads)

    def run(
        self, sweep: Path, keys: Sequence[str], *, deadline: float | None = None
    ) -> Generator[Outcome, None, None]:
        """See ``Launcher``. Workers stop with this process, whatever ends it."""
        import selectors

        waiting, workers = list(keys), dict[int, _Worker]()
        with selectors.DefaultSelector() as answers:
            try:
                while waiting or any(w.key is not None for w in workers.values()):
                    idle = [
                        slot
                        for slot in range(self.n_jobs)
                        if slot not in workers or workers[slot].key is None
                    ]
                    for slot, key in zip(idle, list(waiting), strict=False):
                        if slot not in workers:
                            workers[slot] = self._start(slot)
                            answers.register(_pipe(workers[slot]), selectors.EVENT_READ, slot)
                        workers[slot].ask(
                            {
                                "sweep": str(sweep),
                                "key": key,
                                "deadline": deadline,
                                "threads": self.threads,
                            }
                        )
                        waiting.remove(key)
                    for selected, _ in answers.select():
                        outcome = workers[selected.data].answer()
                        if outcome.event == "lost":
                            answers.unregister(selected.fileobj)
                            del workers[selected.data]
                        yield outcome
            finally:
                _stop(list(workers.values()))

    def _start(self, slot: int) -> _Worker:
        env = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        if self.gpus:
            env["CUDA_VISIBLE_DEVICES"] = str(self.gpus[slot % len(self.gpus)])
        return _Worker(
            subprocess.Popen(
                [sys.executable, *_WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=env,
                start_new_session=True,  # Ctrl-C reaches the sweep, which stops its workers
            )
        )


def _pipe(worker: _Worker) -> IO[bytes]:
    assert worker.process.stdout is not None
    return worker.process.stdout


def _stop(workers: Sequence[_Worker]) -> None:
    """End workers: at once where they are idle, else after they have saved."""
    for worker in workers:
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            worker.process.stdin.close()
    end = time.monotonic() + _GRACE_S
    for worker in workers:
        try:
            worker.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        _pipe(worker).close()


@dataclass(frozen=True, kw_only=True)
class JoblibLauncher:
    """joblib's process pool on this machine.

    Args:
        n_jobs: processes; -1 for all cores.
        threads: of each.
    """

    n_jobs: int = 2
    threads: int = 1

    def run(
        self, sweep: Path, keys: Sequence[str], *, deadline: float | None = None
    ) -> Generator[Outcome, None, None]:
        """See ``Launcher``. When a process dies, joblib gives up all jobs that are under way."""
        joblib = _import("joblib", "joblib")
        left = set(keys)
        with joblib.parallel_config(backend="loky", inner_max_num_threads=self.threads):
            pool = joblib.Parallel(n_jobs=self.n_jobs, return_as="generator_unordered")
            calls = (
                joblib.delayed(_named)(str(sweep), key, deadline, self.threads) for key in keys
            )
            try:
                for key, outcome in pool(calls):
                    left.discard(key)
                    yield Outcome(key, **outcome)
            except (OSError, RuntimeError) as error:  # of loky: its worker was killed
                for key in (key for key in keys if key in left):
                    yield Outcome(key, "lost", f"joblib's workers died: {error}"[:500])


def _named(
    sweep: str, key: str, deadline: float | None, threads: int
) -> tuple[str, dict[str, str]]:
    return key, run_job(sweep, key, deadline=deadline, threads=threads)


@dataclass(frozen=True, kw_only=True)
class RayLauncher:
    """Tasks of a Ray cluster that sees the sweep's folder, or of one started on this machine.

    Args:
        address: of a running cluster (``auto`` finds one); None starts one here.
        n_cpus: cores of a cluster that is started here; None for all.
        threads: cores of each job.
        gpus: GPUs of each job; a fraction shares one.
    """

    address: str | None = None
    n_cpus: int | None = None
    threads: int = 1
    gpus: float = 0.0

    def run(
        self, sweep: Path, keys: Sequence[str], *, deadline: float | None = None
    ) -> Generator[Outcome, None, None]:
        """See ``Launcher``."""
        ray = _import("ray", "ray")
        is_ours = not ray.is_initialized()
        if is_ours:
            size = {} if self.address is not None else {"num_cpus": self.n_cpus}
            ray.init(
                address=self.address,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": str(self.threads)}},
                **size,
            )
        try:
            task = ray.remote(run_job).options(
                num_cpus=self.threads, num_gpus=self.gpus, max_retries=0
            )
            running = {
                task.remote(str(sweep), key, deadline=deadline, threads=self.threads): key
                for key in keys
            }
            while running:
                for done in ray.wait(list(running), num_returns=1)[0]:
                    yield _outcome(running.pop(done), partial(ray.get, done))
        finally:
            if is_ours:
                ray.shutdown()


@dataclass(frozen=True, kw_only=True)
class SlurmLauncher:
    """Jobs of a SLURM cluster whose nodes see the sweep's folder, through submitit.

    Args:
        cluster: ``slurm``; ``local``: submitit's jobs are processes here, ``debug``: in this one.
        partition: of SLURM; None for its default.
        minutes: limit of a job; one that reaches it, or is preempted, is queued again.
        threads: cores of each job.
        gpus: GPUs of each job.
        mem_gb: memory of each job.
        n_parallel: jobs of an array that run at a time.
        options: other parameters of submitit's executor, for example ``slurm_account``.
        poll_s: seconds between looks at the queue.
    """

    cluster: Literal["slurm", "local", "debug"] = "slurm"
    partition: str | None = None
    minutes: int = 240
    threads: int = 1
    gpus: int = 0
    mem_gb: float | None = None
    n_parallel: int = 256
    options: Mapping[str, Any] = field(default_factory=dict)
    poll_s: float = 5.0

    def run(
        self, sweep: Path, keys: Sequence[str], *, deadline: float | None = None
    ) -> Generator[Outcome, None, None]:
        """See ``Launcher``. Jobs outlive this process; a sweep that is resumed waits for them."""
        submitit = _import("submitit", "slurm")
        executor = submitit.AutoExecutor(folder=sweep / "slurm", cluster=self.cluster)
        given = {
            "name": sweep.name,
            "timeout_min": self.minutes,
            "cpus_per_task": self.threads,
            "gpus_per_node": self.gpus,
            "mem_gb": self.mem_gb,
            "slurm_partition": self.partition,
            "slurm_array_parallelism": self.n_parallel,
        }
        executor.update_parameters(
            **{name: value for name, value in given.items() if value is not None}, **self.options
        )
        with executor.batch():
            jobs = [
                executor.submit(_Submitted(str(sweep), k, deadline, self.threads)) for k in keys
            ]
        waiting = dict(zip(keys, jobs, strict=True))
        while waiting:
            for key in [key for key, job in waiting.items() if job.done()]:
                yield _outcome(key, waiting.pop(key).result)
            if waiting:
                time.sleep(self.poll_s)


@dataclass(frozen=True)
class _Submitted:
    """A job as submitit runs it; after a time limit or a preemption it is submitted again."""

    sweep: str
    key: str
    deadline: float | None
    threads: int

    def __call__(self) -> dict[str, str]:
        return run_job(self.sweep, self.key, deadline=self.deadline, threads=self.threads)

    def checkpoint(self) -> Any:
        """Return what is queued in place of this."""
        return importlib.import_module("submitit").helpers.DelayedSubmission(self)
