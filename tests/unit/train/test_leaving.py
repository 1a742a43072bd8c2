"""A trial that is told to leave loses nothing, wherever it is; checkpoints are due by time, too."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from local_host import LocalHost

from vqscale.errors import StudyInterruptedError
from vqscale.results.metrics_rows import read_rows
from vqscale.study.spec import RunOptions
from vqscale.study.trial import Trial
from vqscale.train import checkpoint, checkpointing
from vqscale.train.pulse import Pulse
from vqscale.train.trial import TrialOutcome, run_trial

OPTIONS = RunOptions(log_every=5, checkpoint_every=1000)
"""Rows at 5, 10 and 12 of twelve updates; no checkpoint by their number."""


def host(**options: Any) -> LocalHost:
    return LocalHost(device=torch.device("cpu"), **options)


def run(trial: Trial, folder: Path, on: LocalHost | None = None, options: RunOptions = OPTIONS) -> TrialOutcome:
    return run_trial(trial, str(folder), options, on or host())


def steps(folder: Path) -> list[str]:
    return [uri[-2:] for uri in checkpoint.complete(str(folder / "checkpoints"))]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def measured(folder: Path) -> list[tuple[float, ...]]:
    names = ("step", "loss", "commit", "gradient_norm", "lr", "codebook/perplexity", "codebook/revived")
    return [tuple(row[name] for name in names) for row in read_rows(str(folder))]


@pytest.mark.parametrize("settings", [{}, {"segment": 16}, {"engine": "deepspeed", "zero": 2}], ids=str)
@pytest.mark.parametrize("cuts", [(1,), (7,), (3, 4, 4), (5, 5)], ids=str)
def test_trial_that_leaves_between_rows_and_resumes_is_bitwise_the_one_that_stayed(
    settings: dict[str, Any], cuts: tuple[int, ...], make_trial: Any, tmp_path: Path, process_group: None
) -> None:
    reviving = {"codebook_size": 64, "codebook_decay": 0.5, "revive_below": 0.9}  # codes in every update
    trial = make_trial(**settings, model={"dropout_residual": 0.2} | reviving)
    whole = run(trial, tmp_path / "whole")
    assert whole.revived > 0
    at = 0
    for updates in cuts:
        with pytest.raises(StudyInterruptedError):
            run(trial, tmp_path / "cut", host(leave_after=updates))
        at += updates
        assert steps(tmp_path / "cut")[0] == f"{at:02d}"
    resumed = run(trial, tmp_path / "cut")
    left, right = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert resumed.held_out == whole.held_out
    assert measured(tmp_path / "cut") == measured(tmp_path / "whole")


def test_trial_that_leaves_after_its_last_update_only_evaluates_when_resumed(make_trial: Any, tmp_path: Path) -> None:
    whole = run(make_trial(), tmp_path / "whole")
    with pytest.raises(StudyInterruptedError):
        run(make_trial(), tmp_path / "cut", host(leave_after=12))
    resumed_on = host()
    resumed = run(make_trial(), tmp_path / "cut", resumed_on)
    assert resumed_on.rows == []
    assert (resumed.status, resumed.step, resumed.held_out) == ("finished", 12, whole.held_out)
    assert resumed.seconds_training > 0


def test_trial_says_while_it_has_updates_that_no_checkpoint_holds(make_trial: Any, tmp_path: Path) -> None:
    seen: list[bool] = []

    class Watching(LocalHost):
        def leaving(self) -> bool:
            seen.append(self.unsaved)
            return False

        def checkpointed(self, uri: str, step: int) -> None:
            assert self.unsaved, "until the checkpoint is whole"

    on = Watching(device=torch.device("cpu"))
    run(make_trial(), tmp_path, on, RunOptions(log_every=2, checkpoint_every=4))
    assert seen == [True] * 12
    assert not on.unsaved


@pytest.mark.parametrize(
    ("seconds", "last", "expected"),
    [(0.3, 10.0, ["12", "08"]), (1000.0, 0.05, ["12"]), (1000.0, 10.0, [])],
    ids=["by time", "before the evaluation", "too soon"],
)
def test_checkpoints_are_due_by_time(
    seconds: float, last: float, expected: list[str], make_trial: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    class Ticking(LocalHost):
        def leaving(self) -> bool:  # asked once an update
            nonlocal now
            now += 0.11
            return False

    monkeypatch.setattr(checkpointing, "time", Clock)
    monkeypatch.setattr(checkpointing, "LAST_SECONDS", last)
    options = OPTIONS.model_copy(update={"checkpoint_seconds": seconds})
    run(make_trial(), tmp_path, Ticking(device=torch.device("cpu")), options)
    assert steps(tmp_path) == expected


def test_checkpoints_that_take_long_are_written_more_rarely(make_trial: Any, tmp_path: Path) -> None:
    own = checkpointing.Checkpointing(make_trial(), None, str(tmp_path), OPTIONS, host(), None)  # type: ignore[arg-type]
    own._saved_at -= 90.0
    assert own.overdue(3)
    own._save_seconds = 10.0  # 5 % of the time: 200 s
    assert not own.overdue(3)
    own._saved_at -= 120.0
    assert own.overdue(3)


def test_one_worker_may_leave_after_any_update_and_several_agree_about_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pulse = Pulse(host())
    assert all(pulse.due(step) for step in range(1, 5))
    several = Pulse(host(world=2))
    several._last_time -= 0.1  # ten updates took a tenth of a second
    several.agree(10, stop=False, save=False)
    assert not several.due(50)
    assert several.due(111)


def leave_on_two_ranks(rank: int, trial: Trial, folder: str, leave_after: int | None) -> Any:
    on = LocalHost(device=torch.device("cpu"), rank=rank, world=2, leave_after=leave_after if rank == 0 else None)
    try:
        outcome = run_trial(trial, folder, OPTIONS, on)
    except StudyInterruptedError:
        return "left"
    return pickle.loads(pickle.dumps(outcome.held_out))


def test_ranks_leave_together_when_the_first_is_told(make_trial: Any, tmp_path: Path, two_ranks: Any) -> None:
    trial = make_trial(engine="deepspeed", zero=1)
    whole, _ = two_ranks.run(leave_on_two_ranks, trial, str(tmp_path / "whole"), None)
    assert two_ranks.run(leave_on_two_ranks, trial, str(tmp_path / "cut"), 2) == ["left", "left"]
    assert len(steps(tmp_path / "cut")) == 1
    resumed, _ = two_ranks.run(leave_on_two_ranks, trial, str(tmp_path / "cut"), None)
    assert resumed == whole
