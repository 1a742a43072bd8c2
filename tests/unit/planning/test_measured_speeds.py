"""Which of the runs so far says how fast a trial will be."""

from typing import Any

import pytest
from synthetic_runs import make_run

from vqscale.costing.measured_speeds import MeasuredSpeeds


def run(arch: str, context: int, n: int, speed: float | None, **changes: Any) -> Any:
    values = {"context": context, "parameters_non_embedding": n, "flops_per_second": speed}
    return make_run().model_copy(update=values | {"arch": arch} | changes)


def test_speed_is_that_of_the_same_architecture_and_context_then_of_the_nearest_size() -> None:
    found = MeasuredSpeeds(
        [
            run("mega", 64, 100, 1.0),
            run("mega", 64, 10_000, 2.0),
            run("mega", 128, 100, 3.0),
            run("gla", 64, 100, 4.0),
        ]
    )
    assert found.runs == 4
    assert found.at("mega", 64, 900) == 1.0  # 9 times away from 100, 11 times from 10,000
    assert found.at("mega", 64, 1100) == 2.0
    assert found.at("mega", 128, 10**9) == 3.0
    assert found.at("mega", 512, 10**9) == 2.0  # no such context: of its architecture, the nearest size
    assert found.at("gla", 512, 10**9) == 4.0
    assert found.at("longvq", 128, 100) == 3.0  # no such architecture: of its context
    assert found.at("longvq", 512, 10**9) == 2.0


def test_speed_is_the_median_over_runs_of_one_size_and_per_worker() -> None:
    runs = [run("mega", 64, 100, speed) for speed in (1.0, 9.0, 2.0)] + [run("mega", 64, 100, None)]
    assert MeasuredSpeeds(runs).at("mega", 64, 50) == 2.0
    assert MeasuredSpeeds([run("mega", 64, 100, 8.0, workers=4)]).at("mega", 64, 100) == 2.0


def test_speed_half_way_between_two_sizes_is_the_median_of_both() -> None:
    runs = [run("mega", 64, 64, 1.0), run("mega", 64, 64, 2.0), run("mega", 64, 256, 10.0)]
    assert MeasuredSpeeds(runs).at("mega", 64, 128) == 2.0


def test_speed_without_a_measured_run_is_an_error_of_the_program() -> None:
    none = MeasuredSpeeds([run("mega", 64, 100, None)])
    assert none.runs == 0
    with pytest.raises(AssertionError, match="no run was measured"):
        none.at("mega", 64, 100)
