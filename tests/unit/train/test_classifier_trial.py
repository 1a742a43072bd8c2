"""Classifiers through the entry point of every trial: they learn, resume bit for bit, and are scored correctly."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from local_host import LocalHost

from vqscale.data.corpus import open_corpus
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.models.build import build
from vqscale.results.metrics_rows import Row, read_rows
from vqscale.study.spec import RunOptions
from vqscale.study.trial import Trial
from vqscale.train.classify import Classified, classify
from vqscale.train.finished import finished_result
from vqscale.train.objective import open_objective
from vqscale.train.trial import TrialOutcome, run_trial

CPU = torch.device("cpu")
ARCHS = ("transformer_vq", "transformer", "transformer_full", "longvq", "mega", "gla", "transformer_window")
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


def run(trial: Trial, folder: Path, host: LocalHost | None = None) -> TrialOutcome:
    return run_trial(trial, str(folder), OPTIONS, host or LocalHost(device=CPU))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def corpus_of(trial: Trial) -> LabelledCorpus:
    corpus = open_corpus(trial.corpus)
    assert isinstance(corpus, LabelledCorpus)
    return corpus


@pytest.mark.parametrize(
    ("kind", "arch", "updates"),
    [("sequence", "transformer", 80), ("pair", "transformer_vq", 60), ("token", "transformer_vq", 40)],
)
def test_classifier_learns_a_trivial_task(
    kind: str, arch: str, updates: int, make_classifier: Any, tmp_path: Path
) -> None:
    trial = make_classifier(kind, arch, updates=updates)
    outcome = run(trial, tmp_path)
    rows = read_rows(str(tmp_path))
    assert outcome.status == "finished"
    assert isinstance(outcome.held_out, Classified)
    assert outcome.test is not None
    assert outcome.held_out.accuracy > 0.95
    assert outcome.test.accuracy > 0.9
    assert rows[0]["accuracy"] < 0.8 < rows[-1]["accuracy"]
    assert "bpb" not in rows[-1]


def test_record_of_a_classifier_has_its_columns_and_none_of_a_language_model(
    make_classifier: Any, tmp_path: Path
) -> None:
    trial = make_classifier("sequence", updates=4)
    outcome = run(trial, tmp_path)
    result = finished_result("study", trial, outcome, attempts=1, workers=1, device="cpu", seconds_total=9.0)
    held_out = outcome.held_out
    assert isinstance(held_out, Classified)
    assert (result.task, result.classes, result.examples) == ("classification", 3, 97)
    assert (result.bpb, result.perplexity, result.loss_by_position) == (None, None, [])
    assert (result.loss, result.accuracy, result.confusion) == (held_out.nats, held_out.accuracy, held_out.confusion)
    assert result.test_accuracy == (outcome.test and outcome.test.accuracy)
    assert sum(bucket.labels for bucket in result.accuracy_by_length) == 97
    assert result.accuracy_by_distance == []


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("sequence", {}),
        ("pair", {"accumulation": 2}),
        ("token", {"accumulation": 4}),
        ("token", {"engine": "deepspeed", "zero": 2}),
        ("sequence", {"engine": "deepspeed", "zero": 3}),
    ],
    ids=str,
)
def test_classifier_interrupted_and_continued_is_bitwise_the_uninterrupted_one(
    kind: str, settings: dict[str, Any], make_classifier: Any, tmp_path: Path, process_group: None
) -> None:
    trial = make_classifier(kind, **settings, model={"dropout_residual": 0.2})
    whole = run(trial, tmp_path / "whole")
    with pytest.raises(InterruptedTrialError):
        run(trial, tmp_path / "cut", BreakingHost(device=CPU, break_after=6))
    continued = run(trial, tmp_path / "cut")
    ours, theirs = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (continued.held_out, continued.test) == (whole.held_out, whole.test)


@pytest.mark.parametrize("kind", ["sequence", "pair", "token"])
def test_engines_give_a_classifier_the_same_losses(
    kind: str, make_classifier: Any, tmp_path: Path, process_group: None
) -> None:
    plain = make_classifier(kind, accumulation=2)
    deepspeed = make_classifier(kind, accumulation=2, engine="deepspeed", zero=3)
    run(plain, tmp_path / "plain")
    run(deepspeed, tmp_path / "deepspeed")
    rows = [read_rows(str(tmp_path / name)) for name in ("plain", "deepspeed")]
    for a, b in zip(*rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=1e-5)


def gradient(trial: Trial) -> tuple[float, float, list[torch.Tensor]]:
    """Loss, accuracy and gradient of the first update, in float64."""
    model = build(trial.model, seed=0).double()
    objective = open_objective(trial, corpus_of(trial), LocalHost(device=CPU))
    parts = objective.batch(0)
    scores = [objective.score(model(**part.inputs)["logits"], part) for part in parts]
    (sum(score.loss for score in scores) / len(parts)).backward()  # type: ignore[union-attr]
    accuracy = sum(float(score.accuracy) for score in scores if score.accuracy is not None) / len(parts)
    loss = sum(float(score.loss.detach()) for score in scores) / len(parts)
    return loss, accuracy, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_classifier_in_micro_batches_has_the_gradient_of_the_whole_batch(kind: str, make_classifier: Any) -> None:
    loss, accuracy, whole = gradient(make_classifier(kind, "transformer"))
    parts_loss, parts_accuracy, parts = gradient(make_classifier(kind, "transformer", accumulation=8))
    assert parts_loss == pytest.approx(loss, rel=1e-12)
    assert parts_accuracy == pytest.approx(accuracy, rel=1e-6)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def by_hand(model: Any, corpus: LabelledCorpus, split: str) -> dict[str, Any]:
    """What `classify` measures, example by example and label by label."""
    pairs: list[tuple[int, int]] = []
    nats, lengths, distances = [], [], []
    held_out = corpus.split(split)  # type: ignore[arg-type]
    for index in range(len(held_out)):
        example = held_out.example(index)
        logits_TC = model(torch.from_numpy(example.tokens[0].astype(np.int64))[None])["logits"][0].detach()
        labels = [(None, example.label)] if example.label is not None else []
        if example.labels is not None and example.positions is not None:
            labels = list(zip(example.positions.tolist(), example.labels.tolist(), strict=True))
            distances += [] if example.distances is None else example.distances.tolist()
        for position, label in labels:
            logits_C = logits_TC if position is None else logits_TC[position]
            pairs.append((label, int(logits_C.argmax())))
            nats.append(float(F.cross_entropy(logits_C[None], torch.tensor([label]))))
            lengths.append(len(example.tokens[0]))
    counts, classes = Counter(pairs), range(len(corpus.classes))
    true, predicted = ({c: sum(n for pair, n in counts.items() if pair[side] == c) for c in classes} for side in (0, 1))
    right = [pair[0] == pair[1] for pair in pairs]
    return {
        "nats": np.mean(nats),
        "accuracy": np.mean(right),
        "balanced_accuracy": np.mean([counts[c, c] / true[c] for c in classes if true[c]]),
        "macro_f1": np.mean([2 * counts[c, c] / (true[c] + predicted[c]) for c in classes if true[c] + predicted[c]]),
        "confusion": [[counts[a, b] for b in classes] for a in classes],
        "short": [n for n, length in zip(right, lengths, strict=True) if 8 <= length < 16],
        "near": [n for n, distance in zip(right, distances, strict=False) if 2 <= distance < 4],
    }


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_classify_measures_what_a_count_label_by_label_gives(kind: str, make_classifier: Any) -> None:
    trial = make_classifier(kind)
    model, corpus = build(trial.model, seed=3).double().eval(), corpus_of(trial)
    found = classify(model, corpus, "validation", trial.train, CPU)
    expected = by_hand(model, corpus, "validation")
    assert found.examples == 97
    for name in ("nats", "accuracy", "balanced_accuracy", "macro_f1"):
        assert getattr(found, name) == pytest.approx(expected[name], rel=1e-6)
    assert found.confusion == expected["confusion"]
    assert found.class_names == list(corpus.classes)
    (short,) = [bucket for bucket in found.by_length if bucket.start == 8]
    assert (short.labels, short.accuracy) == (len(expected["short"]), pytest.approx(np.mean(expected["short"])))
    near = [bucket for bucket in found.by_distance if bucket.start == 2]
    assert [bucket.labels for bucket in near] == ([len(expected["near"])] if kind == "token" else [])
    assert all(bucket.accuracy == pytest.approx(np.mean(expected["near"])) for bucket in near)


@pytest.mark.parametrize("arch", ARCHS)
def test_classify_reads_long_examples_in_segments_as_if_whole(arch: str, make_classifier: Any) -> None:
    trial = make_classifier("token", arch, longest=300, evaluation_context=320)
    model, corpus = build(trial.model, seed=3).double().eval(), corpus_of(trial)
    found = classify(model, corpus, "validation", trial.train, CPU)
    expected = by_hand(model, corpus, "validation")
    assert max(bucket.end for bucket in found.by_length) == 512
    assert found.nats == pytest.approx(expected["nats"], rel=1e-9)
    assert found.confusion == expected["confusion"]


def test_classify_of_a_limited_number_draws_the_same_examples_for_every_trial(make_classifier: Any) -> None:
    one, other = (make_classifier("sequence", evaluation_examples=20) for _ in range(2))
    model, corpus = build(one.model, seed=3).eval(), corpus_of(one)
    found = classify(model, corpus, "validation", one.train, CPU)
    again = classify(model, corpus, "validation", other.train.model_copy(update={"seed": 7, "context": 128}), CPU)
    assert found.examples == sum(bucket.labels for bucket in found.by_length) == 20
    assert found.by_length == again.by_length
