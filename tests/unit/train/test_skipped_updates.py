"""An update whose gradient is not finite: it leaves no trace, on every engine, and it is counted and reported."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from local_host import LocalHost

from vqscale.data.corpus import open_corpus, open_text
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.errors import StudyInterruptedError
from vqscale.models.build import build
from vqscale.results.metrics_rows import read_rows
from vqscale.study.spec import RunOptions
from vqscale.study.trial import Trial
from vqscale.train import objective
from vqscale.train.engine import Engine, import_deepspeed, open_engine
from vqscale.train.objective import BatchScore, ClassificationObjective, LanguageObjective, Part
from vqscale.train.step import Update, train_step
from vqscale.train.trial import TrialOutcome, run_trial

CPU = torch.device("cpu")
ENGINES: list[dict[str, Any]] = [{"engine": "plain"}, *({"engine": "deepspeed", "zero": zero} for zero in range(4))]
KINDS = ("nan", "inf", "-inf", "overflow", "gradient")
"""What the loss of one micro-batch is multiplied by; overflow: squares beyond float32; gradient: the loss is finite."""


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan")


def spoilt(loss: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "gradient":
        return _BadGradient.apply(loss)  # type: ignore[no-any-return, no-untyped-call]
    return loss * (1e25 if kind == "overflow" else float(kind))


class Updates:
    """Updates of a trial by hand; those of `spoil` have one micro-batch with a bad gradient."""

    def __init__(self, trial: Trial, *, rank: int = 0, world: int = 1) -> None:
        torch.manual_seed(0)
        self.trial = trial
        self.engine: Engine = open_engine(build(trial.model, device=CPU, seed=0), trial.train, world)
        self.engine.module.train()
        host = LocalHost(device=CPU, rank=rank, world=world)
        self.objective = LanguageObjective(open_text(trial.corpus), trial.train, host)
        self.states: list[Any] | None = None

    def run(self, steps: list[int], spoil: str | None = None, *, here: bool = True) -> list[Update]:
        done = []
        for step in steps:
            parts, bad = self.objective.batch(step), []

            def score(logits: torch.Tensor, part: Part, bad: list[Part] = bad) -> BatchScore:
                loss, accuracy = objective.next_token(logits, part)
                if spoil is not None and here and not bad:
                    loss = spoilt(loss, spoil)
                bad.append(part)
                return BatchScore(loss, accuracy)

            states = None if self.objective.starts_sequence(step) else self.states
            train = self.trial.train
            update, self.states = train_step(self.engine, parts, score, states, 0.01, train, 1e-4, CPU)
            done.append(update)
        return done


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", ENGINES, ids=lambda value: "-".join(map(str, value.values())))
def test_skipped_update_leaves_no_trace_on_any_engine(
    settings: dict[str, Any], kind: str, make_trial: Any, process_group: None
) -> None:
    # weight decay and momentum would move the parameters even if the gradient were zero
    trial = make_trial(**settings, accumulation=2, segment=16, weight_decay=0.1)
    skipping, never = Updates(trial), Updates(trial)
    skipping.run([0, 1])
    before = skipping.engine.weights()
    (update,) = skipping.run([2], kind)
    assert update.skipped
    assert same(skipping.engine.weights(), before)
    never.run([0, 1])
    followed = [skipping.run([3, 4]), never.run([3, 4])]
    assert not any(update.skipped for updates in followed for update in updates)
    assert same(skipping.engine.weights(), never.engine.weights())
    assert [one.norm for one in followed[0]] == [one.norm for one in followed[1]]
    skipping.engine.close()
    never.engine.close()


def test_first_update_that_is_skipped_leaves_a_fresh_trial(make_trial: Any) -> None:
    skipping, never = Updates(make_trial()), Updates(make_trial())
    assert skipping.run([0], "nan")[0].skipped
    skipping.run([1])
    never.run([1])
    assert same(skipping.engine.weights(), never.engine.weights())


def _two_ranks_skip(rank: int, trial: Trial, kind: str) -> tuple[list[bool], bool, list[float]]:
    """Both ranks train; in the third update one micro-batch of rank 1 alone is bad."""
    import_deepspeed()
    skipping, never = Updates(trial, rank=rank, world=2), Updates(trial, rank=rank, world=2)
    updates = skipping.run([0, 1]) + skipping.run([2], kind, here=rank == 1) + skipping.run([3])
    norms = [update.norm for update in never.run([0, 1, 3])]
    equal = same(skipping.engine.weights(), never.engine.weights())
    skipping.engine.close()
    never.engine.close()
    return [update.skipped for update in updates], equal, norms


@pytest.mark.parametrize("kind", ["nan", "overflow"])
@pytest.mark.parametrize("zero", range(4))
def test_bad_gradient_of_one_rank_is_skipped_by_all(zero: int, kind: str, make_trial: Any, two_ranks: Any) -> None:
    trial = make_trial(engine="deepspeed", zero=zero, accumulation=2, segment=16, weight_decay=0.1)
    (skipped, equal, norms), (other_skipped, other_equal, other_norms) = two_ranks.run(_two_ranks_skip, trial, kind)
    assert skipped == other_skipped == [False, False, True, False]
    assert equal
    assert other_equal
    assert norms == other_norms


def test_batch_norm_keeps_its_running_statistics_in_a_skipped_update(make_classifier: Any) -> None:
    trial = make_classifier("sequence", "mega", {"arch": "mega", "norm": "batch", "causal": False})
    corpus = open_corpus(trial.corpus)
    assert isinstance(corpus, LabelledCorpus)
    host = LocalHost(device=CPU)
    task = ClassificationObjective(corpus, trial, host)
    engine = open_engine(build(trial.model, device=CPU, seed=0), trial.train, 1)
    engine.module.train()

    def score(logits: torch.Tensor, part: Part) -> BatchScore:
        loss, accuracy = task.score(logits, part)
        return BatchScore(spoilt(loss, "gradient"), accuracy)

    before = engine.weights()
    assert any(name.endswith(".variance") for name in before)
    update, _ = train_step(engine, task.batch(0), score, None, 0.01, trial.train, 0.0, CPU)
    assert update.skipped
    assert same(engine.weights(), before)


def spoil_updates(monkeypatch: pytest.MonkeyPatch, updates: set[int], kind: str = "nan") -> None:
    """Spoil the given updates, counted from 1 as in messages, of every trial that is run."""
    batch, now = LanguageObjective.batch, [0]

    def batch_of(self: LanguageObjective, step: int) -> list[Part]:
        now[0] = step + 1
        self.score = score  # type: ignore[assignment]
        return batch(self, step)

    def score(logits: torch.Tensor, part: Part) -> BatchScore:
        loss, accuracy = objective.next_token(logits, part)
        return BatchScore(spoilt(loss, kind) if now[0] in updates else loss, accuracy)

    monkeypatch.setattr(LanguageObjective, "batch", batch_of)


def run(trial: Trial, folder: Path, host: LocalHost | None = None, **options: Any) -> TrialOutcome:
    return run_trial(trial, str(folder), RunOptions(**({"log_every": 4} | options)), host or LocalHost(device=CPU))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.mark.parametrize("settings", ENGINES, ids=lambda value: "-".join(map(str, value.values())))
def test_trial_with_a_skip_between_two_rows_counts_it_and_says_so(
    settings: dict[str, Any], make_trial: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process_group: None
) -> None:
    spoil_updates(monkeypatch, {6})
    host = LocalHost(device=CPU)
    outcome = run(make_trial(**settings), tmp_path / "skipping", host)
    assert (outcome.status, outcome.step) == ("finished", 12)
    (warning,) = host.warnings
    assert "update 6 was skipped" in warning
    rows = read_rows(str(tmp_path / "skipping"))
    assert [row["skipped_updates"] for row in rows] == [0, 1, 1]
    plain = run(make_trial(), tmp_path / "plain")
    for row, other in zip(rows, read_rows(str(tmp_path / "plain")), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert row["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
    assert plain.held_out is not None
    assert outcome.held_out is not None
    assert outcome.held_out.nats == pytest.approx(plain.held_out.nats, abs=1e-5)


def test_row_leaves_the_losses_of_skipped_updates_out(
    make_trial: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_trial(), tmp_path / "each", log_every=1)
    each = [row["loss"] for row in read_rows(str(tmp_path / "each"))]
    spoil_updates(monkeypatch, {4, 5, 6, 7, 8})
    run(make_trial(), tmp_path / "skipping")
    first, second, _ = read_rows(str(tmp_path / "skipping"))
    assert first["loss"] == pytest.approx(sum(each[:3]) / 3)
    assert {"loss", "bpb", "gradient_norm", "commit"}.isdisjoint(second)
    assert (second["step"], second["skipped_updates"]) == (8, 5)


@pytest.mark.parametrize("log_every", [1, 4, 100])
def test_trial_of_ten_skips_in_a_row_has_diverged_whenever_it_logs(
    log_every: int, make_trial: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_updates(monkeypatch, set(range(2, 30)))
    host = LocalHost(device=CPU)
    outcome = run(make_trial(tokens=64 * 8 * 30), tmp_path, host, log_every=log_every)
    assert (outcome.status, outcome.step) == ("diverged", 11)
    assert outcome.error is not None
    assert "last 10 updates up to step 11 were skipped" in outcome.error
    assert len(host.warnings) == 10
    assert read_rows(str(tmp_path))[-1]["skipped_updates"] == 10


def test_trial_that_skips_nine_in_a_row_and_recovers_is_finished(
    make_trial: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_updates(monkeypatch, {*range(2, 11), *range(12, 20)})
    outcome = run(make_trial(tokens=64 * 8 * 30), tmp_path)
    assert (outcome.status, outcome.row["skipped_updates"]) == ("finished", 17)


def test_trial_shorter_than_ten_updates_that_skips_all_has_diverged(
    make_trial: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_updates(monkeypatch, set(range(1, 6)))
    outcome = run(make_trial(tokens=64 * 8 * 5), tmp_path)
    assert outcome.status == "diverged"
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("settings", ENGINES[:1] + ENGINES[3:4], ids=str)
@pytest.mark.parametrize("leave_after", [5, 8])
def test_trial_resumed_after_a_skip_is_bitwise_the_uninterrupted_one(
    leave_after: int,
    settings: dict[str, Any],
    make_trial: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    process_group: None,
) -> None:
    spoil_updates(monkeypatch, {5, 6})
    trial = make_trial(**settings, segment=16, model={"dropout_residual": 0.2})
    whole = run(trial, tmp_path / "whole")
    with pytest.raises(StudyInterruptedError):
        run(trial, tmp_path / "cut", LocalHost(device=CPU, leave_after=leave_after))
    continued = run(trial, tmp_path / "cut")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert continued.held_out == whole.held_out
    kept = [
        [(row["step"], row["loss"], row["gradient_norm"], row["skipped_updates"]) for row in read_rows(str(folder))]
        for folder in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert kept[0] == kept[1]
    assert kept[0][-1][-1] == 2
