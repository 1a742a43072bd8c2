"""The standard error of a held-out loss over documents, from the losses of a model."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from local_host import LocalHost

from vqscale.data.corpus import Corpus, open_corpus, open_text
from vqscale.data.evaluation import HeldOutText
from vqscale.data.labelled.corpus import LabelledCorpus
from vqscale.data.prepare import prepare
from vqscale.data.tokenize import EOS
from vqscale.models.build import build
from vqscale.results.loss_difference import loss_difference, mean_error
from vqscale.study.trial import Trial
from vqscale.train.classify import classify
from vqscale.train.evaluate import HeldOut, evaluate_text
from vqscale.train.finished import finished_result
from vqscale.train.trial import TrialOutcome

CPU = torch.device("cpu")


def evaluated(trial: Trial, group: Any = None) -> HeldOut:
    model = build(trial.model, seed=trial.train.seed).double()
    return evaluate_text(model, open_text(trial.corpus), "validation", trial.train, CPU, group)


def losses_by_document(trial: Trial, corpus: Corpus) -> dict[int, list[float]]:
    """Every predicted token's loss by its document, one sequence after another, without any of the code under test but
    the text's own pieces."""
    split, model = corpus.split("validation"), build(trial.model, seed=trial.train.seed).double().eval()
    text, found = HeldOutText(split, trial.train), dict[int, list[float]]()
    ids = split.read(0, len(split)).astype(np.int64)
    number = np.concatenate([[0], np.cumsum(ids == EOS)[:-1]])
    for start, length in text.pieces:
        row = torch.from_numpy(ids[start : start + length + 1])
        starts = row[:-1] == EOS
        with torch.no_grad():
            logits = model(row[None, :-1], doc_start_BT=starts[None])["logits"][0]
        nats = torch.nn.functional.cross_entropy(logits.float(), row[1:], reduction="none")
        for token, value in enumerate(nats.tolist()):
            found.setdefault(int(number[start + 1 + token]), []).append(value)
    return found


def record(trial: Trial, held_out: HeldOut) -> Any:
    outcome = TrialOutcome(
        status="finished", error=None, step=1, row={"step": 1, "tokens": 1, "tokens_per_second": 1.0},
        held_out=held_out, test=None, shared_steps=0, seconds_training=1.0, seconds_training_now=1.0,
        seconds_evaluation=0.0,
        peak_memory_bytes=1, peak_flops=1.0, revived=0, backend=None, started_at="now",
    )  # fmt: skip
    return finished_result("s", trial, outcome, attempts=1, workers=1, device="cpu", seconds_total=2.0)


def test_error_is_that_of_the_documents_losses(make_trial: Any) -> None:
    trial = make_trial("transformer")
    held_out, corpus = evaluated(trial), open_text(trial.corpus)
    by_document = losses_by_document(trial, corpus)
    sums = np.array([sum(values) for values in by_document.values()])
    counts = np.array([len(values) for values in by_document.values()])
    mean = sums.sum() / counts.sum()
    units = len(sums)
    assert units > 1
    without = [np.delete(sums, unit).sum() / np.delete(counts, unit).sum() for unit in range(units)]
    error = math.sqrt((units - 1) * np.var(without))
    assert (held_out.documents, held_out.tokens) == (units, 2048)
    assert held_out.nats == pytest.approx(mean, rel=1e-6)
    assert held_out.loss_error == pytest.approx(error, rel=1e-5)


def test_parts_add_up_to_the_loss_and_pair_two_trials(make_trial: Any) -> None:
    one, other = make_trial("transformer", seed=0), make_trial("transformer", seed=1, context=32)
    found = [record(trial, evaluated(trial)) for trial in (one, other)]
    for result in found:
        parts = result.loss_by_document
        assert sum(parts.tokens) == result.evaluation_tokens == 2048
        assert sum(parts.bytes) == result.evaluation_bytes
        assert sum(parts.units) == result.evaluation_documents
        assert sum(parts.nats) / 2048 == pytest.approx(result.loss, abs=1e-6)
        assert max(parts.units) == 1  # so the errors follow from the parts, but for rounding
        assert result.loss_error == pytest.approx(mean_error(parts.nats, parts.tokens), rel=1e-4)
        assert result.bpb_error == pytest.approx(mean_error(np.divide(parts.nats, math.log(2)), parts.bytes), rel=1e-4)
    difference = loss_difference(*found)
    assert difference is not None
    assert difference.paired
    parts = [result.loss_by_document for result in found]
    assert difference.error == mean_error(np.subtract(parts[0].nats, parts[1].nats), parts[0].tokens)


def test_error_of_one_document_is_absent(make_trial: Any, one_document: str) -> None:
    corpus = open_text(one_document)
    trial = make_trial("transformer").model_copy(
        update={"corpus": one_document, "corpus_fingerprint": corpus.fingerprint}
    )
    result = record(trial, evaluated(trial))
    assert (result.evaluation_documents, result.loss_error, result.bpb_error) == (1, None, None)
    assert result.loss is not None


def test_whole_split_has_one_loss_however_it_is_sampled(make_trial: Any) -> None:
    trials = [
        make_trial("transformer", evaluation_tokens=10**6, evaluation_sample=name) for name in ("spread", "start")
    ]
    spread, start = (evaluated(trial) for trial in trials)
    assert (spread.nats, spread.loss_error, spread.parts) == (start.nats, start.loss_error, start.parts)


@pytest.fixture(scope="module")
def one_document(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("one")
    (folder / "in.txt").write_bytes(bytes(np.random.default_rng(0).integers(97, 122, 60_000).astype(np.uint8)))
    prepare(str(folder / "in.txt"), str(folder / "corpus"), split="contiguous")
    return str(folder / "corpus")


def _of_rank(rank: int, trial: Trial) -> HeldOut:
    LocalHost(device=CPU, rank=rank, world=2)
    return evaluated(trial)


@pytest.mark.parametrize("by", ["contiguous", "documents"])
def test_two_workers_find_the_error_of_one(make_trial: Any, two_ranks: Any, by: str) -> None:
    trial = make_trial("transformer", evaluation_by=by)
    alone = evaluated(trial)
    for one in two_ranks.run(_of_rank, trial):
        assert one.loss_error == pytest.approx(alone.loss_error, rel=1e-9)
        assert one.documents == alone.documents
        assert (one.parts.units, one.parts.tokens) == (alone.parts.units, alone.parts.tokens)
        assert one.parts.nats == pytest.approx(alone.parts.nats, rel=1e-6)


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_accuracy_has_the_error_over_examples(make_classifier: Any, kind: str) -> None:
    trial = make_classifier(kind, "transformer")
    corpus = open_corpus(trial.corpus)
    assert isinstance(corpus, LabelledCorpus)
    found = classify(build(trial.model, seed=0).eval(), corpus, "validation", trial.train, CPU)
    parts = found.parts
    assert parts.right is not None
    assert (sum(parts.units), sum(parts.tokens)) == (found.examples, found.labels)
    assert sum(parts.right) / found.labels == pytest.approx(found.accuracy)
    if kind == "sequence":  # one label each: binomial, with one less in the denominator
        share = found.accuracy
        expected = math.sqrt(share * (1 - share) / (found.examples - 1))
        assert found.accuracy_error == pytest.approx(expected, rel=1e-9)
