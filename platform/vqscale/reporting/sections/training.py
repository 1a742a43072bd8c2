"""Training curves, from what the trials recorded while they ran."""

from typing import Any

import pandas as pd

from vqscale.formatting import short_count
from vqscale.reporting.charts.curves import CURVES_PER_ARCHITECTURE, TrainingCurve, by_architecture
from vqscale.reporting.charts.panel import Axis, LineLayer, Panel
from vqscale.reporting.charts.style import architecture, shade
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.section import Block, Charts, Prose, Section
from vqscale.results.metrics_rows import METRICS_FILE

_TEXT = "Training loss, means over short windows. Paler curves are smaller models; a curve ends at its token budget."


def section(data: ReportData) -> Section | None:
    if not data.curves:
        return None
    rows = data.table.drop_duplicates("trial_id").set_index("trial_id")
    panels: list[Panel] = []
    notes = []
    trained = by_architecture(data.table)
    for arch, shown in rows.loc[[one.trial_id for one in data.curves]].groupby("arch"):
        panels.append(_panel(data, str(arch), shown, len(panels)))
        total = len(trained[str(arch)])
        if total > CURVES_PER_ARCHITECTURE:
            notes.append(f"{len(shown)} of {total} runs of {architecture(arch)} are drawn, evenly over C.")
    notes += [text for text in data.damages if METRICS_FILE in text]
    blocks: list[Block] = [Prose(text=" ".join([_TEXT, *notes])), Charts(panels=panels)]
    return Section(id="training", title="Training curves", nav="Training", blocks=blocks)


def _panel(data: ReportData, arch: str, members: pd.DataFrame, place: int) -> Panel:
    curves = {one.trial_id: one for one in data.curves}
    in_bits = data.metric == "bpb" and all(curves[str(trial)].bpb for trial in members.index)
    sizes = sorted(members["parameters_non_embedding"].unique())
    base = data.scheme.colour(arch)
    tints = {size: shade(base, index / max(len(sizes) - 1, 1)) for index, size in enumerate(sizes)}
    return Panel(
        name="training" if place == 0 else f"training-{place + 1}",
        title=f"Training loss over tokens: {architecture(arch)}",
        tab=architecture(arch),
        x=Axis(name="training tokens", log=True, show=short_count),
        y=Axis(name="bits per byte" if in_bits else "nats per label" if data.classifies else "nats per token"),
        layers=[
            _line(curves[str(trial)], row, tints[row["parameters_non_embedding"]], in_bits=in_bits)
            for trial, row in members.iterrows()
        ],
        switch=True,
    )


def _line(curve: TrainingCurve, row: "pd.Series[Any]", tint: str, *, in_bits: bool) -> LineLayer:
    name = f"{row['name']}<br>N {short_count(row['parameters_non_embedding'])}"
    y = curve.bpb if in_bits else curve.loss
    return LineLayer(group=curve.trial_id, shade=tint, x=curve.tokens, y=y, width=1.3, texts=[name] * len(y))
