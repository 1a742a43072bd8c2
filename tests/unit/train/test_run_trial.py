"""A trial through its real entry point on one process: it learns, ends, and can be interrupted anywhere."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from local_host import LocalHost

from vqscale.errors import CorpusError
from vqscale.results.metrics_rows import Row, read_rows
from vqscale.study.spec import RunOptions
from vqscale.study.trial import Trial
from vqscale.train import checkpoint
from vqscale.train.ceiling import matmul_ceiling
from vqscale.train.checkpoint_files import discard_checkpoints
from vqscale.train.trial import TrialOutcome, run_trial

OPTIONS = RunOptions(log_every=2, checkpoint_every=4)


class InterruptedTrialError(Exception):
    """In place of a SIGKILL in the middle of a trial."""


@dataclasses.dataclass
class BreakingHost(LocalHost):
    break_after: int = 0

    def publish(self, row: Row) -> bool:
        super().publish(row)
        if row["step"] >= self.break_after:
            raise InterruptedTrialError
        return False


@dataclasses.dataclass
class StoppingHost(LocalHost):
    stop_from: int = 6

    def publish(self, row: Row) -> bool:
        super().publish(row)
        return row["step"] >= self.stop_from


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def run(trial: Trial, folder: Path, host: LocalHost | None = None) -> TrialOutcome:
    return run_trial(trial, str(folder), OPTIONS, host or LocalHost(device=torch.device("cpu")))


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("arch", ["transformer_vq", "transformer_full", "transformer"])
def test_trial_learns_and_leaves_its_outputs(arch: str, make_trial: Any, tmp_path: Path) -> None:
    outcome = run(make_trial(arch), tmp_path)
    rows = read_rows(str(tmp_path))
    assert outcome.status == "finished"
    assert outcome.step == 12
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert outcome.held_out is not None
    assert outcome.held_out.nats < rows[0]["loss"] - 0.5
    assert outcome.backend == ("blockwise" if arch == "transformer_vq" else None)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    assert len(checkpoint.complete(str(tmp_path / "checkpoints"))) == 2
    discard_checkpoints(outcome.status, str(tmp_path))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"segment": 16},
        {"accumulation": 2, "segment": 32},
        {"engine": "deepspeed", "zero": 2, "segment": 16},
        {"engine": "deepspeed", "zero": 0},
        {"engine": "deepspeed", "zero": 3},
    ],
    ids=str,
)
def test_trial_interrupted_and_continued_is_bitwise_the_uninterrupted_one(
    settings: dict[str, Any], make_trial: Any, tmp_path: Path, process_group: None
) -> None:
    trial = make_trial(**settings, model={"dropout_residual": 0.2, "dropout_layer": 0.1})
    whole = run(trial, tmp_path / "whole")
    with pytest.raises(InterruptedTrialError):
        run(trial, tmp_path / "cut", BreakingHost(device=torch.device("cpu"), break_after=6))
    continued = run(trial, tmp_path / "cut")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert continued.held_out == whole.held_out
    losses = [[row["loss"] for row in read_rows(str(tmp_path / name))] for name in ("whole", "cut")]
    assert losses[0] == losses[1]


def test_trial_started_at_is_that_of_the_attempt_it_continues(
    make_trial: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for now, break_after in (("lost", 1), ("kept", 6), ("last", 10)):
        monkeypatch.setattr("vqscale.train.trial.utc_now", lambda now=now: now)
        with pytest.raises(InterruptedTrialError):
            run(make_trial(), tmp_path, BreakingHost(device=torch.device("cpu"), break_after=break_after))
    assert run(make_trial(), tmp_path).started_at == "kept"


def test_trial_leaves_nothing_for_the_next_one_in_its_process(make_trial: Any, tmp_path: Path) -> None:
    trial = make_trial(segment=16, model={"dropout_residual": 0.2})
    matmul_ceiling.cache_clear()  # as in a fresh process: what is measured once must not draw from the generator
    run(trial, tmp_path / "alone")
    run(make_trial("transformer", seed=5), tmp_path / "other")
    run(trial, tmp_path / "after")
    assert same(weights(tmp_path / "alone"), weights(tmp_path / "after"))


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_engines_give_the_same_losses(zero: int, make_trial: Any, tmp_path: Path, process_group: None) -> None:
    plain, deepspeed = make_trial(accumulation=2), make_trial(accumulation=2, engine="deepspeed", zero=zero)
    left, right = run(plain, tmp_path / "plain"), run(deepspeed, tmp_path / "deepspeed")
    rows = [read_rows(str(tmp_path / name)) for name in ("plain", "deepspeed")]
    for a, b in zip(*rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)
    assert left.held_out is not None
    assert right.held_out is not None
    assert left.held_out.nats == pytest.approx(right.held_out.nats, abs=1e-5)


def test_trial_in_bfloat16_learns_and_keeps_codebooks_in_float32(make_trial: Any, tmp_path: Path) -> None:
    outcome = run(make_trial(precision="bf16"), tmp_path)
    assert outcome.status == "finished"
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path).values())


def test_trial_with_activation_checkpointing_is_the_same_trial(make_trial: Any, tmp_path: Path) -> None:
    for name, flag in (("with", True), ("without", False)):
        run(make_trial(activation_checkpointing=flag), tmp_path / name)
    left, right = weights(tmp_path / "with"), weights(tmp_path / "without")
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name])


@pytest.mark.parametrize(("lr", "message"), [(1e6, "nothing is learned"), (3.0, "three times where it began")])
def test_trial_that_breaks_ends_as_diverged_with_its_last_checkpoint(
    lr: float, message: str, make_trial: Any, tmp_path: Path
) -> None:
    # Without clipping and warm-up such a rate destroys the weights at once; the first checkpoint is whole.
    trial = make_trial("transformer", clip=None, warmup=0.0)
    trial = trial.model_copy(update={"train": trial.train.model_copy(update={"lr": lr})})  # beyond what a study may say
    host = LocalHost(device=torch.device("cpu"))
    outcome = run_trial(trial, str(tmp_path), RunOptions(log_every=1, checkpoint_every=1), host)
    assert outcome.status == "diverged"
    assert outcome.error is not None
    assert message in outcome.error
    assert outcome.held_out is None
    assert len(checkpoint.complete(str(tmp_path / "checkpoints"))) >= 1
    assert not (tmp_path / "model.safetensors").exists()


def test_trial_asked_to_stop_is_evaluated_where_it_stopped(make_trial: Any, tmp_path: Path) -> None:
    outcome = run(make_trial(), tmp_path, StoppingHost(device=torch.device("cpu")))
    assert (outcome.status, outcome.step) == ("stopped", 6)
    assert outcome.held_out is not None


def test_trial_says_what_it_does_before_its_first_row_and_after_its_last(make_trial: Any, tmp_path: Path) -> None:
    cut, continued = BreakingHost(device=torch.device("cpu"), break_after=10), LocalHost(device=torch.device("cpu"))
    with pytest.raises(InterruptedTrialError):
        run(make_trial(), tmp_path, cut)
    run(make_trial(), tmp_path, continued)
    assert cut.phases == ["loading", "first updates"]
    assert continued.phases == ["loading", "resumed at 8", "evaluating"]


def test_trial_asked_to_stop_after_its_last_update_has_finished(make_trial: Any, tmp_path: Path) -> None:
    trial = make_trial()
    host = StoppingHost(device=torch.device("cpu"), stop_from=trial.train.steps)
    outcome = run(trial, tmp_path, host)
    assert (outcome.status, outcome.step) == ("finished", trial.train.steps)


def test_trial_passes_over_a_damaged_checkpoint_with_a_warning(make_trial: Any, tmp_path: Path) -> None:
    trial = make_trial()
    whole = run(trial, tmp_path / "whole")
    with pytest.raises(InterruptedTrialError):
        run(trial, tmp_path / "cut", BreakingHost(device=torch.device("cpu"), break_after=10))
    newest = Path(checkpoint.complete(str(tmp_path / "cut" / "checkpoints"))[0])
    damaged = newest / "engine.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    host = LocalHost(device=torch.device("cpu"))
    continued = run(trial, tmp_path / "cut", host)
    assert len(host.warnings) == 1
    assert "sha256" in host.warnings[0]
    assert continued.held_out == whole.held_out


def test_trial_ignores_a_checkpoint_without_its_manifest(make_trial: Any, tmp_path: Path) -> None:
    trial = make_trial()
    with pytest.raises(InterruptedTrialError):
        run(trial, tmp_path, BreakingHost(device=torch.device("cpu"), break_after=6))
    (newest,) = checkpoint.complete(str(tmp_path / "checkpoints"))
    (Path(newest) / checkpoint.CHECKPOINT_MANIFEST).unlink()
    assert checkpoint.complete(str(tmp_path / "checkpoints")) == []
    assert run(trial, tmp_path).status == "finished"


def test_trial_resumes_from_a_checkpoint_that_lacks_what_was_added_later(make_trial: Any, tmp_path: Path) -> None:
    trial = make_trial(model={"dropout_residual": 0.2})
    whole = run(trial, tmp_path / "whole")
    with pytest.raises(InterruptedTrialError):
        run(trial, tmp_path / "cut", BreakingHost(device=torch.device("cpu"), break_after=6))
    (uri,) = checkpoint.complete(str(tmp_path / "cut" / "checkpoints"))
    rank = Path(uri) / "rank-00000.pt"
    extra = torch.load(rank, weights_only=True)
    torch.save({name: value for name, value in extra.items() if name != "started_at"}, rank)
    manifest = json.loads((Path(uri) / checkpoint.CHECKPOINT_MANIFEST).read_text())
    del manifest["progress"]["shared_steps"]
    (record,) = (file for file in manifest["files"] if file["name"] == rank.name)
    record |= {"size": rank.stat().st_size, "sha256": checkpoint.sha256_file(rank)}
    (Path(uri) / checkpoint.CHECKPOINT_MANIFEST).write_text(json.dumps(manifest))
    host = LocalHost(device=torch.device("cpu"))
    continued = run(trial, tmp_path / "cut", host)
    assert host.warnings == []
    assert host.rows[0]["step"] == 6
    assert (continued.held_out, continued.shared_steps) == (whole.held_out, 0)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_trial_on_another_corpus_than_planned_is_refused(make_trial: Any, tmp_path: Path) -> None:
    trial = make_trial().model_copy(update={"corpus_fingerprint": "0" * 64})
    with pytest.raises(CorpusError, match="Plan the study again"):
        run(trial, tmp_path)


def test_trial_rows_are_plain_json(make_trial: Any, tmp_path: Path) -> None:
    run(make_trial(), tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(lines[-1])
    assert {"loss", "bpb", "lr", "gradient_norm", "tokens_per_second", "flops_share", "codebook/perplexity"} <= set(row)
    assert all(isinstance(value, float | int) for value in row.values())
