"""One HTML file that opens offline: text, tables, interactive charts, plotly.js inlined once."""

import base64
import datetime
import gzip
import json
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pandas as pd

from vqscale import storage
from vqscale.reporting.charts.interactive import plotly_chart
from vqscale.reporting.charts.panel import Panel
from vqscale.reporting.sections.speed import speed_block
from vqscale.study.throughput_study import ThroughputStudy

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

REPORT = "report.html"
MOST_ROWS = 500
"""Rows of a table on the page: more are megabytes that nobody reads."""


def write_throughput_report(folder: str, *, study: ThroughputStudy, table: pd.DataFrame) -> str:
    """Write `folder`/report.html of a throughput study and return its URI."""
    counts = table["status"].str.split(":").str[0].value_counts()
    return write_page(
        folder,
        "throughput.html.j2",
        {
            "study": study.model_dump(mode="json"),
            "counts": "cells: " + ", ".join(f"{number} {status}" for status, number in counts.items()),
            "speed": speed_block(table),
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


def _embed(panel: Panel) -> "Markup":
    """The panel as JSON that cannot end the script element around it."""
    from markupsafe import Markup

    # "<" as an escape: "</script>" inside a string would end the element, and JSON reads the escape as "<".
    return Markup(json.dumps(plotly_chart(panel), allow_nan=False).replace("<", "\\u003c"))


def _code(text: str) -> "Markup":
    """Text whose parts in backticks are code."""
    from markupsafe import Markup, escape

    parts = [
        f"<code>{escape(part)}</code>" if place % 2 else escape(part) for place, part in enumerate(text.split("`"))
    ]
    return Markup("".join(parts))


def _plotly() -> "Markup":
    """The source of plotly.js (5 MB) as base64 of gzip, 2 MB, which the page unpacks when it opens."""
    from markupsafe import Markup

    source = resources.files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return Markup(base64.b64encode(gzip.compress(source, mtime=0)).decode("ascii"))


def _environment() -> "jinja2.Environment":
    import jinja2

    loader = jinja2.PackageLoader("vqscale.reporting")
    made = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    made.filters["embed"] = _embed
    made.filters["code"] = _code
    made.globals["most_rows"] = MOST_ROWS
    return made
