"""The page of an isoFLOP study: its sentences, sections, panels and method, from records of the real fitter."""

import json
import re

import numpy as np
import pytest

from vqscale.laws import StudyFits
from vqscale.laws.decisions.predictions import predict_run, register
from vqscale.laws.io.schema import Estimate, Interval, Optimum
from vqscale.reporting import figures, gather
from vqscale.reporting.charts.curves import POINTS_PER_CURVE, training_curves
from vqscale.reporting.charts.panel import Axis, LineLayer, Panel, PointsLayer, round_numbers, ticks
from vqscale.reporting.charts.style import power, shade
from vqscale.reporting.checklist import checklist
from vqscale.reporting.equal import equal_groups, seed_noise
from vqscale.reporting.page import make_sections
from vqscale.reporting.sections.compute import optima_layers
from vqscale.reporting.summary.summary import summarise

STUDY = {"study": "books", "question": "", "resources": {"price_per_device_hour": 2.0, "currency": "EUR"}}


@pytest.fixture(scope="module")
def data(isoflop_table, isoflop_fits):
    return gather(study=STUDY, table=isoflop_table, fits=isoflop_fits)


def summary_of(data):
    return {part.title: " ".join(part.sentences) for part in summarise(data)}


def with_multiplier(data, low, high):
    """The same comparisons with another interval of their factors."""
    ends = Interval(low90=low, high90=high, low95=low, high95=high)
    other = Estimate(value=(low + high) / 2, interval=ends)
    comparisons = [
        one.model_copy(update={"points": [p.model_copy(update={"multiplier": other}) for p in one.points]})
        for one in data.fits.comparisons
    ]
    fits = data.fits.model_copy(update={"comparisons": comparisons})
    return gather(study=STUDY, table=data.table, fits=fits)


def test_summary_gives_the_factor_with_its_interval_and_says_when_it_may_be_one(data):
    found = summary_of(with_multiplier(data, 1.2, 1.4))["Findings"]
    assert (
        f"Transformer-VQ needs in compute, at {power(1.6e12)} FLOPs, 1.3 times (1.2 to 1.4) that of Transformer"
        in found
    )
    assert "may be equal" not in found
    assert (
        "(0.9 to 1.1) that of Transformer, which may be equal"
        in summary_of(with_multiplier(data, 0.9, 1.1))["Findings"]
    )


def test_summary_says_how_far_off_the_held_out_runs_were_and_who_did_better(data):
    found = summary_of(data)["Confidence"]
    fit = data.leading[0]
    assert f"{100 * fit.holdout.mean_relative_error:.2f} % (Transformer-VQ)" in found
    assert "Nothing is extrapolated" not in found
    beaten = fit.holdout.model_copy(update={"baselines": {"last value": 1e-9}})
    fits = StudyFits(fits=[fit.model_copy(update={"holdout": beaten})])
    found = summary_of(gather(study=STUDY, table=data.table, fits=fits))["Confidence"]
    assert 'Nothing is extrapolated by the law of Transformer-VQ: the baseline "last value" was off by 0.00 %' in found


def test_summary_prices_the_study_and_the_next_decade(data):
    cost = summary_of(data)["Cost"] + summary_of(data)["Whether to continue"]
    table = data.table
    hours = table[["seconds_training", "seconds_evaluation", "seconds_overhead"]].sum().sum() / 3600
    assert f"{hours:.3g} device-hours" in cost
    assert f"{2 * hours:.3g} EUR" in cost
    assert "times the largest budget should bring Transformer-VQ to" in cost


def test_summary_advises_on_codebook_and_context_from_equal_compute(data):
    found = summary_of(data)["Findings"]
    assert re.search(r"Best codebook size at equal compute: Transformer-VQ S = \d+", found)
    assert "Best context length at equal compute: Transformer-VQ T = " in found
    assert "Best context length at equal tokens: Transformer-VQ T = 1,024" in found


def test_sections_without_data_are_absent(data):
    whole = [section.id for section in make_sections(data)]
    assert whole == ["compute", "isoflop", "sizes", "compare", "holdout", "diagnostics", "codebook", "context", "laws",
                     "cost", "runs", "failures", "evidence", "method"]  # fmt: skip
    bare = gather(study=STUDY, table=data.table[["loss", "parameters_non_embedding"]], fits=StudyFits())
    assert [section.id for section in make_sections(bare)] == ["runs", "failures", "evidence", "method"]


def test_every_panel_of_the_page_is_a_figure_with_a_name_of_its_own(data):
    panels = [panel.name for section in make_sections(data) for panel in section.panels]
    assert [drawn.name for drawn in figures(data)] == panels
    assert len(panels) == len(set(panels)) > 15


def test_frontier_is_solid_within_the_data_and_dotted_beyond_with_a_band(data):
    (compute, *_) = make_sections(data)
    (panel,) = compute.panels
    fit = data.leading[0]
    edge = max(point.flops for point in fit.points)
    lines = [layer for layer in panel.layers if isinstance(layer, LineLayer) and layer.group == "Transformer-VQ"]
    assert [line.dash for line in lines] == ["solid", "dotted"]
    assert max(lines[0].x) <= 1.001 * edge < max(lines[1].x)
    hollow = [layer for layer in panel.layers if isinstance(layer, PointsLayer) and layer.hollow]
    assert sum(len(layer.x) for layer in hollow) == 15  # five held-out runs of each architecture


def test_isoflop_marks_the_laws_optimum_at_every_budget(data):
    isoflop = next(section for section in make_sections(data) if section.id == "isoflop")
    for panel in isoflop.panels:
        crosses = [layer for layer in panel.layers if isinstance(layer, PointsLayer) and layer.size == 10]
        assert len(crosses) >= 4
        assert all(len(layer.x) == 1 for layer in crosses)


def test_groups_of_equal_compute_hold_one_thing_that_varies(isoflop_table):
    found = equal_groups(isoflop_table, "codebook_size", "bpb", "compute")
    assert {(one.arch, one.size) for one in found} == {("transformer_vq", "d24x2"), ("transformer_vq", "d48x2")}
    for one in found:
        assert one.values == [16, 64, 256]
        flops = np.concatenate([rows["flops"] for rows in one.runs])
        assert flops.max() / flops.min() < 1.06
        assert min(one.relative) == 0 == one.relative[one.best]
    assert equal_groups(isoflop_table, "codebook_size", "bpb", "tokens") == []


def test_seed_noise_is_that_of_the_repeated_points(isoflop_table):
    noise = seed_noise(isoflop_table, "bpb")
    assert (noise.runs, noise.points) == (45, 15)
    assert noise.relative == pytest.approx(0.002, rel=0.4)
    assert seed_noise(isoflop_table[isoflop_table["seed"] == 0], "bpb") is None


def test_registered_predictions_are_scored_beside_pending_ones(data, isoflop_fits, isoflop_table, tmp_path):
    fit = data.leading[0]
    made = [predict_run(fit, {"N": 2e5 * factor, "D": 4e6}, name=f"run {factor}") for factor in (1, 2)]
    register(str(tmp_path), made, isoflop_table)
    row = isoflop_table[isoflop_table["arch"] == "transformer_vq"].iloc[[0]].assign(
        parameters_non_embedding=200_000, tokens=4_000_000, context=512, codebook_size=64, bpb=2.0
    )  # fmt: skip
    later = gather(study=STUDY, table=row, fits=isoflop_fits, home=str(tmp_path))
    section = next(one for one in make_sections(later) if one.id == "holdout")
    table = next(b.table for b in section.blocks if b.kind == "table" and "registered" in b.table.headers)
    scored, pending = ([text for text, _ in line] for line in table.rows)
    assert scored[5] == "2"
    assert scored[6] == f"{100 * (made[0].predicted.value / 2.0 - 1):+.2f} %"
    assert pending[5] == "pending"


def test_checklist_is_filled_in_from_the_records(data):
    entries = dict(entry for group in checklist(data.table, data.fits, STUDY).values() for entry in group)
    assert entries["Form"] == "chinchilla: L = E + A N^-alpha + B D^-beta"
    assert entries["Runs"] == "155 finished, 1 failed"
    assert "25 starts agree" in entries["Optimiser"]
    assert "20 refits" in entries["Uncertainty"]
    assert "that the study's design holds out" in entries["Hold-out"]
    assert "delta 1e-4" in entries["Sensitivity"]
    bare = checklist(data.table[["loss"]], StudyFits(), {"study": "x"})
    unknown = dict(entry for group in bare.values() for entry in group)
    assert unknown["Sizes N"] == unknown["Commit"] == "not in the table"


def test_training_curves_are_thinned_means_of_finished_trials(isoflop_table, tmp_path):
    trial = str(isoflop_table["trial_id"][0])
    folder = tmp_path / "trials" / trial
    folder.mkdir(parents=True)
    rows = [{"step": step, "tokens": 1024 * step, "loss": 5 / step, "bpb": 7 / step} for step in range(1, 401)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (curve,) = training_curves(str(tmp_path), isoflop_table)
    assert curve.trial_id == trial
    assert len(curve.loss) <= POINTS_PER_CURVE
    assert curve.tokens[-1] == 1024 * 400
    assert curve.loss[0] == pytest.approx(np.mean([row["loss"] for row in rows[:5]]))
    shown = gather(study=STUDY, table=isoflop_table, fits=StudyFits(), home=str(tmp_path))
    assert "training" in [section.id for section in make_sections(shown)]


@pytest.mark.parametrize(
    ("low", "high", "inside"),
    [(1.0, 1.4, 5), (0.7, 1.2, 4), (11_000, 480_000, 4), (5e10, 5e13, 6), (1e3, 1e12, 10)],
)
def test_round_numbers_name_an_axis_densely_but_not_too_densely(low, high, inside):
    places = round_numbers(low, high, 8)
    assert sum(low <= place <= high for place in places) == inside


def test_ticks_of_a_linear_axis_are_left_to_the_drawer():
    layers = [LineLayer(shade="#000000", x=[1.0, 100.0], y=[1.0, 2.0])]
    panel = Panel(name="p", title="", x=Axis(name="x", log=True, show=power), y=Axis(name="y"), layers=layers)
    assert ticks(panel, "y") == ()
    assert ticks(panel, "x")[0] == (1.0, "10⁰")


def test_shades_run_from_pale_to_the_colour_itself():
    assert shade("#0f78bf", 1.0) == "#0f78bf"
    assert shade("#0f78bf", 0.0) != shade("#0f78bf", 0.5) != "#0f78bf"


def test_optima_outside_the_sizes_are_dotted_at_either_end():
    def at(flops, outside=1.0, beyond=1.0):
        size = Estimate(value=flops**0.5)
        return Optimum(
            flops=flops, parameters=size, tokens=size, loss=size, tokens_per_parameter=size, parameters_low=1.0,
            parameters_high=1.0, beyond=beyond, outside=outside,
        )  # fmt: skip

    optima = [at(1.0, outside=2.0), at(2.0), at(3.0), at(4.0, outside=3.0), at(5.0, beyond=2.0)]
    layers = list(optima_layers(optima, [(one.flops, None) for one in optima], "", "#000"))
    assert [(layer.dash, layer.x) for layer in layers] == [
        ("solid", [2.0, 3.0]),
        ("dotted", [1.0, 2.0]),
        ("dotted", [3.0, 4.0, 5.0]),
    ]
