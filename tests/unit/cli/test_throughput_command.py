"""A throughput study through the real entry point: planned, run, run again, reported; refused where it does not fit."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from vqscale.cli.main import main

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `vqscale ...` in this process; returns the exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vqscale", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        out = capsys.readouterr()
        return (0 if caught.value.code is None else int(caught.value.code)), out.out, out.err

    return run


@pytest.fixture
def study_file(tmp_path: Path) -> Callable[..., str]:
    def write(**changes: object) -> str:
        values = {
            "kind": "throughput",
            "study": "speed",
            "cell": {"preset": "pico", "batch": 1, "codebook_size": 16, "block_length": 16},
            "sweep": [{"arch": ["transformer_vq", "transformer"], "context": [32]}],
            "repeats": 1,
            "seconds_per_repeat": 0.001,
            "threads": 1,
            "storage": str(tmp_path / "runs"),
            "tracking": {"uri": f"sqlite:///{tmp_path}/runs/mlflow.db"},
        }
        path = tmp_path / "speed.yaml"
        path.write_text(yaml.safe_dump(values | changes))
        return str(path)

    return write


def test_throughput_study_is_planned_run_once_and_reported(
    call: Call, study_file: Callable[..., str], tmp_path: Path
) -> None:
    path = study_file()
    code, out, _ = call("plan", path, "--json")
    assert code == 0
    assert [cell["state"] for cell in json.loads(out)["cells"]] == ["pending", "pending"]
    assert not (tmp_path / "runs").exists()

    code, out, err = call("run", path, "--json")
    assert (code, json.loads(out)["measured_now"]) == (0, 2), err
    code, out, err = call("throughput", path)
    assert code == 0, err
    words = " ".join(out.split())
    assert "Nothing was measured now: this was measured with commit" in words
    assert "(the same as now). --again measures once more." in words
    _, out, _ = call("plan", path)
    assert out.count("measured") == 2

    folder = tmp_path / "runs" / "speed"
    (folder / "report.html").unlink()
    code, out, _ = call("report", str(folder), "--json")
    assert (code, json.loads(out)[-1]) == (0, str(folder / "report.html"))


def test_planned_cells_of_swept_settings_can_be_told_apart(call: Call, study_file: Callable[..., str]) -> None:
    vq = {"arch": ["transformer_vq"], "context": [32], "codebook_size": [16, 32], "block_length": [16, 32]}
    path = study_file(sweep=[vq | {"head": ["shga", "mqa"]}, {"arch": ["transformer"], "context": [32]}], tracking={})
    names = [
        f"Transformer-VQ ({head}, S = {s}, L = {n})" for head in ("shga", "mqa") for s in (16, 32) for n in (16, 32)
    ]
    code, out, err = call("plan", path)
    assert code == 0, err
    for name in names:
        assert name in out


def test_throughput_study_that_cannot_be_measured_exits_with_2_and_writes_nothing(
    call: Call, study_file: Callable[..., str], tmp_path: Path
) -> None:
    path = study_file(sweep=[{"arch": ["transformer_vq"], "context": [40]}])
    for command in ("plan", "run", "throughput"):
        code, _, err = call(command, path)
        assert code == 2
        assert "40 is no multiple of block_length 16" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["autotune", "fit", "submit"])
def test_command_that_trains_refuses_a_throughput_study(
    command: str, call: Call, study_file: Callable[..., str]
) -> None:
    options = ["--address", "http://127.0.0.1:9"] if command == "submit" else []
    code, _, err = call(command, study_file(), *options)
    assert code == 2
    assert "kind: throughput trains nothing" in err
