"""Runs that agree in everything but the architecture are compared pair by pair."""

from types import SimpleNamespace

import pandas as pd
import pytest

from vqscale.reporting.charts.style import Scheme, architecture, with_kinds
from vqscale.reporting.compare import against_baselines
from vqscale.reporting.report_data import largest_fits
from vqscale.reporting.tables import trial_table


def row(arch, bpb, seed=0, variant=None):
    same = {"preset": "nano", "context": 512, "tokens": 1000, "corpus_fingerprint": "a", "status": "finished"}
    return same | {"arch": arch, "bpb": bpb, "seed": seed, "variant": variant}


def test_architectures_with_codes_are_compared_with_all_others_and_once_with_each_other():
    runs = [row("longvq", 2.2), row("longvq", 1.1, variant="window-only"), row("transformer", 2.0)]
    runs += [
        row("transformer_vq", 2.4),
        row("transformer_vq", 2.0, seed=1),
        row("transformer_window", 4.0, variant="w64"),
    ]
    found = {(one.first, one.second): one.differences for one in against_baselines(pd.DataFrame(runs), "bpb")}
    assert found == {
        ("transformer_vq", "longvq"): [pytest.approx(2.4 / 2.2 - 1)],
        ("transformer_vq", "transformer"): [pytest.approx(0.2)],
        ("transformer_vq", "transformer_window"): [pytest.approx(-0.4)],
        ("longvq", "transformer"): [pytest.approx(0.1)],
        ("longvq", "transformer_window"): [pytest.approx(-0.45)],
    }


def test_runs_without_the_columns_are_not_compared():
    assert against_baselines(pd.DataFrame([{"arch": "transformer_vq", "bpb": 2.0}]), "bpb") == []


def test_window_bias_without_pairs_at_equal_tokens_is_compared_at_equal_compute_by_its_best_size():
    vq = [row("transformer_vq", 2.4) | {"flops": 1e10, "preset": "a"}, row("transformer_vq", 2.2) | {"flops": 1.02e10}]
    full = [
        row("transformer_full", bpb, variant="window-bias") | {"flops": flops, "tokens": 900}
        for bpb, flops in ((2.0, 1.01e10), (2.5, 1.0e10), (1.0, 5e10))
    ]
    (found,) = against_baselines(pd.DataFrame([*vq, *full]), "bpb")
    assert (found.second, found.equal) == ("transformer_full+window-bias", "compute")
    assert found.differences == [pytest.approx(0.1)]  # the lowest of either side at the one budget both have


def test_paper_baseline_and_window_bias_are_two_sides_and_the_one_that_changes_the_keys_alone_comes_first():
    runs = [row("transformer_vq", 2.2), row("transformer_full", 2.0), row("transformer", 1.0)]
    runs.append(row("transformer_full", 2.1, variant="window-bias"))
    found = [(one.second, one.differences) for one in against_baselines(pd.DataFrame(runs), "bpb")]
    assert [name for name, _ in found] == ["transformer_full+window-bias", "transformer_full", "transformer"]
    assert found[0][1] == [pytest.approx(2.2 / 2.1 - 1)]


def test_losses_of_two_held_out_texts_are_no_pair_and_an_unknown_one_meets_any():
    text = {"evaluation_text": "spread 65536"}
    runs = [row("transformer_vq", 2.2) | text, row("transformer", 2.0) | text | {"evaluation_text": "start 65536"}]
    assert against_baselines(pd.DataFrame(runs), "bpb") == []
    runs[1] = row("transformer", 2.0)
    (found,) = against_baselines(pd.DataFrame(runs), "bpb")
    assert found.differences == [pytest.approx(0.1)]


def test_baselines_with_another_bias_are_named_and_coloured_apart():
    archs = ["transformer_full", "transformer_full", "mega"]
    runs = pd.DataFrame({"arch": archs, "variant": [None, "window-bias", "ema"]})
    assert with_kinds(runs)["arch"].tolist() == ["transformer_full", "transformer_full+window-bias", "mega"]
    assert architecture("transformer_full+window-bias") == "Full attention, bias within L"
    scheme = Scheme.of(with_kinds(runs)["arch"])
    assert len({scheme.colour(arch) for arch in with_kinds(runs)["arch"]}) == 3
    table = trial_table(runs.assign(name=["a", "b", "c"], bpb=[2.0, 1.9, 2.1]))
    named = [row[table.headers.index("architecture")][0] for row in table.rows]
    assert named == ["Full attention, bias within L", "Full-attention baseline", "Mega"]


def test_laws_of_baselines_with_another_bias_are_both_on_the_page():
    def fit(variant, runs):
        return SimpleNamespace(where={"arch": "transformer_full", "variant": variant}, n_runs=runs)

    both = [fit(None, 30), fit("window-bias", 13), fit(None, 12)]
    assert largest_fits(both) == both[:2]
