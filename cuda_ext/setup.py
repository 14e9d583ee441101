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
ABI = 4
"""Has to be ``_ABI`` of ``genpolicy/ops/library.py``: schemas and the layout of programs."""

COMMON = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
# Sums may be contracted to fused multiply-adds; nothing else of IEEE arithmetic is given up.
KERNELS = ["-fopenmp-simd", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
# Sizes and offsets are 64 bits wide: what narrows one is warned of.
KERNELS += ["-Wconversion", "-Wno-sign-conversion", "-Wno-float-conversion"]
AVX512 = ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma"]
INSTRUCTION_SETS = {
    "plain": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": [*AVX512, "-mprefer-vector-width=512"],
    "avx512_bf16": [*AVX512, "-mavx512bf16", "-mprefer-vector-width=512"],
    # Its own instructions are written for the assembler.
    "amx_bf16": [*AVX512, "-mavx512bf16", "-mprefer-vector-width=512"],
}
# Ampere, Hopper, Blackwell; later devices compile the PTX of the newest of these when they load.
CUDA_ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# What is contracted on the device is written as such, so that every kernel rounds alike.
CUDA = ["-std=c++17", "-O3", "-fmad=false", "-Werror", "all-warnings", "--threads", "0"]
CUDA_HOST = ["-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"]
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


def find_nvcc() -> str | None:
    """Return nvcc where kernels are to be built with it, as ``GENPOLICY_CUDA`` says."""
    mode = os.environ.get("GENPOLICY_CUDA", "auto")
    if mode not in ("auto", "0", "1"):
        raise SystemExit(f"genpolicy_ext: GENPOLICY_CUDA is {mode!r}; expected auto, 0 or 1")
    if mode == "0":
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = shutil.which("nvcc", path=str(Path(home) / "bin")) if home else None
    found = found or shutil.which("nvcc")
    if found is None and mode == "1":
        raise SystemExit(
            "genpolicy_ext: GENPOLICY_CUDA=1, but there is no nvcc "
            f"(CUDA_HOME is {home or 'not set'}, and none is on PATH); install the CUDA toolkit "
            "12.0 or newer and set CUDA_HOME to its folder, or build with GENPOLICY_CUDA=auto"
        )
    if found is None:
        print(
            "genpolicy_ext: no nvcc found (CUDA_HOME, PATH): building for the CPU", file=sys.stderr
        )
    return found


def architectures_of(nvcc: str) -> tuple[str, ...]:
    """Return those of the architectures that this nvcc compiles for."""
    done = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True)
    known = done.stdout.split()
    found = tuple(name for name in CUDA_ARCHITECTURES if name in known)
    if not found:
        raise SystemExit(
            f"genpolicy_ext: {nvcc} compiles for none of {', '.join(CUDA_ARCHITECTURES)}; "
            "install the CUDA toolkit 12.0 or newer"
        )
    return found


def code_flags(architectures: tuple[str, ...]) -> list[str]:
    """Return nvcc's flags for binaries of all architectures, and PTX of the newest."""
    numbers = [name.removeprefix("sm_") for name in architectures]
    flags = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in numbers]
    return [*flags, f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}"]


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
        nvcc = find_nvcc()
        architectures = architectures_of(nvcc) if nvcc else ()
        binding = [*COMMON, TORCH_TARGET, f"-isystem{folder / 'include'}"]
        jobs = [
            [*binding, str(SOURCES / "ops.cpp")],
            [*binding, *["-DGENPOLICY_WITH_CUDA"] * bool(nvcc), str(SOURCES / "step_ops.cpp")],
            [*COMMON, str(SOURCES / "cpu" / "dispatch.cpp")],
        ]
        on_x86 = platform.machine() in ("x86_64", "AMD64")
        for name, flags in INSTRUCTION_SETS.items():
            if name == "plain" or on_x86:
                source = str(SOURCES / "cpu" / f"isa_{name}.cpp")
                jobs.append([*COMMON, *KERNELS, *flags, source])
        commands = [[compiler, *job[:-1], "-c", job[-1]] for job in jobs]
        linker = [compiler, "-shared", "-Wl,--no-as-needed"]
        if nvcc:
            commands.append([compiler, *binding, "-c", str(SOURCES / "cuda_ops.cpp")])
            flags = [*CUDA, *CUDA_HOST, "-ccbin", compiler, *code_flags(architectures)]
            commands += [[nvcc, *flags, "-c", str(p)] for p in sorted(SOURCES.glob("cuda/*.cu"))]
            # The static runtime loads the driver when it is first asked for a device: the library
            # loads where there is none. libtorch is kept, though of its symbols only the weak one
            # of cuda_ops.cpp is used.
            linker = [nvcc, "-shared", "-cudart", "static", "-ccbin", compiler]
            linker += ["-Xlinker", "--no-as-needed"]
        made = [objects / (Path(command[-1]).stem + ".o") for command in commands]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(run, [[*c, "-o", str(to)] for c, to in zip(commands, made, strict=True)]))
        library = target / "libgenpolicy_ext.so"
        links = [f"-L{folder / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
        run([*linker, *map(str, made), *links, "-o", str(library)])
        self.write_facts(target, architectures)

    def write_facts(self, target: Path, architectures: tuple[str, ...]) -> None:
        """Write what was built, for ``genpolicy doctor``."""
        import torch

        (target / "_build.py").write_text(
            '"""What was built; written by setup.py."""\n\n'
            f"ABI = {ABI}\n"
            f"BUILT_WITH_TORCH = {torch.__version__!r}\n"
            f"CUDA_ARCHITECTURES: tuple[str, ...] = {architectures!r}\n",
            encoding="utf-8",
        )


setup(
    ext_modules=[Extension("genpolicy_ext.libgenpolicy_ext", sources=[])],
    cmdclass={"build_ext": Build},
)
