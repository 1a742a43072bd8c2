"""Estimates kept at planning time, and compared with what the trials took."""

from typing import Any

import pandas as pd
import pytest

from vqscale import storage
from vqscale.planning.estimate import write_estimates
from vqscale.planning.plan import plan
from vqscale.results.estimates import PLAN_FILE, estimate_errors

SWEEP = [{"model.preset": ["pico", "nano"]}]
STATED = {"flops_per_second": 1e9}


def kept(study: Any) -> Any:
    return storage.read_json(storage.join(study.folder, PLAN_FILE))["trials"]


def test_estimates_of_a_done_trial_stay_and_others_are_renewed(make: Any, end: Any) -> None:
    study = make(sweep=SWEEP, resources=STATED)
    first = plan(study)
    write_estimates(first)
    before = kept(study)
    end(first, first.trials[0], loss=2.0, flops_per_second=2e9)
    write_estimates(plan(study))
    after = kept(study)
    done, pending = (one.trial.id for one in first.trials)
    assert after[done] == before[done]
    assert after[pending]["seconds"] == pytest.approx(before[pending]["seconds"] / 2)
    assert "1 trials that ran" in after[pending]["speed_source"]


def test_estimate_errors_are_measured_over_estimated(make: Any, end: Any) -> None:
    study = make(sweep=SWEEP, resources=STATED)
    planned = plan(study)
    write_estimates(planned)
    one = planned.trials[0]
    assert one.cost.seconds is not None
    end(planned, one, seconds_training=2 * one.cost.seconds, peak_memory_bytes=None)
    table = pd.DataFrame([result.model_dump() for result in plan(study).results])
    (row,) = estimate_errors(study.folder, table).to_dict("records")
    assert row["trial_id"] == one.trial.id
    assert row["seconds_ratio"] == pytest.approx(2.0)
    assert pd.isna(row["memory_bytes_ratio"])


def test_estimate_errors_without_a_plan_or_a_trial_are_empty(make: Any) -> None:
    study = make()
    assert estimate_errors(study.folder, pd.DataFrame({"trial_id": ["a"], "status": ["finished"]})).empty
    assert estimate_errors(study.folder, pd.DataFrame({"loss": [1.0]})).empty


def test_time_is_estimated_from_the_most_similar_trial_that_ran(make: Any, end: Any) -> None:
    study = make(sweep=[{"model.preset": ["pico", "nano", "micro"]}, {"model.arch": ["transformer"]}])
    first = plan(study)
    speeds = {"vq-pico": 1e9, "vq-micro": 4e9, "transformer-pico": 9e9}
    for one in first.trials:
        name = "-".join(one.trial.name.split("-")[:2])
        if name in speeds:
            end(first, one, flops_per_second=speeds[name])
    (nano,) = plan(study).pending
    assert nano.cost.seconds == pytest.approx(nano.cost.flops / 1e9)
