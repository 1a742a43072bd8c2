from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vqscale.laws import fit_study
from vqscale.laws.fitting.points import budgets_of
from vqscale.laws.validation.isoflop import IsoflopRuns, isoflop_parabolas

LLAMA = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "laws" / "llama3_isoflops_points.csv"
ALPHA, BETA = 0.684, 0.439
TRUE_A = BETA / (ALPHA + BETA)
"""0.391"""
BUDGETS = np.geomspace(1e17, 1e20, 5)


def best_size(budget):
    return (ALPHA * 1e4 / (BETA * 1e4)) ** (1 / (ALPHA + BETA)) * (budget / 6) ** TRUE_A


def grid(spread=4.0, drift=(1.0, 1.0), sizes=7, noise=0.0):
    """An isoFLOP study of a known surface; the centre of the sizes moves from `drift[0]` to `drift[1]` x optimum."""
    centres = np.geomspace(*drift, len(BUDGETS)) * best_size(BUDGETS)
    n = np.concatenate([centre * np.geomspace(1 / spread, spread, sizes) for centre in centres])
    c = np.repeat(BUDGETS, sizes)
    loss = 1.7 + 1e4 * n**-ALPHA + 1e4 * (c / 6 / n) ** -BETA
    loss = loss * np.exp(np.random.default_rng(0).normal(0, noise, len(n)))
    return pd.DataFrame({"parameters_non_embedding": n, "tokens": c / 6 / n, "flops": c, "loss": loss})


def runs_of(table):
    n, d, c, loss = (table[name].to_numpy() for name in ("parameters_non_embedding", "tokens", "flops", "loss"))
    return IsoflopRuns(names=[str(row) for row in range(len(n))], n=n, d=d, c=c, loss=loss)


def one_budget(loss, n=None):
    n = np.geomspace(1e6, 1e7, len(loss)) if n is None else n
    found = isoflop_parabolas(
        {}, "", IsoflopRuns(names=["run"] * len(n), n=n, d=1e18 / 6 / n, c=np.full(len(n), 1e18), loss=loss)
    )
    return found.rows[0]


def test_parabolas_on_drifted_grids_are_biased_and_the_surface_fit_is_not():
    drifted = grid(drift=(1.0, 1 / 3))
    diagnostic = isoflop_parabolas({}, "", runs_of(drifted))
    assert diagnostic.a.value == pytest.approx(0.359, abs=0.002)
    (fit,) = fit_study(drifted, ["chinchilla"], bootstrap=0).fits
    assert fit.derived["a"] == pytest.approx(TRUE_A, abs=0.002)


def test_parabolas_on_centred_grids_find_the_exponent():
    found = isoflop_parabolas({}, "", runs_of(grid()))
    assert found.a.value == pytest.approx(TRUE_A, abs=0.005)
    assert found.a.value + found.b.value == pytest.approx(1, abs=1e-9)
    assert [row.reason for row in found.rows] == [None] * 5


def test_interval_of_the_slope_widens_with_noise_and_holds_it():
    widths = []
    for noise in (1e-3, 4e-3):
        interval = isoflop_parabolas({}, "", runs_of(grid(noise=noise))).a.interval
        assert interval.low95 <= interval.low90 < interval.high90 <= interval.high95
        widths.append(interval.high90 - interval.low90)
    assert widths[1] > 1.5 * widths[0]
    assert isoflop_parabolas({}, "", runs_of(grid(noise=4e-3)), seed=1).a.interval != interval


def test_interval_of_the_slope_is_widened_for_the_degrees_of_freedom_of_the_parabolas():
    """Four sizes at each of two budgets, evenly spaced by h in log N, off their parabola by e (-1, 3, -3, 1).

    That contrast is orthogonal to parabolas: the residuals are e and 3 e in size. A parabola leaves one degree of
    freedom of four, so that errors are drawn twice as large: of variance (2^2 + 6^2) e^2 / 2 = 20 e^2. The vertex of
    loss = c z^2 moves by -slope / (2 c), and a slope over four sizes has the variance 20 e^2 / (5 h^2). The exponent
    is the difference of two vertices over the distance of the budgets in log C.
    """
    h, c, e, decade = 0.5, 0.1, 2e-4, np.log(10)
    z = h * np.array([-1.5, -0.5, 0.5, 1.5])
    loss = 3 + c * z**2 + e * np.array([-1, 3, -3, 1])
    n = np.concatenate([1e6 * np.exp(z), 1e7 * np.exp(z)])
    budgets = np.repeat([1e17, 1e18], 4)
    runs = IsoflopRuns(names=["run"] * 8, n=n, d=budgets / 6 / n, c=budgets, loss=np.tile(loss, 2))
    interval = isoflop_parabolas({}, "", runs, refits=20_000).a.interval
    deviation = np.sqrt(2 * 20 * e**2 / (5 * h**2)) / (2 * c) / decade
    assert interval.high90 - interval.low90 == pytest.approx(2 * 1.645 * deviation, rel=0.05)


def test_concave_parabola_is_refused():
    z = np.linspace(-1, 1, 7)
    row = one_budget(3 - 0.1 * z**2)
    assert row.parameters is None
    assert row.reason.startswith("concave")


@pytest.mark.parametrize(("centre", "side"), [(-1.2, "smaller"), (1.2, "larger")])
def test_vertex_outside_the_sizes_is_refused(centre, side):
    z = np.linspace(-1, 1, 7)
    row = one_budget(3 + 0.1 * (z - centre) ** 2)
    assert (row.parameters, row.tokens, row.loss) == (None, None, None)
    assert f"train {side} ones" in row.reason


def test_parabola_shallower_than_its_scatter_is_refused():
    z = np.linspace(-1, 1, 7)
    row = one_budget(3 + 0.001 * z**2 + 0.01 * np.array([1, -1, 1, -1, 1, -1, 1]))
    assert row.reason.startswith("flat")


@pytest.mark.parametrize(("curvature", "refused"), [(0.28, True), (0.29, False)])
def test_parabola_is_flat_below_the_95_percent_point_of_student_t(curvature, refused):
    """Seven sizes at z = -3h .. 3h, off a parabola by the cubic contrast of seven points (squares sum to 6 e^2).

    Variance 6 e^2 / 4; the squares of z^2 - mean(z^2) sum to 84 h^4; t(0.95, 4) = 2.131847: the least curvature is
    2.131847 sqrt(1.5 / 84) e / h^2 = 0.28488 e / h^2.
    """
    h, e = 0.4, 0.01
    z = h * np.arange(-3, 4)
    row = one_budget(3 + curvature * e * (z / h) ** 2 + e * np.array([-1, 1, 1, 0, -1, -1, 1]), 1e6 * np.exp(z))
    assert (row.reason or "").startswith("flat") == refused


def test_few_sizes_and_one_sided_ones_carry_a_warning():
    row = one_budget(3 + 0.1 * (np.linspace(-1, 1, 4) - 0.5) ** 2)
    assert row.parameters is not None
    assert row.warnings[0].startswith("4 sizes")
    assert "(3 below, 1 above)" in row.warnings[1]


def test_two_sizes_at_a_budget_are_no_parabola():
    table = grid(sizes=2)
    assert isoflop_parabolas({}, "", runs_of(table)) is None


def test_one_budget_with_an_optimum_gives_no_slope():
    found = isoflop_parabolas({}, "", runs_of(grid().iloc[:7]))
    assert found.a is None
    assert "1 of 1 budgets" in found.reason


def test_budgets_are_grouped_by_distance_and_seeds_stay_in_theirs():
    groups = budgets_of(np.array([1.0e18, 3.0e18, 1.02e18, 0.99e18, 3.1e18, 9e18]))
    assert [sorted(group.tolist()) for group in groups] == [[0, 2, 3], [1, 4], [5]]


def test_study_fills_isoflops_for_every_subset():
    table = pd.concat([grid().assign(arch="transformer"), grid().assign(arch="transformer_vq")], ignore_index=True)
    found = fit_study(table, ["chinchilla"], bootstrap=0).isoflops
    assert [one.where["arch"] for one in found] == ["transformer", "transformer_vq"]
    assert [len(one.rows) for one in found] == [5, 5]


@pytest.mark.reference
@pytest.mark.skipif(not LLAMA.exists(), reason=f"published runs are not at {LLAMA}")
def test_llama_3_exponent_and_coefficient_are_those_of_its_parabolas():
    """Digitised isoFLOP points of Llama 3; a parabola in log D is one in log N where C = 6ND."""
    table = pd.read_csv(LLAMA)
    c, d = table["compute_budget"].to_numpy(dtype=float), table["training_tokens"].to_numpy()
    loss = table["validation_loss"].to_numpy()
    found = isoflop_parabolas({}, "", IsoflopRuns(names=["run"] * len(c), n=c / 6 / d, d=d, c=c, loss=loss))
    assert len(found.rows) == 10
    assert found.b.value == pytest.approx(0.53678, abs=1e-5)
    log_c, log_d = np.log([[row.budget, row.tokens] for row in found.rows]).T
    assert np.exp(np.polyfit(log_c, log_d, 1)[1]) == pytest.approx(0.29936, rel=1e-3)
