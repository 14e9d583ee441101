"""The live view says what the files say."""

import io
import json

from rich.console import Console

from genpolicy.sweeps import run_sweep
from genpolicy.sweeps.progress import SweepView, format_seconds
from tests.sweeps.conftest import Inline


def _text(view):
    console = Console(file=io.StringIO(), width=140)
    console.print(view)
    return console.file.getvalue()


def test_the_view_counts_jobs_and_shows_how_far_running_ones_are(sweep, toy_jobs):
    view = SweepView(sweep)
    assert "0 of 12 jobs done" in _text(view)
    jobs = [job for job in sweep.jobs() if job.reported]
    training, evaluating = jobs[0], jobs[1]
    for job in (training, evaluating):
        sweep.note(job.key, "started", attempt=1)
    run = sweep.run_folder(training.key)
    run.mkdir(parents=True)
    lines = [json.dumps({"step": step}) for step in (3, 7)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "tr')
    last = sweep.evaluation(evaluating.key, "last")
    last.mkdir(parents=True)
    (last / "records.jsonl").write_text('{"ledger": 1}\n{"record": {}}\n{"record": {}}\n')
    text = _text(view)
    assert "2 running" in text
    assert f"{training.title()}: step 7 of 10" in text
    assert f"{evaluating.title()}: evaluating last, episode 2 of 5" in text
    toy_jobs[jobs[2].key] = ValueError("[bold]bad[/bold] luck")
    run_sweep(sweep, Inline())
    text = _text(view)
    assert "11 of 12 jobs done, 0 running, 1 failed" in text
    assert "ValueError: [bold]bad[/bold] luck" in text
    assert "1/2 1 failed" in text


def test_durations_are_short():
    assert [format_seconds(s) for s in (41.6, 200, 18720)] == ["42 s", "3 min 20 s", "5 h 12 min"]
