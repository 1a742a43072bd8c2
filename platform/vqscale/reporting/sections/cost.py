"""Time, speed in training and money that the study took, and how far the plan's estimates were off."""

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from vqscale.formatting import duration, percent, short_count
from vqscale.reporting.charts.panel import Axis, HorizontalLine, Panel, PointsLayer
from vqscale.reporting.charts.style import architecture, bytes_of, number, power, present, with_kinds
from vqscale.reporting.compare import own_share
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import Block, Charts, Heading, Prose, Section, TableBlock
from vqscale.reporting.sections.runs import LONG
from vqscale.reporting.tables import Table, TableCell

TIMES = ("seconds_training", "seconds_evaluation", "seconds_overhead")
_PLAN = (
    "What `vqscale run` expected of every trial before it ran, against what it took. The estimate of memory leaves out"
    " the framework's own 0.3 to 1 GB."
)
_ESTIMATES = {"seconds": "time of training", "memory_bytes": "peak memory"}


def section(data: ReportData) -> Section | None:
    blocks: list[Block] = []
    if times := _times(data.table):
        text = "Overhead is starting, checkpointing, logging and stopping. FLOP/s are medians over runs."
        rows = len(times.rows)
        fold = f"Time of all {rows} sizes" if rows > LONG else ""
        blocks += [Prose(text=text), TableBlock(table=times, fold=fold)]
    if panel := _speeds(data):
        blocks.append(Charts(panels=[panel]))
    if not data.estimates.empty:
        blocks += list(_plan(data))
    return Section(id="cost", title="Time and cost", nav="Cost", blocks=blocks) if blocks else None


def _times(table: pd.DataFrame) -> Table | None:
    """Sums of time by architecture and size."""
    if not {"arch", *TIMES} <= set(table.columns) or table["seconds_training"].isna().all():
        return None
    size = next((name for name in ("preset", "parameters_non_embedding") if name in table), "arch")
    rows = [
        _row(str(arch), str(which), members)
        for (arch, which), members in with_kinds(table)[table["seconds_training"].notna()].groupby(
            ["arch", size], dropna=False, sort=False
        )
    ]
    headers = ["architecture", "size", "runs", "C (FLOPs)", "training", "evaluation", "overhead", "overhead share",
               "tokens/s", "FLOP/s", "of the peak"]  # fmt: skip
    return Table(headers=headers, rows=rows)


def _row(arch: str, size: str, members: pd.DataFrame) -> list[TableCell]:
    own = own_share(members)
    sums = [float((members[TIMES[0]] * own).sum()), *(float(members[name].sum()) for name in TIMES[1:])]
    share = sums[2] / sum(sums)
    flops = float((members["flops"] * own).sum()) if "flops" in members else None
    name = architecture(arch)
    cells: list[TableCell] = [(name, name), (size, size), (str(len(members)), len(members)), _cell(power(flops), flops)]
    cells += [(duration(seconds), seconds) for seconds in sums]
    cells.append((percent(share), share))
    for column, show in (("tokens_per_second", short_count), ("flops_per_second", power)):
        value = float(members[column].median()) if column in members else None
        cells.append(_cell(show(value), value))
    used = _share_of_peak(members)
    return [*cells, _cell(percent(used), used)]


def _share_of_peak(members: pd.DataFrame) -> float | None:
    if not {"flops_per_second", "peak_flops"} <= set(members.columns):
        return None
    return float((members["flops_per_second"] / members["peak_flops"]).median())


def _cell(text: str, value: float | None) -> TableCell:
    return (text, value) if value is not None and present(value) else ("", "")


def _speeds(data: ReportData) -> Panel | None:
    """Speed in training over size, at the context length of most runs."""
    runs = data.table
    if not {"arch", "tokens_per_second", "parameters_non_embedding", "context", "name"} <= set(runs.columns):
        return None
    runs = with_kinds(runs)[runs["tokens_per_second"].notna()]
    if runs.empty:
        return None
    context = runs["context"].mode().iloc[0]
    return Panel(
        name="training_speed",
        title=f"Speed in training at T = {int(context):,}, with everything else that ran on the machine",
        x=Axis(name="non-embedding parameters N", log=True, show=short_count),
        y=Axis(name="tokens per second", log=True, show=short_count),
        layers=[
            PointsLayer(
                label=architecture(arch),
                shade=data.scheme.colour(arch),
                symbol=data.scheme.symbol(arch),
                size=7,
                x=rows["parameters_non_embedding"].tolist(),
                y=rows["tokens_per_second"].tolist(),
                texts=[
                    f"{name}<br>{short_count(speed)} tokens/s"
                    for name, speed in zip(rows["name"], rows["tokens_per_second"], strict=True)
                ],
            )
            for arch, rows in runs[runs["context"] == context].groupby("arch")
        ],
    )


def _plan(data: ReportData) -> Iterator[Block]:
    known = [name for name in _ESTIMATES if data.estimates[f"{name}_ratio"].notna().any()]
    if not known:
        return
    yield Heading(text="Estimates of the plan against measurements")
    yield Prose(text=_PLAN)
    yield Charts(panels=[_ratios(data, name) for name in known])
    yield TableBlock(table=_errors(data.estimates, known))


def _ratios(data: ReportData, name: str) -> Panel:
    return Panel(
        name=f"estimate_{name.removesuffix('_bytes')}",
        title=f"Measured over estimated {_ESTIMATES[name]}",
        tab=_ESTIMATES[name],
        x=Axis(
            name="estimated time" if name == "seconds" else "estimated memory",
            log=True,
            show=duration if name == "seconds" else bytes_of,
        ),
        y=Axis(name="measured over estimated", log=True),
        levels=[HorizontalLine(y=1.0, label="as estimated")],
        layers=[
            PointsLayer(
                label=architecture(arch),
                shade=data.scheme.colour(arch),
                symbol=data.scheme.symbol(arch),
                size=7,
                x=rows[f"{name}_estimated"].tolist(),
                y=rows[f"{name}_ratio"].tolist(),
                texts=[
                    f"{run}<br>{number(ratio, 3)} x"
                    for run, ratio in zip(rows["name"], rows[f"{name}_ratio"], strict=True)
                ],
            )
            for arch, rows in data.estimates[data.estimates[f"{name}_ratio"].notna()].groupby("arch")
        ],
    )


def _kind_of_source(source: str) -> str:
    """The same for speeds taken from other numbers of trials."""
    return re.sub(r"\d+ trials?", "trials", source)


def _errors(estimates: pd.DataFrame, known: list[str]) -> Table:
    rows: list[list[TableCell]] = []
    for name in known:
        shown = estimates[estimates[f"{name}_ratio"].notna()]
        source_of = shown["speed_source"].map(_kind_of_source) if name == "seconds" else "counted"
        for (arch, source), members in shown.assign(source=source_of).groupby(["arch", "source"]):
            ratios = members[f"{name}_ratio"].to_numpy(dtype=np.float64)
            middle = float(np.median(ratios))
            # A factor: off by 2 and by 1/2 are alike, hence the logarithm.
            typical = float(np.exp(np.median(np.abs(np.log(ratios)))))
            label = architecture(arch)
            first: list[TableCell] = [(_ESTIMATES[name], name), (label, label), (str(len(ratios)), len(ratios))]
            span = f"{number(float(ratios.min()), 3)} to {number(float(ratios.max()), 3)}"
            why = str(source)
            rows.append(
                [*first, (number(middle, 3), middle), (number(typical, 3), typical), (span, float(ratios.min())),
                 (why, why)]
            )  # fmt: skip
    headers = ["estimate of", "architecture", "runs", "median of measured / estimated", "off by a factor of (median)",
               "range", "speed taken from"]  # fmt: skip
    return Table(headers=headers, rows=rows)
