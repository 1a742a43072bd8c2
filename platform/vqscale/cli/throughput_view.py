"""A throughput table for people in a terminal, and as plain JSON values."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from vqscale.address import Address
from vqscale.cli.console import make_console
from vqscale.cli.messages import Messages
from vqscale.cli.progress import RoundsBar
from vqscale.formatting import short_count
from vqscale.reporting.charts.style import architecture
from vqscale.reporting.throughput.speed_comparison import (
    break_evens,
    curve_name,
    filling,
    measured_codes,
    measurement_provenance,
    measurement_warnings,
    speed_comparisons,
)
from vqscale.study.throughput_study import ThroughputStudy
from vqscale.throughput.measurement import OK, current_code
from vqscale.throughput.table import BASELINES, COMPARISON_COLUMNS, CURVE_COLUMNS, crossovers

if TYPE_CHECKING:
    from vqscale.throughput.plan import ThroughputPlan


def as_values(table: pd.DataFrame, folder: str, measured: int) -> dict[str, Any]:
    """The measurement as plain JSON values; what was not measured is null."""
    found = crossovers(table)
    evens = found.assign(text=[str(at) for at in found["crossover"]], crossover=[at.at for at in found["crossover"]])
    return {
        "folder": folder,
        "measured_now": measured,
        "rows": json.loads(table.to_json(orient="records")),
        "break_even": json.loads(evens.to_json(orient="records")),
    }


def show(table: pd.DataFrame, written: Sequence[str], measured: int, console: Console) -> None:
    """Speed, memory and ratios by T, what follows from them, and where it lies."""
    for _, rows in table[table["cell_id"].notna()].groupby(COMPARISON_COLUMNS, sort=False):
        console.print(speeds(rows))
    refused = [row for _, row in table[table["cell_id"].isna()].iterrows()]
    for row in refused:
        name = curve_name(row, refused)
        console.print(f"{name} at T = {row['context']}: {row['status']}", style="yellow", markup=False)
    for sentence in conclusions(table):
        console.print(sentence, markup=False, highlight=False)
    for sentence in [*measurement_provenance(table), *measurement_warnings(table)]:
        console.print(sentence, style="dim", markup=False, highlight=False)
    if not measured:
        console.print(kept_in_words(table), markup=False, highlight=False)
    for uri in written:
        console.print(f"wrote {uri}", soft_wrap=True, highlight=False, markup=False)


def kept_in_words(table: pd.DataFrame) -> str:
    """What a run that measured nothing shows: made by which code, and whether that is the present one."""
    codes = measured_codes(table[table["cell_id"].notna()])
    now = "the same as now" if codes == [current_code()] else f"now {current_code()}"
    return f"Nothing was measured now: this was measured with {'; '.join(codes)} ({now}). --again measures once more."


def conclusions(table: pd.DataFrame) -> list[str]:
    """At the longest T of every comparison, and where it breaks even."""
    found = speed_comparisons(table)
    return [*(sentence for one in found for sentence in one.at(one.longest)), *break_evens(table)]


def speeds(rows: pd.DataFrame) -> Table:
    """One comparison: a line per cell, context lengths apart."""
    first = rows.iloc[0]
    title = f"Training, preset {first['preset']}, {first['precision']}, {first['device_kind']}, {filling(rows)}"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    curves = [row for _, row in rows.drop_duplicates(CURVE_COLUMNS).iterrows()]
    baselines = [f"x {architecture(baseline)}" for baseline in BASELINES]
    for name in ("T", "model", "tokens/s", "range", "repeats", "processes", "ms per step", "MFU", "memory", *baselines):
        shown.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for context, cells in rows.groupby("context"):
        shown.add_section()
        for _, row in cells.iterrows():
            shown.add_row(str(context), curve_name(row, curves), *_measures(row.to_dict()))
    return shown


def cells(plan: "ThroughputPlan", done: Sequence[bool]) -> Table:
    """What will be measured, what is, and what planning refused."""
    shown = Table(title=f"{plan.study.study}: {plan.study.question}".rstrip(": "), title_justify="left")
    for name in ("model", "preset", "precision", "device", "T", "sequences", "tokens per step", "state"):
        shown.add_column(name, justify="right" if name in ("T", "sequences", "tokens per step") else "left")
    settings = [_settings(cell.model.model_dump() | {"backend": cell.backend}) for _, cell in plan.cells]
    for (_, cell), row, known in zip(plan.cells, settings, done, strict=True):
        shown.add_row(
            *(curve_name(row, settings), cell.preset, cell.precision, cell.device),
            *(str(number) for number in (cell.context, cell.batch, cell.tokens_per_step)),
            "measured" if known else "pending",
        )
    unusable = [_settings(refused.settings.model_dump()) for refused in plan.refused]
    for refused, row in zip(plan.refused, unusable, strict=True):
        own = refused.settings
        shown.add_row(
            *(curve_name(row, unusable), own.preset, own.precision, own.device),
            *(str(number) for number in (own.context, own.sequences, own.sequences * own.context)),
            f"refused: {refused.reason}",
        )
    return shown


def _settings(values: dict[str, Any]) -> "pd.Series[Any]":
    """What tells curves apart; the columns of the plan show the rest."""
    return pd.Series(dict.fromkeys(COMPARISON_COLUMNS) | {name: values[name] for name in CURVE_COLUMNS}, dtype=object)


def _measures(row: dict[Any, Any]) -> tuple[str, ...]:
    if row["status"] != OK:
        return str(row["status"]), "", "", "", "", "", _memory(row["peak_memory_bytes"])
    low, high = short_count(row["tokens_per_second_low"]), short_count(row["tokens_per_second_high"])
    return (
        short_count(row["tokens_per_second"]),
        f"{low}-{high}",
        str(row["repeats"]),
        str(int(row["processes"])) if pd.notna(row["processes"]) else "",
        f"{row['ms_per_step']:.4g}",
        "" if pd.isna(row["mfu"]) else f"{row['mfu']:.0%}",
        _memory(row["peak_memory_bytes"]),
        *(_ratio(row, baseline) for baseline in BASELINES),
    )


def _memory(size: float | None) -> str:
    return "" if size is None or pd.isna(size) else f"{size / 2**20:,.1f} MiB"


def _ratio(row: dict[Any, Any], baseline: str) -> str:
    value = row[f"ratio_to_{baseline}"]
    return "" if pd.isna(value) else f"{value:.2f}"


def run_and_show(
    study: ThroughputStudy,
    folder: str,
    tracking: Address | str | None,
    *,
    source: str,
    own_page: bool = True,
    again: bool = False,
    as_json: bool = False,
) -> None:
    """Measure what is not measured yet with a progress bar, write and log it, and print it."""
    from vqscale.workflow.throughput import run_throughput  # loads torch, which the views of this module do not need

    messages = Messages(make_console(stderr=True))
    with RoundsBar() as bar:
        done = run_throughput(
            study,
            folder,
            tracking,
            source=source,
            events=messages,
            progress=bar.update,
            own_page=own_page,
            again=again,
        )
    if as_json:
        typer.echo(json.dumps(as_values(done.table, folder, done.measured_now), indent=2))
    else:
        show(done.table, done.written, done.measured_now, make_console())
