"""What ptxas says of the kernels: no warnings, no spills, no more registers than 2 blocks have."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import NamedTuple

import pytest

from tests.ops.cuda.emulation import SOURCES

MOST_REGISTERS = {
    # 2 blocks of 256 threads in the 65,536 registers of a multiprocessor
    "sample_kernel": 128,
    "grid_kernel": 128,
    # 4 and more of them
    "noise_kernel": 64,
    "step_kernel": 64,
}
N_KERNELS = {"mlp_sample.cu": 9, "grid_sample.cu": 4, "row_noise.cu": 1, "step.cu": 2}
# Those of setup.py, and reports.
FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-Werror", "all-warnings"]
REPORTS = ["-Xptxas", "-v,-warn-spills"]


NUMBERS = {
    "registers": r"Used (\d+) registers",
    "stack": r"(\d+) bytes stack frame",
    "stores": r"(\d+) bytes spill stores",
    "loads": r"(\d+) bytes spill loads",
    "shared": r"(\d+) bytes smem",
}


class Compiled(NamedTuple):
    """What was made for one architecture, by the names of kernels."""

    reports: dict[str, str]
    listings: dict[str, str]


def nvcc() -> str:
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=f"{home}/bin") if home else None
    found = found or shutil.which("nvcc")
    if found is None:
        pytest.skip("there is no nvcc (CUDA_HOME, PATH)")
    return found


ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """All sources for one architecture: what ptxas reported of each kernel, and its PTX."""
    reports: dict[str, str] = {}
    listings: dict[str, str] = {}
    for source, n_kernels in N_KERNELS.items():
        folder = tmp_path_factory.mktemp("ptxas")
        command = [nvcc(), *FLAGS, *REPORTS, f"-arch={request.param}", "-cubin"]
        command += ["--keep", f"--keep-dir={folder}", str(SOURCES / "cuda" / source)]
        output = ["-o", str(folder / "out.cubin")]
        done = subprocess.run([*command, *output], capture_output=True, text=True)
        text = done.stdout + done.stderr
        assert done.returncode == 0, text
        assert "warning" not in text, text
        parts = re.split(r"Compiling entry function '(\w+)'", text)
        found = dict(zip(parts[1::2], parts[2::2], strict=True))
        assert len(found) == n_kernels
        reports |= found
        (ptx,) = folder.glob("*.ptx")
        for kernel in ptx.read_text().split(".entry ")[1:]:
            listings[kernel.split("(")[0]] = kernel
    assert reports.keys() == listings.keys()
    return Compiled(reports, listings)


def test_registers_fit_and_nothing_is_spilled(compiled: Compiled) -> None:
    for name, report in compiled.reports.items():
        numbers = {}
        for key, pattern in NUMBERS.items():
            match = re.search(pattern, report)
            numbers[key] = int(match[1]) if match else 0
        (most,) = (n for kind, n in MOST_REGISTERS.items() if kind in name)
        assert 0 < numbers.pop("registers") <= most, name
        # All shared memory is sized at launch; what lies on a thread's stack is slow.
        assert numbers == {"stack": 0, "stores": 0, "loads": 0, "shared": 0}, name
        assert "spill stores" in report, report


def test_hot_loops_load_vectors_and_know_where_memory_is(compiled: Compiled) -> None:
    for name, kernel in compiled.listings.items():
        # An access that names no space is found out for each address when it runs.
        assert not re.findall(r"\b(?:ld|st)\.(?:local|v[24]|[fub]\d+)", kernel), name
        variant = re.search(r"(sample|grid)_kernelILi\d+ELb(\d)E(?:Lb(\d)E)?", name)
        if variant is None:
            continue
        # Blocks that work together bring their inputs to shared memory with the weights.
        is_shared = variant[1] == "grid" or variant[3] == "1"
        space = "shared" if is_shared else "global"
        if variant[2] == "1":
            assert "mma.sync.aligned.m16n8k16" in kernel, name
            assert f"ld.{space}.v2.f32" in kernel, name
        else:
            assert len(re.findall(r"fma\.rn\.f32", kernel)) >= 64, name
            assert "ld.shared.v4.f32" in kernel, name
            assert f"ld.{space}.v4.f32" in kernel, name
        assert "cp.async.cg.shared.global" in kernel, name
