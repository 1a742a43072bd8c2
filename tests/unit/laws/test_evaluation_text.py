"""Losses on different held-out text are on no common curve."""

import pandas as pd

from vqscale.laws import fit_study
from vqscale.laws.decisions.compare import SHARED_COLUMNS
from vqscale.laws.fitting.run_filter import split_table
from vqscale.laws.forms.catalogue import LAWS

N = "parameters_non_embedding"


def runs(text: str | None, factor: float = 1.0) -> pd.DataFrame:
    sizes = [10_000, 20_000, 40_000, 80_000, 160_000, 320_000]
    rows = [
        {
            "name": f"{text}-{size}", "arch": "transformer_vq", "corpus_fingerprint": "f", "codebook_size": 64,
            "context": 512, "tokens": 1_000_000, N: size, "bpb": factor * (1.0 + 40 * size**-0.4), "status": "finished",
        }
        for size in sizes
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table if text is None else table.assign(evaluation_text=text)


def test_runs_evaluated_on_different_text_are_fitted_apart() -> None:
    table = pd.concat([runs("start 65536"), runs("spread 65536 by 2048", 1.3)], ignore_index=True)
    fits = fit_study(table, ["power_n"], bootstrap=0).fits
    assert sorted(str(fit.where["evaluation_text"]) for fit in fits) == ["spread 65536 by 2048", "start 65536"]
    for fit in fits:
        assert "evaluation_text" in fit.label or str(fit.where["evaluation_text"]) in fit.label


def test_table_without_the_column_is_one_subset_as_before() -> None:
    assert len(list(split_table(runs(None), LAWS["power_n"].split_by))) == 1
    (fit,) = fit_study(runs(None), ["power_n"], bootstrap=0).fits
    assert "evaluation_text" not in fit.where


def test_architectures_are_compared_on_the_same_text_only() -> None:
    assert "evaluation_text" in SHARED_COLUMNS
    table = pd.concat(
        [runs("start 65536"), runs("spread 65536 by 2048", 1.3).assign(arch="transformer", codebook_size=None)],
        ignore_index=True,
    )
    assert fit_study(table.assign(flops=6 * table[N] * table["tokens"]), ["chinchilla"], bootstrap=0).comparisons == []
