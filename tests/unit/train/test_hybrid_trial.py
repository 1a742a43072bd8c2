"""LongVQ and Mega through the real entry point: they learn, resume bit for bit, and every engine gives the same."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from local_host import LocalHost

from vqscale.results.metrics_rows import Row, read_rows
from vqscale.study.spec import RunOptions
from vqscale.study.trial import Trial
from vqscale.train.trial import TrialOutcome, run_trial

OPTIONS = RunOptions(log_every=2, checkpoint_every=4)
CPU = torch.device("cpu")
SMALL = {"codebook_size": 16, "block_length": 16, "state_dim": 4}
BOTH_WAYS = {"norm": "batch", "causal": False, "state_dim": 4, "attention_function": "laplace"}


class StoppingHost(LocalHost):
    def publish(self, row: Row) -> bool:
        super().publish(row)
        return row["step"] >= 6


def run(trial: Trial, folder: Path, host: type[LocalHost] = LocalHost) -> TrialOutcome:
    return run_trial(trial, str(folder), OPTIONS, host(device=CPU))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.mark.parametrize(("arch", "backend"), [("longvq", "blockwise"), ("mega", None)])
def test_hybrid_trial_learns(arch: str, backend: str | None, make_trial: Any, tmp_path: Path) -> None:
    outcome = run(make_trial(arch, SMALL if arch == "longvq" else {}), tmp_path)
    rows = read_rows(str(tmp_path))
    assert outcome.status == "finished"
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert ("codebook/perplexity" in rows[-1]) == (arch == "longvq")
    assert outcome.backend == backend


@pytest.mark.parametrize("settings", [{"segment": 16}, {"engine": "deepspeed", "zero": 3}], ids=str)
def test_hybrid_trial_stopped_and_continued_is_bitwise_the_uninterrupted_one(
    settings: dict[str, Any], make_trial: Any, tmp_path: Path, process_group: None
) -> None:
    trial = make_trial("longvq", SMALL | {"dropout_residual": 0.2}, **settings)
    whole = run(trial, tmp_path / "whole")
    assert run(trial, tmp_path / "cut", StoppingHost).status == "stopped"
    continued = run(trial, tmp_path / "cut")
    ours, theirs = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert continued.held_out == whole.held_out


def test_engines_give_a_hybrid_the_same_losses(make_trial: Any, tmp_path: Path, process_group: None) -> None:
    for name, settings in (("plain", {}), ("deepspeed", {"engine": "deepspeed", "zero": 3})):
        run(make_trial("longvq", SMALL, accumulation=2, **settings), tmp_path / name)
    rows = [read_rows(str(tmp_path / name)) for name in ("plain", "deepspeed")]
    for a, b in zip(*rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)


def test_hybrid_classifier_with_batch_norm_resumes_with_its_running_statistics(
    make_classifier: Any, tmp_path: Path, process_group: None
) -> None:
    trial = make_classifier("sequence", "longvq", BOTH_WAYS, engine="deepspeed", zero=3)
    whole = run(trial, tmp_path / "whole")
    run(trial, tmp_path / "cut", StoppingHost)
    assert run(trial, tmp_path / "cut").held_out == whole.held_out
    ours, theirs = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert any(name.endswith("norms.0.variance") for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
