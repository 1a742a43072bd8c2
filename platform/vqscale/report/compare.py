"""Comparisons that hold everything else equal: pairs of runs, and speed ratios."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vqscale.report.style import architecture, present

Kind = dict[Hashable, Any]
"""A row of a table: column -> value."""
_MATCH = ("preset", "context", "tokens", "seed", "corpus_fingerprint")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Relative differences of the loss, (first - second) / second, over all pairs that agree in everything else."""

    first: str
    second: str
    differences: list[float]

    @property
    def mean(self) -> float:
        return sum(self.differences) / len(self.differences)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Speed of one architecture over that of another at one context length; None where the other did not run."""

    first: str
    second: str
    context: int
    value: float | None
    memory: float | None
    """Peak memory of the first over that of the second."""


def finished(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["status"] == "finished"] if "status" in table else table


def against_baselines(table: pd.DataFrame, metric: str) -> list[Pairs]:
    """Transformer-VQ against every other architecture, at equal preset, context, tokens and seed."""
    runs = finished(table)
    if not {"arch", metric, *_MATCH} <= set(runs.columns):
        return []
    first = runs[runs["arch"] == "transformer_vq"]
    others = sorted(set(runs["arch"]) - {"transformer_vq"})
    found = [(other, _differences(first, runs[runs["arch"] == other], metric, list(_MATCH))) for other in others]
    return [Pairs(first="transformer_vq", second=other, differences=values) for other, values in found if values]


def over_codebooks(table: pd.DataFrame, metric: str) -> Pairs | None:
    """The largest codebook against the smallest, at equal everything else."""
    runs = finished(table)
    if not {"codebook_size", "arch", metric, *_MATCH} <= set(runs.columns):
        return None
    sizes = runs["codebook_size"].dropna()
    if sizes.nunique() < 2:
        return None
    small, large = int(sizes.min()), int(sizes.max())
    pick = {size: runs[runs["codebook_size"] == size] for size in (small, large)}
    values = _differences(pick[large], pick[small], metric, [*_MATCH, "arch", "head", "block_length"])
    return Pairs(first=str(large), second=str(small), differences=values) if values else None


def speed_ratios(throughput: pd.DataFrame) -> list[Ratio]:
    """Transformer-VQ over every baseline at every context length, in equal presets."""
    kinds = throughput[["arch", "head"]].drop_duplicates().to_dict("records")
    keys = ["context", "preset"]
    found = []
    for first in (kind for kind in kinds if kind["arch"] == "transformer_vq"):
        for second in (kind for kind in kinds if kind["arch"] != "transformer_vq"):
            merged = _of(throughput, first).merge(_of(throughput, second), on=keys, suffixes=("", "_other"))
            names = kind_name(first, throughput), kind_name(second, throughput)
            found += [_ratio(*names, row) for row in merged.sort_values("context").to_dict("records")]
    return found


def _differences(first: pd.DataFrame, second: pd.DataFrame, metric: str, keys: list[str]) -> list[float]:
    """Best run on either side of every pair: where recipes differ, the better one stands."""
    sides = [side.sort_values(metric).drop_duplicates(keys)[[*keys, metric]] for side in (first, second)]
    merged = sides[0].merge(sides[1], on=keys, suffixes=("", "_other"))
    differences = (merged[metric] - merged[f"{metric}_other"]) / merged[f"{metric}_other"]
    return [float(value) for value in differences if present(value)]


def _of(throughput: pd.DataFrame, kind: Kind) -> pd.DataFrame:
    of_arch: pd.DataFrame = throughput[throughput["arch"] == kind["arch"]]
    return of_arch[of_arch["head"] == kind["head"]] if present(kind["head"]) else of_arch[of_arch["head"].isna()]


def _ratio(first: str, second: str, row: Kind) -> Ratio:
    return Ratio(
        first=first,
        second=second,
        context=int(row["context"]),
        value=_quotient(row, "tokens_per_second"),
        memory=_quotient(row, "peak_memory_bytes"),
    )


def kind_name(kind: Kind, throughput: pd.DataFrame) -> str:
    """The architecture, with its head where the table holds several heads of it."""
    heads = throughput.loc[throughput["arch"] == kind["arch"], "head"].nunique()
    return architecture(kind["arch"], kind["head"] if heads > 1 else None)


def _quotient(row: Kind, column: str) -> float | None:
    one, other = row[column], row[f"{column}_other"]
    both_ran = row["status"] == "ok" and row["status_other"] == "ok"
    return float(one) / float(other) if both_ran and present(one) and present(other) else None
