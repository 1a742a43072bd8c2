"""The difference of two held-out losses and its standard error over documents."""

import math
from typing import Any

import numpy as np
import pytest

from vqscale.results import LossParts
from vqscale.results.loss_difference import freedom_of, loss_difference, mean_error


def row(loss: float | None, nats: list[float] | None = None, **columns: Any) -> dict[str, Any]:
    parts = None
    if nats is not None:
        parts = LossParts(units=[1] * len(nats), tokens=[100] * len(nats), bytes=[200] * len(nats), nats=nats)
    values = {
        "task": "language", "loss": loss, "loss_error": None, "corpus_fingerprint": "f",
        "evaluation_text": "spread 300", "evaluation_documents": len(nats) if nats else None, "loss_by_document": parts,
    }  # fmt: skip
    return values | columns


def test_error_of_equal_weights_is_that_of_a_mean() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    assert mean_error(values * 10, [10] * 4) == pytest.approx(values.std(ddof=1) / 2)


def test_error_weights_documents_by_their_tokens() -> None:
    # Ratios 1 (of 30 tokens) and 2 (of 10): without either the other is left, half of their difference.
    assert mean_error([30, 20], [30, 10]) == pytest.approx(0.5)
    # 2, 5/3 and 1 are left of the totals 2, 1, 3 over 2, 1, 1: mean 14/9, deviations 4/9, 1/9, -5/9.
    assert mean_error([2, 1, 3], [2, 1, 1]) == pytest.approx(math.sqrt(2 / 3 * (16 + 1 + 25) / 81))


def test_freedom_counts_documents_by_their_weight() -> None:
    assert freedom_of([5, 5, 5, 5]) == pytest.approx(3)
    assert freedom_of([8, 1, 1]) == pytest.approx(1)  # 100 / 66, less one, but at least one
    assert freedom_of([30, 20, 10, 0]) == pytest.approx(3600 / 1400 - 1)


def test_difference_over_few_documents_needs_more_standard_errors_to_be_no_chance() -> None:
    nats = [110.0, 520.0, 930.0]
    found = loss_difference(row(5.2, nats), row(5.0, [100, 500, 900]))
    assert found is not None
    assert found.value / found.error == pytest.approx(3.46, abs=0.01)
    assert found.may_be_chance()  # 3.46 errors, where two degrees of freedom ask for 4.30
    many = loss_difference(row(5.2, nats * 9), row(5.0, [100, 500, 900] * 9))
    assert many is not None
    assert not many.may_be_chance()
    assert many.may_be_chance(many.value)
    assert loss_difference(row(5.2), row(5.0)).may_be_chance() is None


@pytest.mark.parametrize(("total", "weight"), [([3.0], [2.0]), ([], []), ([3.0, 0.0], [2.0, 0.0])])
def test_error_of_a_single_document_is_absent(total: list[float], weight: list[float]) -> None:
    assert mean_error(total, weight) is None


def test_error_covers_the_loss_of_new_documents_about_as_often_as_it_says() -> None:
    random, inside = np.random.default_rng(0), 0
    for _ in range(400):
        tokens = random.integers(20, 400, size=40)
        totals = tokens * random.normal(2.0, 0.3, size=40)
        error = mean_error(totals, tokens)
        assert error is not None
        inside += abs(totals.sum() / tokens.sum() - 2.0) < 1.645 * error
    assert 0.85 < inside / 400 < 0.94  # nominally 0.90; 0.015 is the standard error of 400


def test_difference_on_the_same_text_is_paired_over_documents() -> None:
    # 10, 20 and 30 nats of a hundred tokens each: mean 0.2 per token, error 0.1 / sqrt(3), whatever the documents are.
    first, second = row(5.2, [110, 520, 930], loss_error=2.0), row(5.0, [100, 500, 900], loss_error=2.0)
    found = loss_difference(first, second)
    assert found is not None
    assert found.value == pytest.approx(0.2)
    assert found.error == pytest.approx(0.1 / math.sqrt(3))
    assert (found.documents, found.paired) == (3, True)
    assert found.text() == "+0.2000 ± 0.0577 (3 documents)"


def test_difference_in_bits_per_byte_divides_by_the_bytes_of_the_documents() -> None:
    first = row(5.2, [110, 520, 930], bpb=1.1)
    second = row(5.0, [100, 500, 900], bpb=1.0)
    found = loss_difference(first, second, "bpb")
    assert found is not None
    assert found.error == pytest.approx(0.05 / math.log(2) / math.sqrt(3))


@pytest.mark.parametrize(
    "other",
    [
        row(5.0, [100, 500, 900], loss_error=0.4, evaluation_text="spread 600"),
        row(5.0, [100, 500, 900], loss_error=0.4, corpus_fingerprint="g"),
        row(5.0, [100, 500], loss_error=0.4),
        row(5.0, loss_error=0.4),
    ],
    ids=["other text", "other corpus", "other documents", "no documents"],
)
def test_difference_on_other_text_has_the_error_of_two_independent_losses(other: dict[str, Any]) -> None:
    found = loss_difference(row(5.2, [110, 520, 930], loss_error=0.3), other)
    assert found is not None
    assert (found.error, found.paired) == (pytest.approx(0.5), False)
    assert "not paired" in found.text()


def test_difference_with_an_older_record_has_an_unknown_error() -> None:
    old = row(5.0, evaluation_text=None)
    found = loss_difference(row(5.2, [110, 520, 930], loss_error=0.3), old)
    assert found is not None
    assert (found.value, found.error, found.documents) == (pytest.approx(0.2), None, None)
    assert found.text(2) == "+0.20 (error unknown)"
    both = loss_difference(old, old)  # both without a text: nothing says that it was the same
    assert both is not None
    assert (both.error, both.paired) == (None, False)


def test_difference_of_one_document_has_no_error() -> None:
    found = loss_difference(row(5.2, [520]), row(5.0, [500]))
    assert found is not None
    assert found.text(1) == "+0.2 (one held-out document)"


def test_difference_with_a_missing_loss_is_absent() -> None:
    assert loss_difference(row(None), row(5.0)) is None
    assert loss_difference(row(5.0), row(float("nan"))) is None


def test_difference_of_accuracies_is_paired_over_examples() -> None:
    def classified(right: list[int]) -> dict[str, Any]:
        parts = LossParts(units=[1] * 4, tokens=[1] * 4, nats=[0.5] * 4, right=right)
        return {
            "task": "classification", "accuracy": sum(right) / 4, "corpus_fingerprint": "f", "examples": 4,
            "evaluation_text": "all examples", "loss_by_document": parts,
        }  # fmt: skip

    found = loss_difference(classified([1, 1, 1, 0]), classified([1, 0, 1, 0]), "accuracy")
    assert found is not None
    assert (found.value, found.paired) == (0.25, True)
    assert found.error == pytest.approx(0.25)  # one pair of four differs: sd 0.5 over sqrt(4)
    assert found.text(2) == "+0.25 ± 0.25 (4 examples)"
