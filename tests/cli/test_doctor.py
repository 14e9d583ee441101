"""`genpolicy doctor`: each thing that can be wrong becomes a row with a remedy."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from genpolicy.cli import checks, doctor
from genpolicy.cli.checks import Row
from genpolicy.cli.main import main

STATUSES = {"OK", "WARN", "FAIL", "off"}


def by_name(rows):
    return {row.name: row for row in rows}


@pytest.fixture
def versions(monkeypatch):
    """Let a test say what is required, pinned and installed."""

    def install(requires, installed, tested=()):
        monkeypatch.setattr(checks, "tested_versions", lambda: dict(tested))
        monkeypatch.setattr(importlib.metadata, "requires", lambda _: list(requires))

        def version(name):
            if name not in installed:
                raise importlib.metadata.PackageNotFoundError(name)
            return installed[name]

        monkeypatch.setattr(importlib.metadata, "version", version)

    return install


@pytest.fixture
def child(monkeypatch):
    """Replace child processes: ``child(outcome)`` maps (code, environment) to (code, stderr)."""

    def install(outcome):
        def run(command, *, env, **_):
            code, stderr = outcome(command[-1], env)
            return types.SimpleNamespace(returncode=code, stderr=stderr)

        monkeypatch.setattr(subprocess, "run", run)

    return install


def test_pins_cover_every_direct_requirement_and_satisfy_it():
    tested = checks.tested_versions()
    assert len(tested) > 50
    not_pinned = {"robosuite", "mink", "d4rl", "wandb"}
    for line in importlib.metadata.requires("genpolicy"):
        requirement = Requirement(line)
        if requirement.name in not_pinned:
            continue
        pin = tested[requirement.name.lower()]
        assert requirement.specifier.contains(pin), (line, pin)


def test_the_environment_of_the_tests_is_the_tested_one():
    rows = [row for row in checks.check_packages() if row.status in ("WARN", "FAIL")]
    assert rows == []


def test_missing_and_outdated_core_packages_fail_with_the_pip_command(versions):
    versions(
        ["torch>=2.9", "h5py>=3.11", "numpy>=2", "mujoco<3.10; extra == 'sim'"],
        {"torch": "2.5.0", "numpy": "2.4.6", "mujoco": "3.12.0"},
    )
    rows = by_name(checks.check_packages())
    assert rows["torch"].status == "FAIL"
    assert rows["torch"].found == "2.5.0, needs >=2.9"
    assert rows["torch"].remedy == "pip install 'torch>=2.9'"
    assert rows["h5py"].status == "FAIL"
    assert rows["h5py"].found == "not installed"
    assert rows["mujoco [sim]"].status == "FAIL"
    assert rows["numpy"].status == "OK"


def test_a_release_newer_than_tested_warns_and_versions_are_not_compared_as_text(versions):
    versions(
        ["torch>=2.9", "numpy>=2"],
        {"torch": "2.10.0", "numpy": "2.4.9"},
        tested={"torch": "2.9.1", "numpy": "2.4.6"},
    )
    rows = by_name(checks.check_packages())
    assert rows["torch"].status == "WARN"
    assert "torch==2.9.1" in rows["torch"].remedy
    assert rows["numpy"].status == "OK"


def test_a_missing_or_broken_optional_extra_stops_nothing(versions):
    versions(
        [
            "minari>=0.5; extra == 'minari'",
            "robosuite==1.5.1; extra == 'robosuite'",
            "mink<1.3; extra == 'robosuite'",
        ],
        {"robosuite": "1.5.2", "mink": "1.2.0"},
    )
    rows = by_name(checks.check_packages())
    assert rows["[minari]"].status == "off"
    assert "pip install 'genpolicy[minari]'" in rows["[minari]"].remedy
    assert rows["robosuite [robosuite]"].status == "WARN"
    assert rows["mink [robosuite]"].status == "OK"


def test_running_without_an_installation_fails(monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    (row,) = checks.check_packages()
    assert row.status == "FAIL"
    assert "pip install" in row.remedy


@pytest.mark.parametrize(
    ("version", "files", "status"),
    [
        ("2.6.6", ["lightning/__init__.py"], "OK"),
        ("2.6.2", ["lightning/__init__.py"], "FAIL"),
        ("2.6.3", ["lightning/__init__.py"], "FAIL"),
        ("2.6.4", ["lightning/_runtime/start.py"], "FAIL"),
    ],
)
def test_compromised_lightning_is_recognised_without_importing_it(
    version, files, status, monkeypatch, child
):
    fake = types.SimpleNamespace(version=version, files=[Path(name) for name in files])
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: fake)
    (row,) = checks.check_lightning_release()
    assert row.status == status
    if status == "FAIL":
        assert "credential" in row.found
        assert "uninstall" in row.remedy

    tried = []
    child(lambda code, env: tried.append(code) or (0, ""))
    imported = by_name(checks.check_main_job())["import lightning"]
    assert imported.status == status
    assert any("import lightning" in code for code in tried) == (status == "OK")


def test_main_job_failures_carry_the_last_line_and_the_remedy(child):
    def outcome(code, env):
        if "lightning" in code:
            return 1, "Traceback\nRuntimeError: operator torchvision::nms does not exist\n"
        return 1, "Traceback\nModuleNotFoundError: No module named 'mujoco'\n"

    child(outcome)
    rows = by_name(checks.check_main_job())
    assert rows["import lightning"].status == "FAIL"
    assert rows["import lightning"].remedy == "pip uninstall torchvision"
    assert rows["step maze2d"].found == "ModuleNotFoundError: No module named 'mujoco'"
    assert rows["step maze2d"].remedy == "pip install 'genpolicy[sim]'"


@pytest.mark.parametrize("chosen", ["", "egl", "osmesa"])
def test_rendering_names_the_debian_packages_and_never_fails_the_main_job(
    chosen, monkeypatch, child
):
    if chosen:
        monkeypatch.setenv("MUJOCO_GL", chosen)
    else:
        monkeypatch.delenv("MUJOCO_GL", raising=False)
    child(lambda code, env: (0, "") if env["MUJOCO_GL"] == "egl" else (1, "no libOSMesa"))
    rows = by_name(checks.check_rendering())
    assert rows["egl"].status == "OK"
    assert rows["osmesa"].status == ("WARN" if chosen == "osmesa" else "off")
    assert "apt-get install libosmesa6" in rows["osmesa"].remedy
    assert ("choice" in rows) == (chosen != "egl")

    child(lambda code, env: (134, ""))
    rows = by_name(checks.check_rendering())
    assert rows["egl"].status == "WARN"
    assert rows["egl"].found.endswith("exit code 134")
    assert "libegl1" in rows["egl"].remedy


def test_a_probe_that_hangs_is_reported(monkeypatch):
    def run(command, **_):
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    rows = by_name(checks.check_main_job())
    assert rows["step maze2d"].status == "FAIL"
    assert "no answer" in rows["step maze2d"].found


def test_disk_reports_a_folder_that_is_not_writable(tmp_path, monkeypatch):
    monkeypatch.setenv("GENPOLICY_CACHE", str(tmp_path / "not" / "there" / "yet"))
    rows = by_name(checks.check_disk())
    assert rows["cache"].status in ("OK", "WARN")
    assert not (tmp_path / "not").exists()

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checks.tempfile, "NamedTemporaryFile", refuse)
    row = by_name(checks.check_disk())["cache"]
    assert row.status == "FAIL"
    assert "Permission denied" in row.found
    assert "GENPOLICY_CACHE" in row.remedy


@pytest.mark.parametrize(("free", "status"), [(100e9, "OK"), (1e9, "WARN"), (1e6, "FAIL")])
def test_disk_space(free, status, monkeypatch):
    usage = types.SimpleNamespace(free=free)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage)
    assert {row.status for row in checks.check_disk()} == {status}


def test_every_data_set_has_a_row_and_a_way_to_get_it():
    from genpolicy.data.registry import DATASETS

    rows = by_name(checks.check_data())
    assert set(rows) == set(DATASETS)
    for row in rows.values():
        assert row.status == "off"  # the cache of the tests is empty
        assert "genpolicy data" in row.remedy or "GENPOLICY_DATA" in row.remedy


def test_device_rows_name_threads_and_operators():
    rows = by_name(checks.check_device())
    assert rows["torch threads"].found == f"1 of {os.cpu_count()} CPUs"
    assert rows["operators"].status in STATUSES


def fake_checks(monkeypatch, *checks_of_rows):
    monkeypatch.setattr(doctor, "_CHECKS", checks_of_rows)


def test_exit_code_is_0_only_without_failures(monkeypatch, capsys):
    fine = Row("system", "Python", "OK", "3.11")
    limited = Row("rendering", "egl", "WARN", "no libEGL", "apt-get install libegl1")
    broken = Row("main job", "step maze2d", "FAIL", "no mujoco", "pip install 'genpolicy[sim]'")

    fake_checks(monkeypatch, lambda: [fine], lambda: [limited])
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "apt-get install libegl1" in out
    assert "can run; 1 warnings" in out

    fake_checks(monkeypatch, lambda: [fine], lambda: [limited, broken])
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "pip install 'genpolicy[sim]'" in out  # brackets are not taken for markup
    assert "1 failed (step maze2d)" in out


def test_a_check_that_cannot_run_is_a_failure_and_the_others_still_run(monkeypatch, capsys):
    def check_device():
        yield Row("compute", "torch threads", "OK", "1 of 2")
        raise ImportError("libcudart.so is missing")

    fake_checks(monkeypatch, check_device, lambda: [Row("disk", "cache", "OK", "12 GB free")])
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "1 of 2" in out
    assert "libcudart.so is missing" in out
    assert "12 GB free" in out


def test_arguments_are_refused(capsys):
    assert main(["doctor", "--fix"]) == 2
    assert "--fix" in capsys.readouterr().err


@pytest.mark.sim
def test_the_real_report_passes_here(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "genpolicy", "doctor"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert "Training and evaluation can run" in done.stdout
    assert done.stderr == ""
