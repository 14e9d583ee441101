"""What ptxas says of the kernels: no warnings, no spills, no more registers than 2 blocks have."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.ops.cuda.emulation import SOURCES

MOST_REGISTERS = {
    # 2 blocks of 256 threads in the 65,536 registers of a multiprocessor
    "sample_kernel": 128,
    # 4 and more of them
    "noise_kernel": 64,
}
N_KERNELS = {"mlp_sample.cu": 9, "row_noise.cu": 1}
FLAGS = [
    "-std=c++17",
    "-O3",
    "-fmad=false",
    "-Werror",
    "all-warnings",
    "-Xptxas",
    "-v,-warn-spills",
]


def nvcc() -> str:
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=f"{home}/bin") if home else None
    found = found or shutil.which("nvcc")
    if found is None:
        pytest.skip("there is no nvcc (CUDA_HOME, PATH)")
    return found


def report(source: str, architecture: str, folder: Path) -> dict[str, dict[str, int]]:
    """Return the registers, spilled bytes, stack and static shared memory of every kernel."""
    command = [nvcc(), *FLAGS, f"-arch={architecture}", "-cubin", str(SOURCES / "cuda" / source)]
    done = subprocess.run(
        [*command, "-o", str(folder / "out.cubin")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    assert "warning" not in text, text
    found: dict[str, dict[str, int]] = {}
    parts = re.split(r"Compiling entry function '(\w+)'", text)
    for name, part in zip(parts[1::2], parts[2::2], strict=True):
        numbers = {
            "registers": r"Used (\d+) registers",
            "stack": r"(\d+) bytes stack frame",
            "stores": r"(\d+) bytes spill stores",
            "loads": r"(\d+) bytes spill loads",
            "shared": r"(\d+) bytes smem",
        }
        matches = {key: re.search(pattern, part) for key, pattern in numbers.items()}
        found[name] = {key: int(match[1]) if match else 0 for key, match in matches.items()}
        assert matches["registers"], part
        assert matches["stores"], part
    return found


def test_hot_loops_load_vectors_and_know_where_memory_is(tmp_path: Path) -> None:
    command = [nvcc(), *FLAGS, "-arch=sm_90", "-ptx", str(SOURCES / "cuda" / "mlp_sample.cu")]
    done = subprocess.run([*command, "-o", str(tmp_path / "out.ptx")], capture_output=True)
    assert done.returncode == 0, done.stderr
    kernels = (tmp_path / "out.ptx").read_text().split(".entry ")[1:]
    assert len(kernels) == N_KERNELS["mlp_sample.cu"]
    for kernel in kernels:
        name = kernel.split("(")[0]
        # An access that names no space is found out for each address when it runs.
        assert not re.findall(r"\b(?:ld|st)\.(?:local|v[24]|[fub]\d+)", kernel), name
        in_bf16, is_shared = re.search(r"ILi\d+ELb(\d)ELb(\d)E", name).groups()
        if in_bf16 == "1":
            assert "mma.sync.aligned.m16n8k16" in kernel, name
            inputs = r"ld\.shared\.v2\.f32" if is_shared == "1" else r"ld\.global\.v2\.f32"
        else:
            assert len(re.findall(r"fma\.rn\.f32", kernel)) >= 100, name
            assert "ld.shared.v4.f32" in kernel, name
            inputs = r"ld\.shared\.v4\.f32" if is_shared == "1" else r"ld\.global\.v4\.f32"
        assert re.search(inputs, kernel), name
        assert "cp.async.cg.shared.global" in kernel, name


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_registers_fit_and_nothing_is_spilled(architecture: str, tmp_path: Path) -> None:
    for source, n_kernels in N_KERNELS.items():
        found = report(source, architecture, tmp_path)
        assert len(found) == n_kernels
        for name, numbers in found.items():
            (most,) = (n for kind, n in MOST_REGISTERS.items() if kind in name)
            assert numbers["registers"] <= most, name
            # All shared memory is sized at launch; what lies on a thread's stack is slow.
            assert {k: v for k, v in numbers.items() if k != "registers"} == {
                "stack": 0, "stores": 0, "loads": 0, "shared": 0,
            }, name  # fmt: skip
