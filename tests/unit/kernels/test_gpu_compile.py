"""Ahead-of-time compilation without a GPU, and the committed table of what every kernel takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vqkernels.gpu import compile_check
from vqkernels.gpu.compile_check import Row

DOCS = Path(__file__).parents[3] / "docs" / "benchmarks"

# Kernels compile where the interpreter is off, so in a process of their own.
CROSS_SECTION = """
from vqkernels.gpu.compile_cases import cases
from vqkernels.gpu.compile_check import compiled, requests
first = [next(iter(cases()))]
for target in (80, 90, 100):
    wanted = [one for one in requests(first, [target]) if one.kernel == "segment_sum_kernel" and one.config.bits == 16]
    row = compiled(wanted[-1])
    print(target, row.instruction, row.stack, row.registers > 0, row.shared > 0, row.problem)
"""


def test_compilation_of_a_cross_section_uses_tensor_cores_and_spills_nothing():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", CROSS_SECTION], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line.strip() for line in done.stdout.splitlines()] == [
        "80 mma.sync 0 True True",
        "90 wgmma 0 True True",
        "100 tcgen05.mma 0 True True",
    ]


def test_compilation_refuses_the_interpreter(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit, match="TRITON_INTERPRET"):
        compile_check.main(["--out", str(tmp_path)])


def test_committed_table_holds_every_kernel_and_configuration_in_the_code():
    table = {(row["kernel"], int(row["target"]), int(row["bits"]), row["config"]) for row in compile_check.read(DOCS)}
    assert table == compile_check.expected(), "run python -m vqkernels.gpu.compile_check and commit its table"


def test_committed_table_passes():
    assert [row for row in compile_check.read(DOCS) if row["problem"] or row["stack"] != "0"] == []


def test_table_written_and_read_keeps_rows_and_shows_the_largest(tmp_path):
    rows = [
        Row("a_kernel", 90, 16, "BM=16 warps=4 stages=1", "small", 40, 0, 1024, "wgmma"),
        Row("a_kernel", 90, 16, "BM=16 warps=4 stages=1", "large", 90, 8, 512, "wgmma", "spills: 8 bytes of stack"),
    ]
    compile_check.write(rows, tmp_path, "the command")
    assert [row["case"] for row in compile_check.read(tmp_path)] == ["small", "large"]
    text = (tmp_path / "kernel_resources.md").read_text()
    assert "| a | 16 bits | BM=16 warps=4 stages=1 | sm_90 | 2 | 90 | 8 | 1024 | wgmma | spills: 8 bytes" in text
