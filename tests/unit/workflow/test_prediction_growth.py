"""A registry of predictions is written, scored and shown in time proportional to it."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from operations import growth

from vqscale.laws import read_fits
from vqscale.laws.decisions.predictions import Prediction, predict_run, read_predictions, register
from vqscale.workflow.predictions import scored_registry


@pytest.fixture
def fit(fitted_study: Any) -> Any:
    return read_fits(str(fitted_study.folder)).fits[0]


def test_registry_of_twice_the_predictions_takes_twice_the_operations(fit: Any, tmp_path: Path) -> None:
    one = predict_run(fit, {"N": 1e5, "D": 1e6}, name="x", trial_id="t")

    def made(count: int, start: int) -> list[Prediction]:
        names = [f"t{index}" for index in range(start, start + count)]
        return [one.model_copy(update={"trial_id": name, "name": name}) for name in names]

    def of_size(count: int) -> Callable[[], object]:
        folder = str(tmp_path / f"{count}-{datetime.datetime.now().timestamp()}")
        rows = [
            {"trial_id": f"t{index}", "name": f"t{index}", "status": "finished", fit.metric: 2.0}
            for index in range(count)
        ]
        table = pd.DataFrame(rows)
        register(folder, made(count, 0), pd.DataFrame())

        def all_of() -> None:
            register(folder, made(count, count), table)
            scores, pending = scored_registry(folder, table)
            assert (len(scores), len(pending), len(read_predictions(folder))) == (count, count, 2 * count)

        return all_of

    assert growth(of_size, 100) < 2.15
