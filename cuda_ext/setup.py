"""Builds the operators with the compiler alone: torch's stable ABI needs nothing but its headers.

GENPOLICY_CUDA=auto|0|1   build CUDA kernels where nvcc is found, never, or fail without it
CXX                       C++ compiler, default g++
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "csrc"
ABI = 2
"""Has to be ``_ABI`` of ``genpolicy/ops/library.py``: schemas and the layout of programs."""

COMMON = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
# Sums may be contracted to fused multiply-adds; nothing else of IEEE arithmetic is given up.
KERNELS = ["-fopenmp-simd", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
AVX512 = ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma"]
INSTRUCTION_SETS = {
    "plain": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": [*AVX512, "-mprefer-vector-width=512"],
    "avx512_bf16": [*AVX512, "-mavx512bf16", "-mprefer-vector-width=512"],
}
# The oldest torch whose stable ABI has what is used: 2.10.
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"


def run(command: list[str]) -> None:
    """Run a compiler; what it prints is shown, and its failure ends the build."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.stdout or done.stderr:
        print(done.stdout + done.stderr, file=sys.stderr)
    if done.returncode:
        raise SystemExit(
            f"genpolicy_ext: failed with exit code {done.returncode}: {' '.join(command)}"
        )


def torch_folder() -> Path:
    """Return torch's folder; reading its version does not need to import it."""
    try:
        import torch
    except ImportError as error:
        raise SystemExit(
            f"genpolicy_ext: torch cannot be imported ({error}); its headers are needed to build: "
            "pip install 'torch>=2.10', then pip install --no-build-isolation ./cuda_ext"
        ) from error
    folder = Path(torch.__file__).parent
    if not (folder / "include" / "torch" / "csrc" / "stable" / "ops.h").is_file():
        raise SystemExit(
            f"genpolicy_ext: torch {torch.__version__} has no stable ABI headers; "
            "install torch 2.10 or newer"
        )
    return folder


class Build(build_ext):
    """Compiles every source with its own flags and links one shared library."""

    def build_extension(self, ext: Extension) -> None:
        """Build the library beside the package's modules."""
        target = Path(self.get_ext_fullpath(ext.name)).parent
        target.mkdir(parents=True, exist_ok=True)
        objects = Path(self.build_temp) / "objects"
        objects.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise SystemExit(
                f"genpolicy_ext: there is no compiler {compiler!r}; install g++ 11 or newer "
                "(apt-get install g++), or set CXX"
            )
        folder = torch_folder()
        jobs = [
            [*COMMON, TORCH_TARGET, f"-isystem{folder / 'include'}", str(SOURCES / "ops.cpp")],
            [*COMMON, str(SOURCES / "cpu" / "dispatch.cpp")],
        ]
        on_x86 = platform.machine() in ("x86_64", "AMD64")
        for name, flags in INSTRUCTION_SETS.items():
            if name == "plain" or on_x86:
                source = str(SOURCES / "cpu" / f"isa_{name}.cpp")
                jobs.append([*COMMON, *KERNELS, *flags, source])
        made = [objects / (Path(job[-1]).stem + ".o") for job in jobs]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            commands = [
                [compiler, *job[:-1], "-c", job[-1], "-o", str(to)]
                for job, to in zip(jobs, made, strict=True)
            ]
            list(pool.map(run, commands))
        library = target / "libgenpolicy_ext.so"
        links = [f"-L{folder / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
        run([compiler, "-shared", *map(str, made), *links, "-o", str(library)])
        self.write_facts(target)

    def write_facts(self, target: Path) -> None:
        """Write what was built, for ``genpolicy doctor``."""
        import torch

        (target / "_build.py").write_text(
            '"""What was built; written by setup.py."""\n\n'
            f"ABI = {ABI}\n"
            f"BUILT_WITH_TORCH = {torch.__version__!r}\n"
            "CUDA_ARCHITECTURES: tuple[str, ...] = ()\n",
            encoding="utf-8",
        )


setup(
    ext_modules=[Extension("genpolicy_ext.libgenpolicy_ext", sources=[])],
    cmdclass={"build_ext": Build},
)
