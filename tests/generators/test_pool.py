"""Worker processes: results in order, and no worker outlives the process that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from genpolicy.generators.pool import in_order

SCRIPT = """
import os, time
from pathlib import Path
from genpolicy.generators.pool import in_order

def work(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    list(in_order(work, [{folder!r}] * 2, n_workers=2))
"""


def _square(x: int) -> int:
    return x * x


def test_results_come_in_the_order_of_the_jobs_and_no_sooner_than_asked_for():
    asked: list[int] = []

    def jobs():
        for i in range(100):
            asked.append(i)
            yield i

    results = in_order(_square, jobs(), n_workers=1)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert asked == [0, 1, 2]
    results.close()
    assert list(in_order(_square, range(5), n_workers=2)) == [0, 1, 4, 9, 16]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
def test_workers_end_when_the_process_that_started_them_is_killed(tmp_path):
    folder = tmp_path / "pids"
    folder.mkdir()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(folder=str(folder)))
    with subprocess.Popen([sys.executable, str(script)]) as process:
        _wait(lambda: len(list(folder.iterdir())) == 2, "two workers at work")
        process.kill()
    _wait(lambda: not any(_is_alive(int(p.name)) for p in folder.iterdir()), "workers to end")


def _wait(condition, what, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
