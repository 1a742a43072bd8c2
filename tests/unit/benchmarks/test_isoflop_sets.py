"""The public isoFLOP sets: the objective by hand, the published errors, and what a folder must hold."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.isoflop_sets import PUBLISHED, SETS_FILE, main, mean_huber, measure_sets
from vqscale.errors import FitError

LLAMA = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "laws" / "llama3_isoflops_points.csv"


@pytest.mark.reference
@pytest.mark.skipif(not LLAMA.exists(), reason=f"published runs are not at {LLAMA}")
def test_llama_3_ends_at_the_error_that_vpnls_publishes():
    """2.3 by vpnls, 2.4 by ml-scalefit; 2.2759 is the minimum that every start reaches."""
    table = pd.read_csv(LLAMA)
    n = table["compute_budget"] / 6 / table["training_tokens"]
    error, agreeing, starts = mean_huber(
        n.to_numpy(dtype=float), table["training_tokens"].to_numpy(dtype=float), table["validation_loss"].to_numpy()
    )
    published = next(one for one in PUBLISHED if one.name == "llama3")
    assert len(table) == published.runs
    assert error == pytest.approx(2.2759, abs=1e-3)
    assert round(error, 1) <= published.vpnls < published.scalefit
    assert agreeing == starts == 25


def test_noise_free_runs_leave_no_error():
    n = np.repeat(np.geomspace(1e8, 1e10, 5), 5)
    d = np.tile(np.geomspace(1e9, 1e12, 5), 5)
    loss = 1.8 + 480 * n**-0.35 + 2000 * d**-0.36
    assert mean_huber(n, d, loss)[0] < 1e-6


def test_folders_without_the_file_and_files_without_a_set_are_refused(tmp_path):
    with pytest.raises(FitError, match=r"no isoflops.csv there.*scaling-law-analysis"):
        measure_sets(str(tmp_path))
    pd.DataFrame({"experiment": ["other"], "params": [1.0], "tokens": [1.0], "loss": [1.0]}).to_csv(
        tmp_path / SETS_FILE
    )
    with pytest.raises(FitError, match="0 runs of ml_scalefit__massivetext__chinchilla; published for 124"):
        measure_sets(str(tmp_path))
    with pytest.raises(SystemExit, match="error: "):
        main(["--sets", str(tmp_path), "--out", str(tmp_path)])
