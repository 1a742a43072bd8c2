"""IsoFLOP curves of many budgets: told apart by a scale of colours, not by a legend of thirty-five lines."""

import numpy as np
import pandas as pd
import pytest

from vqscale.laws import fit_study
from vqscale.reporting import gather
from vqscale.reporting.charts.interactive import plotly_chart
from vqscale.reporting.charts.panel import LineLayer, scale_ticks
from vqscale.reporting.charts.static import draw_figure
from vqscale.reporting.charts.style import SPECTRUM, power, spectrum
from vqscale.reporting.sections.isoflop import section


def panel_of(budgets):
    best = (0.348 * 482 / (0.366 * 2085)) ** (1 / 0.714) * (budgets / 6) ** (0.366 / 0.714)
    n, c = np.outer(best, np.geomspace(1 / 4, 4, 5)).ravel(), np.repeat(budgets, 5)
    loss = 1.82 + 482 * n**-0.348 + 2085 * (c / 6 / n) ** -0.366
    loss = loss * np.exp(np.random.default_rng(0).normal(0, 1e-3, len(n)))
    table = pd.DataFrame({"parameters_non_embedding": n, "tokens": c / 6 / n, "flops": c, "loss": loss})
    fits = fit_study(table, ["chinchilla"], bootstrap=0, sensitivity=False)
    (panel,) = section(gather(study={}, table=table, fits=fits)).panels
    return panel


@pytest.fixture(scope="module")
def many():
    return panel_of(np.geomspace(1e17, 1e21, 35))


def test_many_budgets_are_coloured_by_their_compute_and_named_by_a_bar(many):
    assert [layer.label for layer in many.layers if layer.label] == ["vertex of a parabola", "N* of the law"]
    assert (many.colours.name, many.colours.low, many.colours.high) == (
        "C (FLOPs)", pytest.approx(1e17), pytest.approx(1e21),
    )  # fmt: skip
    curves = [layer.shade for layer in many.layers if isinstance(layer, LineLayer)]
    assert len(curves) == len(set(curves)) == 35
    assert (curves[0], curves[17], curves[-1]) == (SPECTRUM[0], SPECTRUM[3], SPECTRUM[-1])


def test_few_budgets_keep_their_legend_and_have_no_bar():
    few = panel_of(np.geomspace(1e18, 1e20, 5))
    assert few.colours is None
    assert sum(layer.label.startswith("C = ") for layer in few.layers) == 5


def test_the_bar_is_in_the_figure_and_in_the_page(many):
    drawn = draw_figure(many).figure
    axes, bar = drawn.axes
    assert bar.get_ylabel() == "C (FLOPs)"
    assert [text.get_text() for text in bar.get_yticklabels()] == ["10¹⁷", "10¹⁸", "10¹⁹", "10²⁰", "10²¹"]
    assert len(axes.get_legend().get_texts()) == 2
    marker = plotly_chart(many)["data"][-1]["marker"]
    assert (marker["cmin"], marker["cmax"]) == (17, 21)
    assert marker["colorscale"][0] == [0, SPECTRUM[0]]
    assert marker["colorbar"]["ticktext"] == ["10¹⁷", "10¹⁸", "10¹⁹", "10²⁰", "10²¹"]


def test_the_bar_names_its_ends_and_no_power_of_ten_close_to_them(many):
    scale = many.colours
    ends = type(scale)(name="", low=9e17, high=2.5e20, colours=scale.colours, show=scale.show)
    assert [name for _, name in scale_ticks(ends)] == [power(9e17), "10¹⁹", "10²⁰", power(2.5e20)]


def test_spectrum_mixes_its_neighbours():
    assert spectrum(0) == SPECTRUM[0]
    assert spectrum(1) == SPECTRUM[-1]
    assert spectrum(0.5 / 6) == "#4a2798"  # half of #3b0f70 and half of #5a3fc0
