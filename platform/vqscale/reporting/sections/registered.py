"""Pre-registered predictions beside the measurements that followed."""

from vqscale.laws.decisions.predictions import Prediction, PredictionScore, score_predictions
from vqscale.reporting.charts.style import number
from vqscale.reporting.report_data import ReportData
from vqscale.reporting.tables import Table, TableCell


def prediction_table(data: ReportData) -> Table:
    """Every prediction, oldest first."""
    rows: list[list[TableCell]] = []
    for one in data.predictions:
        scored = score_predictions([one], data.table)
        rows.append(
            [*_prediction(one), *(_scored(scored[0]) if scored else [("pending", ""), ("", ""), ("", ""), ("", "")])]
        )
    headers = [
        "run",
        "registered",
        "law",
        "fit",
        "predicted [90 % for one run]",
        "measured",
        "error",
        "inside 90 %",
        "before the start",
    ]
    return Table(headers=headers, rows=rows)


def _prediction(one: Prediction) -> list[TableCell]:
    limits = one.predicted.interval
    ends = f" [{number(limits.low90)}, {number(limits.high90)}]" if limits else ""
    return [
        (one.name, one.name),
        (one.registered_at[:16].replace("T", " "), one.registered_at),
        (one.law, one.law),
        (one.fit, one.fit),
        (f"{number(one.predicted.value)}{ends}", one.predicted.value),
    ]


def _scored(one: PredictionScore) -> list[TableCell]:
    inside = "" if one.inside_90 is None else "yes" if one.inside_90 else "no"
    error = f"{100 * one.relative_error:+.2f} %"
    early = "" if one.before_start is None else "yes" if one.before_start else "no, while it trained"
    measured: list[TableCell] = [(number(one.measured), one.measured), (error, one.relative_error)]
    return [*measured, (inside, inside), (early, early)]
