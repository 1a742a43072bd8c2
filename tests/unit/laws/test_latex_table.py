"""A fit as a LaTeX table: the texts beside its constants."""

import numpy as np
import pandas as pd
import pytest

from vqscale.laws import fit_study
from vqscale.laws.io.latex import to_latex


@pytest.fixture(scope="module")
def fits():
    n, d = (values.ravel() for values in np.meshgrid([1e6, 2e6, 4e6, 8e6], [1e8, 2e8, 4e8, 8e8]))
    loss = 1.8 + 400 * n**-0.35 + 2000 * d**-0.37
    table = pd.DataFrame({"parameters_non_embedding": n, "tokens": d, "flops": 6 * n * d, "loss": loss})
    return fit_study(table.assign(arch="transformer"), ["chinchilla"], bootstrap=0, sensitivity=False)


@pytest.mark.parametrize(("error", "text"), [(None, "no hold-out"), (0.01234, "held-out error 1.23\\,\\%")])
def test_latex_table_has_runs_and_held_out_error_beside_the_first_constants(fits, error, text):
    (fit,) = fits.fits
    held_out = fit.holdout.model_copy(update={"mean_relative_error": error})
    shown = to_latex(fits.model_copy(update={"fits": [fit.model_copy(update={"holdout": held_out})]}))
    rows = [line.split(" & ") for line in shown.splitlines() if " & " in line]
    first, second, third = rows[1:4]
    assert (first[1], first[2]) == ("$E$", "$1.8$")
    assert (second[0], second[1], second[2]) == ("16 runs", "$A$", "$400$")
    assert (third[0], third[1], third[2]) == (text, "$\\alpha$", "$0.35$")
