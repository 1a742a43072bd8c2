"""Comparisons of runs that hold everything else equal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vqscale.laws.fitting.run_filter import usual_form
from vqscale.results.loss_difference import loss_difference
from vqscale.study.model import EXACT, QUANTISED, WINDOW_BIAS

_MATCH = ("preset", "context", "tokens", "seed", "corpus_fingerprint")
_MATCH_WHERE_KNOWN = ("evaluation_text",)
"""Which a table of an earlier version lacks."""

Row = Mapping[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Two architectures over all pairs of runs that agree in everything else."""

    first: str
    second: str
    metric: str
    pairs: Sequence[tuple[Row, Row]]
    """Rows of the table."""

    @property
    def differences(self) -> list[float]:
        """Relative: (first - second) / second."""
        return [float(one[self.metric]) / float(other[self.metric]) - 1 for one, other in self.pairs]

    @property
    def mean(self) -> float:
        return sum(self.differences) / len(self.pairs)

    @property
    def absolute(self) -> float:
        """Mean of first - second, in the unit of the loss."""
        return sum(float(one[self.metric]) - float(other[self.metric]) for one, other in self.pairs) / len(self.pairs)

    @property
    def error(self) -> float | None:
        """Standard error of `absolute` over held-out text, at most: None where it is unknown for a pair.

        All pairs are evaluated on the same text, so their errors do not average out.
        """
        return mean_text_error(self.pairs, self.metric)


def mean_text_error(pairs: Sequence[tuple[Row, Row]], metric: str) -> float | None:
    """Mean standard error over held-out text of the differences within pairs of rows; None where one is unknown."""
    if metric not in ("loss", "bpb", "accuracy"):
        return None
    found = [loss_difference(one, other, metric) for one, other in pairs]  # type: ignore[arg-type]
    errors = [one.error for one in found if one is not None and one.error is not None]
    return sum(errors) / len(errors) if errors and len(errors) == len(pairs) else None


def finished(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["status"] == "finished"] if "status" in table else table


def own_share(table: pd.DataFrame) -> "pd.Series[float]":
    """Of every run the share of its updates that it trained itself, rather than took over with a shared WSD prefix."""
    if not {"shared_steps", "steps"} <= set(table):
        return pd.Series(1.0, index=table.index)
    return 1 - table["shared_steps"] / table["steps"]


def sides(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Finished runs by architecture in its usual form; baselines whose bias ends at the window are one of their own,
    named `ARCH+window-bias`: beside quantised keys the keys alone differ."""
    runs = finished(table)
    found = {str(arch): rows for arch, rows in usual_form(runs).groupby("arch")}
    if "variant" in runs:
        for arch in EXACT:
            rows = runs[(runs["arch"] == arch) & (runs["variant"] == WINDOW_BIAS)]
            if len(rows):
                found[f"{arch}+{WINDOW_BIAS}"] = rows
                if arch in found:
                    found[arch] = found[arch][found[arch]["variant"].isna()]
    return {name: rows for name, rows in found.items() if len(rows)}


def against_baselines(table: pd.DataFrame, metric: str) -> list[Pairs]:
    """Architectures with codes against every other one, at equal preset, context, tokens and seed, in their usual form.

    Two with codes meet once.
    """
    if not {"arch", metric, *_MATCH} <= set(table.columns):
        return []
    found_sides = sides(table)
    coded = [arch for arch in QUANTISED if arch in found_sides]
    chosen = [
        (one, other) for place, one in enumerate(coded) for other in found_sides if other not in coded[: place + 1]
    ]
    keys = [*_MATCH, *(name for name in _MATCH_WHERE_KNOWN if name in table)]
    found = [(one, other, _pairs(found_sides[one], found_sides[other], metric, keys)) for one, other in chosen]
    made = [Pairs(first=one, second=other, metric=metric, pairs=pairs) for one, other, pairs in found if pairs]
    return sorted(made, key=lambda pairs: (coded.index(pairs.first), _nearness(pairs)))


def _nearness(pairs: Pairs) -> int:
    """First the baseline that differs in the keys alone, then the one with exact keys, then others."""
    arch, _, variant = pairs.second.partition("+")
    return 2 if EXACT.get(arch) != pairs.first else 0 if variant else 1


def _pairs(first: pd.DataFrame, second: pd.DataFrame, metric: str, keys: list[str]) -> list[tuple[Row, Row]]:
    """Best run on either side of every pair: where recipes differ, the better one counts."""
    own, other = (side[side[metric].notna()].sort_values(metric).drop_duplicates(keys) for side in (first, second))
    merged = own[keys].assign(own=range(len(own))).merge(other[keys].assign(other=range(len(other))), on=keys)
    records: list[Sequence[Row]] = [own.to_dict("records"), other.to_dict("records")]
    return [(records[0][i], records[1][j]) for i, j in zip(merged["own"], merged["other"], strict=True)]
