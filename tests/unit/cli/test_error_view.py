"""What a run's table says of the errors of held-out losses."""

from typing import Any

from vqscale.cli.error_view import error_notes, with_error
from vqscale.results.result import LossParts, Result


def trial(name: str, bpb: float | None, nats: list[float] | None = None, **columns: Any) -> Result:
    """Evaluated on documents of a thousand bytes each."""
    values: dict[str, Any] = {"task": "language", "name": name, "bpb": bpb, "corpus_fingerprint": "f", "setup": name}
    if nats is not None:
        thousands = [1000] * len(nats)
        parts = LossParts(units=[1] * len(nats), tokens=thousands, bytes=thousands, nats=nats)
        values |= {"loss_by_document": parts, "evaluation_documents": len(nats), "evaluation_text": "t"}
        values |= {"bpb_error": 0.2 if len(nats) > 1 else None}
    return Result.model_construct(**dict.fromkeys(Result.model_fields) | values | columns)


def test_measurement_is_shown_with_its_error_where_it_has_one() -> None:
    assert [with_error(1.2345, 0.0123), with_error(1.2345, None), with_error(None, None)] == [
        "1.234 ± 0.012",
        "1.234",
        "-",
    ]


def test_notes_say_what_the_error_is_over_and_whether_the_best_differs_from_the_next() -> None:
    best, near = trial("a", 1.0, [600.0, 700.0, 800.0]), trial("b", 1.0433, [620.0, 730.0, 840.0])
    legend, ranking = error_notes([near, best, trial("c", None)])
    assert legend.startswith("± is the standard error over 3 held-out documents; what another seed would change is not")
    assert "Fewer than 10 documents" in legend
    assert ranking == "Best: a; next: b, +0.0433 ± 0.0083 (3 documents) bpb; one seed: chance unknown."


def test_notes_say_where_the_best_may_be_so_by_chance() -> None:
    best, near = trial("a", 1.0, [600.0, 700.0, 800.0]), trial("b", 1.0001, [500.0, 720.0, 880.0])
    assert error_notes([best, near])[1].endswith("bpb, which may be chance; one seed: chance unknown.")


def test_next_trial_differs_in_more_than_its_seed() -> None:
    runs = [trial("a", 1.0, setup="s"), trial("a-again", 1.01, setup="s"), trial("b", 1.2)]
    assert error_notes(runs) == ["Best: a; next: b, +0.2000 (error unknown) bpb."]


def test_one_document_has_no_error_and_a_table_without_losses_no_notes() -> None:
    assert error_notes([trial("a", 1.0, [600.0])]) == [
        "One held-out document: how far another one would move a loss is not known."
    ]
    assert error_notes([trial("a", None)]) == []
    assert error_notes([]) == []


def test_classifiers_are_compared_by_accuracy_over_examples() -> None:
    def classifier(name: str, right: list[int]) -> Result:
        parts = LossParts(units=[1] * 20, tokens=[1] * 20, nats=[0.1] * 20, right=right)
        return trial(
            name, None, task="classification", accuracy=sum(right) / 20, accuracy_error=0.1, examples=20,
            evaluation_text="all examples", loss_by_document=parts,
        )  # fmt: skip

    good, poor = classifier("good", [1] * 18 + [0, 0]), classifier("poor", [1] * 10 + [0] * 10)
    legend, ranking = error_notes([poor, good])
    assert "over 20 held-out examples" in legend
    assert ranking == "Best: good; next: poor, -0.400 ± 0.112 accuracy; one seed: chance unknown."
