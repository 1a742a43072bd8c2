"""Classifiers: accuracy by architecture and size over seeds, by length and by distance, and what is confused."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from vqscale.formatting import percent, short_count
from vqscale.reporting.charts.panel import Axis, HorizontalLine, Panel, PointsLayer
from vqscale.reporting.charts.style import architecture, number, present, shade, whole
from vqscale.reporting.compare import finished
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import Block, Charts, Heading, Prose, Section, TableBlock
from vqscale.reporting.sections.runs import LONG
from vqscale.reporting.tables import Table, TableCell
from vqscale.study.model import WINDOW_BIAS

DRAWN_GROUPS = 12
"""Groups of runs that are drawn, the most accurate ones; the table has them all."""
_SAME = (
    *("corpus_fingerprint", "arch", "variant", "head", "preset", "parameters_non_embedding", "codebook_size"),
    *("block_length", "context", "tokens", "batch_tokens", "lr", "schedule", "setup"),
)
"""Columns in which runs that differ in their seed alone agree."""
_SHOWN: Final[dict[str, Callable[[Any], str]]] = {
    "preset": str,
    "codebook_size": lambda codes: f"S {whole(codes)}",
    "block_length": lambda length: f"L {whole(length)}",
    "context": lambda context: f"T {whole(context)}",
    "tokens": lambda tokens: f"D {short_count(tokens)}",
    "batch_tokens": lambda tokens: f"batch {short_count(tokens)}",
    "lr": lambda rate: f"lr {number(rate, 2)}",
    "schedule": str,
    "decayed": lambda roles: f"decay of {roles}",
}
"""Settings that a label contains where they differ between runs."""
_MEANS = (
    "Accuracy is the share of the labels of the validation split that are predicted correctly; balanced accuracy the"
    " mean recall of the classes, macro F1 the mean of their F1. Of several seeds the mean is given, with the standard"
    " deviation, and the lowest and highest."
)
_BY = {
    "accuracy_by_length": ("length", "By length of the example", "tokens of the example"),
    "accuracy_by_distance": ("distance", "By distance to the answer", "tokens between a label and its answer"),
}


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """Finished runs that differ in nothing but the seed."""

    label: str
    rows: pd.DataFrame

    def __getitem__(self, column: str) -> Any:
        return self.rows[column].iloc[0]

    def mean(self, column: str) -> float:
        return float(self.rows[column].mean())


def section(data: ReportData) -> Section | None:
    runs = classified(data)
    if runs.empty:
        return None
    blocks: list[Block] = [Prose(text=_MEANS)]
    for place, (_, members) in enumerate(runs.groupby("corpus_fingerprint", sort=False)):
        groups = over_seeds(members)
        if runs["corpus_fingerprint"].nunique() > 1:
            blocks.append(Heading(text=corpus_name(members)))
        table = _table(groups)
        fold = f"All {len(table.rows)} groups of runs" if len(table.rows) > LONG else ""
        blocks += [Charts(panels=_panels(data, groups, place)), TableBlock(table=table, fold=fold)]
        blocks += _confused(members)
    return Section(id="classes", title="Accuracy", nav="Accuracy", blocks=blocks)


def classified(data: ReportData) -> pd.DataFrame:
    """Finished runs with an accuracy."""
    runs = finished(data.table)
    return runs[runs["accuracy"].notna()] if "accuracy" in runs else runs.iloc[:0]


def over_seeds(runs: pd.DataFrame) -> list[SeedGroup]:
    """Groups of runs, the most accurate first; no two have the same label."""
    keys = [name for name in _SAME if name in runs]
    parts = [rows for _, rows in runs.groupby(keys, dropna=False, sort=False)]
    # Records from before roles decided which parameters decay have no roles: that is a difference, too.
    varied = {name for name in _SHOWN if name in runs and runs[name].nunique(dropna=name != "decayed") > 1}
    labels = [_label(rows.iloc[0], varied) for rows in parts]
    found = [
        SeedGroup(label=label if labels.count(label) == 1 else f"{label}, {_setup(rows.iloc[0], place)}", rows=rows)
        for place, (label, rows) in enumerate(zip(labels, parts, strict=True), 1)
    ]
    return sorted(found, key=lambda one: -one.mean("accuracy"))


def best_run(runs: pd.DataFrame) -> "pd.Series[Any]":
    return runs.sort_values("accuracy", ascending=False, kind="stable").iloc[0]


def guess(row: "pd.Series[Any]") -> tuple[float, str]:
    """Accuracy of a constant prediction, and its name: the most frequent class where shares are known, else chance."""
    confusion = row.get("confusion")
    if isinstance(confusion, list) and confusion:
        totals = [sum(line) for line in confusion]
        return max(totals) / sum(totals), "the most frequent class"
    return 1 / float(row["classes"]), "chance"


def _label(row: "pd.Series[Any]", varied: set[str]) -> str:
    arch, variant = row["arch"], row.get("variant")
    if variant == WINDOW_BIAS:  # a baseline with a name of its own
        arch, variant = f"{arch}+{variant}", None
    name = architecture(arch, row.get("head") if row.get("head") != "shga" else None)
    parts = [f"{name}, {variant}" if present(variant) else name]
    parts += [show(row[name]) for name, show in _SHOWN.items() if name in varied and present(row[name])]
    return ", ".join(parts)


def _setup(row: "pd.Series[Any]", place: int) -> str:
    """A label for models that differ in a setting without a column of its own."""
    return f"setup {row['setup'][:6]}" if present(row.get("setup")) else f"group {place}"


def corpus_name(runs: pd.DataFrame) -> str:
    """Of runs on one corpus."""
    row = runs.iloc[0]
    return f"{str(row['corpus']).rstrip('/').rsplit('/', 1)[-1]} ({row['corpus_fingerprint'][:12]})"


def _table(groups: Sequence[SeedGroup]) -> Table:
    headers = ["model", "size", "N", "S", "T", "D", "seeds", "accuracy", "lowest to highest", "balanced", "macro F1",
               "test", "nats per label"]  # fmt: skip
    return Table(headers=headers, rows=[_row(one) for one in groups])


def _row(one: SeedGroup) -> list[TableCell]:
    accuracy, seeds = one.rows["accuracy"], len(one.rows)
    spread = f" ± {100 * float(accuracy.std()):.1f}" if seeds > 1 else ""
    span = f"{percent(accuracy.min())} to {percent(accuracy.max())}" if seeds > 1 else ""
    codes = one["codebook_size"]
    cells: list[TableCell] = [(one.label, one.label), (str(one["preset"]), str(one["preset"]))]
    cells += [(short_count(one[name]), float(one[name])) for name in ("parameters_non_embedding",)]
    cells.append((whole(codes), float(codes)) if present(codes) else ("", ""))
    cells += [(whole(one["context"]), float(one["context"])), (short_count(one["tokens"]), float(one["tokens"]))]
    cells += [(str(seeds), seeds), (f"{percent(one.mean('accuracy'))}{spread}", one.mean("accuracy"))]
    cells.append((span, float(accuracy.min())))
    cells += [(percent(one.mean(name)), one.mean(name)) for name in ("balanced_accuracy", "macro_f1", "test_accuracy")]
    return [*cells, (number(one.mean("loss")), one.mean("loss"))]


def _panels(data: ReportData, groups: Sequence[SeedGroup], place: int) -> list[Panel]:
    suffix = "" if place == 0 else f"-{place + 1}"
    drawn = _drawn(data, groups[:DRAWN_GROUPS])
    panels = [_sizes(drawn, suffix)]
    for column, (name, tab, axis) in _BY.items():
        if layers := _curves(drawn, column):
            panels.append(
                Panel(
                    name=f"accuracy_by_{name}{suffix}",
                    title=f"Held-out accuracy {tab[0].lower()}{tab[1:]}",
                    tab=tab,
                    x=Axis(name=axis, log=True, show=short_count),
                    y=Axis(name="accuracy (%)", span=(0, 100)),
                    layers=layers,
                )
            )
    return panels


def _drawn(data: ReportData, groups: Sequence[SeedGroup]) -> list[tuple[SeedGroup, dict[str, Any]]]:
    """Groups with the colour and symbol of their architecture, paler the less accurate ones of it."""
    drawn = []
    for one in groups:
        mates = [other.label for other in reversed(groups) if other["arch"] == one["arch"]]
        share = (mates.index(one.label) + 1) / len(mates)
        tint = shade(data.scheme.colour(one["arch"]), share)
        drawn.append((one, {"label": one.label, "shade": tint, "symbol": data.scheme.symbol(one["arch"])}))
    return drawn


def _sizes(drawn: Sequence[tuple[SeedGroup, dict[str, Any]]], suffix: str) -> Panel:
    """Accuracy over N; bars from the lowest to the highest seed."""
    sizes = [float(one["parameters_non_embedding"]) for one, _ in drawn]
    span = 0.8 * min(sizes), 1.25 * max(sizes)
    level, name = guess(best_run(pd.concat([one.rows for one, _ in drawn])))
    return Panel(
        name=f"accuracy{suffix}",
        title="Held-out accuracy over size; bars reach from the lowest to the highest seed",
        tab="By size",
        x=Axis(name="parameters without embeddings N", log=True, show=short_count, span=span),
        y=Axis(name="accuracy (%)"),
        layers=[
            PointsLayer(
                **look,
                x=[float(one["parameters_non_embedding"])],
                y=[100 * one.mean("accuracy")],
                low=[100 * float(one.rows["accuracy"].min())],
                high=[100 * float(one.rows["accuracy"].max())],
                texts=[f"{one.label}<br>{percent(one.mean('accuracy'))}, {len(one.rows)} seed(s)"],
            )
            for one, look in drawn
        ],
        levels=[HorizontalLine(y=100 * level, label=name)],
    )


def _curves(drawn: Sequence[tuple[SeedGroup, dict[str, Any]]], column: str) -> list[PointsLayer]:
    """One curve per group: accuracy over the buckets of `column`, all seeds' labels together."""
    layers = []
    for one, look in drawn:
        buckets = pooled(one.rows[column]) if column in one.rows else {}
        if len(buckets) < 2:
            continue
        # Buckets [start, end) are drawn at their geometric mean; the first may start at 0.
        places = [(start * max(end - 1, start)) ** 0.5 or 1.0 for start, end in buckets]
        layers.append(
            PointsLayer(
                **look,
                joined=True,
                size=5,
                x=places,
                y=[100 * right / labels for labels, right in buckets.values()],
                texts=[
                    f"{one.label}<br>{start:,} to {end - 1:,} tokens:"
                    f" {percent(right / labels)} of {short_count(labels)}"
                    for (start, end), (labels, right) in buckets.items()
                ],
            )
        )
    return layers


def pooled(cells: "pd.Series[Any]") -> dict[tuple[int, int], tuple[float, float]]:
    """Labels and correct predictions by bucket, over all runs."""
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for cell in cells:
        for bucket in cell if isinstance(cell, list) else []:
            key = int(bucket["start"]), int(bucket["end"])
            labels, right = found.get(key, (0.0, 0.0))
            found[key] = labels + bucket["labels"], right + bucket["labels"] * bucket["accuracy"]
    return dict(sorted(found.items()))


def _confused(runs: pd.DataFrame) -> list[Block]:
    """The confusion matrix of the most accurate run."""
    row = best_run(runs)
    confusion = row.get("confusion")
    if not isinstance(confusion, list) or not confusion:
        return []
    kept = row.get("class_names")
    names = [str(name) for name in (kept if isinstance(kept, list) else range(len(confusion)))]
    rows: list[list[TableCell]] = []
    for true, named in enumerate(confusion):
        total = sum(named)
        recall: TableCell = (percent(named[true] / total), named[true] / total) if total else ("", "")
        rows.append([(names[true], true), *((str(labels), labels) for labels in named), recall])
    headers = ["class", *(f"as {name}" for name in names), "recall"]
    fold = f"Confusion of {len(rows)} classes" if len(rows) > LONG else ""
    text = f"{row['name']}, the most accurate run: labels by true class, and by predicted class."
    table = Table(headers=headers, rows=rows)
    return [Heading(text="Confusion matrix"), Prose(text=text), TableBlock(table=table, fold=fold)]
