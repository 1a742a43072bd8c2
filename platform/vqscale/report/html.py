"""One HTML file that opens offline: text, tables, interactive charts, plotly.js inlined once."""

import datetime
import json
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import version
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from vqscale import storage
from vqscale.laws import StudyFits
from vqscale.report import charts, tables
from vqscale.report.checklist import checklist
from vqscale.report.references import References
from vqscale.report.summary import summarise
from vqscale.study.spec import Study

REPORT = "report.html"


def write_report(
    folder: str,
    *,
    study: Study | Mapping[str, Any],
    table: pd.DataFrame,
    fits: StudyFits,
    references: References | None = None,
    throughput: pd.DataFrame | None = None,
) -> str:
    """Write `folder`/report.html and return its URI.

    `study`: the study, or for a table from elsewhere plain values with a name under `study` and a `question`.
    `throughput`: the table of the speed measurements. What is None is not shown.
    """
    facts = study.model_dump(mode="json") if isinstance(study, Study) else study
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            study=facts,
            created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=version("vqscale"),
            summary=summarise(table, fits, references, throughput),
            counts=_counts(table),
            fits=fits,
            sections=_sections(table, fits, references, throughput),
            checklist=checklist(table, fits, facts),
            plotly=_plotly(),
        )
    )
    uri = storage.join(folder, REPORT)
    storage.write_text(uri, page)
    return uri


def _sections(
    table: pd.DataFrame, fits: StudyFits, references: References | None, throughput: pd.DataFrame | None
) -> dict[str, Any]:
    """Every table and chart by the name that the template knows; None where there is nothing to show."""
    return {
        "runs_chart": _embed(charts.runs_chart(table, references)),
        "law_charts": [_embed(chart) for chart in charts.law_charts(fits.fits)],
        "position_chart": _embed(charts.position_chart(table)),
        "throughput_chart": _embed(charts.throughput_chart(throughput) if throughput is not None else None),
        "time_chart": _embed(charts.time_chart(table)),
        "references": tables.references(table, references),
        "constants": tables.constants(fits),
        "hold_outs": tables.hold_outs(fits),
        "refusals": tables.refusals(fits, too_few=False),
        "too_few": tables.refusals(fits, too_few=True),
        "ratios": tables.ratios(throughput),
        "codebooks": tables.codebooks(table),
        "failures": tables.failures(table, fits),
        "trials": tables.trials(table),
    }


def _counts(table: pd.DataFrame) -> str:
    if "status" not in table:
        return f"{len(table)} runs"
    counts = table["status"].value_counts()
    return ", ".join(f"{number} {status}" for status, number in counts.items()) or "no runs"


def _embed(chart: charts.Chart | None) -> Markup | None:
    """JSON that cannot end the script element it stands in."""
    if chart is None:
        return None
    return Markup(json.dumps(chart, allow_nan=False).replace("<", "\\u003c"))


def _plotly() -> Markup:
    return Markup(resources.files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8"))


def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("vqscale.report")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
