"""Which OpenGL is chosen, with child processes that only say that they tried."""

from __future__ import annotations

import os
import subprocess
import types

import pytest

from genpolicy.envs import rendering
from genpolicy.errors import SimulatorError


@pytest.fixture
def probe(monkeypatch):
    """``probe(error of each backend)`` replaces the child processes; returns those tried."""
    tried = []

    def install(errors):
        def run(command, *, env, **_):
            tried.append(env["MUJOCO_GL"])
            text = errors[env["MUJOCO_GL"]]
            return types.SimpleNamespace(returncode=bool(text), stderr=f"Traceback\n{text}\n")

        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        rendering._working.cache_clear()
        return tried

    yield install
    rendering._working.cache_clear()
    os.environ.pop("MUJOCO_GL", None)


def test_egl_comes_first(probe):
    tried = probe({"egl": "", "osmesa": ""})
    assert rendering.choose_gl() == os.environ["MUJOCO_GL"] == "egl"
    assert tried == ["egl"]


def test_osmesa_is_the_way_out(probe):
    tried = probe({"egl": "no EGL device", "osmesa": ""})
    assert rendering.choose_gl() == os.environ["MUJOCO_GL"] == "osmesa"
    assert tried == ["egl", "osmesa"]


def test_without_either_the_debian_packages_are_named(probe):
    probe({"egl": "no EGL device", "osmesa": "no library"})
    with pytest.raises(SimulatorError) as caught:
        rendering.choose_gl()
    for text in ("no EGL device", "no library", "libegl1", "libosmesa6", "genpolicy doctor"):
        assert text in str(caught.value)
    assert "MUJOCO_GL" not in os.environ


def test_a_choice_of_the_users_is_kept(probe, monkeypatch):
    tried = probe({"egl": "", "osmesa": ""})
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert rendering.choose_gl() == "glfw"
    assert tried == []
