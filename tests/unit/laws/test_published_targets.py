from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vqscale.laws import fit_study

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "laws" / "chinchilla_epoch_extracted.csv"
pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not DATA.exists(), reason=f"published runs are not at {DATA}"),
]


@pytest.fixture(scope="module")
def epoch():
    """245 runs read off a figure of Hoffmann et al. by Epoch; D from C = 6 N D as Epoch does."""
    table = pd.read_csv(DATA)
    n, c = table["Model Size"], table["Training FLOP"]
    return pd.DataFrame({"parameters_non_embedding": n, "tokens": c / (6 * n), "flops": c, "loss": table["loss"]})


def test_chinchilla_on_epochs_240_runs_meets_the_grid_search(epoch):
    kept = epoch.sort_values("loss").iloc[:-5]
    (fit,) = fit_study(kept, ["chinchilla"], bootstrap=60).fits
    target = {"A": 477.83, "B": 2143.4, "E": 1.817218, "alpha": 0.347311, "beta": 0.367172}
    assert fit.parameters == pytest.approx(target, rel=1e-4)
    assert fit.objective == pytest.approx(1.01827402e-3, rel=1e-6)
    assert fit.derived["a"] == pytest.approx(0.5139, abs=1e-4)
    published_errors = {"E": 0.0273, "alpha": 0.0149, "beta": 0.0211}
    for name, error in published_errors.items():
        width = fit.intervals[name].high95 - fit.intervals[name].low95
        assert width == pytest.approx(2 * 1.96 * error, rel=0.35)


def test_chinchilla_on_all_245_runs_shows_the_pull_of_five(epoch):
    (fit,) = fit_study(epoch, ["chinchilla"], bootstrap=0).fits
    assert fit.parameters == pytest.approx(fit.parameters | {"E": 1.891, "alpha": 0.349, "beta": 0.453}, rel=2e-3)


def test_hold_out_on_epochs_runs_reports_its_error(epoch):
    kept = epoch.sort_values("loss").iloc[:-5]
    (fit,) = fit_study(kept, ["chinchilla"], bootstrap=0).fits
    assert np.isclose(fit.holdout.mean_relative_error, 0.0125, atol=0.004)
