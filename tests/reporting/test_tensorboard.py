from __future__ import annotations

from pathlib import Path

import pytest

from genpolicy.reporting import read_sweep
from genpolicy.reporting.tensorboard import link_tensorboard
from tests.reporting.sweeps import SweepWriter, both


def write_events(folder: Path, value: float) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    scalar = Summary(value=[Summary.Value(tag="train/loss", simple_value=value)])
    writer.add_event(Event(step=1, summary=scalar))
    writer.close()


def test_tensorboard_names_runs_by_method_task_and_seed(tmp_path: Path) -> None:
    multiplexer = pytest.importorskip("tensorboard.backend.event_processing.event_multiplexer")
    writer = SweepWriter(tmp_path)
    for method in ("iql", "fql"):
        for seed in (0, 1):
            task = "d4rl/maze2d-umaze"
            job = writer.job(method, task, seed, results=both(task, 50.0, seed))
            write_events(job / "run" / "tensorboard", float(seed))
    writer.job("fql", "d4rl/maze2d-umaze", 2, event=None)
    sweep = read_sweep(writer.write())
    folder = link_tensorboard(sweep)
    assert folder == tmp_path / "tensorboard"
    assert link_tensorboard(sweep) == folder  # again: nothing changes
    events = multiplexer.EventMultiplexer()
    events.AddRunsFromDirectory(str(folder))
    events.Reload()
    names = {f"{m}/d4rl-maze2d-umaze/seed-{s}" for m in ("iql", "fql") for s in (0, 1)}
    assert set(events.Runs()) == names
    found = events.Scalars("fql/d4rl-maze2d-umaze/seed-1", "train/loss")
    assert [entry.value for entry in found] == [1.0]


def test_nothing_is_written_where_there_are_no_events(tmp_path: Path) -> None:
    writer = SweepWriter(tmp_path)
    writer.job("iql", "maze2d-umaze", 0, results=both("maze2d-umaze", 50.0, 0))
    assert link_tensorboard(read_sweep(writer.write())) is None
    assert not (tmp_path / "tensorboard").exists()
