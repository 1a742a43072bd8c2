"""Sentences, charts and the page of a throughput table, from synthetic measurements."""

import re

import pytest

from vqscale.reporting import write_throughput_figures, write_throughput_report
from vqscale.reporting.charts.style import Scheme, architecture
from vqscale.reporting.throughput.panels import speed_panels, tick_name
from vqscale.reporting.throughput.speed_comparison import (
    break_evens,
    filling,
    measurement_provenance,
    measurement_warnings,
    speed_comparisons,
)
from vqscale.throughput.request import default_study


def without_scripts(page):
    return re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)


def test_comparison_at_a_measured_length_gives_ratio_break_even_cost_and_memory(throughput):
    (comparison,) = speed_comparisons(throughput)
    assert comparison.contexts == [512, 2048, 8192, 32768]
    against_full, against_transformer = comparison.at(8192)
    assert against_full == (
        "At T = 8,192 Transformer-VQ trains 2.49 x [2.49, 2.49] as fast as Full-attention baseline; break-even at"
        " T = 1,320 [1,320, 1,320]; a billion tokens cost 139 USD against 345 at 2 USD per device-hour; its peak memory"
        " is 1 x that of Full-attention baseline."
    )
    assert "1.35 x" in against_transformer
    assert "break-even at T = 4,495 [4,495, 4,495]" in against_transformer


def test_comparison_beside_a_baseline_that_did_not_fit_gives_the_reason_and_no_ratio(throughput):
    (comparison,) = speed_comparisons(throughput)
    assert comparison.longest == 32768
    assert comparison.at(32768)[0] == (
        "At T = 32,768 Transformer-VQ trains on 4,000 tokens per second, and Full-attention baseline has no speed to"
        " compare with (out of memory)."
    )


def test_comparison_without_price_or_counter_names_neither(make_throughput):
    (comparison,) = speed_comparisons(make_throughput())
    assert "cost" not in " ".join(comparison.at(8192))
    assert "kWh" not in " ".join(comparison.at(8192))


def test_comparison_of_a_vq_model_that_did_not_fit_says_so(make_throughput):
    (comparison,) = speed_comparisons(make_throughput(starving=[("transformer_vq", 512)]))
    assert comparison.at(512)[0] == "At T = 512 Transformer-VQ has no speed (out of memory)."
    everywhere = [("transformer_vq", context) for context in (512, 2048, 8192, 32768)]
    (nowhere,) = speed_comparisons(make_throughput(starving=everywhere))
    assert nowhere.break_even == {}
    (once,) = nowhere.at(nowhere.longest)  # the same against every baseline
    assert "has no speed" in once


def test_break_evens_outside_the_measured_lengths_are_named(make_throughput):
    shorter = make_throughput()
    below = shorter[shorter["context"] >= 8192]
    assert break_evens(below)[0] == "Break-even: below the shortest T measured (8,192) against Full-attention baseline."
    above = shorter[shorter["context"] <= 2048]
    assert break_evens(above)[1] == "Break-even: none up to T = 2,048 against Transformer."


PEERS = ["transformer_vq", "transformer_full", "mega", "gla", "transformer_window"]


def test_comparisons_cover_every_linear_time_architecture_with_the_baselines(make_throughput):
    table = make_throughput(archs=PEERS, starving=())
    found = {one.arch: one for one in speed_comparisons(table)}
    assert list(found) == ["transformer_vq", "gla", "transformer_window"]
    (sentence,) = found["gla"].at(8192)
    full = table[(table["arch"] == "transformer_full") & (table["context"] == 8192)].iloc[0]
    assert f"Gated linear attention trains {3000 / full['tokens_per_second']:.3g} x" in sentence
    assert [text.split(":")[0] for text in break_evens(table)] == [architecture(arch) for arch in found]


def test_panels_of_several_linear_time_architectures_name_each_and_keep_their_order(make_throughput):
    time, speed, ratio = speed_panels(make_throughput(archs=PEERS, starving=()))
    assert [curve.label for curve in speed.layers] == [
        architecture(arch) for arch in ("transformer_vq", "transformer_full", "mega", "gla", "transformer_window")
    ]
    assert time.layers[0].y[0] == pytest.approx(250.0)  # the guide of linear time is transformer_vq's
    assert [layer.label for layer in ratio.layers][1:4] == [
        f"{architecture(arch)} over Full-attention baseline" for arch in ("transformer_vq", "gla", "transformer_window")
    ]
    assert ratio.title == "Speed over baselines"


def test_provenance_says_what_the_architectures_of_the_table_are_and_no_others(throughput, make_throughput):
    assert "Gated" not in " ".join(measurement_provenance(throughput))
    text = " ".join(measurement_provenance(make_throughput(archs=PEERS)))
    assert "Gated linear attention is a linear recurrence" in text
    assert "LongVQ is" not in text


def test_scheme_gives_peers_colours_of_their_own_and_leaves_the_first_three_theirs():
    few, all_of_them = Scheme.of([]), Scheme.of([*PEERS, "transformer", "longvq", "mamba"])
    for arch in ("transformer_vq", "transformer_full", "transformer"):
        assert few.colour(arch) == all_of_them.colour(arch)
    assert len({all_of_them.colour(arch) for arch in all_of_them.names}) == len(all_of_them.names) == 8
    assert Scheme.of(["mamba"]).place("mamba") == 3
    assert architecture("gla") == "Gated linear attention"


def test_provenance_names_machine_versions_and_what_was_not_measured(throughput):
    text = " ".join(measurement_provenance(throughput))
    for expected in ("AdamW", "a processor, 2 cores usable", "torch 2.13.0", "0123456789abcdef", "2026-01-02"):
        assert expected in text
    assert "1 TFLOP/s in fp32" in text
    assert "Energy was not measured" in text
    assert "blockwise" in text


def test_warnings_say_what_a_cpu_and_few_repeats_cannot_tell(throughput, make_throughput):
    assert any("nothing follows for a GPU" in text for text in measurement_warnings(throughput))
    assert not any("repeats" in text for text in measurement_warnings(throughput))
    few = make_throughput()
    few.loc[0, "repeats"] = 1
    assert any(
        "1 cell(s) have fewer than 3 repeats (1 of them because the time limit" in text
        for text in measurement_warnings(few)
    )
    asked = measurement_warnings(few.assign(repeats=2))
    assert any("cell(s) have fewer than 3 repeats: their range is a poor measure" in text for text in asked)
    assert measurement_warnings(few.assign(device_kind="cuda", repeats=3)) == []


def test_warnings_name_the_codes_of_a_table_that_was_measured_with_several(throughput, make_throughput):
    assert not any("different code" in text for text in measurement_warnings(throughput))
    mixed = make_throughput()
    mixed.loc[0, "git"] = "fedc"
    mixed.at[1, "versions"] = {"torch": "2.11.0", "triton": "3.6.0"}
    (text,) = [text for text in measurement_warnings(mixed) if "different code" in text]
    for expected in ("commit fedc", "torch 2.11.0, triton 3.6.0", "torch 2.13.0", "--again"):
        assert expected in text


def test_filling_of_a_step_says_where_it_holds_other_than_the_stated_tokens(throughput):
    assert filling(throughput[:1].assign(batching="512 tokens per step", tokens_per_step=512)) == "512 tokens per step"
    longer = throughput[:2].assign(batching="512 tokens per step", tokens_per_step=[512, 2048])
    assert filling(longer) == "512 tokens per step in whole sequences, at least one sequence (here 512 to 2048 tokens)"
    assert filling(throughput[:1].assign(batching="batch 2", tokens_per_step=1024)) == "batch 2"


def test_panels_hold_curves_guides_and_break_evens(throughput):
    time, speed, ratio = speed_panels(throughput)
    linear, quadratic, *curves = time.layers
    assert [curve.label for curve in curves] == ["Transformer-VQ", "Full-attention baseline", "Transformer"]
    assert linear.y[0] == linear.y[1] == pytest.approx(250.0)  # µs per token
    assert quadratic.y[1] / quadratic.y[0] == pytest.approx(quadratic.x[1] / quadratic.x[0])
    assert speed.layers[1].x == [512, 2048, 8192]
    labels = [layer.label for layer in ratio.layers]
    assert labels[:3] == ["break-even", "over Full-attention baseline", "over Transformer"]
    assert round(ratio.layers[3].x[0]) == 1320


def test_panels_of_an_empty_measurement_are_none(make_throughput):
    everything = [(arch, context) for arch in ("transformer_vq", "transformer_full", "transformer")
                  for context in (512, 2048, 8192, 32768)]  # fmt: skip
    table = make_throughput(starving=everything)
    assert speed_panels(table) == []
    assert measurement_provenance(table) == ["Nothing could be measured."]
    assert measurement_warnings(table) == []


def test_figures_are_png_and_svg_and_equal_every_time(throughput, tmp_path):
    names = [uri.rsplit("/", 1)[-1] for uri in write_throughput_figures(throughput, str(tmp_path / "one"))]
    write_throughput_figures(throughput, str(tmp_path / "two"))
    assert len(names) == 6
    for name in names:
        one, two = (tmp_path / folder / "figures" / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_page_of_a_throughput_study_lets_the_reader_choose_a_length(throughput, tmp_path):
    study = default_study("speed").model_copy(update={"question": "Is it <fast>?"})
    write_throughput_report(str(tmp_path), study=study, table=throughput)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = without_scripts(page)
    assert "Is it &lt;fast&gt;?" in text
    assert '<option value="32768" selected>32,768</option>' in text
    assert len(re.findall(r'<ul data-context="\d+">', text)) == 1
    assert len(re.findall(r'<ul data-context="\d+" hidden>', text)) == 3
    assert "cells: 11 ok, 1 out of memory" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert page.count('<script type="application/json">') == 3


@pytest.mark.parametrize(
    ("context", "text"), [(512, "512"), (1024, "1k"), (1536, "1536"), (131072, "128k"), (50000, "50k")]
)
def test_tick_names_of_context_lengths_are_short(context, text):
    assert tick_name(context) == text
