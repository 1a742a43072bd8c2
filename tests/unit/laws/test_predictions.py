import datetime

import numpy as np
import pandas as pd
import pytest

from vqscale.errors import FitError, StorageError
from vqscale.laws import fit_study
from vqscale.laws.decisions.predictions import (
    predict_run,
    predicted_loss,
    read_predictions,
    register,
    score_predictions,
)

NOISE = 0.004


def runs(budgets=(1e17, 3e17, 1e18, 3e18), seed=0):
    n = np.concatenate([(c / 2.3e4) ** 0.5 * np.geomspace(0.2, 5, 6) for c in budgets])
    c = np.repeat(budgets, 6)
    d = c / 6 / n
    loss = 1.7 + 420 * n**-0.36 + 1900 * d**-0.29
    loss = loss * np.exp(np.random.default_rng(seed).normal(0, NOISE, len(n)))
    return pd.DataFrame(
        {
            "trial_id": [f"trial-{index}" for index in range(len(n))],
            "name": [f"run-{index}" for index in range(len(n))],
            "status": "finished",
            "arch": "transformer",
            "parameters_non_embedding": n,
            "tokens": d,
            "flops": c,
            "loss": loss,
        }
    )


@pytest.fixture(scope="module")
def fit():
    (found,) = fit_study(runs(), ["chinchilla"], bootstrap=100, sensitivity=False).fits
    return found


LARGE = {"N": 2e7, "D": 8e10}


def row(prediction, loss, **changes):
    n, d = prediction.x["N"], prediction.x["D"]
    values = {"trial_id": prediction.trial_id, "name": "large", "status": "finished", "arch": "transformer"}
    values |= {"parameters_non_embedding": n, "tokens": d, "flops": 6 * n * d, "loss": loss}
    return pd.concat([runs(), pd.DataFrame([values | changes])], ignore_index=True)


def test_prediction_is_registered_before_its_run_and_scored_after_it(fit, tmp_path):
    now = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    prediction = predict_run(fit, LARGE, name="large", trial_id="trial-large", now=now)
    register(str(tmp_path), [prediction], runs())
    assert read_predictions(str(tmp_path)) == [prediction]
    assert (prediction.fit, prediction.data_hash) == (fit.id, fit.data_hash)
    assert prediction.registered_at == "2026-01-02T00:00:00+00:00"
    assert score_predictions([prediction], runs()) == []
    good, bad = prediction.predicted.value * 1.001, prediction.predicted.value * 1.2
    (hit,) = score_predictions([prediction], row(prediction, good))
    assert hit.relative_error == pytest.approx(1 / 1.001 - 1)
    assert (hit.inside_90, hit.inside_95) == (True, True)
    (miss,) = score_predictions([prediction], row(prediction, bad))
    assert (miss.inside_90, miss.inside_95) == (False, False)


@pytest.mark.parametrize(
    ("started", "early"),
    [("2026-01-02T00:00:01+00:00", True), ("2026-01-01T23:59:59+00:00", False), ("2026-01-02T00:30:00+01:00", False)],
)
def test_score_records_whether_the_run_had_started_when_it_was_registered(fit, started, early):
    now = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    prediction = predict_run(fit, LARGE, name="large", trial_id="trial-large", now=now)
    (found,) = score_predictions([prediction], row(prediction, 2.0, started_at=started))
    assert found.before_start is early


@pytest.mark.parametrize("started", [None, "yesterday", "2026-01-02T00:00:01"])
def test_score_without_a_start_in_the_table_leaves_it_open(fit, started):
    prediction = predict_run(fit, LARGE, name="large", trial_id="trial-large")
    (found,) = score_predictions([prediction], row(prediction, 2.0, started_at=started))
    assert found.before_start is None


def test_run_that_is_in_the_table_cannot_be_predicted_any_more(fit, tmp_path):
    prediction = predict_run(fit, LARGE, name="large", trial_id="trial-large")
    with pytest.raises(FitError, match="already holds this run"):
        register(str(tmp_path), [prediction], row(prediction, None, status="failed"))
    assert read_predictions(str(tmp_path)) == []


def test_run_without_an_id_is_known_by_its_axes_within_its_subset(fit, tmp_path):
    prediction = predict_run(fit, LARGE, name="large")
    with pytest.raises(FitError, match="already holds this run"):
        register(str(tmp_path), [prediction], row(prediction, 2.0, tokens=8.02e10))
    register(str(tmp_path), [prediction], row(prediction, 2.0, arch="transformer_vq"))
    assert len(read_predictions(str(tmp_path))) == 1


def test_registry_only_grows(fit, tmp_path):
    first = predict_run(fit, LARGE, name="first", trial_id="trial-a")
    second = predict_run(fit, LARGE | {"D": 1.6e11}, name="second", trial_id="trial-b")
    register(str(tmp_path), [first], runs())
    with pytest.raises(FitError, match="registered prediction for it already"):
        register(str(tmp_path), [second, first], runs())
    assert read_predictions(str(tmp_path)) == [first]
    register(str(tmp_path), [second], runs())
    assert read_predictions(str(tmp_path)) == [first, second]


def test_damaged_registry_is_refused_and_left_alone(fit, tmp_path):
    (tmp_path / "predictions.json").write_text("{}x")
    with pytest.raises(StorageError, match="not a file of predictions"):
        register(str(tmp_path), [predict_run(fit, LARGE, name="large")], runs())
    assert (tmp_path / "predictions.json").read_text() == "{}x"


def test_interval_is_one_for_runs_and_not_only_for_the_law(fit):
    inside = {"N": 6.6e6, "D": 2.5e10}
    interval = predicted_loss(fit, inside).interval
    law = np.percentile([predicted_loss(_at(fit, draw), inside).value for draw in fit.draws], [5, 95])
    width = np.log(interval.high90 / interval.low90)
    assert width > 2 * np.log(law[1] / law[0])
    assert width == pytest.approx(2 * 1.645 * NOISE, rel=0.4)


def test_interval_of_a_run_is_widened_for_the_degrees_of_freedom_of_the_law(fit):
    """Ten residuals of +r or -r about a law of five parameters: errors are sqrt(10 / 5) times as large.

    With refits equal to the fit nothing else enters: half of the runs lie at the law times exp(-r sqrt 2), half at
    the law times exp(r sqrt 2), and so do all percentiles below and above 50.
    """
    r = 0.01
    points = [
        point.model_copy(update={"residual": r if place % 2 else -r}) for place, point in enumerate(fit.points[:10])
    ]
    own = fit.model_copy(update={"points": points, "draws": [list(fit.parameters.values())] * 50})
    estimate = predicted_loss(own, LARGE)
    assert estimate.interval.low90 == pytest.approx(estimate.value * np.exp(-r * 2**0.5))
    assert estimate.interval.high90 == pytest.approx(estimate.value * np.exp(r * 2**0.5))


def _at(fit, draw):
    """The fit at one of its refits."""
    return fit.model_copy(update={"parameters": dict(zip(fit.parameters, draw, strict=True)), "draws": []})


def test_prediction_needs_every_axis_of_the_law(fit):
    with pytest.raises(FitError, match="D is missing"):
        predict_run(fit, {"N": 1e6}, name="large")


def test_prediction_without_refits_has_no_interval_and_no_verdict(fit):
    prediction = predict_run(fit.model_copy(update={"draws": []}), LARGE, name="large", trial_id="x")
    assert prediction.predicted.interval is None
    (found,) = score_predictions([prediction], row(prediction, 2.0))
    assert found.inside_90 is None
