"""Runs that agree in everything but the architecture are compared pair by pair."""

import pandas as pd
import pytest

from vqscale.reporting.compare import against_baselines


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
