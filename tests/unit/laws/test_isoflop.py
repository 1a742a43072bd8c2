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


def test_interval_of_the_slope_is_widened_for_the_degrees_of_freedom_of_the_parabolas():
    """Four sizes at each of two budgets, evenly spaced by h in log N, off their parabola by e (-1, 3, -3, 1).

    That contrast is orthogonal to parabolas: the residuals are e and 3 e in size, their squares sum to 20 e^2 at each
    budget, which leaves one degree of freedom: the pooled variance is 20 e^2 with two. The vertex of loss = c z^2 moves
    by -slope / (2 c), and a slope over four sizes has the variance 20 e^2 / (5 h^2). The exponent is the difference of
    two vertices over the distance of the budgets in log C; t(0.95, 2) = 2.919986.
    """
    h, c, e, decade = 0.5, 0.1, 2e-4, np.log(10)
    z = h * np.array([-1.5, -0.5, 0.5, 1.5])
    loss = 3 + c * z**2 + e * np.array([-1, 3, -3, 1])
    n = np.concatenate([1e6 * np.exp(z), 1e7 * np.exp(z)])
    budgets = np.repeat([1e17, 1e18], 4)
    runs = IsoflopRuns(names=["run"] * 8, n=n, d=budgets / 6 / n, c=budgets, loss=np.tile(loss, 2))
    found = isoflop_parabolas({}, "", runs)
    deviation = np.sqrt(2 * 20 * e**2 / (5 * h**2)) / (2 * c) / decade
    assert found.a.interval.high90 - found.a.interval.low90 == pytest.approx(2 * 2.919986 * deviation, rel=1e-6)
    assert found.b.value == pytest.approx(1 - found.a.value, abs=1e-9)
    assert found.line.freedom == 2


def test_interval_of_a_vertex_is_fiellers():
    """As above: at z = 0 the slope has variance v = 4 e^2 / h^2, and twice the curvature 4 w with w = 5 e^2 / h^4.

    (Four sizes: squares of z^2 - mean(z^2) sum to 4 h^4, so that w = 20 e^2 / (4 h^4).) Slope and curvature are
    uncorrelated on symmetric sizes: the ends are where (2 c z)^2 = t^2 (v + 4 w z^2).
    """
    h, c, e, t = 0.5, 0.1, 2e-4, 2.919986
    z = h * np.array([-1.5, -0.5, 0.5, 1.5])
    loss = 3 + c * z**2 + e * np.array([-1, 3, -3, 1])
    n = np.concatenate([1e6 * np.exp(z), 1e7 * np.exp(z)])
    budgets = np.repeat([1e17, 1e18], 4)
    runs = IsoflopRuns(names=["run"] * 8, n=n, d=budgets / 6 / n, c=budgets, loss=np.tile(loss, 2))
    end = t * np.sqrt(4 * e**2 / h**2 / (4 * c**2 - t**2 * 4 * 5 * e**2 / h**4))
    for row, centre in zip(isoflop_parabolas({}, "", runs).rows, (1e6, 1e7), strict=True):
        assert row.vertex.value == row.parameters == pytest.approx(centre, rel=1e-9)
        assert np.log(row.vertex.interval.high90 / centre) == pytest.approx(end, rel=1e-5)
        assert np.log(row.vertex.interval.low90 / centre) == pytest.approx(-end, rel=1e-5)


def test_vertex_whose_scatter_leaves_it_unbounded_has_no_interval_and_says_so():
    z = np.linspace(-1, 1, 5)
    turned = 3 + 0.02 * z**2 + 0.002 * np.array([1, -2, 0, 2, -1])
    scattered = 3 + 0.4 * z**2 + 0.02 * np.array([1, -2, 0, 2, -1])
    n = np.concatenate([1e6 * np.exp(z), 1e7 * np.exp(z)])
    budgets = np.repeat([1e17, 1e18], 5)
    loss = np.concatenate([turned, scattered])
    first, second = isoflop_parabolas(
        {}, "", IsoflopRuns(names=["run"] * 10, n=n, d=budgets / 6 / n, c=budgets, loss=loss)
    ).rows
    assert first.parameters is not None
    assert first.vertex.interval is None
    assert first.warnings == ["no interval: the scatter of the runs leaves the vertex unbounded"]
    assert second.vertex.interval is not None


def test_a_budget_that_scatters_far_more_than_the_others_is_judged_by_its_own_scatter():
    """Thirty times the scatter at one of five budgets: pooled, all five intervals would be equally wide."""
    z = np.linspace(-1.5, 1.5, 7)
    rng = np.random.default_rng(0)
    loss = np.stack([3 + 0.1 * z**2 + rng.normal(0, 3e-4 * (30 if row == 2 else 1), 7) for row in range(5)])
    n = np.stack([centre * np.exp(z) for centre in best_size(BUDGETS)])
    c = np.repeat(BUDGETS, 7)
    runs = IsoflopRuns(names=["run"] * 35, n=n.ravel(), d=c / 6 / n.ravel(), c=c, loss=loss.ravel())
    rows = isoflop_parabolas({}, "", runs).rows
    widths = [np.log(row.vertex.interval.high90 / row.vertex.interval.low90) for row in rows]
    assert widths[2] > 15 * max(*widths[:2], *widths[3:])
    assert max(*widths[:2], *widths[3:]) < 1.2 * min(*widths[:2], *widths[3:])


def test_intervals_of_vertices_and_slope_hold_the_truth_in_nine_of_ten_studies():
    """5 budgets x 5 sizes, noise 0.3 %, middles up to 1.5 times off; 300 studies: 86-94 % of nominal 90 %."""
    alpha, beta, budgets = 0.348, 0.366, np.geomspace(1e18, 1e20, 5)
    a = beta / (alpha + beta)
    best = (alpha * 482 / (beta * 2085)) ** (1 / (alpha + beta)) * (budgets / 6) ** a
    held, slopes = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        middles = best * np.exp(rng.uniform(-np.log(1.5), np.log(1.5), 5))
        n = np.concatenate([middle * np.geomspace(1 / 4, 4, 5) for middle in middles])
        c = np.repeat(budgets, 5)
        loss = (1.82 + 482 * n**-alpha + 2085 * (c / 6 / n) ** -beta) * np.exp(rng.normal(0, 0.003, 25))
        found = isoflop_parabolas({}, "", IsoflopRuns(names=["run"] * 25, n=n, d=c / 6 / n, c=c, loss=loss))
        for row, truth in zip(found.rows, best, strict=True):
            if row.vertex is not None and row.vertex.interval is not None:
                held.append(row.vertex.interval.low90 <= truth <= row.vertex.interval.high90)
        slopes.append(found.a.interval.low90 <= a <= found.a.interval.high90)
    assert len(held) > 1450
    assert 0.86 <= np.mean(held) <= 0.94
    assert 0.86 <= np.mean(slopes) <= 0.94


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
