"""Atomic files: a fault at any moment leaves the old content or the new."""

import json
import os
import subprocess
import sys

import pytest

from genpolicy import files
from genpolicy.errors import UsageError


def test_publish_folder_replaces_as_a_whole(tmp_path):
    target = tmp_path / "run" / "ckpt"
    for content in ("one", "two"):
        with files.publish_folder(target) as stage:
            (stage / "a.txt").write_text(content)
            (stage / "deep").mkdir()
            (stage / "deep" / "b.txt").write_text(content)
    assert (target / "a.txt").read_text() == "two"
    assert (target / "deep" / "b.txt").read_text() == "two"
    assert sorted(p.name for p in target.parent.iterdir()) == ["ckpt"]


def test_an_error_while_writing_leaves_the_old_folder(tmp_path):
    target = tmp_path / "ckpt"
    with files.publish_folder(target) as stage:
        (stage / "a.txt").write_text("old")
    with pytest.raises(RuntimeError, match="boom"), files.publish_folder(target) as stage:
        (stage / "a.txt").write_text("new")
        raise RuntimeError("boom")
    assert (target / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt"]


@pytest.mark.parametrize("fail_at", [0, 1, 2])
def test_a_kill_between_the_renames_keeps_a_complete_folder(tmp_path, monkeypatch, fail_at):
    target = tmp_path / "ckpt"
    with files.publish_folder(target) as stage:
        (stage / "a.txt").write_text("old")
    calls = {"n": 0}
    real_rename = os.rename

    def rename(source, destination):
        if calls["n"] == fail_at:
            os._exit(9)
        calls["n"] += 1
        real_rename(source, destination)

    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(os, "rename", rename)
        if fail_at == 2:
            monkeypatch.setattr(files.shutil, "rmtree", lambda *a, **k: os._exit(9))
        with files.publish_folder(target) as stage:
            (stage / "a.txt").write_text("new")
        os._exit(0)
    os.waitpid(pid, 0)
    files.clean_staging(tmp_path)
    assert (target / "a.txt").read_text() in {"old", "new"}
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt"]


def test_write_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_swap_link_is_relative_and_replaceable(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.swap_link(tmp_path / "last", tmp_path / name)
        assert (tmp_path / "last").readlink().as_posix() == name


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(tmp_path):
    with files.RunLock(tmp_path):
        code = f"from genpolicy.files import RunLock\nwith RunLock({str(tmp_path)!r}): pass\n"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert other.returncode != 0
        assert f"pid {os.getpid()}" in other.stderr
    with files.RunLock(tmp_path), pytest.raises(UsageError, match="in use by pid"):
        files.RunLock(tmp_path).__enter__()
    with files.RunLock(tmp_path):
        pass
