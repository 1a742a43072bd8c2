"""What a study uses after its trials, or of the held-out text, is checked when it is planned: before a trial starts."""

from typing import Any

import pytest

from vqscale.errors import StudyError
from vqscale.planning.plan import plan

TRAIN = {"context": 64, "tokens": 8192, "batch_tokens": 512, "lr": 0.01}


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"preset": "zz", "contexts": [64]}, r"test: throughput\.preset: 'zz' is unknown"),
        ({"preset": "d33x2", "contexts": [64]}, r"throughput\.preset: 'd33x2': a width of 33 is odd"),
        ({"preset": "pico", "contexts": [64, 100]}, r"throughput\.contexts: 100 is no multiple of block_length 64"),
        ({"preset": "pico", "contexts": [64], "block_length": 48}, r"64 is no multiple of block_length 48"),
    ],
)
def test_plan_refuses_a_throughput_section_that_cannot_be_measured(
    make: Any, section: dict[str, Any], told: str
) -> None:
    with pytest.raises(StudyError, match=told):
        plan(make(throughput=section), source="test")


def test_plan_takes_a_throughput_section_that_can_be_measured(make: Any) -> None:
    assert plan(make(throughput={"preset": "d48x2", "contexts": [64, 128]})).trials


def test_plan_refuses_an_evaluation_of_more_tokens_than_the_split_holds(make: Any) -> None:
    whole = plan(make(train=TRAIN | {"evaluation_tokens": 10_018})).notes
    assert not any("validation split" in note for note in whole)
    told = r"test: train\.evaluation_tokens: 10019 are more than the 10018 tokens of the validation split"
    with pytest.raises(StudyError, match=told):
        plan(make(train=TRAIN | {"evaluation_tokens": 10_019}), source="test")
    with pytest.raises(StudyError, match=r"999999 are more .*in the grid point train\.evaluation_tokens = 999999"):
        plan(make(train=TRAIN, sweep=[{"train.evaluation_tokens": [64, 999_999]}]))


def test_plan_notes_that_the_default_evaluation_takes_the_whole_of_a_small_split(make: Any) -> None:
    [note] = [note for note in plan(make(train=TRAIN)).notes if "validation split" in note]
    assert "holds 10,018 tokens: all of them are evaluated, not 65,536" in note
