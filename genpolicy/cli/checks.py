"""The checks behind ``genpolicy doctor``: each looks at one thing and says how to mend it.

A check returns rows and raises nothing on purpose: what it cannot find out is a row as well.
Anything that could crash or take the process down (simulators, OpenGL) runs in a child process.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import Version

from genpolicy.envs.rendering import GL_PACKAGES, render_error

__all__ = [
    "Row",
    "Status",
    "check_data",
    "check_device",
    "check_disk",
    "check_lightning_release",
    "check_main_job",
    "check_packages",
    "check_python",
    "check_rendering",
    "tested_versions",
]

Status = Literal["OK", "WARN", "FAIL", "off"]
"""``FAIL`` stops training or evaluation on maze2d; ``off`` is an optional part left out."""

MAIN_EXTRAS = ("", "sim")
"""Requirement groups that training and evaluating on maze2d need: the core and the simulators."""

OPTIONAL_EXTRAS = {
    "minari": "reading Minari data sets",
    "diffusers": "comparing with diffusers schedulers",
    "robosuite": "robosuite tasks (robomimic/...)",
    "robomimic": "comparing with robomimic's own reader",
    "d4rl": "comparing with D4RL's own readers",
    "search": "Bayesian weight search",
    "wandb": "logging to Weights & Biases",
}

MALICIOUS_LIGHTNING = ("2.6.2", "2.6.3")

_PROBE_S = 120.0
_WARN_FREE_GB, _FAIL_FREE_GB = 5.0, 0.2

_STEP = """
from genpolicy.envs.registry import make_env
env = make_env("maze2d-umaze")
env.reset(seed=0)
env.step(env.action_space.sample())
"""


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Args:
        group: heading it stands under.
        name: what was looked at.
        status: see `Status`.
        found: what was found.
        remedy: what to do about it; empty when there is nothing to do.
    """

    group: str
    name: str
    status: Status
    found: str
    remedy: str = ""


def tested_versions() -> dict[str, str]:
    """Return the pinned release by package name from the constraints file, if there is one."""
    package = Path(__file__).resolve().parents[1]
    for path in (package / "_constraints.txt", package.parent / ".ci" / "constraints.txt"):
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            pins = (Requirement(line) for line in lines if line and not line.startswith("#"))
            return {_canonical(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    return {}


def check_python() -> Iterator[Row]:
    """The interpreter and the platform."""
    version = platform.python_version()
    tested = sys.version_info[:2] == (3, 11)
    yield Row(
        "system",
        "Python",
        "OK" if tested else "WARN",
        f"{version} ({sys.executable})",
        "" if tested else "tested on Python 3.11 only",
    )
    linux = sys.platform == "linux"
    yield Row(
        "system",
        "platform",
        "OK" if linux else "WARN",
        f"{platform.platform()}, {os.cpu_count()} CPUs",
        "" if linux else "tested on Linux only",
    )


def check_packages() -> Iterator[Row]:
    """Every requirement of the core and of each extra, against what is installed."""
    try:
        lines = importlib.metadata.requires("genpolicy") or []
    except importlib.metadata.PackageNotFoundError:
        yield Row("packages", "genpolicy", "FAIL", "not installed", "pip install -e .")
        return
    tested = tested_versions()
    requirements = [Requirement(line) for line in lines]
    for extra in MAIN_EXTRAS:
        for requirement in _of_extra(requirements, extra):
            yield _package_row(requirement, extra, tested)
    for extra, purpose in OPTIONAL_EXTRAS.items():
        rows = [_package_row(r, extra, tested) for r in _of_extra(requirements, extra)]
        missing = [row.name.split()[0] for row in rows if row.found == "not installed"]
        if missing:
            found = f"not installed: {', '.join(missing)} (optional: {purpose})"
            yield Row("packages", f"[{extra}]", "off", found, f"pip install 'genpolicy[{extra}]'")
        else:
            yield from (_softened(row) for row in rows)


def check_lightning_release() -> Iterator[Row]:
    """Look for the two compromised releases of Lightning without importing them."""
    bad = []
    for name in ("lightning", "pytorch-lightning"):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        payload = any("_runtime" in file.parts for file in distribution.files or [])
        if distribution.version in MALICIOUS_LIGHTNING or payload:
            bad.append(f"{name} {distribution.version}")
    if bad:
        yield Row(
            "packages",
            "Lightning release",
            "FAIL",
            f"COMPROMISED: {', '.join(bad)} steals credentials when imported (GHSA-w37p-236h-pfx3)",
            "pip uninstall it, treat every credential on this machine as stolen, then "
            "pip install 'lightning>=2.6.4'",
        )
    else:
        yield Row("packages", "Lightning release", "OK", "not one of the compromised 2.6.2, 2.6.3")


def check_device() -> Iterator[Row]:
    """Torch threads, CUDA devices, and which implementation answers the custom operators."""
    import torch

    threads = torch.get_num_threads()
    yield Row("compute", "torch threads", "OK", f"{threads} of {os.cpu_count()} CPUs")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory = properties.total_memory / 2**30
            capability = f"sm_{properties.major}{properties.minor}"
            found = f"{properties.name}, {memory:.0f} GiB, {capability}, CUDA {torch.version.cuda}"
            yield Row("compute", f"cuda:{index}", "OK", found)
    elif shutil.which("nvidia-smi"):
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        found = f"there is an NVIDIA driver, but torch {torch.__version__} ({build}) sees no device"
        yield Row("compute", "CUDA", "WARN", found, "install a CUDA build of torch")
    else:
        yield Row("compute", "CUDA", "off", "no device; everything runs on the CPU")
    yield _operators_row()


def check_main_job() -> Iterator[Row]:
    """Import Lightning and step maze2d, each in a child process."""
    if any(row.status == "FAIL" for row in check_lightning_release()):
        yield Row("main job", "import lightning", "FAIL", "not tried: compromised release")
    else:
        error = _child_error("import lightning.pytorch")
        clash = "torchvision" in error
        yield Row(
            "main job",
            "import lightning",
            "FAIL" if error else "OK",
            error or "works",
            ("pip uninstall torchvision" if clash else "pip install -U 'lightning>=2.6.4'")
            if error
            else "",
        )
    error = _child_error(_STEP)
    remedy = "pip install 'genpolicy[sim]'" if error else ""
    yield Row("main job", "step maze2d", "FAIL" if error else "OK", error or "works", remedy)
    if _is_installed("robosuite"):
        error = _child_error(_STEP.replace("maze2d-umaze", "robomimic/lift"))
        remedy = "pip install 'genpolicy[robosuite]'" if error else ""
        yield Row("main job", "step robosuite", "WARN" if error else "OK", error or "works", remedy)


def check_rendering() -> Iterator[Row]:
    """Render one image off screen with each backend; only videos and pixels need one."""
    errors = {name: render_error(name) for name in GL_PACKAGES}
    works = [name for name, error in errors.items() if not error]
    chosen = os.environ.get("MUJOCO_GL", "")
    for name, error in errors.items():
        install = f"apt-get install {GL_PACKAGES[name]}"
        if not error:
            yield Row("rendering", name, "OK", "renders off screen")
        elif name == chosen:
            remedy = f"{install}, or MUJOCO_GL={works[0]}" if works else install
            yield Row("rendering", name, "WARN", f"MUJOCO_GL={name} is set, but: {error}", remedy)
        else:
            status: Status = "off" if works else "WARN"
            yield Row("rendering", name, status, error, f"for videos and pixels: {install}")
    if works and chosen not in works:
        found = f"MUJOCO_GL is {chosen!r}" if chosen else "MUJOCO_GL is not set"
        remedy = f"for videos without a screen: export MUJOCO_GL={works[0]}"
        yield Row("rendering", "choice", "OK", found, remedy)


def check_data() -> Iterator[Row]:
    """Which data sets are on this machine."""
    from genpolicy.data.registry import DATASETS, find_datasets

    for name, path in find_datasets().items():
        if path is None:
            yield Row("data", name, "off", "not here", DATASETS[name].hint)
        else:
            yield Row("data", name, "OK", str(path))


def check_disk() -> Iterator[Row]:
    """Free space and write permission where runs and data go."""
    from genpolicy.data.registry import cache_dir

    for name, folder in (("working folder", Path.cwd()), ("cache", cache_dir())):
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        free = shutil.disk_usage(existing).free / 1e9
        try:
            with tempfile.NamedTemporaryFile(dir=existing):
                pass
        except OSError as error:
            remedy = "run in a folder you may write to"
            if name == "cache":
                remedy = "set GENPOLICY_CACHE to a folder you may write to"
            yield Row("disk", name, "FAIL", f"{folder}: {error.strerror}", remedy)
            continue
        status: Status = "OK"
        if free < _WARN_FREE_GB:
            status = "FAIL" if free < _FAIL_FREE_GB else "WARN"
        remedy = "" if status == "OK" else "free some space: checkpoints and data need a few GB"
        yield Row("disk", name, status, f"{folder}: {free:.0f} GB free, writable", remedy)


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def _of_extra(requirements: Iterable[Requirement], extra: str) -> list[Requirement]:
    """Requirements that apply with ``extra`` and not without; those of the core for ``""``."""
    chosen = []
    for requirement in requirements:
        marker = requirement.marker
        in_core = marker is None or marker.evaluate({"extra": ""})
        in_extra = marker is None or marker.evaluate({"extra": extra})
        if in_core if not extra else (in_extra and not in_core):
            chosen.append(requirement)
    return chosen


def _package_row(requirement: Requirement, extra: str, tested: dict[str, str]) -> Row:
    name = requirement.name
    wanted = str(requirement.specifier)
    pip = f"pip install '{name}{wanted}'"
    pin = tested.get(_canonical(name))
    label = f"{name} [{extra}]" if extra else name
    try:
        version = Version(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Row("packages", label, "FAIL", "not installed", pip)
    if not requirement.specifier.contains(version, prereleases=True):
        return Row("packages", label, "FAIL", f"{version}, needs {wanted}", pip)
    found = f"{version} (allowed {wanted or 'any'}, tested {pin or '-'})"
    if pin and version.release[:2] > Version(pin).release[:2]:
        remedy = f"newer than tested; if it misbehaves: pip install '{name}=={pin}'"
        return Row("packages", label, "WARN", found, remedy)
    return Row("packages", label, "OK", found)


def _softened(row: Row) -> Row:
    """An optional part out of range stops nothing of the main job."""
    if row.status != "FAIL":
        return row
    return Row(row.group, row.name, "WARN", row.found, row.remedy)


def _operators_row() -> Row:
    """Which implementation of the compiled operators answers."""
    from genpolicy.ops import backend

    found = backend()
    if found.name == "compiled":
        targets = f"CPU {found.isa}, CUDA {' '.join(found.cuda) or 'not built'}"
        return Row("compute", "operators", "OK", f"{found.reason}; {targets}")
    status = "WARN" if "cannot be used" in found.reason else "off"
    text = f"sampling runs in torch: {found.reason}"
    return Row("compute", "operators", status, text, found.remedy)


def _child_error(code: str, **environment: str) -> str:
    """Run ``code`` in a fresh interpreter; return its last line of complaint, or ``""``."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_PROBE_S:.0f} s"
    if done.returncode == 0:
        return ""
    return _last_line(done.stderr) or f"exit code {done.returncode}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
