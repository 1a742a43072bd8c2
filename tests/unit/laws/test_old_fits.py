"""Files of earlier versions open as before: texts under `words`, units with their old names."""

import json

import numpy as np
import pandas as pd
import pytest

from vqscale.laws import fit_study, read_fits
from vqscale.laws.decisions.predictions import predict_run, read_predictions

OLD_UNITS = {"nats per token": "nats a token", "bits per byte": "bits a byte"}


@pytest.fixture(scope="module")
def fits():
    """Two rival laws of one table: variants, frontiers by both counts, and a model selection."""
    n, m = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e5, 1e7, 5), [5.0, 20.0, 80.0]))
    d = n * m
    table = pd.DataFrame({"parameters_non_embedding": n, "tokens": d, "flops": 6 * n * d})
    table["loss"] = 1.7 + 420 * n**-0.36 + 1900 * d**-0.29
    return fit_study(table, ["chinchilla", "chinchilla_no_floor"], bootstrap=2)


def as_written_before(fits):
    """The same content as the version before the rename wrote it."""
    content = json.loads(fits.model_dump_json())
    records = [*content["selections"]]
    for fit in content["fits"]:
        fit["unit"] = OLD_UNITS[fit["unit"]]
        records += [*fit["variants"], *fit["frontiers"]]
    for record in records:
        record["words"] = record.pop("description")
    return content


def test_fits_of_an_earlier_version_are_read(fits, tmp_path):
    assert fits.selections
    assert [frontier.cost for frontier in fits.fits[0].frontiers] == ["exact", "6nd"]
    old = json.dumps(as_written_before(fits))
    assert old.count('"words"') > 4
    assert "nats a token" in old
    (tmp_path / "fits.json").write_text(old)
    assert read_fits(str(tmp_path)) == fits


def test_predictions_of_an_earlier_version_are_read(fits, tmp_path):
    prediction = predict_run(fits.fits[0], {"N": 1e7, "D": 1e9}, name="large", trial_id="trial-large")
    old = json.loads(prediction.model_dump_json()) | {"unit": "nats a token"}
    (tmp_path / "predictions.json").write_text(json.dumps({"predictions": [old]}))
    assert read_predictions(str(tmp_path)) == [prediction]
    assert prediction.unit == "nats per token"
