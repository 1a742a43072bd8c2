"""Trials with a shared prefix: the longer continues from the shorter's checkpoint, bitwise as it would be alone."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from local_host import LocalHost

from vqscale.results.metrics_rows import Row, read_rows
from vqscale.study.shared_prefix import SharedPrefix, branch_off_step, prefix_folder
from vqscale.study.spec import RunOptions
from vqscale.study.trial import Trial
from vqscale.train import checkpoint
from vqscale.train.trial import TrialOutcome, run_trial

OPTIONS = RunOptions(log_every=3, checkpoint_every=4)
UPDATE = 64 * 8
WSD = {"schedule": "wsd", "warmup_tokens": 2 * UPDATE, "decay": 0.25}
SHORT, LONG = 10, 16
"""Updates; their decays begin at 8 and 12, their last readings before are 6 and 12."""
DROPOUT = {"dropout_residual": 0.2, "dropout_layer": 0.1}
TIMED = ("second", "memory", "flops", "system")
"""Parts of the names of what a row says of the machine."""


class PulledPlugError(Exception):
    """In place of a SIGKILL in the middle of a trial."""


class Plug(LocalHost):
    """Dies at a reading."""

    def __init__(self, step: int) -> None:
        super().__init__(device=torch.device("cpu"))
        self._step = step

    def publish(self, row: Row) -> bool:
        super().publish(row)
        if row["step"] == self._step:
            raise PulledPlugError
        return False


@pytest.fixture
def make_wsd(make_trial: Any) -> Any:
    def make(steps: int, **settings: Any) -> Trial:
        return make_trial(model=DROPOUT, **WSD | {"tokens": UPDATE * steps} | settings)

    return make


def run(trial: Trial, folder: Path, prefixes: Path | None = None, host: LocalHost | None = None) -> TrialOutcome:
    prefix = None if prefixes is None else SharedPrefix(folder=prefix_folder(str(prefixes), trial), keep=True)
    return run_trial(trial, str(folder), OPTIONS, host or LocalHost(device=torch.device("cpu")), prefix)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def learned(folder: Path) -> list[Row]:
    """The rows of a trial without what they say of the machine."""
    rows = read_rows(str(folder))
    return [{key: value for key, value in row.items() if not any(word in key for word in TIMED)} for row in rows]


def assert_same(left: Path, right: Path) -> None:
    assert learned(left) == learned(right)
    ours, theirs = weights(left), weights(right)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def left_by(trial: Trial, prefixes: Path) -> list[str]:
    return [uri.rsplit("/", 1)[-1] for uri in checkpoint.complete(prefix_folder(str(prefixes), trial))]


@pytest.mark.parametrize(
    "settings",
    [
        {"segment": 16},
        {"engine": "deepspeed", "zero": 1},
        {"engine": "deepspeed", "zero": 3},
    ],
    ids=str,
)
def test_longer_trial_continues_from_the_shorter_and_is_bitwise_what_it_would_be_alone(
    settings: dict[str, Any], make_wsd: Any, tmp_path: Path, process_group: None
) -> None:
    short, long = make_wsd(SHORT, **settings), make_wsd(LONG, **settings)
    alone = run(long, tmp_path / "alone")
    run(short, tmp_path / "short alone")
    run(short, tmp_path / "short", tmp_path)
    longer = run(long, tmp_path / "long", tmp_path)
    assert (alone.shared_steps, longer.shared_steps) == (0, 6)
    assert longer.held_out == alone.held_out
    assert longer.revived == alone.revived
    assert_same(tmp_path / "short alone", tmp_path / "short")
    assert_same(tmp_path / "alone", tmp_path / "long")
    assert left_by(long, tmp_path) == ["step-00000012", "step-00000006"]


def test_trial_counts_the_time_of_the_shared_updates_but_not_as_its_own(make_wsd: Any, tmp_path: Path) -> None:
    run(make_wsd(SHORT), tmp_path / "short", tmp_path)
    shared = next(row["seconds"] for row in read_rows(str(tmp_path / "short")) if row["step"] == 6)
    outcome = run(make_wsd(LONG), tmp_path / "long", tmp_path)
    assert outcome.seconds_training_now == pytest.approx(outcome.seconds_training - shared)


def test_trial_that_is_interrupted_still_knows_what_it_shared(make_wsd: Any, tmp_path: Path) -> None:
    run(make_wsd(LONG), tmp_path / "alone")
    run(make_wsd(SHORT), tmp_path / "short", tmp_path)
    with pytest.raises(PulledPlugError):
        run(make_wsd(LONG), tmp_path / "long", tmp_path, Plug(15))
    continued = run(make_wsd(LONG), tmp_path / "long", tmp_path)
    assert continued.shared_steps == 6
    assert_same(tmp_path / "alone", tmp_path / "long")


@pytest.mark.parametrize("lost", ["manifest.json", "engine.pt"])
def test_branch_off_checkpoint_that_is_half_written_is_not_used(lost: str, make_wsd: Any, tmp_path: Path) -> None:
    short, long = make_wsd(SHORT), make_wsd(LONG)
    run(short, tmp_path / "short", tmp_path)
    (Path(prefix_folder(str(tmp_path), short)) / "step-00000006" / lost).unlink()
    outcome = run(long, tmp_path / "long", tmp_path)
    assert (outcome.status, outcome.shared_steps) == ("finished", 0)


def test_trial_killed_while_it_writes_its_branch_off_checkpoint_writes_it_at_the_next_attempt(
    make_wsd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = make_wsd(SHORT)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "CheckpointManifest", PulledPlugError)  # all files lie there, the manifest does not
        with pytest.raises(TypeError):
            run(short, tmp_path / "short", tmp_path)
    assert left_by(short, tmp_path) == []
    run(short, tmp_path / "short", tmp_path)
    assert left_by(short, tmp_path) == ["step-00000006"]


def test_trial_takes_no_branch_off_checkpoint_beyond_its_own_decay(make_wsd: Any, tmp_path: Path) -> None:
    run(make_wsd(LONG), tmp_path / "long", tmp_path)
    assert run(make_wsd(SHORT), tmp_path / "short", tmp_path).shared_steps == 0


def test_trial_prefers_its_own_checkpoint_to_a_shared_prefix(make_wsd: Any, tmp_path: Path) -> None:
    with pytest.raises(PulledPlugError):
        run(make_wsd(LONG), tmp_path / "long", tmp_path, Plug(9))
    run(make_wsd(SHORT), tmp_path / "short", tmp_path)
    assert run(make_wsd(LONG), tmp_path / "long", tmp_path).shared_steps == 0


def test_branch_off_checkpoint_of_another_number_of_workers_is_replaced(make_wsd: Any, tmp_path: Path) -> None:
    short = make_wsd(SHORT)
    run(short, tmp_path / "short", tmp_path)
    manifest = Path(prefix_folder(str(tmp_path), short)) / "step-00000006" / checkpoint.CHECKPOINT_MANIFEST
    manifest.write_text(manifest.read_text().replace('"world": 1', '"world": 2'))
    host = LocalHost(device=torch.device("cpu"))
    assert run(make_wsd(LONG), tmp_path / "long", tmp_path, host).shared_steps == 0
    assert "2 workers" in host.warnings[0]
    run(short, tmp_path / "again", tmp_path)
    assert run(make_wsd(12), tmp_path / "longer", tmp_path).shared_steps == 6


def test_trial_without_a_longer_one_leaves_no_branch_off_checkpoint(make_wsd: Any, tmp_path: Path) -> None:
    short = make_wsd(SHORT)
    prefix = SharedPrefix(folder=prefix_folder(str(tmp_path), short), keep=False)
    run_trial(short, str(tmp_path / "short"), OPTIONS, LocalHost(device=torch.device("cpu")), prefix)
    assert left_by(short, tmp_path) == []


def test_shared_prefix_is_the_same_for_token_budgets_and_decays_with_one_warmup(make_wsd: Any) -> None:
    one = make_wsd(SHORT).shared_prefix
    assert one is not None
    assert {
        make_wsd(LONG).shared_prefix,
        make_wsd(SHORT, decay=0.5).shared_prefix,
        make_wsd(20, warmup_tokens=None, warmup=0.1).shared_prefix,
    } == {one}
    others = [
        make_wsd(SHORT, seed=1),
        make_wsd(SHORT, lr=0.02),
        make_wsd(SHORT, lr_final=0.0),
        make_wsd(SHORT, warmup_tokens=UPDATE),
    ]
    assert one not in {other.shared_prefix for other in others}


def test_cosine_has_no_shared_prefix(make_trial: Any) -> None:
    assert make_trial().shared_prefix is None


def test_branch_off_step_is_the_last_reading_before_the_decay(make_wsd: Any) -> None:
    train = make_wsd(SHORT).train
    assert train.decay_start == 8
    assert [branch_off_step(train, every) for every in (1, 3, 4, 8, 9)] == [8, 6, 8, 8, 0]
