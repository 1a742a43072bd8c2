"""The GPU command from end to end, at tiny sizes in Triton's interpreter."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_gpu_check_smoke_verifies_measures_and_writes_everything(tmp_path):
    command = [sys.executable, "-m", "vqkernels.gpu_check", "--smoke", "--processes", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "gpu_check.json").read_text())
    assert written["checks"]
    assert all(check["passed"] for check in written["checks"])
    assert {row["pass"] for row in written["layers"] if row["status"] == "ok"} == {"fwd", "fwd+bwd"}
    assert all(row["status"] == "ok" for row in written["layers"] if row["contender"] == "vq (triton)")
    assert {row["status"] for row in written["decode"]} == {"ok"}
    assert "interpreter" in written["about"]["device"]
    names = {path.name for path in tmp_path.iterdir()}
    assert {"gpu_check.md", "gpu_check_checks.csv", "gpu_check_layers.csv", "gpu_check_decode.csv"} <= names
