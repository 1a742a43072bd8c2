"""How the text of the evaluation enters a plan: identity, records of earlier versions, notes."""

from typing import Any

import pytest

from vqscale.errors import StudyError
from vqscale.planning.plan import plan

TRAIN = {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01}


def test_records_from_before_the_sample_are_continued_from_the_start_of_the_split(make: Any, end: Any) -> None:
    before = plan(make(train=TRAIN | {"evaluation_sample": "start"}))
    end(before, before.trials[0], loss=2.0, evaluation_text=None)
    with pytest.raises(StudyError, match=r"1 finished trials .*`evaluation_sample: start` under `train`"):
        plan(make(train=TRAIN))
    (again,) = plan(make(train=TRAIN | {"evaluation_sample": "start"})).trials
    assert again.done
    assert again.result is not None
    assert again.result.evaluation_text == "start 65536"  # the trial's identity says what the record does not
    (other,) = plan(make(train=TRAIN), allow_changed=True).trials
    assert not other.done


def test_trials_that_changed_for_another_reason_are_not_explained_by_the_sample(make: Any, end: Any) -> None:
    before = plan(make(train=TRAIN | {"evaluation_sample": "start", "lr": 0.02}))
    end(before, before.trials[0], loss=2.0)
    with pytest.raises(StudyError) as told:
        plan(make(train=TRAIN))
    assert "evaluation_sample" not in str(told.value)


def test_record_of_a_trial_keeps_the_text_that_it_names(make: Any, end: Any) -> None:
    planned = plan(make(train=TRAIN))
    end(planned, planned.trials[0], loss=2.0)
    assert planned.trials[0].trial.train.evaluation_text == "spread 65536 by 2048"
    (again,) = plan(make(train=TRAIN)).results
    assert again.evaluation_text == "spread 65536 by 2048"


def test_contexts_beyond_a_block_are_noted_with_the_block_that_makes_the_text_the_same(make: Any) -> None:
    def notes(**train: Any) -> list[str]:
        sweep = [{"train.context": [64, 512]}]
        found = plan(make(train=TRAIN | {"evaluation_tokens": 4096} | train, sweep=sweep)).notes
        return [note for note in found if "different held-out text" in note]

    (note,) = notes()  # a sixteenth of 4,096 tokens is 256
    assert "in blocks of 256 and 512 tokens" in note
    assert note.endswith("set train.evaluation_block: 512.")
    assert notes(evaluation_block=512) == []
    assert notes(evaluation_tokens=8192) == []
    assert notes(evaluation_sample="start") == []
    assert notes(evaluation_context=512) == []


@pytest.mark.parametrize("value", [{"evaluation_block": 32}, {"evaluation_sample": "first"}, {"evaluation_block": 1.5}])
def test_sample_that_makes_no_sense_is_refused_by_name(make: Any, value: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=rf"train\.?.*{next(iter(value))}"):
        plan(make(train=TRAIN | value))
