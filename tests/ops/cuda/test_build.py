"""What setup.py builds of CUDA, and that it loads where there is no device."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import setuptools
import torch

from tests.ops.cuda.emulation import SOURCES, built, compiler

EXTENSION = SOURCES.parent

LOADED = """
import sys, torch
import genpolicy.ops.library
torch.ops.load_library(sys.argv[1])
has = torch._C._dispatch_has_kernel_for_dispatch_key
assert has("genpolicy::mlp_sample", "CUDA")
assert has("genpolicy::row_noise", "CUDA")
"""

ANSWERS = """
import ctypes
from genpolicy.ops import mlp_reference
seeds = torch.arange(3)
ours = torch.ops.genpolicy.row_noise(seeds, 5, 1, 0)
torch.testing.assert_close(ours, mlp_reference.row_noise(seeds, 5, 1, 0))
if not torch.cuda.is_available():
    library = ctypes.CDLL(sys.argv[1])
    library.genpolicy_cuda_error_name.restype = ctypes.c_char_p
    at = ctypes.c_void_p(seeds.data_ptr())
    n = ctypes.c_int64(1)
    error = library.genpolicy_cuda_row_noise(at, n, n, 0, 0, at, 0, None)
    name = library.genpolicy_cuda_error_name(error).decode()
    assert name in ("cudaErrorInsufficientDriver", "cudaErrorNoDevice"), name
"""


@pytest.fixture
def setup_py(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    return runpy.run_path(str(EXTENSION / "setup.py"))


@pytest.fixture
def no_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))


@pytest.mark.usefixtures("no_nvcc")
def test_without_nvcc(
    setup_py: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENPOLICY_CUDA", "1")
    with pytest.raises(SystemExit, match=r"there is no nvcc .*install the CUDA toolkit"):
        setup_py["find_nvcc"]()
    monkeypatch.setenv("GENPOLICY_CUDA", "auto")
    assert setup_py["find_nvcc"]() is None
    assert "building for the CPU" in capfd.readouterr().err
    monkeypatch.setenv("GENPOLICY_CUDA", "yes")
    with pytest.raises(SystemExit, match="'yes'; expected auto, 0 or 1"):
        setup_py["find_nvcc"]()


def test_nvcc_is_looked_for_in_cuda_home_first(
    setup_py: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bin" / "nvcc"
    fake.parent.mkdir()
    # An nvcc of the year before Blackwell.
    fake.write_text("#!/bin/sh\necho sm_75 sm_80 sm_86 sm_90\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("GENPOLICY_CUDA", "0")
    assert setup_py["find_nvcc"]() is None
    monkeypatch.setenv("GENPOLICY_CUDA", "auto")
    assert setup_py["find_nvcc"]() == str(fake)
    assert setup_py["architectures_of"](str(fake)) == ("sm_80", "sm_90")
    assert setup_py["code_flags"](("sm_80", "sm_90")) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    fake.write_text("#!/bin/sh\necho sm_75\n")
    with pytest.raises(SystemExit, match="compiles for none of sm_80"):
        setup_py["architectures_of"](str(fake))


def test_the_binding_needs_no_cuda_header_and_loads_without_a_device(tmp_path: Path) -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler; set CXX or install g++")
    kernels = built("libemulated.so", "-fPIC", "-shared")
    torch_folder = Path(torch.__file__).parent
    library = tmp_path / "libbinding.so"
    flags = ["-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    flags += ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-isystem{torch_folder / 'include'}"]
    links = [f"-L{torch_folder / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10", str(kernels)]
    command = [str(compiler()), *flags, str(SOURCES / "cuda_ops.cpp"), *links, "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(library)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_build_with_nvcc_loads_without_a_device(
    setup_py: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GENPOLICY_CUDA", "auto")
    nvcc = setup_py["find_nvcc"]()
    if nvcc is None:
        pytest.skip("there is no nvcc (CUDA_HOME, PATH)")
    folders = [f"--build-lib={tmp_path / 'lib'}", f"--build-temp={tmp_path / 'temp'}"]
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", *folders],
        cwd=EXTENSION,
        env={**os.environ, "GENPOLICY_CUDA": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    package = tmp_path / "lib" / "genpolicy_ext"
    facts = runpy.run_path(str(package / "_build.py"))
    assert facts["CUDA_ARCHITECTURES"] == setup_py["architectures_of"](nvcc)
    done = subprocess.run(
        [sys.executable, "-c", LOADED + ANSWERS, str(package / "libgenpolicy_ext.so")],
        env={**os.environ, "GENPOLICY_EXT": "off"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def wheel_of(folder: Path, *options: str) -> Path:
    """Return a wheel for the CPU, built by pip."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *options]
    done = subprocess.run(
        [*command, "-w", str(folder), str(EXTENSION)],
        env={**os.environ, "GENPOLICY_CUDA": "0"},
        capture_output=True,
        text=True,
    )
    if done.returncode and ("No matching distribution" in done.stderr or "index" in done.stderr):
        pytest.skip("an isolated build needs a package index")
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("genpolicy_ext-*.whl")
    return wheel


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--no-build-isolation",), ()], ids=["here", "isolated"])
def test_a_wheel_for_the_cpu_answers_from_anywhere(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    if compiler() is None:
        pytest.skip("no C++ compiler; set CXX or install g++")
    wheel = wheel_of(tmp_path, *options)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "there")
    assert {"genpolicy_ext/libgenpolicy_ext.so", "genpolicy_ext/_build.py"} <= names
    assert not any(name.endswith((".cpp", ".cu", ".h")) for name in names)
    assert "none-any" not in wheel.name
    script = (
        "import torch\nfrom genpolicy.ops import backend, mlp_reference\nnow = backend()\n"
        "assert now.name == 'compiled' and now.cuda == (), now\n"
        "import genpolicy_ext\nassert 'there' in genpolicy_ext.__file__\n"
        "seeds = torch.arange(3)\nours = torch.ops.genpolicy.row_noise(seeds, 5, 1, 0)\n"
        "torch.testing.assert_close(ours, mlp_reference.row_noise(seeds, 5, 1, 0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "there"), "GENPOLICY_EXT": "require"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
