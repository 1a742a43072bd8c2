"""Runs of both rules of weight decay, and of both baselines, side by side: groups with labels of their own."""

import pandas as pd

from vqscale.reporting.charts.style import architecture
from vqscale.reporting.sections.classes import over_seeds


def runs(setup: str, decayed: str | None, accuracy: float) -> pd.DataFrame:
    common = {"corpus_fingerprint": "c", "arch": "transformer_vq", "variant": None, "head": "shga", "preset": "d48x2"}
    rows = [common | {"seed": seed, "setup": setup, "decayed": decayed, "accuracy": accuracy} for seed in (0, 1)]
    return pd.DataFrame(rows)


def test_runs_of_both_rules_of_weight_decay_are_groups_with_labels_of_their_own() -> None:
    table = pd.concat([runs("a", None, 0.5), runs("b", "matrix, embedding", 0.6)], ignore_index=True)
    assert [(one.label, len(one.rows)) for one in over_seeds(table)] == [
        ("Transformer-VQ, decay of matrix, embedding", 2),
        ("Transformer-VQ", 2),
    ]


def test_runs_of_one_rule_of_weight_decay_do_not_name_it() -> None:
    assert [one.label for one in over_seeds(runs("b", "matrix, embedding", 0.6))] == ["Transformer-VQ"]
    assert [one.label for one in over_seeds(runs("a", None, 0.6))] == ["Transformer-VQ"]


def test_baseline_with_its_bias_within_the_window_has_its_own_name() -> None:
    table = runs("b", None, 0.6).assign(arch="transformer_full")
    both = pd.concat([table, table.assign(variant="window-bias", setup="c")], ignore_index=True)
    labels = [one.label for one in over_seeds(both)]
    assert labels == [architecture("transformer_full"), architecture("transformer_full+window-bias")]
    assert "window-bias" not in labels[1]
