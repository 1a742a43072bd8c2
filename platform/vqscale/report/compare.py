"""Comparisons of runs that hold everything else equal."""

from dataclasses import dataclass

import pandas as pd

from vqscale.report.style import present

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


def _differences(first: pd.DataFrame, second: pd.DataFrame, metric: str, keys: list[str]) -> list[float]:
    """Best run on either side of every pair: where recipes differ, the better one stands."""
    sides = [side.sort_values(metric).drop_duplicates(keys)[[*keys, metric]] for side in (first, second)]
    merged = sides[0].merge(sides[1], on=keys, suffixes=("", "_other"))
    differences = (merged[metric] - merged[f"{metric}_other"]) / merged[f"{metric}_other"]
    return [float(value) for value in differences if present(value)]
