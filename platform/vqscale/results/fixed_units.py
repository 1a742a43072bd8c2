"""Measures that mean the same across contexts and codebooks: loss at fixed positions, codes effectively in use.

The mean loss falls with the context length T by itself: more of its tokens stand late, where more can be seen. At a
fixed position all models have seen equally much.
"""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from vqscale.errors import FitError

_SUBJECT = ("name", "arch", "codebook_size", "context", "parameters_non_embedding", "tokens", "seed")


def loss_at_positions(table: pd.DataFrame) -> pd.DataFrame:
    """Nats a token of every finished run at the positions that all of them were evaluated at.

    One row a run and range of positions: the run's own columns, `evaluated_over` (tokens of its evaluation sequences),
    `start`, `end`, `nats`. Where `evaluated_over` differs, the same held-out text was cut at other places: a position
    has as much before it in all runs, but not the same words. Raises FitError where runs of several corpora are mixed
    and where no position is common.
    """
    runs = _with_positions(table)
    corpora = set(runs["corpus_fingerprint"]) if "corpus_fingerprint" in runs else set()
    if len(corpora) > 1:
        raise FitError(f"loss_by_position: runs of {len(corpora)} corpora do not share positions. Pick one corpus.")
    common = set.intersection(*({_edges(bucket) for bucket in buckets} for buckets in runs["loss_by_position"]))
    if not common:
        raise FitError("loss_by_position: no range of positions is common to all runs")
    subject = [column for column in _SUBJECT if column in runs]
    rows = [
        {column: row[column] for column in subject}
        | {"evaluated_over": _longest(row["loss_by_position"]), "start": start, "end": end, "nats": nats}
        for row in runs.to_dict("records")
        for start, end, nats in sorted((*_edges(bucket), _nats(bucket)) for bucket in row["loss_by_position"])
        if (start, end) in common
    ]
    return pd.DataFrame(rows)


def mean_over_positions(at_positions: pd.DataFrame, start: int, end: int) -> pd.DataFrame:
    """Nats a token of every run over positions [start, end), each position counting alike.

    `at_positions`: what `loss_at_positions` gave. Raises FitError unless its ranges tile [start, end).
    """
    inside = at_positions[(at_positions["start"] >= start) & (at_positions["end"] <= end)]
    edges = sorted(set(zip(inside["start"], inside["end"], strict=True)))
    if not edges or sum(high - low for low, high in edges) != end - start:
        known = sorted(set(at_positions["start"]) | set(at_positions["end"]))
        raise FitError(f"positions {start} to {end}: choose two of the borders {', '.join(map(str, known))}")
    subject = [column for column in at_positions.columns if column not in ("start", "end", "nats")]
    weighted = inside.assign(width=inside["end"] - inside["start"])
    weighted["nats"] = weighted["nats"] * weighted["width"]
    totals = weighted.groupby(subject, dropna=False, sort=False)[["nats", "width"]].sum().reset_index()
    return totals.assign(nats=totals["nats"] / totals["width"]).drop(columns="width")


def codes_in_use(table: pd.DataFrame) -> pd.DataFrame:
    """Every run with a codebook: S, codes effectively in use (exp of the entropy of their usage), and their share."""
    if not {"codebook_size", "code_perplexity"} <= set(table):
        return pd.DataFrame(columns=["name", "codebook_size", "effective_codes", "share"])
    runs = table[table["codebook_size"].notna() & table["code_perplexity"].notna()]
    subject = [column for column in _SUBJECT if column in runs]
    return runs[subject].assign(
        effective_codes=runs["code_perplexity"], share=runs["code_perplexity"] / runs["codebook_size"]
    )


def _with_positions(table: pd.DataFrame) -> pd.DataFrame:
    if "loss_by_position" not in table:
        raise FitError("loss_by_position: the table has no such column; it comes from runs of this platform")
    finished = table[table["status"] == "finished"] if "status" in table else table
    runs = finished[[isinstance(buckets, list) and len(buckets) > 0 for buckets in finished["loss_by_position"]]]
    if runs.empty:
        raise FitError("loss_by_position: no finished run was evaluated by position")
    return runs


def _edges(bucket: Mapping[str, Any]) -> tuple[int, int]:
    return int(bucket["start"]), int(bucket["end"])


def _nats(bucket: Mapping[str, Any]) -> float:
    nats = float(bucket["nats"])
    assert math.isfinite(nats)
    return nats


def _longest(buckets: list[Mapping[str, Any]]) -> int:
    return max(int(bucket["end"]) for bucket in buckets)
