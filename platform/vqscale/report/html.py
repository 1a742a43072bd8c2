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
from vqscale.report.throughput import break_evens, decisions, provenance, warnings
from vqscale.report.throughput_plots import throughput_charts
from vqscale.study.spec import Study
from vqscale.study.throughput import ThroughputStudy

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
    return write_page(
        folder,
        "report.html.j2",
        {
            "study": facts,
            "summary": summarise(table, fits, references, throughput),
            "counts": _counts(table),
            "fits": fits,
            "sections": _sections(table, fits, references),
            "speed": speed_section(throughput) if throughput is not None else None,
            "checklist": checklist(table, fits, facts),
        },
    )


def write_throughput_report(folder: str, *, study: ThroughputStudy, table: pd.DataFrame) -> str:
    """Write `folder`/report.html of a throughput study and return its URI."""
    counts = table["status"].str.split(":").str[0].value_counts()
    return write_page(
        folder,
        "throughput.html.j2",
        {
            "study": study.model_dump(mode="json"),
            "counts": "cells: " + ", ".join(f"{number} {status}" for status, number in counts.items()),
            "speed": speed_section(table),
        },
    )


def write_page(folder: str, template: str, values: Mapping[str, Any]) -> str:
    """Render a page with what every page has, and write it as `folder`/report.html."""
    page = (
        _environment()
        .get_template(template)
        .render(
            **values,
            created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=version("vqscale"),
            plotly=_plotly(),
        )
    )
    uri = storage.join(folder, REPORT)
    storage.write_text(uri, page)
    return uri


def speed_section(throughput: pd.DataFrame) -> dict[str, Any]:
    """What the section on speed shows of a throughput table."""
    return {
        "decisions": decisions(throughput),
        "break_evens": break_evens(throughput),
        "charts": [_embed(chart) for chart in throughput_charts(throughput)],
        "cells": tables.throughput(throughput),
        "not_measured": tables.not_measured(throughput),
        "provenance": provenance(throughput),
        "warnings": warnings(throughput),
    }


def _sections(table: pd.DataFrame, fits: StudyFits, references: References | None) -> dict[str, Any]:
    """Every table and chart by the name that the template knows; None where there is nothing to show."""
    return {
        "runs_chart": _embed(charts.runs_chart(table, references)),
        "law_charts": [_embed(chart) for chart in charts.law_charts(fits.fits)],
        "position_chart": _embed(charts.position_chart(table)),
        "time_chart": _embed(charts.time_chart(table)),
        "references": tables.references(table, references),
        "constants": tables.constants(fits),
        "hold_outs": tables.hold_outs(fits),
        "refusals": tables.refusals(fits, too_few=False),
        "too_few": tables.refusals(fits, too_few=True),
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
