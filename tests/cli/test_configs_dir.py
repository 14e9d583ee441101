"""The configurations are found from a checkout and from a wheel."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from genpolicy.cli import configs_dir as module
from genpolicy.cli.configs_dir import configs_dir
from genpolicy.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_checkout_uses_the_configurations_of_the_repository():
    assert configs_dir() == REPOSITORY / "configs"


def test_a_wheel_uses_its_own_copy(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "genpolicy"
    (package / "_configs").mkdir(parents=True)
    (package / "_configs" / "train.yaml").touch()
    monkeypatch.setattr(module, "__file__", str(package / "cli" / "configs_dir.py"))
    assert configs_dir() == package / "_configs"


def test_an_installation_without_configurations_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "genpolicy" / "cli" / "configs_dir.py"))
    with pytest.raises(UsageError, match="_configs"):
        configs_dir()


@pytest.mark.slow
def test_a_built_wheel_ships_configurations_pins_and_type_marker(tmp_path):
    """Builds with pip in isolation (needs a package index) and runs from an empty environment."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, REPOSITORY],
        check=True,
    )
    (wheel,) = tmp_path.glob("genpolicy-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {
        f"genpolicy/_configs/{path.relative_to(REPOSITORY / 'configs')}"
        for path in (REPOSITORY / "configs").rglob("*.yaml")
    }
    assert shipped
    assert shipped <= names
    assert {"genpolicy/py.typed", "genpolicy/_constraints.txt"} <= names
    assert not [name for name in names if name.startswith(("tests/", "configs/"))]

    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    code = "from genpolicy.cli.configs_dir import configs_dir; print(configs_dir())"
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert Path(done.stdout.strip()).parts[-2:] == ("genpolicy", "_configs")
