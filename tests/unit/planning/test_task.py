"""What a task demands: the corpus of its kind, its own settings, and what the corpus decides of a classifier."""

from typing import Any

import pytest

from vqscale.errors import StudyError
from vqscale.planning.plan import plan
from vqscale.study.spec import parse_study
from vqscale.workflow.autotune import tuning_study

TRAIN = {"context": 64, "tokens": 8192, "batch_tokens": 2048, "lr": 0.01}


@pytest.fixture
def make_task(make_labelled: Any, tmp_path: Any) -> Any:
    def study(kind: str = "sequence", **sections: Any) -> Any:
        values = {
            "study": "p",
            "task": "classification",
            "data": {"corpus": make_labelled(kind)},
            "model": {"arch": "transformer", "preset": "pico"},
            "train": TRAIN,
            "storage": str(tmp_path),
        } | sections
        return parse_study(values, source="test")

    return study


def model_of(study: Any) -> Any:
    (planned,) = plan(study).trials
    return planned.trial.model


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("sequence", {"classes": 3, "pooling": "mean", "causal": False, "sequences": 1}),
        ("pair", {"classes": 2, "pooling": "mean", "causal": False, "sequences": 2}),
        ("token", {"classes": 3, "pooling": "none", "causal": True, "sequences": 1}),
    ],
)
def test_corpus_decides_what_the_head_tells_apart(kind: str, expected: dict[str, Any], make_task: Any) -> None:
    model = model_of(make_task(kind))
    assert {name: getattr(model, name) for name in expected} == expected
    assert model.vocab_size == 16


def test_study_may_set_causal_and_pooling_in_its_section_or_by_an_axis(make_task: Any) -> None:
    model = {"arch": "transformer", "preset": "pico", "causal": True}
    trials = plan(make_task(model=model, sweep=[{"model.pooling": ["mean", "last"]}])).trials
    assert [(one.trial.model.causal, one.trial.model.pooling) for one in trials] == [(True, "mean"), (True, "last")]
    assert trials[0].trial.fingerprint != trials[1].trial.fingerprint


@pytest.mark.parametrize(
    ("kind", "sections", "words"),
    [
        ("token", {"model": {"arch": "transformer", "preset": "pico", "pooling": "mean"}}, "single tokens. Use none"),
        ("sequence", {"model": {"arch": "transformer", "preset": "pico", "pooling": "none"}}, "Use mean or last"),
        ("sequence", {"task": "language"}, r"data\.corpus: .* labelled examples.*Write task: classification"),
        ("sequence", {"train": TRAIN | {"segment": 32}}, r"train\.segment: 32 has no meaning"),
        ("sequence", {"train": TRAIN | {"documents": "packed"}}, r"train\.documents"),
        ("sequence", {"train": TRAIN | {"evaluation_by": "documents"}}, r"train\.evaluation_by"),
        ("sequence", {"train": TRAIN | {"evaluation_tokens": 10}}, r"Set train\.evaluation_examples"),
        ("sequence", {"train": TRAIN | {"evaluation_sample": "start"}}, r"train\.evaluation_sample"),
        ("sequence", {"train": TRAIN | {"evaluation_block": 64}}, r"train\.evaluation_block"),
        ("sequence", {"model": {"arch": "transformer", "preset": "pico", "classes": 4}}, r"model\.classes"),
        ("pair", {"train": TRAIN | {"batch_tokens": 64 * 3}}, r"two per example.*multiple of 128"),
        ("pair", {"resources": {"workers": 3}}, r"cannot be shared by 3 workers.*multiple of 384"),
    ],
)
def test_plan_refuses_what_does_not_fit_the_task(
    kind: str, sections: dict[str, Any], words: str, make_task: Any
) -> None:
    with pytest.raises(StudyError, match=words):
        plan(make_task(kind, **sections))


def test_plan_refuses_text_for_a_classifier_and_examples_for_a_text(make_task: Any, make: Any, corpus_uri: str) -> None:
    with pytest.raises(StudyError, match="text without labels"):
        plan(make_task(data={"corpus": corpus_uri}))
    train = {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01, "evaluation_examples": 4}
    with pytest.raises(StudyError, match=r"train\.evaluation_examples: 4.*Set train\.evaluation_tokens"):
        plan(make(train=train))


def test_plan_says_where_examples_are_cut(make_task: Any) -> None:
    assert plan(make_task()).notes == []
    (note,) = plan(make_task(train=TRAIN | {"context": 32})).notes
    assert "up to 60 tokens are cut to train.context 32: their first tokens" in note


def test_epoch_counts_every_sequence_at_full_length(make_task: Any) -> None:
    (planned,) = plan(make_task("pair")).trials
    assert planned.trial.examples_per_update == 2048 // 64 // 2
    assert planned.cost.steps == 4
    assert planned.cost.tokens == 4 * planned.trial.examples_per_update * 2 * 64


def test_design_counts_epochs_of_labelled_examples_at_full_length(make_task: Any) -> None:
    epoch = 2048 * 64
    ladder = {"type": "ladder", "sizes": ["pico"], "tokens_per_parameter": [20.0], "hold_out": 0, "minimum_steps": 1}
    found = plan(make_task(design=[ladder | {"max_epochs": 4.0}]))
    assert [one.reason for one in found.dropped] == [
        f"too many training tokens: {tokens} read the {epoch} tokens of the training split {tokens / epoch:.3g} times,"
        " more than max_epochs 4"
        for tokens in (628736,)
    ]


def test_autotune_refuses_a_classifier(make_task: Any) -> None:
    study = make_task(autotune={"codebook_sizes": [8, 16]}, model={"arch": "transformer_vq", "preset": "pico"})
    with pytest.raises(StudyError, match="task: classification has no bits per byte"):
        tuning_study(study)
