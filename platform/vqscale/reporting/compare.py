"""Comparisons of runs that hold everything else equal."""

from dataclasses import dataclass

import pandas as pd

from vqscale.laws.fitting.run_filter import usual_form
from vqscale.reporting.charts.style import present
from vqscale.study.model import QUANTISED

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


def own_share(table: pd.DataFrame) -> "pd.Series[float]":
    """Of every run the share of its updates that it trained itself, rather than took over with a shared WSD prefix."""
    if not {"shared_steps", "steps"} <= set(table):
        return pd.Series(1.0, index=table.index)
    return 1 - table["shared_steps"] / table["steps"]


def against_baselines(table: pd.DataFrame, metric: str) -> list[Pairs]:
    """Architectures with codes against every other one, at equal preset, context, tokens and seed, in their usual form.

    Two with codes meet once.
    """
    if not {"arch", metric, *_MATCH} <= set(table.columns):
        return []
    sides = {str(arch): rows for arch, rows in usual_form(finished(table)).groupby("arch")}
    coded = [arch for arch in QUANTISED if arch in sides]
    pairs = [(one, other) for place, one in enumerate(coded) for other in sides if other not in coded[: place + 1]]
    found = [(one, other, _differences(sides[one], sides[other], metric, list(_MATCH))) for one, other in pairs]
    return [Pairs(first=one, second=other, differences=values) for one, other, values in found if values]


def _differences(first: pd.DataFrame, second: pd.DataFrame, metric: str, keys: list[str]) -> list[float]:
    """Best run on either side of every pair: where recipes differ, the better one counts."""
    sides = [side.sort_values(metric).drop_duplicates(keys)[[*keys, metric]] for side in (first, second)]
    merged = sides[0].merge(sides[1], on=keys, suffixes=("", "_other"))
    differences = (merged[metric] - merged[f"{metric}_other"]) / merged[f"{metric}_other"]
    return [float(value) for value in differences if present(value)]
