"""Figures in the documents are those of the experiments' csv files."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_table_of_the_readme_is_up_to_date():
    command = [sys.executable, str(ROOT / "experiments" / "table.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_experiment_has_a_readme_and_results():
    folders = [p for p in (ROOT / "experiments").iterdir() if p.is_dir() and p.name[0] != "_"]
    assert len(folders) >= 3
    for folder in folders:
        names = {p.name for p in folder.iterdir()}
        assert {"README.md", "results.csv"} <= names, folder.name
        assert names & {"run.sh", "run.py"}, folder.name
