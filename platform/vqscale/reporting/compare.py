"""Comparisons of runs that hold everything else equal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from vqscale.laws.fitting.run_filter import usual_form
from vqscale.reporting.charts.style import present
from vqscale.results.loss_difference import loss_difference
from vqscale.study.model import EXACT, QUANTISED, WINDOW_BIAS

_MATCH = ("preset", "context", "tokens", "seed", "corpus_fingerprint")
_TEXT = "evaluation_text"
EQUAL_COMPUTE = 0.05
"""Relative distance in FLOPs within which runs count as equal in compute: token budgets are whole updates."""

Row = Mapping[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Two architectures over all pairs of runs that agree in everything else."""

    first: str
    second: str
    metric: str
    pairs: Sequence[tuple[Row, Row]]
    """Rows of the table."""
    equal: Literal["tokens", "compute"] = "tokens"
    """compute: pairs of the best sizes tried at one budget, where no two runs of one size share their tokens."""

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
    made = [
        Pairs(first=one, second=other, metric=metric, pairs=pairs, equal=equal)
        for one, other in chosen
        if (found := _equal_pairs(found_sides[one], found_sides[other], metric)) is not None
        for equal, pairs in [found]
    ]
    return sorted(made, key=lambda pairs: (coded.index(pairs.first), _nearness(pairs)))


def _nearness(pairs: Pairs) -> int:
    """First the baseline that differs in the keys alone, then the one with exact keys, then others."""
    arch, _, variant = pairs.second.partition("+")
    return 2 if EXACT.get(arch) != pairs.first else 0 if variant else 1


def _equal_pairs(
    first: pd.DataFrame, second: pd.DataFrame, metric: str
) -> tuple[Literal["tokens", "compute"], list[tuple[Row, Row]]] | None:
    """At equal tokens where there are such pairs; else, of a baseline with the bias of the codes, at equal compute."""
    if pairs := _pairs(first, second, metric):
        return "tokens", pairs
    own, base = str(first["arch"].iloc[0]), str(second["arch"].iloc[0])
    windowed = EXACT.get(base) == own and "variant" in second and bool((second["variant"] == WINDOW_BIAS).all())
    return ("compute", pairs) if windowed and (pairs := _at_budgets(first, second, metric)) else None


def _at_budgets(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> list[tuple[Row, Row]]:
    """The lowest losses of either side at every budget, context and seed that both have."""
    if "flops" not in first:
        return []
    found: dict[tuple[Any, ...], tuple[list[Row], list[Row]]] = {}
    levels: list[float] = []
    for flops in sorted([*first["flops"].dropna(), *second["flops"].dropna()]):
        if not levels or flops > (1 + EQUAL_COMPUTE) * levels[-1]:
            levels.append(float(flops))
    for place, side in enumerate((first, second)):
        for row in side[side[metric].notna() & side["flops"].notna()].to_dict("records"):
            level = max(one for one in levels if one <= row["flops"])
            key = (level, row["context"], row["seed"], row["corpus_fingerprint"])
            found.setdefault(key, ([], []))[place].append(row)
    best = [
        tuple(min(rows, key=lambda row: float(row[metric])) for rows in both) for both in found.values() if all(both)
    ]
    return [(pair[0], pair[1]) for pair in best]


def _pairs(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> list[tuple[Row, Row]]:
    """Best run on either side of every pair: where recipes differ, the better one counts.

    A record of an earlier version does not say which held-out text its loss is of: it meets any.
    """
    keys = list(_MATCH)
    texts = [_TEXT] if _TEXT in first and _TEXT in second else []
    own, other = (
        side[side[metric].notna()].sort_values(metric).drop_duplicates([*keys, *texts]) for side in (first, second)
    )
    merged = own[keys].assign(own=range(len(own))).merge(other[keys].assign(other=range(len(other))), on=keys)
    records: list[Sequence[Row]] = [own.to_dict("records"), other.to_dict("records")]
    pairs = [(records[0][i], records[1][j]) for i, j in zip(merged["own"], merged["other"], strict=True)]
    return [pair for pair in pairs if len({one.get(_TEXT) for one in pair if present(one.get(_TEXT))}) < 2]
