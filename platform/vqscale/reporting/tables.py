"""The report's tables: header, rows of text, and a key to sort by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vqscale.formatting import duration, percent, short_count
from vqscale.laws import Fit, StudyFits
from vqscale.laws.forms.catalogue import exponents_of
from vqscale.laws.io.schema import Interval
from vqscale.laws.study_fits import default_metric
from vqscale.reporting.charts.style import architecture, bytes_of, in_words, number, present, whole, with_kinds
from vqscale.reporting.compare import finished
from vqscale.reporting.references import KnownReferences, fair, found_for, label, text_of
from vqscale.results.references import References
from vqscale.throughput.measurement import OK

TableCell = tuple[str, float | str]
"""What is shown and what it sorts by."""


@dataclass(frozen=True, kw_only=True)
class Table:
    headers: list[str]
    rows: list[list[TableCell]]

    @classmethod
    def of(cls, headers: list[str], rows: list[list[str]]) -> "Table":
        return cls(headers=headers, rows=[[(text, text) for text in row] for row in rows])


_TRIAL_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "name": ("trial", str),
    "status": ("status", str),
    "arch": ("architecture", architecture),
    "head": ("head", str),
    "parameters_non_embedding": ("N", short_count),
    "codebook_size": ("S", whole),
    "context": ("T", whole),
    "tokens": ("D", short_count),
    "seed": ("seed", str),
    "lr": ("lr", number),
    "flops": ("C (FLOPs)", lambda value: number(value, 3)),
    "accuracy": ("accuracy", percent),
    "test_accuracy": ("accuracy, test", percent),
    "bpb": ("bpb", number),
    "loss": ("nats", number),
    "perplexity": ("perplexity", number),
    "tokens_per_second": ("tokens/s", short_count),
    "peak_memory_bytes": ("peak memory", bytes_of),
    "state_bytes": ("decode state", bytes_of),
    "seconds_training": ("training", duration),
    "seconds_overhead": ("overhead", duration),
    "attempts": ("attempts", str),
}
_CODE_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "name": ("trial", str),
    "codebook_size": ("S", whole),
    "code_perplexity": ("codes in use: exp(entropy)", lambda value: number(value, 3)),
    "dead_codes": ("dead codes", percent),
    "quantisation_error": ("relative quantisation error", lambda value: number(value, 3)),
    "revived": ("revived", short_count),
    "bpb": ("bpb", number),
}
_SPEED_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "context": ("T", whole),
    "arch": ("architecture", architecture),
    "tokens_per_second": ("tokens/s", short_count),
    "ratio_to_transformer_full": (f"x {architecture('transformer_full')}", lambda value: number(value, 3)),
    "ratio_to_transformer": (f"x {architecture('transformer')}", lambda value: number(value, 3)),
    "ms_per_step": ("ms per step", number),
    "seconds_per_token": ("µs per token", lambda value: number(1e6 * value)),
    "mfu": ("MFU", percent),
    "peak_memory_bytes": ("peak memory", bytes_of),
    "cost_per_billion_tokens": ("cost of 10⁹ tokens", lambda value: number(value, 3)),
    "energy_kwh_per_billion_tokens": ("kWh of 10⁹ tokens", lambda value: number(value, 3)),
    "repeats": ("repeats", whole),
    "processes": ("processes", whole),
    "tokens_per_second_low": ("slowest", short_count),
    "tokens_per_second_high": ("fastest", short_count),
    "batch": ("sequences", whole),
    "flops_per_token": ("FLOPs per token", short_count),
    "preset": ("preset", str),
    "precision": ("precision", str),
    "head": ("head", str),
    "codebook_size": ("S", whole),
    "backend": ("backend", str),
    "device": ("device", str),
}


def trial_table(table: pd.DataFrame) -> Table:
    """Every trial, best loss first; columns that nothing was measured for are left out."""
    metric = default_metric(table)
    shown = with_kinds(table)
    return _table(shown.sort_values(metric) if metric in shown else shown, _TRIAL_COLUMNS)


def codebook_table(table: pd.DataFrame) -> Table | None:
    if "code_perplexity" not in table or table["code_perplexity"].isna().all():
        return None
    return _table(table[table["code_perplexity"].notna()], _CODE_COLUMNS)


def constant_table(fits: StudyFits) -> Table | None:
    """Every fitted constant with its intervals."""
    rows = [row for fit in fits.fits for row in _constants(fit)]
    headers = ["law", "runs of", "constant", "value", "90 % interval", "95 % interval", "fit"]
    return Table.of(headers, rows) if rows else None


def refusal_table(fits: StudyFits, *, too_few: bool) -> Table | None:
    """Subsets without a law: those with too few runs (largest first), or those refused for any other reason."""
    shown = [one for one in fits.refusals if (one.kind == "too few runs") == too_few]
    rows = [[one.law, in_words(one.label), one.reason] for one in sorted(shown, key=lambda one: -one.n_runs)]
    return Table.of(["law", "runs of", "why no law is given"], rows) if rows else None


def failure_table(table: pd.DataFrame, fits: StudyFits) -> Table | None:
    """Trials that did not finish with their error, and finished runs that a law left out."""
    rows: list[list[str]] = []
    if "status" in table:
        for _, row in table[table["status"] != "finished"].iterrows():
            error = str(row["error"]) if present(row.get("error")) else ""
            rows.append([str(row.get("name", row.name)), str(row["status"]), error])
    rows += [[entry.name, f"left out of {entry.law}", entry.reason] for entry in fits.excluded if entry.law]
    return Table.of(["trial", "what", "why"], rows) if rows else None


def reference_table(table: pd.DataFrame, known: KnownReferences | None) -> Table | None:
    """Best run of every architecture beside the compressors on held-out text, and the text that each figure is of.

    A run is compared only with a compressor that has read the training text, too, on the text that the run was
    evaluated on.
    """
    runs = finished(table)
    if not known or not {"bpb", "arch", "corpus_fingerprint"} <= set(runs.columns):
        return None
    texts = [name for name in ("corpus", "corpus_fingerprint", "evaluation_text") if name in runs]
    rows: list[list[TableCell]] = []
    for _, members in runs.dropna(subset=["bpb"]).groupby(texts, dropna=False):
        found = found_for(known, members.iloc[0].to_dict())
        rows += _beside_references(members, found) if found is not None else []
    headers = ["held-out text of", "by", "bits per byte", "of the text", "best run against it"]
    return Table(headers=headers, rows=rows) if rows else None


def _beside_references(runs: pd.DataFrame, found: References) -> list[list[TableCell]]:
    corpus, best = corpus_of(runs), float(runs["bpb"].min())
    evaluated = f"as evaluated, {found.evaluated_bytes:,} bytes"
    rows: list[tuple[float, str, str, str]] = [
        (float(bpb), f"{architecture(arch)}, best run", evaluated, "")
        for arch, bpb in runs.groupby("arch")["bpb"].min().items()
    ]
    comparable = fair(found)
    for level in found.levels:
        change = f"{100 * (best / level.bpb - 1):+.1f} %" if level in comparable else ""
        rows.append((level.bpb, label(level), text_of(found, level), change))
    return [
        [(corpus, corpus), (name, name), (number(value), value), (text, text), (change, change)]
        for value, name, text, change in sorted(rows)
    ]


def corpus_of(runs: pd.DataFrame) -> str:
    """Name of the corpus of runs on one; where it lay is no part of what it is."""
    return str(runs["corpus"].iloc[0]).rstrip("/").rsplit("/", 1)[-1] if "corpus" in runs else ""


def throughput_cell_table(table: pd.DataFrame) -> Table:
    """Every cell that ran, by architecture and T; columns that nothing was measured for are left out."""
    return _table(
        table[table["status"] == OK].sort_values(["device_kind", "precision", "preset", "context"]), _SPEED_COLUMNS
    )


def not_measured_table(table: pd.DataFrame) -> Table | None:
    """Cells without a speed, and why."""
    rows = [
        [
            architecture(row["arch"]),
            whole(row["context"]),
            str(row["preset"]),
            str(row["precision"]),
            str(row["status"]),
        ]
        for row in table[table["status"] != OK].to_dict("records")
    ]
    return Table.of(["architecture", "T", "preset", "precision", "why it has no speed"], rows) if rows else None


def _constants(fit: Fit) -> list[list[str]]:
    rows = []
    for name, value in (fit.parameters | fit.derived).items():
        found = fit.intervals.get(name)
        ranges = [(found.low90, found.high90), (found.low95, found.high95)] if found else []
        texts = [f"{number(low)} to {number(high)}" for low, high in ranges] or ["", ""]
        rows.append([fit.law, in_words(fit.label), name, number(value, 5), *texts, fit.id])
    return rows


def exponent_table(fits: Sequence[Fit]) -> Table | None:
    """One row per fit: E and the exponents with their 90 % intervals."""
    used = [name for fit in fits for name in exponents_of(fit)]
    names = list(dict.fromkeys(["E", *used, *(name for fit in fits for name in fit.derived)]))
    rows: list[list[TableCell]] = []
    for fit in fits:
        values = fit.parameters | fit.derived
        cells = [_ranged(values.get(name), fit.intervals.get(name)) for name in names]
        subset = in_words(fit.label)
        first: list[TableCell] = [(fit.law, fit.law), (subset, subset), (str(fit.n_runs), fit.n_runs)]
        r2: TableCell = ("", "") if fit.r2_fit is None else (f"{fit.r2_fit:.4f}", fit.r2_fit)
        rows.append([*first, r2, *cells])
    headers = ["law", "runs of", "runs", "R² of fit", *(f"{name} [90 %]" for name in names)]
    return Table(headers=headers, rows=rows) if rows else None


def _ranged(value: float | None, found: Interval | None) -> TableCell:
    if value is None:
        return "", ""
    ends = f" [{number(found.low90, 3)}, {number(found.high90, 3)}]" if found else ""
    return f"{number(value, 3)}{ends}", value


def _table(table: pd.DataFrame, columns: dict[str, tuple[str, Callable[[Any], str]]]) -> Table:
    shown = [name for name in columns if name in table and table[name].notna().any()]
    cells = [[_cell(value, columns[name][1]) for value in table[name]] for name in shown]
    rows = [list(row) for row in zip(*cells, strict=True)]
    return Table(headers=[columns[name][0] for name in shown], rows=rows)


def _cell(value: Any, show: Callable[[Any], str]) -> TableCell:
    if not present(value):
        return "", ""
    return show(value), value if isinstance(value, str) else float(value)
