"""Off-screen rendering with MuJoCo: which OpenGL answers, and one camera's pictures.

MuJoCo decides by the environment variable ``MUJOCO_GL`` when it is imported. Where that is not set,
EGL is tried and then OSMesa, in a child process each; the first that works is set for this process
and those it starts, and used even where MuJoCo was imported before.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from genpolicy.errors import SimulatorError

__all__ = ["GL_PACKAGES", "CameraRenderer", "choose_gl", "render_error"]

GL_PACKAGES = {
    "egl": "libegl1 libegl-mesa0 libgl1-mesa-dri",
    "osmesa": "libosmesa6",
}
"""Debian packages that each backend needs."""

_PROBE_S = 120.0

_RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size=".5"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
image = renderer.render()
assert image.max() > image.min(), "the rendered image is blank"
"""


def render_error(backend: str) -> str:
    """Render one picture with a backend in a child process; return its complaint, or ``""``."""
    environment = {**os.environ, "MUJOCO_GL": backend}
    environment.pop("PYOPENGL_PLATFORM", None)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RENDER],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_PROBE_S:.0f} s"
    lines = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else (lines or [f"exit code {done.returncode}"])[-1].strip()


@functools.cache
def _working() -> str:
    errors = {}
    for backend in GL_PACKAGES:
        error = render_error(backend)
        if not error:
            return backend
        errors[backend] = error
    found = "; ".join(f"{backend}: {error}" for backend, error in errors.items())
    wanted = "', or '".join(f"apt-get install {packages}" for packages in GL_PACKAGES.values())
    raise SimulatorError(
        f"no off-screen rendering works here ({found}); on Debian try '{wanted}', and see "
        "`genpolicy doctor`; observations without images need none"
    )


def choose_gl() -> str:
    """Return the OpenGL backend of this process, choosing one where ``MUJOCO_GL`` is not set.

    Raises:
        SimulatorError: when neither EGL nor OSMesa works, naming the Debian packages.
    """
    chosen = os.environ.get("MUJOCO_GL", "")
    if not chosen:
        chosen = os.environ["MUJOCO_GL"] = _working()
    return chosen


class CameraRenderer:
    """Pictures from the named cameras of one MuJoCo model.

    Args:
        model: ``mujoco.MjModel``.
        size: height and width in pixels.
        all_groups: show the geometry of group 0 too, where robosuite keeps collision shapes.

    Raises:
        SimulatorError: when nothing can be rendered off screen.
    """

    def __init__(self, model: Any, *, size: int, all_groups: bool = False) -> None:
        chosen = choose_gl()
        mujoco: Any = importlib.import_module("mujoco")
        self._mujoco = mujoco
        if chosen in GL_PACKAGES:
            # MuJoCo read the variable when it was imported, which may be before it was set.
            contexts: Any = sys.modules[mujoco.Renderer.__module__]
            contexts.gl_context.GLContext = importlib.import_module(f"mujoco.{chosen}").GLContext
        self.model, self.size = model, size
        # robosuite's scenes keep collision shapes in group 0 and what is to be seen in group 1.
        self._option = mujoco.MjvOption()
        self._option.geomgroup[0] = int(all_groups)
        try:
            self._renderer = mujoco.Renderer(model, size, size)
        except Exception as error:  # whatever the driver raises
            raise SimulatorError(
                f"MUJOCO_GL={os.environ['MUJOCO_GL']} cannot render off screen ({error!r}); see "
                "`genpolicy doctor`"
            ) from error

    def picture(self, data: Any, camera: str | Mapping[str, Any]) -> np.ndarray:
        """Return ``(size, size, 3)`` uint8, the first row at the top.

        Args:
            data: ``mujoco.MjData`` of the model.
            camera: name of a camera, or attributes of a free one (``distance``, ``lookat``, ...).
        """
        if not isinstance(camera, str):
            camera = self._free_camera(camera)
        self._renderer.update_scene(data, camera=camera, scene_option=self._option)
        return np.array(self._renderer.render())

    def _free_camera(self, view: Mapping[str, Any]) -> Any:
        camera: Any = self._mujoco.MjvCamera()
        self._mujoco.mjv_defaultFreeCamera(self.model, camera)
        for name, value in view.items():
            if name == "lookat":
                camera.lookat[:] = value
            else:
                setattr(camera, name, value)
        if "trackbodyid" in view:
            camera.type = self._mujoco.mjtCamera.mjCAMERA_TRACKING
        return camera

    def close(self) -> None:
        """Free the context; calling it again does nothing."""
        self._renderer.close()
