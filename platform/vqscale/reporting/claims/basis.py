"""The evidence behind rows of a table and laws fitted to them, and what would weaken it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from vqscale.formatting import percent
from vqscale.laws import Fit
from vqscale.reporting.charts.style import number, plural, present
from vqscale.reporting.claims.claim import Basis, Seeds
from vqscale.reporting.equal import POINT, seed_noise
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.trust import trust
from vqscale.results.loss_difference import FEW
from vqscale.study.model import EXACT

TWO_THINGS = (
    "two things changed: exact keys, and a position bias over all distances (that of the codes ends at the window)"
)
"""Of Transformer-VQ beside the paper's baseline."""


def two_things(arch: object, base: object) -> bool:
    """Whether the paper's baseline is compared, which differs from the model with codes in more than its keys."""
    return EXACT.get(str(base)) == arch


def basis_of(
    data: ReportData,
    rows: pd.DataFrame,
    *,
    baselines: Sequence[str] = (),
    laws: Sequence[Fit] = (),
    beyond: float = 1.0,
    weakened: Iterable[str] = (),
    measured: str = "",
    losses: bool = True,
) -> Basis:
    """Of a claim about rows of the table.

    `laws`: fits that it takes numbers from. `beyond`: the budget it speaks of, over the largest one fitted. `losses`:
    whether it is about held-out losses, which another seed or another text would move.
    """
    seeds = seeds_of(rows) if len(rows) else None
    held = _one(rows, "examples" if data.classifies else "evaluation_documents") if losses else None
    notes = list(weakened)
    if losses and len(rows):
        notes += _by_chance(data, seeds) + _by_text(data, rows, held)
    notes += [note for fit in laws for note in _by_law(data, fit)]
    if beyond > 1:
        notes.append(f"extrapolated: {number(beyond, 3)} times the largest budget that was fitted")
    tokens = rows["tokens"].dropna() if "tokens" in rows else pd.Series(dtype=float)
    evaluated = _one(rows, "evaluation_tokens") if losses else None
    return Basis(
        runs=names_of(rows),
        seeds=seeds,
        training_tokens=(float(tokens.min()), float(tokens.max())) if len(tokens) else None,
        held_out=held_out_text(rows) if losses and len(rows) else "",
        held_out_tokens=int(evaluated) if evaluated is not None else None,
        documents=int(held) if held is not None else None,
        unit="example" if data.classifies else "document",
        baselines=tuple(baselines),
        weakened_by=tuple(dict.fromkeys(notes)),
        measured=measured
        or "; ".join(f"law {fit.law} of {data.name(fit.where, fit.label)}, fit {fit.id}" for fit in laws),
    )


def _law(data: ReportData, fit: Fit) -> str:
    return f"law {fit.law} of {data.name(fit.where, fit.label)}, fit {fit.id}"


def rows_of_fits(data: ReportData, fits: Sequence[Fit]) -> pd.DataFrame:
    """The runs that laws were fitted to, and those they were tested on."""
    names = {point.name for fit in fits for point in (*fit.points, *fit.holdout.points)}
    if "name" in data.table:
        return data.table[data.table["name"].isin(names)]
    places = pd.Series([f"row {place}" for place in data.table.index], index=data.table.index)
    found = data.table[places.isin(names)]
    return found if len(found) else data.runs


def names_of(rows: pd.DataFrame) -> tuple[str, ...]:
    if "name" in rows:
        return tuple(str(name) if present(name) else f"row {place}" for place, name in rows["name"].items())
    return tuple(f"row {place}" for place in rows.index)


def seeds_of(rows: pd.DataFrame) -> Seeds:
    """Points are rows that differ in nothing but the seed; a table without seeds has none."""
    keys = [name for name in POINT if name in rows]
    if "seed" not in rows or rows["seed"].isna().all() or not keys:
        return Seeds(points=0, repeated=0, most=0)
    counts = rows.groupby(keys, dropna=False)["seed"].nunique()
    return Seeds(points=len(counts), repeated=int((counts > 1).sum()), most=int(counts.max()))


def seed_remark(data: ReportData) -> str:
    """What one seed cannot say, with the spread between seeds where the study has measured it at other points."""
    noise = seed_noise(data.runs, data.metric)
    if noise is None:
        return "one seed: chance unknown"
    return (
        f"one seed: chance unknown here, {percent(noise.relative, 2)} between seeds elsewhere in this study"
        f" ({noise.runs} runs at {plural(noise.points, 'point')})"
    )


def held_out_text(rows: pd.DataFrame) -> str:
    """The corpora, and which part of their held-out text, as far as the records say."""
    parts = []
    for corpus in _values(rows, "corpus_fingerprint") or [None]:
        members = rows[rows["corpus_fingerprint"] == corpus] if corpus else rows
        names = {str(uri).rstrip("/").rsplit("/", 1)[-1] for uri in _values(members, "corpus")}
        name = ", ".join(sorted(names)) + (f" ({str(corpus)[:12]})" if corpus else "")
        texts = [str(text) for text in _values(members, "evaluation_text")]
        parts.append(f"{name or 'unnamed'}: {'; '.join(texts) or 'which part of it is not in the records'}")
    return "; ".join(parts)


def _by_chance(data: ReportData, seeds: Seeds | None) -> list[str]:
    if seeds is None or not seeds.points:
        return ["seeds are not in the table: chance unknown"]
    if not seeds.repeated:
        return [seed_remark(data)]
    left = seeds.points - seeds.repeated
    return [f"one seed at {left} of {plural(seeds.points, 'point')}: chance unknown there"] if left else []


def _by_text(data: ReportData, rows: pd.DataFrame, units: float | None) -> list[str]:
    noun = "example" if data.classifies else "document"
    if units is None:
        return [f"held-out {noun}s are not in the records: the error over them is unknown"]
    if units == 1:
        return [f"one held-out {noun}: what another one would change is unknown"]
    few = [f"{int(units)} held-out {noun}s: their standard errors are rough"] if units < FEW else []
    texts = len(_values(rows, "evaluation_text"))
    return few + ([f"losses of {texts} different held-out texts"] if texts > 1 else [])


def _by_law(data: ReportData, fit: Fit) -> Iterator[str]:
    name = data.name(fit.where, fit.label)
    for mark in trust(fit).reasons:
        yield f"the law of {name} is marked: {mark}" if mark in fit.marks else f"the law of {name}: {mark}"
    if fit.holdout.mean_relative_error is None:
        yield f"the law of {name} was not tested on held-out runs"
    if not fit.intervals:
        yield f"the law of {name} has no intervals"


def _values(rows: pd.DataFrame, column: str) -> list[Any]:
    return list(dict.fromkeys(value for value in rows[column] if present(value))) if column in rows else []


def _one(rows: pd.DataFrame, column: str) -> float | None:
    """The fewest of all rows; None where one of them does not say."""
    if column not in rows or not len(rows) or rows[column].isna().any():
        return None
    return float(rows[column].min())
